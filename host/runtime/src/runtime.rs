//! The runtime: one `wasmtime::Engine`, its cache of compiled components, and invocations.

use std::{collections::VecDeque, path::PathBuf, sync::Arc, time::Instant};

use dormouse_engine::{Caller, Engine};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::spawn_blocking,
};
use tracing::Instrument;

use crate::{
    Component, Error, Event, Invocation, Limits, Load, Metrics, Outcome,
    instance::{self, Answer, Call},
    library::Library,
    sandbox,
    snapshot::{Probe, READER_BYTES, Refusal},
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
    /// Components that `prepare` compiles at once; more wait.
    pub compiles_max: usize,
    /// Bytes of memory that `setup` may leave for an image to be made of it.
    pub image_bytes_max: u64,
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
            compiles_max: 2,
            image_bytes_max: 256 << 20,
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
    /// One for each compilation that may still begin.
    compiles: Semaphore,
}

/// What `setup` is given at deploy.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What it may use.
    pub limits: Limits,
    /// Names of the models it may open.
    pub models: Arc<[String]>,
    /// Environment variables it sees.
    pub env: Arc<[(String, String)]>,
}

/// What came of a `setup` that went well.
#[derive(Debug)]
pub enum Prepared {
    /// A component that begins as `setup` left the instance; compiled already.
    Image {
        /// Its bytes.
        wasm: Vec<u8>,
    },
    /// Its state can't be copied, so that it runs at the start of each prediction.
    AtStart {
        /// Why.
        reason: String,
    },
}

/// Log lines of `describe` and `setup` that are told with a fault.
const LAST_WORDS_MAX: usize = 8;
/// Events of these on their way.
const EVENTS_MAX: usize = 64;

impl Runtime {
    /// Makes the wasmtime engine and starts its epoch ticker. Models come from `engine`.
    pub fn new(config: Config, engine: Engine) -> Result<Self, Error> {
        let library = Library::new(&config, sandbox::start(&config)?)?;
        let slots = Semaphore::new(config.instances_max);
        let compiles = Semaphore::new(config.compiles_max.max(1));
        Ok(Self { shared: Arc::new(Shared { config, engine, library, slots, compiles }) })
    }

    /// A turn to compile, of which there are [`Config::compiles_max`] at once.
    pub async fn compile_turn(&self) -> SemaphorePermit<'_> {
        self.shared.compiles.acquire().await.expect("the semaphore is never closed")
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

    /// [`Runtime::load`] of an image that [`Runtime::prepare`] made.
    pub fn load_image(&self, wasm: &[u8]) -> Result<(Component, Load), Error> {
        self.shared.library.load_image(wasm, Instant::now())
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
        let (caller, models, env) = (Caller::default(), Arc::default(), Arc::default());
        let grants = Grants { limits, caller, models, env, keep_alive: None };
        let (result, last_words) = self.listen(component, Call::Describe, grants).await;
        match result.map(Answer::into_json) {
            Ok(json) => {
                serde_json::from_str(&json).map_err(|error| Error::BadJson(format!("in describe: {error}")))
            }
            Err(error) => Err(with_last_words(error, &last_words)),
        }
    }

    /// Runs `setup` once and makes an image of what it left. Compiles, for up to seconds, on a thread for
    /// that. An error is the guest's, with the last lines it printed.
    pub async fn prepare(
        &self,
        component: &Component,
        wasm: Arc<[u8]>,
        setup: Setup,
    ) -> Result<Prepared, Error> {
        let Setup { mut limits, models, env } = setup;
        let probing = wasm.clone();
        let probe = self.blocking(move |_| Ok(Probe::new(&probing))).await?;
        let (call, component, refusal) = match probe {
            Ok(probe) => {
                let probe = Arc::new(probe);
                limits.memory_bytes = limits.memory_bytes.saturating_add(READER_BYTES);
                let probed = probe.clone();
                let component = self.blocking(move |library| library.load_once(&probed.wasm)).await?;
                (Call::Setup(Some(probe)), component, None)
            }
            Err(refusal) => (Call::Setup(None), component.clone(), Some(refusal)),
        };
        let grants = Grants { limits, caller: Caller::default(), models, env, keep_alive: None };
        let slot = self.slot()?;
        let (result, last_words) = self.listen(&component, call, grants).await;
        drop(slot);
        let at_start = |refusal: Refusal| Prepared::AtStart { reason: refusal.to_string() };
        match (result, refusal) {
            (Err(error), _) => Err(with_last_words(error, &last_words)),
            (_, Some(refusal)) => Ok(at_start(refusal)),
            (Ok(Answer::State(Some(Ok(state)))), None) => {
                self.blocking(move |library| match state.image(&wasm) {
                    Ok(image) => {
                        library.load_image(&image, Instant::now())?;
                        Ok(Prepared::Image { wasm: image })
                    }
                    Err(refusal) => Ok(at_start(refusal)),
                })
                .await
            }
            (Ok(Answer::State(Some(Err(refusal)))), None) => Ok(at_start(refusal)),
            (Ok(_), None) => Err(Error::Host("setup answered with something else".into())),
        }
    }

    /// Runs a call outside of any prediction; gives the last lines that it printed as well.
    async fn listen(
        &self,
        component: &Component,
        call: Call,
        grants: Grants,
    ) -> (Result<Answer, Error>, String) {
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
        let run = instance::run(config, engine, component, call, grants, events);
        let ((result, _), last_words) = tokio::join!(run, last_words);
        (result, last_words)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Library) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _turn = self.compile_turn().await;
        let shared = self.shared.clone();
        let done = spawn_blocking(move || work(&shared.library)).await;
        done.unwrap_or_else(|ended| Err(Error::Host(ended.to_string())))
    }

    /// Runs one prediction in a fresh instance: `setup` unless it is an image, then `predict`. Events go to `events` as they
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
        let Invocation { input, limits, caller, models, env, keep_alive } = invocation;
        let grants = Grants { limits, caller, models, env, keep_alive };
        let Shared { config, engine, .. } = &*self.shared;
        let span = tracing::info_span!("invocation", component = component.digest());
        let run = instance::run(config, engine, component, Call::Predict { input }, grants, events);
        let (result, metrics) = run.instrument(span).await;
        (result.map(|answer| Outcome { output: answer.into_json() }), metrics)
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

/// A trap or a failure says little; what the guest printed before may say why.
fn with_last_words(error: Error, last_words: &str) -> Error {
    let add = |reason: String| format!("{reason}; it printed: {last_words}");
    match error {
        error if last_words.is_empty() => error,
        Error::Trap(reason) => Error::Trap(add(reason)),
        Error::Setup(reason) => Error::Setup(add(reason)),
        error => error,
    }
}
