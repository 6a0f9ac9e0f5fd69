//! WASI without files and sockets.

use dormouse_runtime::Invocation;

use crate::{
    guest::{CLOCK, Guest},
    node::{Node, invocation},
};

#[tokio::test]
async fn sleeping_works() {
    let guest = Guest {
        imports: CLOCK,
        predict: "
            (call $block (call $after (i64.const 1000)))
            (call $ok (local.get $in) (local.get $len))",
        ..Guest::default()
    };
    assert_eq!(Node::new().run(&guest, "1").await.output(), "1");
}

#[tokio::test]
async fn the_environment_is_what_the_invocation_says() {
    let guest = Guest {
        imports: r#"(import "wasi:cli/environment@0.2.0" "get-environment" (func $env (param i32)))"#,
        // One variable; its value is the answer.
        predict: "
            (local $list i32)
            (call $env (i32.const 256))
            (if (i32.ne (i32.load (i32.const 260)) (i32.const 1)) (then unreachable))
            (local.set $list (i32.load (i32.const 256)))
            (call $ok (i32.load offset=8 (local.get $list)) (i32.load offset=12 (local.get $list)))",
        ..Guest::default()
    };
    let node = Node::new();
    let env = [("ANSWER".to_owned(), "42".to_owned())].into();
    let run = node.invoke(&node.load(&guest), Invocation { env, ..invocation("1") }).await;
    assert_eq!(run.output(), "42");
}

#[tokio::test]
async fn there_are_no_folders() {
    let guest = Guest {
        imports: r#"(import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $dirs (param i32)))"#,
        predict: "
            (call $dirs (i32.const 256))
            (if (i32.load (i32.const 260)) (then unreachable))
            (call $ok (local.get $in) (local.get $len))",
        ..Guest::default()
    };
    assert_eq!(Node::new().run(&guest, "1").await.output(), "1");
}

#[tokio::test]
async fn sockets_are_denied() {
    let guest = Guest {
        imports: r#"(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket"
            (func $socket (param i32 i32)))"#,
        predict: "
            (call $socket (i32.const 0) (i32.const 256))
            (if (i32.eqz (i32.load8_u (i32.const 256))) (then unreachable))
            (if (i32.ne (i32.load8_u (i32.const 260)) (i32.const 1)) (then unreachable))
            (call $ok (local.get $in) (local.get $len))",
        ..Guest::default()
    };
    assert_eq!(Node::new().run(&guest, "1").await.output(), "1", "an error, and it is access-denied");
}
