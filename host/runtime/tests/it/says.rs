//! What a guest says while it runs, and how it reaches the caller.

use dormouse_runtime::{Event, Level, Limits, LogSource};

use crate::{
    guest::{Guest, OUTPUT, STDIO},
    node::{Node, limits},
};

/// Writes each text to the stream it names, then answers.
fn writer(writes: &[(&str, &str)]) -> Guest {
    let mut texts = vec![(1024, "{}".to_owned())];
    let mut predict = String::new();
    let mut at = 2048;
    for (stream, text) in writes {
        let len = text.len();
        predict.push_str(&format!(
            "(call $write (call ${stream}) (i32.const {at}) (i32.const {len}) (i32.const 256))"
        ));
        texts.push((at, (*text).to_owned()));
        at += text.len() as u32;
    }
    predict.push_str("(call $ok (local.get $in) (local.get $len))");
    Guest { imports: STDIO, predict: Box::leak(predict.into_boxed_str()), texts, ..Guest::default() }
}

#[tokio::test]
async fn standard_streams_become_log_lines() {
    let guest = writer(&[("stdout", "one\ntw"), ("stderr", "bad\r\n"), ("stdout", "o\n\nthree")]);
    let run = Node::new().run(&guest, "1").await;
    let lines: Vec<_> = run.logs().iter().map(|l| (l.source, l.level, l.message.as_str())).collect();
    let (out, err) = ((LogSource::Stdout, Level::Info), (LogSource::Stderr, Level::Warn));
    assert_eq!(
        lines,
        [
            (out.0, out.1, "one"),
            (err.0, err.1, "bad"),
            (out.0, out.1, "two"),
            (out.0, out.1, ""),
            (out.0, out.1, "three"),
        ]
    );
}

#[tokio::test]
async fn long_lines_split_between_characters() {
    let guest = writer(&[("stdout", "aéüöaäx\n")]);
    let run = Node::new().run_with(&guest, "1", Limits { log_line_bytes: 4, ..limits() }).await;
    assert_eq!(run.log_texts().concat(), "aéüöaäx");
    assert!(run.log_texts().iter().all(|line| line.len() <= 4), "{:?}", run.log_texts());
}

#[tokio::test]
async fn what_a_guest_printed_before_a_trap_is_kept() {
    let mut guest = writer(&[("stderr", "panicked at lib.rs:1")]);
    guest.predict = Box::leak(format!("{} unreachable", guest.predict).into_boxed_str());
    let node = Node::new();
    let run = node.run(&guest, "1").await;
    run.error();
    assert_eq!(run.log_texts(), ["panicked at lib.rs:1"]);
}

#[tokio::test]
async fn a_trap_in_describe_tells_what_was_printed() {
    let mut guest = writer(&[]);
    guest.describe = "
        (call $write (call $stderr) (i32.const 1100) (i32.const 6) (i32.const 256))
        unreachable";
    guest.texts.push((1100, "my bad".into()));
    let node = Node::new();
    let error = node.runtime.describe(&node.load(&guest), &limits()).await.unwrap_err();
    assert!(error.to_string().ends_with("; it printed: my bad"), "{error}");
}

#[tokio::test]
async fn events_keep_their_order() {
    let guest = Guest {
        imports: Box::leak(format!("{OUTPUT}{STDIO}").into_boxed_str()),
        predict: "
            (call $write (call $stdout) (i32.const 1100) (i32.const 2) (i32.const 256))
            (call $emit (i32.const 1102) (i32.const 1) (i32.const 256))
            (call $progress (f32.const 0.5) (i32.const 1103) (i32.const 4))
            (call $log (i32.const 3) (i32.const 1103) (i32.const 4))
            (call $ok (local.get $in) (local.get $len))",
        texts: vec![(1024, "{}".into()), (1100, "a\n1half".into())],
        ..Guest::default()
    };
    let run = Node::new().run(&guest, "1").await;
    assert_eq!(run.events.len(), 4);
    assert!(matches!(&run.events[0], Event::Log(line) if line.message == "a"));
    assert!(matches!(&run.events[1], Event::Output(json) if json == "1"));
    assert!(
        matches!(&run.events[2], Event::Progress { fraction, note } if *fraction == 0.5 && note == "half")
    );
    assert!(
        matches!(&run.events[3], Event::Log(line) if line.message == "half" && line.level == Level::Error)
    );
}

#[tokio::test]
async fn progress_is_a_fraction_and_its_note_short() {
    let guest = Guest {
        imports: OUTPUT,
        predict: "
            (call $progress (f32.const 7) (i32.const 1100) (i32.const 4))
            (call $progress (f32.const -1) (i32.const 1100) (i32.const 4))
            (call $progress (f32.const nan) (i32.const 1100) (i32.const 4))
            (call $ok (local.get $in) (local.get $len))",
        texts: vec![(1024, "{}".into()), (1100, "aéb?".into())],
        ..Guest::default()
    };
    let run = Node::new().run_with(&guest, "1", Limits { note_bytes: 2, ..limits() }).await;
    let progress: Vec<_> = run
        .events
        .iter()
        .map(|event| match event {
            Event::Progress { fraction, note } => (*fraction, note.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(progress, [(1.0, "a"), (0.0, "a"), (0.0, "a")]);
}
