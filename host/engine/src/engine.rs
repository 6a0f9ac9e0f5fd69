//! The handle on the engine thread.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    Catalog, Config, Device, Error, Model, ModelInfo, Stats,
    backend::{Backend, cpu::Cpu, reference::Reference},
    loader::{Loader, ModelId, Open, Registry, Source},
    worker::{Command, Job, Queue, Work, Worker},
};

/// The engine: one thread that owns every model's state, a thread that loads models, and handles to
/// them. Both threads end when the last handle on the engine and its models is gone and what still
/// runs is done, or by [`Engine::shutdown`].
#[derive(Clone, Debug)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// What every handle on the engine and its models shares.
#[derive(Debug)]
pub(crate) struct Handle {
    config: Config,
    commands: SyncSender<Command>,
    opens: SyncSender<Open>,
    queue: Arc<Queue>,
    registry: Arc<Registry>,
    stats: watch::Receiver<Stats>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the bound that makes no sense; [`Error::Failed`] when a thread can't
    /// be started.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        match config.device {
            Device::Cpu => Self::start_on(Cpu::new(config.threads), config),
            Device::Reference => Self::start_on(Reference, config),
        }
    }

    /// The model of this name, loaded on first use; callers of a loading model share one load. A
    /// name keeps the model that it was first opened as for as long as that is loaded. Dropping the
    /// future doesn't stop the load.
    pub async fn open(&self, name: &str) -> Result<Model, Error> {
        self.open_source(Source::Name(name.to_owned())).await
    }

    /// A model file outside the catalogue, under its path as its name. The file is hashed first.
    pub async fn open_file(&self, path: impl Into<PathBuf>) -> Result<Model, Error> {
        self.open_source(Source::File(path.into())).await
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<ModelInfo> {
        self.handle.registry.all().iter().map(|loaded| loaded.info.clone()).collect()
    }

    /// What the engine is doing, as of its last step.
    pub fn stats(&self) -> Stats {
        self.handle.stats.borrow().clone()
    }

    /// [`Engine::stats`] as they change: after every step, and whenever a sequence or a model arrives.
    pub fn watch_stats(&self) -> watch::Receiver<Stats> {
        self.handle.stats.clone()
    }

    /// Cancels everything and waits until both threads have ended; a step or a load under way is
    /// completed first. Blocks. Other handles stay valid, but everything they do is
    /// [`Error::Cancelled`].
    pub fn shutdown(&self) {
        // An error means that it has ended already.
        drop(self.handle.commands.send(Command::Shutdown));
        drop(self.handle.opens.send(Open::Shutdown));
        let mut threads = self.handle.threads.lock().expect("nothing panics while this is locked");
        for thread in threads.drain(..) {
            // A panic was caught and reported within the thread.
            drop(thread.join());
        }
    }

    fn start_on(backend: impl Backend, config: Config) -> Result<Self, Error> {
        let catalog = Catalog::open(&config.models_dir)?;
        // Room for every queued job; a model's installation waits for its turn.
        let (commands, commands_in) = sync_channel(config.queue_max);
        let (opens, opens_in) = sync_channel(config.queue_max);
        let (stats_in, stats) = watch::channel(Stats::default());
        let registry = Arc::<Registry>::default();
        let worker = Worker::new(commands_in, registry.clone(), stats_in);
        let loader = Loader {
            requests: opens_in,
            catalog,
            backend,
            config: config.clone(),
            registry: registry.clone(),
            worker: commands.clone(),
            next_id: 0,
        };
        let threads =
            vec![spawn("engine", move || worker.run())?, spawn("engine-loader", move || loader.run())?];
        let queue = Queue::new(config.queue_max);
        let threads = Mutex::new(threads);
        Ok(Self { handle: Arc::new(Handle { config, commands, opens, queue, registry, stats, threads }) })
    }

    async fn open_source(&self, source: Source) -> Result<Model, Error> {
        let began = Instant::now();
        let name = source.to_string();
        if let Some(loaded) = self.handle.registry.find(&source) {
            return Ok(Model::new(self.handle.clone(), loaded, name, Duration::ZERO));
        }
        let (reply, opened) = oneshot::channel();
        let sent = self.handle.opens.try_send(Open::Model { source, reply });
        sent.map_err(|error| self.handle.refused(&error))?;
        // The loader answers unless it was shut down.
        let loaded = opened.await.unwrap_or(Err(Error::Cancelled))?;
        Ok(Model::new(self.handle.clone(), loaded, name, began.elapsed()))
    }
}

impl Handle {
    /// The engine's bounds.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Queues a sequence of a model.
    pub(crate) fn submit(&self, model: ModelId, prompt: Vec<u32>, work: Work) -> Result<(), Error> {
        let place = self.queue.enter()?;
        let job = Job { prompt, work, place, arrived: Instant::now() };
        let sent = self.commands.try_send(Command::Submit { model, job });
        sent.map_err(|error| self.refused(&error))
    }

    fn refused<T>(&self, error: &TrySendError<T>) -> Error {
        match error {
            TrySendError::Full(_) => {
                Error::Overloaded(format!("{} requests wait already (queue_max)", self.config.queue_max))
            }
            TrySendError::Disconnected(_) => Error::Cancelled,
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|error| Error::Failed(format!("can't start thread \"{name}\": {error}")))
}
