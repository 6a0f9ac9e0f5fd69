//! What the tests share.

use std::path::PathBuf;

use dormouse_engine::{
    Chunk, Completion, Config, Engine, Finish, Model, ModelStats, Prompt, Request, Stats, Usage,
};

/// The file of SmolLM2-135M-Instruct, Q4_1. A test that needs it fails where it is missing.
pub(crate) fn model_path() -> PathBuf {
    match std::env::var_os("DORMOUSE_TEST_MODEL") {
        Some(path) => path.into(),
        None => cached("SmolLM2-135M-Instruct.Q4_1.gguf"),
    }
}

/// A file that `make test` fetches. A test that needs it fails where it is missing.
pub(crate) fn cached(name: &str) -> PathBuf {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let path = cache.join("dormouse").join(name);
    assert!(path.is_file(), "no test model at {}: run `make test`", path.display());
    path
}

/// Longer than anything takes on a device that the processor stands in for.
pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(600);

/// Who uses the first adapter: its memory is counted, and it is slow enough for one.
#[cfg(feature = "gpu")]
pub(crate) static GPU: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An engine with an empty catalogue and changed bounds.
pub(crate) fn engine(change: impl FnOnce(&mut Config)) -> Engine {
    let models_dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(models_dir.path());
    change(&mut config);
    Engine::start(config).unwrap()
}

/// The test model on an engine of its own.
pub(crate) async fn model(change: impl FnOnce(&mut Config)) -> (Engine, Model) {
    open(model_path(), change).await
}

/// A model on an engine of its own.
pub(crate) async fn open(path: PathBuf, change: impl FnOnce(&mut Config)) -> (Engine, Model) {
    let engine = engine(change);
    let model = engine.open_file(path).await.unwrap();
    (engine, model)
}

/// The numbers of the only model once nothing runs any more.
pub(crate) async fn idle_stats(engine: &Engine) -> ModelStats {
    let mut stats = engine.watch_stats();
    let is_idle = |stats: &Stats| stats.models.iter().all(|model| model.running + model.queued == 0);
    stats.wait_for(is_idle).await.unwrap().models[0].clone()
}

/// A greedy request that continues a text.
pub(crate) fn continue_text(text: &str, max_tokens: usize) -> Request {
    Request::new(Prompt::Text(text.to_owned()), max_tokens)
}

/// A finished completion.
#[derive(Debug)]
pub(crate) struct Finished {
    /// All chunks as one.
    pub(crate) chunk: Chunk,
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
}

/// Reads a completion to its end.
pub(crate) async fn finish(mut completion: Completion) -> Finished {
    let mut all = Chunk::default();
    while let Some(chunk) = completion.next().await.unwrap() {
        all.text += &chunk.text;
        all.tokens.extend(chunk.tokens);
        all.logprobs.extend(chunk.logprobs);
    }
    let finish = completion.finish().expect("a completion that was read to its end has finished");
    Finished { chunk: all, finish, usage: completion.usage() }
}

/// Runs a request to its end.
pub(crate) async fn run(model: &Model, request: Request) -> Finished {
    finish(model.generate(request).unwrap()).await
}
