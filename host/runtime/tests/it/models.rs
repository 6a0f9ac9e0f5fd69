//! Guests that use a real model.

use std::{env, fs, path::PathBuf};

use dormouse_engine::{Catalog, Engine, Prompt, Request, catalog::Digest};
use dormouse_runtime::{Component, Error, Event, Invocation, Limits, Prepared, Setup};
use tokio::sync::mpsc;

use crate::{
    guest::{Guest, OUTPUT},
    node::{Node, Run, invocation, limits},
};

/// The model's name in these tests.
const NAME: &str = "smollm2";
const PROMPT: &str = "The capital of France is";

/// The file of SmolLM2-135M-Instruct, Q4_1. A test that needs it fails where it is missing.
fn model_path() -> PathBuf {
    let cache = || match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let path = env::var_os("DORMOUSE_TEST_MODEL")
        .map_or_else(|| cache().join("dormouse/SmolLM2-135M-Instruct.Q4_1.gguf"), PathBuf::from);
    assert!(
        path.is_file(),
        "no test model at {}: run `make test`, or set DORMOUSE_TEST_MODEL",
        path.display()
    );
    path
}

/// A node that has the model, and its engine.
fn node() -> (Node, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(folder.path().join("models")).unwrap();
    let file = catalog.tmp().join("model.gguf");
    fs::copy(model_path(), &file).unwrap();
    let digest = Digest::of_file(&file).unwrap();
    catalog.add(NAME, "file:model.gguf", &file, &digest).unwrap();
    Node::with_engine(folder)
}

/// `(call $start)` starts a completion of [`PROMPT`] and leaves the result at 256; `(call $step)` waits
/// for its next piece, logs it, and tells whether there was one.
fn talker(predict: &'static str) -> Guest {
    const LLM: &str = r#"
        (import "dormouse:predictor/llm@0.1.0" "[static]model.open" (func $open (param i32 i32 i32)))
        (import "dormouse:predictor/llm@0.1.0" "[method]model.generate" (func $generate (param i32 i32)))
        (import "dormouse:predictor/llm@0.1.0" "[method]model.embed"
            (func $embed (param i32 i32 i32 i32)))
        (import "dormouse:predictor/llm@0.1.0" "[method]model.tokenize"
            (func $tokenize (param i32 i32 i32 i32)))
        (import "dormouse:predictor/llm@0.1.0" "[method]completion.next" (func $next (param i32 i32)))
        (import "dormouse:predictor/llm@0.1.0" "[resource-drop]completion" (func $drop (param i32)))
    "#;
    Guest {
        imports: Box::leak(format!("{LLM}{OUTPUT}").into_boxed_str()),
        predict,
        // A request lies in memory as the canonical ABI has it: the model's handle at 512, the tag of
        // its prompt (0, text) at 520, the text at 524, `max-tokens` at 532, then nothing but `none`.
        more: "
            (global $model (mut i32) (i32.const 0))
            (func $ready
                (call $open (i32.const 1100) (i32.const 7) (i32.const 256))
                (if (i32.load8_u (i32.const 256)) (then unreachable))
                (global.set $model (i32.load (i32.const 260)))
                (i32.store (i32.const 512) (global.get $model))
                (i32.store (i32.const 524) (i32.const 1107))
                (i32.store (i32.const 528) (i32.const 24)))
            (func $start (param $max_tokens i32) (result i32)
                (i32.store (i32.const 532) (local.get $max_tokens))
                (call $generate (i32.const 512) (i32.const 256))
                (if (i32.load8_u (i32.const 256)) (then (return (i32.const 0))))
                (i32.load (i32.const 260)))
            (func $step (param $completion i32) (result i32)
                (call $next (local.get $completion) (i32.const 256))
                (if (i32.load8_u (i32.const 256)) (then unreachable))
                (if (i32.eqz (i32.load8_u (i32.const 260))) (then (return (i32.const 0))))
                (call $log (i32.const 1) (i32.load (i32.const 264)) (i32.load (i32.const 268)))
                (i32.const 1))
            (func $refusal (result i32)
                (if (i32.eqz (i32.load8_u (i32.const 256))) (then unreachable))
                (call $err (i32.load (i32.const 264)) (i32.load (i32.const 268))))",
        texts: vec![(1024, "{}".into()), (1100, format!("{NAME}{PROMPT}"))],
        ..Guest::default()
    }
}

fn declaring(limits: Limits) -> Invocation {
    Invocation { models: [NAME.to_owned()].into(), limits, ..invocation("1") }
}

async fn run(node: &Node, predict: &'static str, limits: Limits) -> Run {
    node.invoke(&node.load(&talker(predict)), declaring(limits)).await
}

/// Runs until every sequence of the engine is done or cancelled; gives the tokens it generated.
async fn idle(engine: &Engine) -> u64 {
    let mut stats = engine.watch_stats();
    let done = stats.wait_for(|stats| stats.models.iter().all(|m| m.running + m.queued == 0)).await.unwrap();
    done.models.iter().map(|model| model.completion_tokens).sum()
}

#[tokio::test]
async fn a_guest_reads_what_the_engine_generates_and_its_cost_is_told() {
    let (node, engine) = node();
    let predict = "
        (local $completion i32)
        (call $ready)
        (local.set $completion (call $start (i32.const 8)))
        (loop $more (br_if $more (call $step (local.get $completion))))
        (call $ok (local.get $in) (local.get $len))";
    let run = run(&node, predict, limits()).await;
    assert_eq!(run.output(), "1");

    let model = engine.open(NAME).await.unwrap();
    let mut direct = model.generate(Request::new(Prompt::Text(PROMPT.into()), 8)).unwrap();
    let mut text = String::new();
    while let Some(chunk) = direct.next().await.unwrap() {
        text += &chunk.text;
    }
    // A log line comes without its line end.
    assert_eq!(run.log_texts().concat(), text.replace('\n', ""));
    let usage = direct.usage();
    assert_eq!(run.metrics.prompt_tokens, u64::from(usage.prompt_tokens));
    assert_eq!(run.metrics.completion_tokens, u64::from(usage.completion_tokens));
    assert!(!run.metrics.device.is_zero());
    assert!(!run.metrics.wake.is_zero(), "this guest was the first to open the model");
}

#[tokio::test]
async fn a_guest_that_leaves_completions_open_pays_for_them() {
    let (node, engine) = node();
    let predict = "
        (local $first i32)
        (call $ready)
        (local.set $first (call $start (i32.const 100000)))
        (if (local.get $first) (then unreachable)) ;; longer than the context
        (local.set $first (call $start (i32.const 1000)))
        (drop (call $start (i32.const 1000)))
        (drop (call $step (local.get $first)))
        (call $ok (local.get $in) (local.get $len))";
    let run = run(&node, predict, limits()).await;
    assert_eq!(run.output(), "1");
    assert!(run.metrics.completion_tokens >= 1);
    assert!(run.metrics.prompt_tokens > 0);
    assert!(idle(&engine).await < 2000, "they were cancelled");
}

#[tokio::test]
async fn dropping_the_future_cancels_the_guests_completions() {
    let (node, engine) = node();
    let guest = talker(
        "(local $first i32)
        (call $ready)
        (local.set $first (call $start (i32.const 4000)))
        (drop (call $start (i32.const 4000)))
        (loop $more (br_if $more (call $step (local.get $first))))
        unreachable",
    );
    let component: Component = node.load(&guest);
    let (events, mut said) = mpsc::channel(4);
    let runtime = node.runtime.clone();
    let task = tokio::spawn(async move { runtime.predict(&component, declaring(limits()), events).await.0 });
    while !matches!(said.recv().await.expect("it talks"), Event::Log(_)) {}
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(node.runtime.instances(), 0);
    assert!(idle(&engine).await < 8000);
}

#[tokio::test]
async fn completions_open_at_once_have_a_limit() {
    let (node, _engine) = node();
    let predict = "
        (local $first i32)
        (call $ready)
        (local.set $first (call $start (i32.const 1000)))
        (if (i32.eqz (call $start (i32.const 1000))) (then unreachable))
        (if (call $start (i32.const 1000)) (then unreachable))
        ;; One that is dropped makes room for another.
        (call $drop (local.get $first))
        (if (i32.eqz (call $start (i32.const 1000))) (then unreachable))
        (drop (call $start (i32.const 1000)))
        (call $refusal)";
    let run = run(&node, predict, Limits { completions_max: 2, ..limits() }).await;
    let Error::Failed(reason) = run.error() else { panic!("{run:?}") };
    assert_eq!(reason, "2 completions are open, the limit is 2");
}

#[tokio::test]
async fn text_for_a_model_has_a_limit() {
    let (node, _engine) = node();
    let limit = Limits { prompt_bytes: 23, ..limits() };
    let predict = "(call $ready) (drop (call $start (i32.const 8))) (call $refusal)";
    let run_one = run(&node, predict, limit.clone()).await;
    let Error::Failed(reason) = run_one.error() else { panic!("{run_one:?}") };
    assert_eq!(reason, "request has 24 bytes, the limit is 23");
    let predict = "
        (call $ready)
        (call $tokenize (global.get $model) (i32.const 1107) (i32.const 24) (i32.const 256))
        (call $refusal)";
    let run_two = run(&node, predict, limit).await;
    let Error::Failed(reason) = run_two.error() else { panic!("{run_two:?}") };
    assert_eq!(reason, "text has 24 bytes, the limit is 23");
}

#[tokio::test]
async fn embeddings_come_back_one_for_each_input() {
    let (node, _engine) = node();
    // The inputs are two copies of the prompt, the second embedding as long as the first.
    let predict = "
        (call $ready)
        (i32.store (i32.const 768) (i32.const 1107))
        (i32.store (i32.const 772) (i32.const 24))
        (i32.store (i32.const 776) (i32.const 1107))
        (i32.store (i32.const 780) (i32.const 24))
        (call $embed (global.get $model) (i32.const 768) (i32.const 2) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then (return (call $refusal))))
        (if (i32.ne (i32.load (i32.const 264)) (i32.const 2)) (then unreachable))
        (if (i32.ne (i32.load offset=12 (i32.load (i32.const 260))) (i32.const 576)) (then unreachable))
        (call $ok (local.get $in) (local.get $len))";
    assert_eq!(run(&node, predict, limits()).await.output(), "1");
    let refused = run(&node, predict, Limits { embed_inputs_max: 1, ..limits() }).await;
    let Error::Failed(reason) = refused.error() else { panic!("{refused:?}") };
    assert_eq!(reason, "2 inputs to embed, the limit is 1");
}

#[tokio::test]
async fn a_long_text_is_tokenized_beside_the_async_workers() {
    let (node, engine) = node();
    // 60,000 zero bytes, all of them text.
    let predict = "
        (call $ready)
        (call $tokenize (global.get $model) (i32.const 131072) (i32.const 60000) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then (return (call $refusal))))
        (call $metric (i32.const 1100) (i32.const 7) (f64.convert_i32_u (i32.load (i32.const 264))))
        (call $ok (local.get $in) (local.get $len))";
    let guest = Guest { pages: 4, ..talker(predict) };
    let run = node.invoke(&node.load(&guest), declaring(limits())).await;
    assert_eq!(run.output(), "1");
    let model = engine.open(NAME).await.unwrap();
    let tokens = model.tokenize(&"\0".repeat(60_000), false).unwrap().len();
    assert_eq!(run.metrics.custom, [(NAME.to_owned(), tokens as f64)]);
}

/// What becomes of a guest whose `setup` is this and may open the model.
async fn prepare(node: &Node, setup: &'static str, predict: &'static str) -> Prepared {
    let wasm = Guest { setup, ..talker(predict) }.build();
    let component = node.runtime.load(&wasm).unwrap().0;
    let setup = Setup { limits: limits(), models: [NAME.to_owned()].into(), env: [].into() };
    node.runtime.prepare(&component, wasm.into(), setup).await.unwrap()
}

const TALK: &str = "
    (local $completion i32)
    (local.set $completion (call $start (i32.const 8)))
    (loop $more (br_if $more (call $step (local.get $completion))))
    (call $ok (local.get $in) (local.get $len))";

#[tokio::test]
async fn a_model_that_setup_opened_is_opened_again_for_each_prediction() {
    let (node, _engine) = node();
    let setup = "(call $ready) (call $ok (i32.const 0) (i32.const 0))";
    let Prepared::Image { wasm, .. } = prepare(&node, setup, TALK).await else { panic!("no image") };
    let image = node.runtime.load_image(&wasm).unwrap().0;
    let expected = node.invoke(&node.load(&Guest { setup, ..talker(TALK) }), declaring(limits())).await;
    for _ in 0..2 {
        let run = node.invoke(&image, declaring(limits())).await;
        assert_eq!((run.output(), run.log_texts()), ("1", expected.log_texts()));
        assert_eq!(run.metrics.completion_tokens, expected.metrics.completion_tokens);
    }
    let other = Invocation { models: ["other".to_owned()].into(), ..declaring(limits()) };
    let refused = node.invoke(&image, other).await;
    let Error::Setup(reason) = refused.error() else { panic!("{refused:?}") };
    assert!(reason.starts_with("model \"smollm2\" is not declared"), "{reason}");
}

#[tokio::test]
async fn a_setup_that_leaves_a_completion_open_has_no_image() {
    let (node, _engine) = node();
    let setup = "(call $ready) (drop (call $start (i32.const 8))) (call $ok (i32.const 0) (i32.const 0))";
    let Prepared::AtStart { reason, .. } = prepare(&node, setup, TALK).await else { panic!("an image") };
    assert_eq!(reason, "it holds something of the host besides models and standard streams");
}
