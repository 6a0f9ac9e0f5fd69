//! The loader thread: wakes models and takes them down, one at a time, as the [`Keeper`] tells it.
//!
//! Mapping, repacking and giving memory back happen here, never on the engine thread or a caller's.

mod keeping;
mod prefixes;
mod proof;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::Instant,
};

use crate::{
    Config, Error, ModelInfo, Prefix,
    catalog::Digest,
    format::Formats,
    gguf::Gguf,
    models::{self, Capacity, Made, Maker, Network},
    ready::{Image, Matrices, Store},
    residency::{Action, DeviceId, Keeper, ModelKey, Origin, Phase, Tier},
    template::ChatTemplate,
    tokenizer::Tokenizer,
    worker::{Command, Parts, Reply, Resident, Workers, panic_text},
};
pub(crate) use keeping::copy_blocks;
use writer::Writer;

/// How often the reading of an image is told of.
const PROGRESS_STEPS: u64 = 16;

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
    /// What it computes on.
    pub(crate) device: DeviceId,
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
        device: DeviceId,
        info: ModelInfo,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
    ) -> Self {
        Self { id, device, info, tokenizer, template, formats: OnceLock::new() }
    }

    /// The tokens that prompts with this beginning begin with.
    pub(crate) fn prefix_tokens(&self, prefix: &Prefix) -> Result<Vec<u32>, Error> {
        match prefix {
            Prefix::Text(text) => self.tokenizer.encode_prompt(text, false),
            Prefix::Messages(messages) => match &self.template {
                Some(template) => self.tokenizer.encode_prompt(&template.render(messages, &[], false)?, true),
                None => Err(Error::Invalid(format!("model \"{}\" has no chat template", self.info.name))),
            },
        }
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
    /// Write a model's declared prefixes to disk; answers how many of their blocks aren't there then.
    Keep { loaded: Arc<Loaded>, reply: Reply<usize> },
    /// Keep what is worth it of the models that the engine thread leaves, and end.
    Stop { left: Receiver<Box<Resident>> },
}

/// The loader thread's state.
pub(crate) struct Loader {
    tasks: Receiver<Task>,
    keeper: Weak<Keeper>,
    /// One for each device.
    makers: Vec<Box<dyn Maker>>,
    config: Config,
    workers: Workers,
    store: Store,
    next_id: u64,
    /// Models in [`Tier::Memory`].
    asleep: HashMap<ModelKey, Asleep>,
    writer: Writer,
}

/// What is left of a model in memory.
struct Asleep {
    loaded: Arc<Loaded>,
    /// Without its working buffers.
    network: Box<dyn Network>,
    capacity: Capacity,
}

/// A wake or a sleep under way.
struct Move<'a> {
    keeper: &'a Arc<Keeper>,
    key: ModelKey,
    from: Tier,
    origin: Origin,
}

impl Loader {
    pub(crate) fn new(
        tasks: Receiver<Task>,
        keeper: Weak<Keeper>,
        makers: Vec<Box<dyn Maker>>,
        config: Config,
        workers: Workers,
        store: Store,
    ) -> Self {
        let asleep = HashMap::new();
        let writer = Writer::default();
        Self { tasks, keeper, makers, config, workers, store, next_id: 0, asleep, writer }
    }

    /// The thread's body; ends when told to, or when no one can send tasks any more.
    pub(crate) fn run(mut self) {
        while let Ok(task) = self.tasks.recv() {
            let Some(keeper) = self.keeper.upgrade() else { return };
            match task {
                Task::Do(Action::Wake { model, from, device }) => {
                    self.wake(&Move::new(&keeper, model, from), device);
                }
                Task::Do(Action::Sleep { model, from, to, device }) => {
                    self.sleep(&Move::new(&keeper, model, from), to, device);
                }
                Task::Do(Action::Answer { .. }) => unreachable!("the keeper answers"),
                Task::Keep { loaded, reply } => {
                    let kept = catch_unwind(AssertUnwindSafe(|| self.keep_declared(&keeper, &loaded)));
                    let kept = kept.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))));
                    // Whoever is gone doesn't miss it.
                    drop(reply.send(kept));
                }
                Task::Stop { left } => return self.end(&keeper, left),
            }
        }
    }

    fn end(&self, keeper: &Keeper, left: Receiver<Box<Resident>>) {
        for resident in left {
            let loaded = resident.facts().clone();
            if let Some(key) = keeper.key_of(loaded.id) {
                self.keep_prefixes(keeper, key, &loaded, &mut resident.into_parts());
            }
        }
    }

    fn wake(&mut self, wake: &Move<'_>, device: DeviceId) {
        let Move { key, from, origin, .. } = wake;
        let began = Instant::now();
        let woken = catch_unwind(AssertUnwindSafe(|| self.make_awake(wake, device)));
        let woken = woken.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))));
        let woken = woken.map_err(|error| self.explain(error, origin, device));
        let took = began.elapsed();
        match &woken {
            Ok(_) => tracing::info!(model = %origin.source, %from, ?took, "awake"),
            Err(Error::Cancelled) => {
                tracing::debug!(model = %origin.source, %from, "the engine ended before it woke");
            }
            Err(error) => tracing::warn!(model = %origin.source, %from, %error, "can't wake"),
        }
        if woken.is_err() {
            self.makers[device.0].trim();
        }
        let asleep = self.tier_on_disk(&origin.digest);
        wake.keeper.woke(*key, *from, woken.map_err(|error| (asleep, error)), took);
    }

    /// Tells whose memory the system doesn't give, and what bounds it.
    fn explain(&self, error: Error, origin: &Origin, device: DeviceId) -> Error {
        let Error::OutOfMemory(reason) = error else { return error };
        let source = &origin.source;
        if self.makers[device.0].has_memory_of_its_own() {
            return Error::OutOfMemory(format!(
                "model \"{source}\" can't wake: {reason}; device_memory_bytes_max bounds what models have there"
            ));
        }
        let mib = self.config.residency.memory_bytes_max >> 20;
        Error::OutOfMemory(format!(
            "model \"{source}\" can't wake: {reason}; this node has {mib} MiB for models (memory_bytes_max)"
        ))
    }

    /// Makes a model's device state, and hands that to the engine thread.
    fn make_awake(&mut self, wake: &Move<'_>, device: DeviceId) -> Result<Arc<Loaded>, Error> {
        let mut asleep = match self.asleep.remove(&wake.key) {
            Some(asleep) => asleep,
            None => self.load(wake, device)?,
        };
        let bytes = asleep.loaded.info.weights_bytes;
        wake.note(Phase::Preparing, bytes, bytes);
        asleep.network.prepare()?;
        for &rows in self.makers[device.0].kernel_rows() {
            models::warm_up(&mut *asleep.network, asleep.capacity, rows)?;
        }
        if self.config.residency.probe {
            asleep = self.proven(wake, device, asleep)?;
        }
        let Asleep { loaded, network, capacity } = asleep;
        let matrices = self.unwritten(&wake.origin.digest, device, &*network);
        let cached = self.cached(&wake.origin, &*network);
        let resident = Resident::new(loaded.clone(), network, capacity, cached, &self.config);
        let (reply, installed) = sync_channel(1);
        self.workers.send(device, Command::Install { resident: Box::new(resident), reply })?;
        installed.recv().map_err(|_| Error::Cancelled)?;
        if let Some((layout, matrices)) = matrices {
            self.writer.start(&self.store, &wake.origin.digest, layout, matrices);
        }
        Ok(loaded)
    }

    /// Reads a model's file, and its weights from there or from its ready image.
    fn load(&mut self, wake: &Move<'_>, device: DeviceId) -> Result<Asleep, Error> {
        let origin = &wake.origin;
        let gguf = Gguf::open(&origin.path)?;
        let (network, capacity) = match self.load_image(wake, device, &gguf)? {
            Some(ready) => ready,
            None => {
                wake.note(Phase::Packing, 0, gguf.weights_bytes());
                self.makers[device.0].load(&gguf, None, &self.config)?
            }
        };
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
        let loaded = Arc::new(Loaded::new(ModelId::new(self.next_id), device, info, tokenizer, template));
        Ok(Asleep { loaded, network, capacity })
    }

    /// A model on the weights of its ready image. One that is no good is removed, and made again.
    fn load_image(&mut self, wake: &Move<'_>, device: DeviceId, gguf: &Gguf) -> Result<Option<Made>, Error> {
        let origin = &wake.origin;
        let maker = &mut self.makers[device.0];
        let Some(layout) = maker.layout() else { return Ok(None) };
        let Some(found) = self.store.image(&origin.digest, &layout) else { return Ok(None) };
        let checked = found.and_then(|image| wake.check(&image, self.config.threads).map(|()| image));
        let loaded = match checked {
            Ok(image) => maker.load(gguf, Some(&image), &self.config),
            Err(reason) => Err(Error::Invalid(reason)),
        };
        let reason = match loaded {
            Ok(loaded) => return Ok(Some(loaded)),
            // That is not the image's fault.
            Err(error @ (Error::OutOfMemory(_) | Error::Failed(_))) => return Err(error),
            Err(error) => error,
        };
        tracing::warn!(model = %origin.source, %reason, "the ready image can't be used and is made again");
        if let Err(error) = self.store.remove_images(&origin.digest) {
            tracing::warn!(model = %origin.source, %error, "can't remove the ready image");
        }
        Ok(None)
    }

    /// Takes a model down. Whatever goes wrong, it sleeps: a panic costs what would have been kept of it.
    fn sleep(&mut self, sleep: &Move<'_>, to: Tier, device: DeviceId) {
        let Move { keeper, key, from, origin } = sleep;
        let began = Instant::now();
        let taken = catch_unwind(AssertUnwindSafe(|| self.put_to_sleep(sleep, to)));
        let reached = taken.unwrap_or_else(|panic| {
            let reason = panic_text(&*panic);
            tracing::error!(model = %origin.source, reason, "going to sleep failed; the model is unloaded");
            self.asleep.remove(key);
            to.max(self.tier_on_disk(&origin.digest))
        });
        self.makers[device.0].trim();
        tracing::info!(model = %origin.source, %from, to = %reached, took = ?began.elapsed(), "asleep");
        keeper.slept(*key, reached);
    }

    /// Gives the tier that a model went down to.
    fn put_to_sleep(&mut self, sleep: &Move<'_>, to: Tier) -> Tier {
        let Move { keeper, key, from, origin } = sleep;
        let asleep = match from {
            Tier::Awake => self.take_down(keeper, *key),
            _ => self.asleep.remove(key),
        };
        // The image of one on such a device stays in the system's memory for as long as there is room.
        let frees_all = |asleep: &Asleep| self.makers[asleep.loaded.device.0].has_memory_of_its_own();
        let to = match to {
            Tier::Memory if asleep.as_ref().is_some_and(frees_all) => Tier::Disk,
            to => to,
        };
        let mut reached = to;
        match asleep {
            Some(asleep) if to == Tier::Memory => drop(self.asleep.insert(*key, asleep)),
            Some(asleep) if to == Tier::Disk => reached = self.keep(origin, asleep),
            Some(asleep) => drop(asleep),
            // Its step failed just now, or there was nothing in memory.
            None => reached = to.max(self.tier_on_disk(&origin.digest)),
        }
        if to == Tier::Cold {
            self.discard(origin);
        }
        reached
    }

    /// Takes an idle model from the engine thread and frees its working memory.
    fn take_down(&self, keeper: &Keeper, key: ModelKey) -> Option<Asleep> {
        let loaded = keeper.take_loaded(key)?;
        let (reply, taken) = sync_channel(1);
        // Errors mean that the engine was shut down.
        self.workers.send(loaded.device, Command::Remove { model: loaded.id, reply }).ok()?;
        let mut parts = taken.recv().ok()??.into_parts();
        self.keep_prefixes(keeper, key, &loaded, &mut parts);
        let Parts { mut network, capacity, .. } = parts;
        network.release();
        Some(Asleep { loaded, network, capacity })
    }

    /// Lets go of a model in memory once its image is on disk; gives the tier that it is in then.
    fn keep(&mut self, origin: &Origin, asleep: Asleep) -> Tier {
        if self.writer.is_writing(&origin.digest) || self.tier_on_disk(&origin.digest) == Tier::Cold {
            self.writer.wait();
        }
        let device = asleep.loaded.device;
        if let Some((layout, matrices)) = self.unwritten(&origin.digest, device, &*asleep.network) {
            self.writer.start(&self.store, &origin.digest, layout, matrices);
            drop(asleep);
            self.writer.wait();
        }
        self.tier_on_disk(&origin.digest)
    }

    /// Removes what can be made again.
    fn discard(&mut self, origin: &Origin) {
        if self.writer.is_writing(&origin.digest) {
            self.writer.stop();
        }
        if let Err(error) = self.store.remove_all(&origin.digest) {
            tracing::warn!(model = %origin.source, %error, "can't remove what is kept of it");
        }
    }

    /// The matrices of a model and their layout, if the device has one and there is no image of it yet.
    fn unwritten(
        &self,
        digest: &Digest,
        device: DeviceId,
        network: &dyn Network,
    ) -> Option<(String, Matrices)> {
        let layout = self.makers[device.0].layout()?;
        (!self.store.has_image(digest, &layout)).then(|| (layout, network.matrices()))
    }

    fn tier_on_disk(&self, digest: &Digest) -> Tier {
        let mut layouts = self.makers.iter().filter_map(|maker| maker.layout());
        match layouts.any(|layout| self.store.has_image(digest, &layout)) {
            true => Tier::Disk,
            false => Tier::Cold,
        }
    }
}

impl<'a> Move<'a> {
    fn new(keeper: &'a Arc<Keeper>, key: ModelKey, from: Tier) -> Self {
        Self { keeper, key, from, origin: keeper.origin(key) }
    }

    fn note(&self, phase: Phase, bytes: u64, bytes_total: u64) {
        self.keeper.note_progress(self.key, self.from, phase, bytes, bytes_total);
    }

    /// Checks an image, and tells how far that is.
    fn check(&self, image: &Image, threads: usize) -> Result<(), String> {
        let total = image.len() as u64;
        let step = total / PROGRESS_STEPS;
        let done = AtomicU64::new(0);
        self.note(Phase::Reading, 0, total);
        image.check(threads, &|bytes| {
            let before = done.fetch_add(bytes as u64, Ordering::Relaxed);
            let now = before + bytes as u64;
            if before.checked_div(step) != now.checked_div(step) {
                self.note(Phase::Reading, now, total);
            }
        })
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
            Self::Keep { loaded, .. } => write!(f, "Keep({})", loaded.info.name),
            Self::Stop { .. } => f.write_str("Stop"),
        }
    }
}
