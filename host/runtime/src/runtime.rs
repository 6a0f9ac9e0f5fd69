//! The runtime: one `wasmtime::Engine`, its cache of compiled components, and invocations.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use dormouse_engine::Engine;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tracing::Instrument;

use crate::{
    Component, Error, Event, Invocation, Limits, Load, Metrics, Outcome,
    instance::{self, Call},
    library::Library,
    sandbox,
    state::Grants,
};

/// The runtime's bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of compiled components.
    pub cache_dir: PathBuf,
    /// Instances live at once on this node.
    pub instances_max: usize,
    /// Upper bound on [`Limits::memory_bytes`].
    pub memory_bytes_max: usize,
    /// Wasm stack of an instance.
    pub stack_bytes: usize,
    /// Bytes of a component that will be compiled.
    pub component_bytes_max: usize,
    /// Bytes of the manifest that `describe` gives.
    pub manifest_bytes_max: usize,
}

impl Config {
    /// Defaults, with the cache under `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            instances_max: 1000,
            memory_bytes_max: 1 << 30,
            stack_bytes: 512 << 10,
            component_bytes_max: 64 << 20,
            manifest_bytes_max: 1 << 20,
        }
    }
}

/// Runs predictors; cloning shares it.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    engine: Engine,
    library: Library,
    /// One permit for each instance that may still be made.
    slots: Semaphore,
}

/// Log lines of `describe` that are told with a fault.
const LAST_WORDS_MAX: usize = 8;
/// Events of `describe` on their way.
const EVENTS_MAX: usize = 64;

impl Runtime {
    /// Makes the wasmtime engine and starts its epoch ticker. Models come from `engine`.
    pub fn new(config: Config, engine: Engine) -> Result<Self, Error> {
        let library = Library::new(&config, sandbox::start(&config)?)?;
        let slots = Semaphore::new(config.instances_max);
        Ok(Self { shared: Arc::new(Shared { config, engine, library, slots }) })
    }

    /// Compiles the component, or maps it when its digest is in the cache. Blocks for up to seconds:
    /// call it from a blocking context. A component that is in use is shared; callers of one that is
    /// being compiled wait for it.
    pub fn load(&self, wasm: &[u8]) -> Result<(Component, Load), Error> {
        self.shared.library.load(wasm)
    }

    /// Maps a component that was compiled before; `None` when the cache lacks it or it was made by
    /// another version (then [`Runtime::load`] the bytes). Blocks for a map and a link.
    pub fn load_cached(&self, digest: &str) -> Result<Option<(Component, Load)>, Error> {
        self.shared.library.load_cached(digest)
    }

    /// Removes a component from the cache. One that is in use stays usable. Blocks for reading a folder.
    pub fn forget(&self, digest: &str) -> Result<(), Error> {
        self.shared.library.forget(digest)
    }

    /// The predictor's manifest: the JSON that `describe` gives, under `limits`, with no model. An error
    /// that ends the guest tells the last lines it printed.
    pub async fn describe(&self, component: &Component, limits: &Limits) -> Result<Value, Error> {
        let _slot = self.slot()?;
        let mut limits = limits.clone();
        limits.output_bytes = limits.output_bytes.min(self.shared.config.manifest_bytes_max);
        let grants = Grants { limits, models: Arc::default(), env: Arc::default() };
        let (events, mut said) = mpsc::channel(EVENTS_MAX);
        let last_words = async {
            let mut lines = VecDeque::with_capacity(LAST_WORDS_MAX);
            while let Some(event) = said.recv().await {
                if let Event::Log(line) = event {
                    lines.truncate(LAST_WORDS_MAX - 1);
                    lines.push_front(line.message);
                }
            }
            lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
        };
        let Shared { config, engine, .. } = &*self.shared;
        let run = instance::run(config, engine, component, Call::Describe, grants, events);
        let ((result, _), last_words) = tokio::join!(run, last_words);
        match result {
            Ok(json) => {
                serde_json::from_str(&json).map_err(|error| Error::BadJson(format!("in describe: {error}")))
            }
            Err(Error::Trap(reason)) if !last_words.is_empty() => {
                Err(Error::Trap(format!("{reason}; it printed: {last_words}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Runs one prediction in a fresh instance: `setup`, then `predict`. Events go to `events` as they
    /// happen; dropping their receiver ends the guest with [`Error::Cancelled`]. Metrics come back
    /// however it ends. Dropping the future ends the guest and its completions.
    pub async fn predict(
        &self,
        component: &Component,
        invocation: Invocation,
        events: mpsc::Sender<Event>,
    ) -> (Result<Outcome, Error>, Metrics) {
        // Held until the instance is gone.
        let _slot = match self.slot() {
            Ok(slot) => slot,
            Err(busy) => return (Err(busy), Metrics::default()),
        };
        let Invocation { input, limits, models, env } = invocation;
        let grants = Grants { limits, models, env };
        let Shared { config, engine, .. } = &*self.shared;
        let span = tracing::info_span!("invocation", component = component.digest());
        let run = instance::run(config, engine, component, Call::Predict { input }, grants, events);
        let (result, metrics) = run.instrument(span).await;
        (result.map(|output| Outcome { output }), metrics)
    }

    /// Instances running now.
    pub fn instances(&self) -> usize {
        self.shared.config.instances_max - self.shared.slots.available_permits()
    }

    fn slot(&self) -> Result<SemaphorePermit<'_>, Error> {
        let instances_max = self.shared.config.instances_max;
        self.shared.slots.try_acquire().map_err(|_| Error::Busy { instances_max })
    }
}
