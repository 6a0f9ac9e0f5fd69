//! The loader thread: from a model's name to its state on the engine thread.
//!
//! It loads one model at a time, in order of the requests, so a thousand callers of one model cause
//! one load: whoever comes second finds it in the [`Registry`]. Mapping, hashing and repacking happen
//! here, never on the engine thread or a caller's.

use std::{
    collections::HashMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        mpsc::{Receiver, SyncSender},
    },
    time::Instant,
};

use crate::{
    Catalog, Config, Error, ModelInfo,
    backend::Backend,
    catalog::Digest,
    format::Formats,
    gguf::Gguf,
    models,
    template::ChatTemplate,
    tokenizer::Tokenizer,
    worker::{Command, Reply, Resident, panic_text},
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
    /// Under the name that it was first opened by.
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

/// A request to the loader thread.
#[derive(Debug)]
pub(crate) enum Open {
    /// Load a model, unless it is loaded.
    Model { source: Source, reply: Reply<Arc<Loaded>> },
    /// End.
    Shutdown,
}

/// The loaded models.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    models: Mutex<Models>,
}

#[derive(Debug, Default)]
struct Models {
    /// By digest.
    loaded: HashMap<String, Arc<Loaded>>,
    /// Digest of each source that was opened.
    digests: HashMap<Source, String>,
}

/// The loader thread's state.
pub(crate) struct Loader<B> {
    pub(crate) requests: Receiver<Open>,
    pub(crate) catalog: Catalog,
    pub(crate) backend: B,
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) worker: SyncSender<Command>,
    pub(crate) next_id: u64,
}

impl<B: Backend> Loader<B> {
    /// The thread's body; ends when told to, or when no one can send requests any more.
    pub(crate) fn run(mut self) {
        while let Ok(Open::Model { source, reply }) = self.requests.recv() {
            let opened = catch_unwind(AssertUnwindSafe(|| self.open(&source)));
            let opened = opened.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))));
            // Whoever is gone doesn't miss the model; it stays loaded.
            drop(reply.send(opened));
        }
    }

    fn open(&mut self, source: &Source) -> Result<Arc<Loaded>, Error> {
        if let Some(loaded) = self.registry.find(source) {
            return Ok(loaded);
        }
        let (path, digest) = self.resolve(source)?;
        let loaded = match self.registry.find_digest(&digest) {
            Some(loaded) => loaded,
            None => self.load(source, &path, digest)?,
        };
        self.registry.insert(source.clone(), loaded.clone());
        Ok(loaded)
    }

    fn resolve(&self, source: &Source) -> Result<(PathBuf, Digest), Error> {
        match source {
            Source::Name(name) => {
                let entry = self.catalog.resolve(name)?;
                Ok((entry.path, entry.record.digest))
            }
            Source::File(path) => {
                let bad =
                    |error: io::Error| Error::BadModel { path: path.clone(), reason: error.to_string() };
                Ok((path.clone(), Digest::of_file(path).map_err(bad)?))
            }
        }
    }

    /// Reads a file, makes its device state, and hands that to the engine thread.
    fn load(&mut self, source: &Source, path: &Path, digest: Digest) -> Result<Arc<Loaded>, Error> {
        let began = Instant::now();
        let gguf = Gguf::open(path)?;
        let (network, capacity) = models::load(&self.backend, &gguf, &self.config)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        if tokenizer.vocabulary() != network.vocabulary() {
            let (tokens, rows) = (tokenizer.vocabulary(), network.vocabulary());
            return Err(gguf.bad(format!("{tokens} tokens for {rows} embeddings")));
        }
        let info = ModelInfo {
            name: source.to_string(),
            architecture: gguf.metadata().require::<&str>("general.architecture")?.to_owned(),
            quantization: gguf.quantization().to_string(),
            digest: digest.to_string(),
            context_length: capacity.context_tokens,
            dimension: network.width(),
            vocabulary: network.vocabulary(),
            weights_bytes: gguf.weights_bytes(),
        };
        self.next_id += 1;
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
        let loaded = Arc::new(Loaded::new(ModelId::new(self.next_id), info, tokenizer, template));
        let resident = Resident::new(loaded.clone(), network, capacity, self.config.sequences_max);
        let installed = self.worker.send(Command::Install(Box::new(resident)));
        installed.map_err(|_| Error::Cancelled)?;
        tracing::info!(model = loaded.info.name, elapsed = ?began.elapsed(), "loaded");
        Ok(loaded)
    }
}

impl Registry {
    /// The loaded model that a source was opened as.
    pub(crate) fn find(&self, source: &Source) -> Option<Arc<Loaded>> {
        let models = self.lock();
        models.loaded.get(models.digests.get(source)?).cloned()
    }

    /// Every loaded model, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Loaded>> {
        let mut all: Vec<_> = self.lock().loaded.values().cloned().collect();
        all.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        all
    }

    /// Forgets a model that is no longer loaded.
    pub(crate) fn remove(&self, id: ModelId) {
        self.lock().loaded.retain(|_, loaded| loaded.id != id);
    }

    fn find_digest(&self, digest: &Digest) -> Option<Arc<Loaded>> {
        self.lock().loaded.get(&digest.to_string()).cloned()
    }

    /// Adds a model, or another source of one.
    pub(crate) fn insert(&self, source: Source, loaded: Arc<Loaded>) {
        let mut models = self.lock();
        models.digests.insert(source, loaded.info.digest.clone());
        models.loaded.insert(loaded.info.digest.clone(), loaded);
    }

    fn lock(&self) -> MutexGuard<'_, Models> {
        self.models.lock().expect("nothing panics while the registry is locked")
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
