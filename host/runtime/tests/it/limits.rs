//! What a guest may make the host hold.

use dormouse_runtime::{EVENT_BYTES, Error, Invocation, Level, Limits, LogSource};

use crate::{
    guest::{Guest, OUTPUT},
    node::{Node, invocation, limits},
};

/// Emits its text until that is refused, then answers with its input.
const EMIT_UNTIL_REFUSED: &str = "
    (loop $again
        (call $emit (i32.const 1100) (i32.const 4) (i32.const 256))
        (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
    (call $ok (local.get $in) (local.get $len))";

fn speaker(predict: &'static str, text: &str) -> Guest {
    Guest {
        imports: OUTPUT,
        predict,
        texts: vec![(1024, "{}".into()), (1100, text.into())],
        ..Guest::default()
    }
}

#[tokio::test]
async fn a_guest_that_stops_when_its_output_is_refused_is_answered() {
    let node = Node::new();
    let room = 10 * (4 + EVENT_BYTES) + 5;
    let run = node
        .run_with(&speaker(EMIT_UNTIL_REFUSED, "true"), "12345", Limits { output_bytes: room, ..limits() })
        .await;
    assert_eq!(run.output(), "12345", "it fits to the byte");
    assert_eq!(run.emitted(), ["true"; 10]);
}

#[tokio::test]
async fn the_answer_counts_with_what_was_emitted() {
    let node = Node::new();
    let room = 10 * (4 + EVENT_BYTES) + 4;
    let run = node
        .run_with(&speaker(EMIT_UNTIL_REFUSED, "true"), "12345", Limits { output_bytes: room, ..limits() })
        .await;
    assert!(
        matches!(run.error(), Error::OutputTooLarge { bytes, limit_bytes }
            if *bytes == room + 1 && *limit_bytes == room),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_guest_that_fails_for_refused_output_is_too_large() {
    let predict = "
        (loop $again
            (call $emit (i32.const 1100) (i32.const 4) (i32.const 256))
            (br_if $again (i32.eqz (i32.load8_u (i32.const 256)))))
        (call $err (i32.load (i32.const 260)) (i32.load (i32.const 264)))";
    let run =
        Node::new().run_with(&speaker(predict, "true"), "1", Limits { output_bytes: 100, ..limits() }).await;
    assert!(matches!(run.error(), Error::OutputTooLarge { limit_bytes: 100, .. }), "{run:?}");
}

#[tokio::test]
async fn an_element_that_is_no_json_is_refused_with_the_reason() {
    let predict = "
        (call $emit (i32.const 1100) (i32.const 4) (i32.const 256))
        (call $err (i32.load (i32.const 260)) (i32.load (i32.const 264)))";
    let run = Node::new().run(&speaker(predict, "tru,"), "1").await;
    assert!(matches!(run.error(), Error::Failed(reason) if reason.starts_with("not JSON: ")), "{run:?}");
    assert!(run.emitted().is_empty());
}

#[tokio::test]
async fn a_flood_of_logs_is_cut_counted_and_told() {
    let predict = "
        (local $i i32)
        (loop $again
            (call $log (i32.const 2) (i32.const 1100) (i32.const 4))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000))))
        (call $ok (local.get $in) (local.get $len))";
    let room = 3 * (4 + EVENT_BYTES);
    let run =
        Node::new().run_with(&speaker(predict, "damn"), "1", Limits { log_bytes: room, ..limits() }).await;
    assert_eq!(run.output(), "1", "logs never fail a prediction");
    assert_eq!(run.metrics.log_bytes_dropped, 997 * 4);
    let note = format!("3988 bytes of logs were dropped, the limit is {room}");
    assert_eq!(run.log_texts(), ["damn", "damn", "damn", &note]);
    assert!(run.logs().iter().all(|line| line.level == Level::Warn && line.source == LogSource::Log));
}

#[tokio::test]
async fn empty_log_lines_cost_too() {
    let predict = "
        (local $i i32)
        (loop $again
            (call $log (i32.const 1) (i32.const 0) (i32.const 0))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000))))
        (call $ok (local.get $in) (local.get $len))";
    let run = Node::new()
        .run_with(&speaker(predict, ""), "1", Limits { log_bytes: 10 * EVENT_BYTES, ..limits() })
        .await;
    assert_eq!(run.logs().len(), 11, "ten and the note");
}

#[tokio::test]
async fn metrics_keep_the_last_value_of_so_many_names() {
    let predict = "
        (call $metric (i32.const 1100) (i32.const 1) (f64.const 1))
        (call $metric (i32.const 1101) (i32.const 1) (f64.const 2))
        (call $metric (i32.const 1102) (i32.const 1) (f64.const 3))
        (call $metric (i32.const 1100) (i32.const 1) (f64.const 4))
        (call $metric (i32.const 1101) (i32.const 1) (f64.const nan))
        (call $metric (i32.const 1100) (i32.const 3) (f64.const 5))
        (call $metric (i32.const 1100) (i32.const 0) (f64.const 6))
        (call $ok (local.get $in) (local.get $len))";
    let limits = Limits { metrics_max: 2, note_bytes: 2, ..limits() };
    let run = Node::new().run_with(&speaker(predict, "abc"), "1", limits).await;
    assert_eq!(run.metrics.custom, [("a".to_owned(), 4.0), ("b".to_owned(), 2.0)]);
}

#[tokio::test]
async fn a_model_that_is_not_declared_can_not_be_opened() {
    let guest = Guest {
        imports: r#"(import "dormouse:predictor/llm@0.1.0" "[static]model.open"
            (func $open (param i32 i32 i32)))"#,
        predict: "
            (call $open (i32.const 1100) (i32.const 7) (i32.const 256))
            (if (i32.load8_u (i32.const 260)) (then unreachable))
            (call $err (i32.load (i32.const 264)) (i32.load (i32.const 268)))",
        texts: vec![(1024, "{}".into()), (1100, "smollm2".into())],
        ..Guest::default()
    };
    let node = Node::new();
    let run = node.run(&guest, "1").await;
    let Error::Failed(reason) = run.error() else { panic!("{run:?}") };
    assert!(reason.contains("\"smollm2\" is not declared"), "{reason}");
    // Declared, but this node has none.
    let declared = Invocation { models: ["smollm2".to_owned()].into(), ..invocation("1") };
    let run = node.invoke(&node.load(&guest), declared).await;
    let Error::Failed(reason) = run.error() else { panic!("{run:?}") };
    assert!(reason.contains("no model named \"smollm2\""), "{reason}");
}

#[tokio::test]
async fn handles_have_a_limit() {
    let guest = Guest {
        imports: crate::guest::CLOCK,
        predict: "(loop $again (drop (call $after (i64.const 1))) (br $again)) unreachable",
        ..Guest::default()
    };
    let node = Node::new();
    let run = node.run_with(&guest, "1", Limits { handles_max: 100, ..limits() }).await;
    assert!(matches!(run.error(), Error::Trap(_)), "{run:?}");
    node.answers().await;
}

#[tokio::test]
async fn a_node_with_every_slot_taken_is_busy() {
    let node = Node::with(|config| config.instances_max = 1);
    let waits = Guest {
        imports: crate::guest::CLOCK,
        predict: "(call $block (call $after (i64.const 3600000000000))) unreachable",
        ..Guest::default()
    };
    let waits = node.load(&waits);
    let mut waiting = Box::pin(node.invoke(&waits, invocation("1")));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it waits for an hour"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(node.runtime.instances(), 1);
    let run = node.run(&Guest::default(), "1").await;
    assert!(matches!(run.error(), Error::Busy { instances_max: 1 }), "{run:?}");
    drop(waiting);
    node.answers().await;
}
