//! Every way a guest can go wrong has a name of its own, and none disturbs another guest.

use std::time::Duration;

use dormouse_runtime::{Error, Limits};

use crate::{
    guest::{CLOCK, Guest, OUTPUT},
    node::{Node, limits},
};

/// Runs a guest that ends badly and gives its error, after seeing that the next guest is answered.
async fn ends(guest: Guest, limits: Limits) -> Error {
    let node = Node::new();
    let run = node.run_with(&guest, "1", limits).await;
    node.answers().await;
    assert_eq!(node.runtime.instances(), 0);
    run.result.unwrap_err()
}

fn predicts(predict: &'static str) -> Guest {
    Guest { predict, ..Guest::default() }
}

/// Grows its memory a megabyte at a time until that is refused.
const HOG: &str = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";

#[tokio::test]
async fn an_endless_loop_runs_out_of_time() {
    let limit = Duration::from_millis(50);
    let error =
        ends(predicts("(loop $again (br $again)) unreachable"), Limits { timeout: limit, ..limits() });
    assert!(matches!(error.await, Error::Timeout { limit: l } if l == limit));
}

#[tokio::test]
async fn time_spent_waiting_in_the_host_counts() {
    let guest = Guest {
        imports: CLOCK,
        predict: "(call $block (call $after (i64.const 3600000000000))) unreachable",
        ..Guest::default()
    };
    let error = ends(guest, Limits { timeout: Duration::from_millis(50), ..limits() });
    assert!(matches!(error.await, Error::Timeout { .. }));
}

#[tokio::test]
async fn a_trap_names_its_cause_and_place() {
    let guest = Guest {
        predict: "(call $divide (i32.const 0))",
        more: "(func $divide (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))",
        ..Guest::default()
    };
    let Error::Trap(reason) = ends(guest, limits()).await else { panic!("not a trap") };
    assert_eq!(reason, "in predict: integer divide by zero; at divide < predict");
}

#[tokio::test]
async fn a_trap_in_setup_says_so() {
    let guest = Guest { setup: "unreachable", ..Guest::default() };
    let Error::Trap(reason) = ends(guest, limits()).await else { panic!("not a trap") };
    assert_eq!(reason, "in setup: wasm `unreachable` instruction executed; at setup");
}

#[tokio::test]
async fn an_access_out_of_bounds_is_a_trap() {
    let guest = predicts("(i32.load (i32.const -8))");
    let Error::Trap(reason) = ends(guest, limits()).await else { panic!("not a trap") };
    assert!(reason.contains("out of bounds memory access"), "{reason}");
}

#[tokio::test]
async fn an_answer_outside_of_memory_is_a_trap() {
    let Error::Trap(reason) = ends(predicts("(i32.const -4)"), limits()).await else { panic!("not a trap") };
    assert!(reason.starts_with("in predict: "), "{reason}");
}

#[tokio::test]
async fn a_guest_that_aborts_for_want_of_memory_is_out_of_memory() {
    let guest = Guest { predict: HOG_AND_ABORT, ..Guest::default() };
    let error = ends(guest, Limits { memory_bytes: 8 << 20, ..limits() }).await;
    let Error::OutOfMemory { wanted_bytes, limit_bytes } = error else { panic!("{error:?}") };
    assert_eq!(limit_bytes, 8 << 20);
    assert_eq!(wanted_bytes, (8 << 20) + (1 << 16), "one page and sixteen at a time");
}

const HOG_AND_ABORT: &str = "
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    unreachable";

#[tokio::test]
async fn a_guest_that_starts_larger_than_its_limit_is_out_of_memory() {
    let guest = Guest { pages: 32, ..Guest::default() };
    let error = ends(guest, Limits { memory_bytes: 1 << 20, ..limits() }).await;
    assert!(
        matches!(error, Error::OutOfMemory { wanted_bytes, limit_bytes }
            if wanted_bytes == 2 << 20 && limit_bytes == 1 << 20),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_guest_that_gets_by_without_more_memory_is_answered() {
    let node = Node::new();
    let predict = Box::leak(format!("{HOG} (call $ok (local.get $in) (local.get $len))").into_boxed_str());
    let run = node.run_with(&predicts(predict), "7", Limits { memory_bytes: 8 << 20, ..limits() }).await;
    assert_eq!(run.output(), "7");
    assert_eq!(run.metrics.memory_bytes, (8 << 20) - (15 << 16), "the largest it got");
}

#[tokio::test]
async fn deep_recursion_overflows_the_stack_limit() {
    let guest = Guest {
        predict: "(call $deeper (i32.const 0))",
        more: "(func $deeper (param i32) (result i32)
            (i32.add (local.get 0) (call $deeper (i32.add (local.get 0) (i32.const 1)))))",
        ..Guest::default()
    };
    let error = ends(guest, limits()).await;
    assert!(matches!(error, Error::StackOverflow { stack_bytes } if stack_bytes == 512 << 10), "{error:?}");
}

#[tokio::test]
async fn an_exit_is_neither_answer_nor_trap() {
    for (status, code) in [("0", 0), ("1", 1)] {
        let predict = Box::leak(format!("(call $exit (i32.const {status})) unreachable").into_boxed_str());
        let guest = Guest {
            imports: r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
            predict,
            ..Guest::default()
        };
        let error = ends(guest, limits()).await;
        assert!(matches!(error, Error::Exit(status) if status == code), "{error:?}");
    }
}

#[tokio::test]
async fn the_predictors_own_errors_are_passed_on() {
    let texts = vec![(1024, "{}".into()), (1100, "no such city".into())];
    let fails = "(call $err (i32.const 1100) (i32.const 12))";
    let error = ends(Guest { predict: fails, texts: texts.clone(), ..Guest::default() }, limits()).await;
    assert!(matches!(&error, Error::Failed(reason) if reason == "no such city"), "{error:?}");
    let error = ends(Guest { setup: fails, texts, ..Guest::default() }, limits()).await;
    assert!(matches!(&error, Error::Setup(reason) if reason == "no such city"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_named_as_such() {
    let guest = Guest {
        predict: "(call $ok (i32.const 1100) (i32.const 3))",
        texts: vec![(1100, "yes".into())],
        ..Guest::default()
    };
    let error = ends(guest, limits()).await;
    assert!(matches!(&error, Error::BadJson(reason) if reason.starts_with("in predict")), "{error:?}");
}

#[tokio::test]
async fn an_answer_over_the_output_limit_is_too_large() {
    let limits = Limits { output_bytes: 1000, prompt_bytes: 0, ..limits() };
    let guest = Guest { predict: "(call $ok (i32.const 2048) (i32.const 1001))", ..Guest::default() };
    let error = ends(guest, limits.clone()).await;
    assert!(matches!(error, Error::OutputTooLarge { bytes: 1001, limit_bytes: 1000 }), "{error:?}");
    // So far over that the host does not even copy it.
    let guest =
        Guest { predict: "(call $ok (i32.const 2048) (i32.const 4000000))", pages: 100, ..Guest::default() };
    let error = ends(guest, limits).await;
    assert!(matches!(error, Error::OutputTooLarge { limit_bytes: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn a_flood_of_output_is_ended() {
    let guest = Guest {
        imports: OUTPUT,
        predict: "(loop $again
            (call $emit (i32.const 1100) (i32.const 4) (i32.const 256))
            (br $again)) unreachable",
        texts: vec![(1100, "true".into())],
        ..Guest::default()
    };
    let error = ends(guest, Limits { output_bytes: 10_000, ..limits() }).await;
    assert!(
        matches!(error, Error::OutputTooLarge { limit_bytes: 10_000, bytes } if bytes > 10_000),
        "{error:?}"
    );
}

#[tokio::test]
async fn more_than_one_host_call_may_carry_is_a_trap_that_says_so() {
    let guest = Guest {
        imports: OUTPUT,
        predict: "(call $log (i32.const 1) (i32.const 0) (i32.const 6000000)) unreachable",
        pages: 100,
        ..Guest::default()
    };
    let error = ends(guest, Limits { output_bytes: 1000, prompt_bytes: 1000, ..limits() }).await;
    assert!(matches!(&error, Error::Trap(reason) if reason.contains("too much data")), "{error:?}");
}

#[tokio::test]
async fn a_bad_manifest_is_named_by_its_fault() {
    let node = Node::new();
    let describe = async |describe, text: &str| {
        let guest = Guest { describe, texts: vec![(1024, text.into())], ..Guest::default() };
        node.runtime.describe(&node.load(&guest), &limits()).await.unwrap_err()
    };
    let error = describe("(call $string (i32.const 1024) (i32.const 5))", "{oops").await;
    assert!(matches!(&error, Error::BadJson(reason) if reason.starts_with("in describe")), "{error:?}");
    let error = describe("unreachable", "").await;
    assert!(matches!(&error, Error::Trap(reason) if reason.starts_with("in describe")), "{error:?}");
    node.answers().await;
}
