//! The loader thread: wakes models and takes them down, one at a time, as the [`Keeper`] tells it.
//!
//! Mapping, repacking and giving memory back happen here, never on the engine thread or a caller's.

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use crate::{
    Config, Error, ModelInfo,
    backend::Backend,
    format::Formats,
    gguf::Gguf,
    models::{self, Capacity, Network},
    residency::{Action, Keeper, ModelKey, Origin, Phase, Tier},
    template::ChatTemplate,
    tokenizer::Tokenizer,
    worker::{Command, Resident, panic_text},
};

/// Identifies a load of a model. Loading it again gives another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(u64);

impl ModelId {
    pub(crate) fn new(load: u64) -> Self {
        Self(load)
    }
}

/// What callers need of a loaded model; shared by every handle on it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: ModelId,
    /// Under the name that it was opened by.
    pub(crate) info: ModelInfo,
    pub(crate) tokenizer: Tokenizer,
    /// `None` when the file has none.
    pub(crate) template: Option<ChatTemplate>,
    formats: OnceLock<Result<Formats, Error>>,
}

impl Loaded {
    pub(crate) fn new(
        id: ModelId,
        info: ModelInfo,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
    ) -> Self {
        Self { id, info, tokenizer, template, formats: OnceLock::new() }
    }

    /// What compiles JSON Schemas for this model; made on first use.
    pub(crate) fn formats(&self) -> Result<&Formats, Error> {
        let formats = self.formats.get_or_init(|| Formats::new(&self.tokenizer));
        formats.as_ref().map_err(Error::clone)
    }
}

/// Which file to load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The catalogue's of this name.
    Name(String),
    /// This one, whatever the catalogue has.
    File(PathBuf),
}

/// What the loader thread is asked to do.
pub(crate) enum Task {
    /// Wake a model or take one down.
    Do(Action),
    /// End.
    Stop,
}

/// The loader thread's state.
pub(crate) struct Loader<B> {
    tasks: Receiver<Task>,
    keeper: Weak<Keeper>,
    backend: B,
    config: Config,
    worker: SyncSender<Command>,
    next_id: u64,
    /// Models in [`Tier::Memory`].
    asleep: HashMap<ModelKey, Asleep>,
}

/// What is left of a model in memory.
struct Asleep {
    loaded: Arc<Loaded>,
    /// Without its working buffers.
    network: Box<dyn Network>,
    capacity: Capacity,
}

impl<B: Backend> Loader<B> {
    pub(crate) fn new(
        tasks: Receiver<Task>,
        keeper: Weak<Keeper>,
        backend: B,
        config: Config,
        worker: SyncSender<Command>,
    ) -> Self {
        Self { tasks, keeper, backend, config, worker, next_id: 0, asleep: HashMap::new() }
    }

    /// The thread's body; ends when told to, or when no one can send tasks any more.
    pub(crate) fn run(mut self) {
        while let Ok(Task::Do(action)) = self.tasks.recv() {
            let Some(keeper) = self.keeper.upgrade() else { return };
            match action {
                Action::Wake { model, from } => self.wake(&keeper, model, from),
                Action::Sleep { model, from, to } => self.sleep(&keeper, model, from, to),
                Action::Answer { .. } => unreachable!("the keeper answers"),
            }
        }
    }

    fn wake(&mut self, keeper: &Arc<Keeper>, key: ModelKey, from: Tier) {
        let began = Instant::now();
        let origin = keeper.origin(key);
        let woken = catch_unwind(AssertUnwindSafe(|| self.make_awake(keeper, key, from, &origin)));
        let woken = woken.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))));
        let took = began.elapsed();
        match &woken {
            Ok(_) => tracing::info!(model = %origin.source, %from, ?took, "awake"),
            Err(error) => tracing::warn!(model = %origin.source, %from, %error, "can't wake"),
        }
        keeper.woke(key, from, woken.map_err(|error| (Tier::Cold, error)), took);
    }

    /// Makes a model's device state, and hands that to the engine thread.
    fn make_awake(
        &mut self,
        keeper: &Keeper,
        key: ModelKey,
        from: Tier,
        origin: &Origin,
    ) -> Result<Arc<Loaded>, Error> {
        let Asleep { loaded, mut network, capacity } = match self.asleep.remove(&key) {
            Some(asleep) => asleep,
            None => self.load(keeper, key, from, origin)?,
        };
        let bytes = loaded.info.weights_bytes;
        keeper.note_progress(key, from, Phase::Preparing, bytes, bytes);
        network.prepare()?;
        let resident = Resident::new(loaded.clone(), network, capacity, self.config.sequences_max);
        let (reply, installed) = sync_channel(1);
        let sent = self.worker.send(Command::Install { resident: Box::new(resident), reply });
        sent.map_err(|_| Error::Cancelled)?;
        installed.recv().map_err(|_| Error::Cancelled)?;
        Ok(loaded)
    }

    /// Reads a model's file and brings its weights into the device's layout.
    fn load(&mut self, keeper: &Keeper, key: ModelKey, from: Tier, origin: &Origin) -> Result<Asleep, Error> {
        let gguf = Gguf::open(&origin.path)?;
        keeper.note_progress(key, from, Phase::Packing, 0, gguf.weights_bytes());
        let (network, capacity) = models::load(&self.backend, &gguf, &self.config)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        if tokenizer.vocabulary() != network.vocabulary() {
            let (tokens, rows) = (tokenizer.vocabulary(), network.vocabulary());
            return Err(gguf.bad(format!("{tokens} tokens for {rows} embeddings")));
        }
        let info = ModelInfo {
            name: origin.source.to_string(),
            architecture: gguf.metadata().require::<&str>("general.architecture")?.to_owned(),
            quantization: gguf.quantization().to_string(),
            digest: origin.digest.to_string(),
            context_length: capacity.context_tokens,
            dimension: network.width(),
            vocabulary: network.vocabulary(),
            weights_bytes: gguf.weights_bytes(),
        };
        self.next_id += 1;
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
        let loaded = Arc::new(Loaded::new(ModelId::new(self.next_id), info, tokenizer, template));
        Ok(Asleep { loaded, network, capacity })
    }

    fn sleep(&mut self, keeper: &Arc<Keeper>, key: ModelKey, from: Tier, to: Tier) {
        let began = Instant::now();
        let mut reached = to;
        let asleep = match from {
            Tier::Awake => self.take_down(keeper, key),
            _ => self.asleep.remove(&key),
        };
        match asleep {
            Some(asleep) if to == Tier::Memory => drop(self.asleep.insert(key, asleep)),
            // Its step failed just now, or there was nothing in memory.
            None => reached = to.max(Tier::Disk),
            Some(asleep) => drop(asleep),
        }
        let origin = keeper.origin(key);
        tracing::info!(model = %origin.source, %from, to = %reached, took = ?began.elapsed(), "asleep");
        keeper.slept(key, reached);
    }

    /// Takes an idle model from the engine thread and frees its working memory.
    fn take_down(&self, keeper: &Keeper, key: ModelKey) -> Option<Asleep> {
        let loaded = keeper.take_loaded(key)?;
        let (reply, taken) = sync_channel(1);
        // Errors mean that the engine was shut down.
        self.worker.send(Command::Remove { model: loaded.id, reply }).ok()?;
        let (mut network, capacity) = taken.recv().ok()??.into_parts();
        network.release();
        Some(Asleep { loaded, network, capacity })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Do(action) => action.fmt(f),
            Self::Stop => f.write_str("Stop"),
        }
    }
}
