//! A runtime with a folder of its own, and short ways to use it.

use std::{path::Path, time::Duration};

use dormouse_engine::{Caller, Engine};
use dormouse_runtime::{
    Component, Config, Error, Event, Invocation, Limits, LogLine, Metrics, Outcome, Runtime,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::guest::Guest;

/// A runtime for tests.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) folder: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let runtime = start(folder.path(), engine(folder.path()), change);
        Self { runtime, folder }
    }

    /// A runtime on what is in a folder, and the engine under it.
    pub(crate) fn with_engine(folder: TempDir) -> (Self, Engine) {
        let engine = engine(folder.path());
        (Self { runtime: start(folder.path(), engine.clone(), |_| {}), folder }, engine)
    }

    /// A runtime on what is in a folder.
    pub(crate) fn at(folder: TempDir) -> Self {
        Self::with_engine(folder).0
    }

    /// The same folder under a new runtime, as after a restart.
    pub(crate) fn restart(self) -> Self {
        Self::at(self.folder)
    }

    /// The folder of compiled components.
    pub(crate) fn cache_dir(&self) -> std::path::PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn load(&self, guest: &Guest) -> Component {
        self.runtime.load(&guest.build()).unwrap().0
    }

    /// Runs a guest under the default limits and takes all it says.
    pub(crate) async fn run(&self, guest: &Guest, input: &str) -> Run {
        self.run_with(guest, input, limits()).await
    }

    pub(crate) async fn run_with(&self, guest: &Guest, input: &str, limits: Limits) -> Run {
        self.invoke(&self.load(guest), Invocation { limits, ..invocation(input) }).await
    }

    pub(crate) async fn invoke(&self, component: &Component, invocation: Invocation) -> Run {
        let (sender, mut receiver) = mpsc::channel(4);
        let taken = async {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        };
        let ((result, metrics), events) =
            tokio::join!(self.runtime.predict(component, invocation, sender), taken);
        Run { result, metrics, events }
    }

    /// Fails unless a well-behaved guest is answered.
    pub(crate) async fn answers(&self) {
        let run = self.run(&Guest::default(), r#"{"name":"wasm"}"#).await;
        assert_eq!(run.output(), r#"{"name":"wasm"}"#);
    }
}

fn engine(folder: &Path) -> Engine {
    Engine::start(dormouse_engine::Config::new(folder.join("models"))).unwrap()
}

fn start(folder: &Path, engine: Engine, change: impl FnOnce(&mut Config)) -> Runtime {
    let mut config = Config::new(folder.join("cache"));
    config.instances_max = 16;
    change(&mut config);
    Runtime::new(config, engine).unwrap()
}

/// Limits that a test never meets by accident.
pub(crate) fn limits() -> Limits {
    Limits { timeout: Duration::from_secs(60), ..Limits::default() }
}

pub(crate) fn invocation(input: &str) -> Invocation {
    Invocation {
        input: input.into(),
        limits: limits(),
        caller: Caller::default(),
        models: [].into(),
        env: [].into(),
        keep_alive: None,
    }
}

/// All that came of an invocation.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) result: Result<Outcome, Error>,
    pub(crate) metrics: Metrics,
    pub(crate) events: Vec<Event>,
}

impl Run {
    pub(crate) fn output(&self) -> &str {
        &self.result.as_ref().unwrap().output
    }

    pub(crate) fn error(&self) -> &Error {
        self.result.as_ref().unwrap_err()
    }

    pub(crate) fn emitted(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Output(json) => Some(json.as_str()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn logs(&self) -> Vec<&LogLine> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Log(line) => Some(line),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn log_texts(&self) -> Vec<&str> {
        self.logs().into_iter().map(|line| line.message.as_str()).collect()
    }
}
