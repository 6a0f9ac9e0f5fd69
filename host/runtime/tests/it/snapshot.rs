//! `setup` run once: images of what it leaves.

use std::sync::Arc;

use dormouse_runtime::{Component, Error, Prepared, Setup};

use crate::{
    guest::{Guest, OUTPUT, STDIO},
    node::{Node, invocation, limits},
};

async fn prepare(node: &Node, guest: &Guest) -> Result<Prepared, Error> {
    let wasm: Arc<[u8]> = guest.build().into();
    let component = node.runtime.load(&wasm).unwrap().0;
    let setup = Setup { limits: limits(), models: [].into(), env: [].into() };
    node.runtime.prepare(&component, wasm, setup).await
}

async fn image(node: &Node, guest: &Guest) -> Component {
    match prepare(node, guest).await.unwrap() {
        Prepared::Image { wasm, .. } => {
            let component = node.runtime.load_image(&wasm).unwrap().0;
            assert!(component.is_image());
            component
        }
        Prepared::AtStart { reason, .. } => panic!("no image: {reason}"),
    }
}

async fn refusal(node: &Node, guest: &Guest) -> String {
    match prepare(node, guest).await.unwrap() {
        Prepared::Image { .. } => panic!("it has an image"),
        Prepared::AtStart { reason, .. } => reason,
    }
}

/// `setup` adds 5 to a global and writes it as a digit; `predict` adds 1 and answers both.
fn counting() -> Guest {
    Guest {
        setup: "
            (global.set $count (i32.add (global.get $count) (i32.const 5)))
            (i32.store8 (i32.const 1200) (i32.add (i32.const 48) (global.get $count)))
            (call $ok (i32.const 0) (i32.const 0))",
        predict: "
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 1201) (i32.add (i32.const 48) (global.get $count)))
            (call $ok (i32.const 1200) (i32.const 2))",
        more: "(global $count (mut i32) (i32.const 0))",
        ..Guest::default()
    }
}

#[tokio::test]
async fn every_prediction_begins_where_setup_ended() {
    let node = Node::new();
    let image = image(&node, &counting()).await;
    for _ in 0..3 {
        let run = node.invoke(&image, invocation("1")).await;
        assert_eq!(run.output(), "56", "what a prediction changes is gone with it");
        assert!(run.metrics.setup.is_zero(), "setup did not run again");
    }
    assert_eq!(node.run(&counting(), "1").await.output(), "56", "as with setup at the start");
}

#[tokio::test]
async fn an_image_lasts_over_a_restart() {
    let node = Node::new();
    let digest = image(&node, &counting()).await.digest().to_owned();
    let node = node.restart();
    let (image, _) = node.runtime.load_cached(&digest).unwrap().unwrap();
    assert!(image.is_image());
    assert_eq!(node.invoke(&image, invocation("1")).await.output(), "56");
}

#[tokio::test]
async fn memory_that_setup_grew_and_globals_of_every_type_are_in_the_image() {
    let guest = Guest {
        setup: "
            (drop (memory.grow (i32.const 10)))
            (i32.store8 (i32.const 600000) (i32.const 55))
            (global.set $long (i64.const -7))
            (global.set $single (f32.const 1.5))
            (global.set $double (f64.const -2.25))
            (call $ok (i32.const 0) (i32.const 0))",
        predict: "
            (if (i64.ne (global.get $long) (i64.const -7)) (then unreachable))
            (if (f32.ne (global.get $single) (f32.const 1.5)) (then unreachable))
            (if (f64.ne (global.get $double) (f64.const -2.25)) (then unreachable))
            (if (i32.ne (memory.size) (i32.const 11)) (then unreachable))
            (call $ok (i32.const 600000) (i32.const 1))",
        more: "
            (global $long (mut i64) (i64.const 0))
            (global $single (mut f32) (f32.const 0))
            (global $double (mut f64) (f64.const 0))",
        ..Guest::default()
    };
    let node = Node::new();
    let image = image(&node, &guest).await;
    assert_eq!(node.invoke(&image, invocation("1")).await.output(), "7");
}

#[tokio::test]
async fn a_stream_that_setup_took_works_in_a_prediction() {
    let guest = Guest {
        imports: STDIO,
        setup: "
            (global.set $out (call $stdout))
            (call $ok (i32.const 0) (i32.const 0))",
        predict: "
            (call $write (global.get $out) (i32.const 1100) (i32.const 6) (i32.const 256))
            (call $ok (local.get $in) (local.get $len))",
        more: "(global $out (mut i32) (i32.const 0))",
        texts: vec![(1024, "{}".into()), (1100, "hello\n".into())],
        ..Guest::default()
    };
    let node = Node::new();
    let image = image(&node, &guest).await;
    for _ in 0..2 {
        let run = node.invoke(&image, invocation("1")).await;
        assert_eq!((run.output(), run.log_texts()), ("1", vec!["hello"]));
    }
}

const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))"#;

#[tokio::test]
async fn random_numbers_differ_between_predictions_of_an_image() {
    let guest = Guest {
        imports: Box::leak(format!("{RANDOM}{OUTPUT}").into_boxed_str()),
        predict: "
            (call $metric (i32.const 1100) (i32.const 4) (f64.convert_i64_u (call $random)))
            (call $ok (local.get $in) (local.get $len))",
        texts: vec![(1024, "{}".into()), (1100, "draw".into())],
        ..Guest::default()
    };
    let node = Node::new();
    let image = image(&node, &guest).await;
    let first = node.invoke(&image, invocation("1")).await.metrics.custom;
    let second = node.invoke(&image, invocation("1")).await.metrics.custom;
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_setup_that_draws_random_numbers_runs_at_each_start() {
    let guest = Guest {
        imports: RANDOM,
        setup: "(drop (call $random)) (call $ok (i32.const 0) (i32.const 0))",
        ..Guest::default()
    };
    let reason = refusal(&Node::new(), &guest).await;
    assert!(reason.contains("drew random numbers"), "{reason}");
}

#[tokio::test]
async fn code_that_changes_tables_has_no_image() {
    let guest = Guest {
        more: "(table $table 1 funcref) (func $change (table.set $table (i32.const 0) (ref.null func)))",
        ..Guest::default()
    };
    assert_eq!(refusal(&Node::new(), &guest).await, "its code has the instruction `table.set`");
}

#[tokio::test]
async fn a_state_beyond_the_bound_has_no_image() {
    let node = Node::with(|config| config.image_bytes_max = 100_000);
    let reason = refusal(&node, &Guest { pages: 2, ..Guest::default() }).await;
    assert_eq!(reason, "it has 131072 bytes of memory after setup, an image takes 100000");
}

#[tokio::test]
async fn a_setup_that_fails_is_told_with_what_it_printed() {
    let guest = Guest {
        imports: OUTPUT,
        setup: "
            (call $log (i32.const 1) (i32.const 1100) (i32.const 3))
            (call $err (i32.const 1104) (i32.const 3))",
        texts: vec![(1024, "{}".into()), (1100, "why bad".into())],
        ..Guest::default()
    };
    let error = prepare(&Node::new(), &guest).await.unwrap_err();
    assert_eq!(error.to_string(), "setup failed: bad; it printed: why");
}
