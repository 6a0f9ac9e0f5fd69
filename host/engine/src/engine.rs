//! The handle on the engine's threads.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, TrySendError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

#[cfg(feature = "gpu")]
use crate::backend::gpu::{self, Gpu};
use crate::{
    Caller, Catalog, Config, Device, Error, Model, ModelInfo, Prefix, Stats,
    backend::{Backend, cpu::Cpu, reference::Reference},
    loader::{Loaded, Loader, ModelId, Source, Task},
    ready::Store,
    residency::{Ask, Bounds, KeepAlive, Keeper, Lease, ModelResidency, Resolver, Tier, Wish},
    worker::{Command, Job, Queue, Work, Worker},
};

/// The engine: one thread that owns every awake model's state, one that wakes models and takes them
/// down, one that decides when, and handles to them. The threads end when the last handle on the engine
/// and its models is gone and what still runs is done, or by [`Engine::shutdown`].
#[derive(Clone, Debug)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// How a caller opens a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Open {
    /// How long it waits for the model to wake; `None` takes the engine's bound.
    pub wait_max: Option<Duration>,
    /// How long the model stays awake after it; `None` takes the model's own time.
    pub keep_alive: Option<KeepAlive>,
}

/// What every handle on the engine and its models shares.
#[derive(Debug)]
pub(crate) struct Handle {
    config: Config,
    commands: SyncSender<Command>,
    keeper: Arc<Keeper>,
    queue: Arc<Queue>,
    stats: watch::Receiver<Stats>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    gauge: Gauge,
}

/// Memory of a device, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The device's name.
    pub name: String,
    /// What models, their caches and buffers have.
    pub used_bytes: u64,
    /// What was taken from the system for them.
    pub reserved_bytes: u64,
}

/// Looks at a device that has memory of its own.
struct Gauge(#[cfg(feature = "gpu")] Option<Arc<gpu::Device>>);

#[cfg(feature = "gpu")]
impl Gauge {
    const NONE: Self = Self(None);

    fn memory(&self) -> Option<DeviceMemory> {
        let device = self.0.as_ref()?;
        let (used_bytes, reserved_bytes) = device.memory();
        Some(DeviceMemory { name: device.adapter().name.clone(), used_bytes, reserved_bytes })
    }
}

#[cfg(not(feature = "gpu"))]
impl Gauge {
    const NONE: Self = Self();

    fn memory(&self) -> Option<DeviceMemory> {
        None
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauge")
    }
}

impl Engine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the bound that makes no sense; [`Error::Failed`] when a thread can't
    /// be started. A device that is not there is the first, one that doesn't start the second.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        match config.device {
            Device::Cpu => Self::start_on(Cpu::new(config.threads), config, Gauge::NONE),
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => {
                let device = Arc::new(gpu::Device::open(index)?);
                Self::start_on(Gpu::sharing(device.clone()), config, Gauge(Some(device)))
            }
            Device::Reference => Self::start_on(Reference, config, Gauge::NONE),
        }
    }

    /// [`Engine::open_with`] what the engine has by default.
    pub async fn open(&self, name: &str) -> Result<Model, Error> {
        self.open_with(name, Open::default()).await
    }

    /// The model of this name, awake, and kept so while there are handles on it. Callers of a sleeping
    /// model share one wake, and wait for it in order. A name keeps the model that it was first opened as
    /// for as long as that is awake. Dropping the future gives up the place in line; the wake goes on.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] and [`Error::BadModel`] when there is no such model to wake,
    /// [`Error::NoMemory`] when it never fits, [`Error::Overloaded`] when too many wait or it took longer
    /// than `wait_max`.
    pub async fn open_with(&self, name: &str, open: Open) -> Result<Model, Error> {
        self.open_source(Source::Name(name.to_owned()), open).await
    }

    /// A model file outside the catalogue, under its path as its name. The file is hashed first.
    pub async fn open_file(&self, path: impl Into<PathBuf>) -> Result<Model, Error> {
        self.open_source(Source::File(path.into()), Open::default()).await
    }

    /// Refuses a model that could never be awake on this node: [`Error::NoMemory`] has the numbers.
    pub async fn check_fit(&self, name: &str) -> Result<(), Error> {
        self.ask(name, Ask::Fit).await
    }

    /// Begins to wake a model, or lets an awake one stay as if it were used now. Doesn't wait for it.
    pub async fn summon(&self, name: &str) -> Result<(), Error> {
        self.ask(name, Ask::Wake).await
    }

    /// Has a model go to a tier at least this deep as soon as nobody uses it. Doesn't wait for that;
    /// callers that come meanwhile wake it again afterwards.
    pub async fn sleep(&self, name: &str, tier: Tier) -> Result<(), Error> {
        self.ask(name, Ask::Sleep(tier)).await
    }

    /// Keeps a model awake for good, or no longer. [`Error::NoMemory`] when it doesn't fit beside those
    /// that are kept awake already.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<(), Error> {
        self.ask(name, Ask::Pin(pinned)).await
    }

    /// Says which prefixes of a model are kept before all others when it sleeps, in place of those said
    /// before. [`Model::prefill`] computes them.
    pub fn declare_prefixes(&self, name: &str, prefixes: impl Into<Arc<[Prefix]>>) {
        self.handle.keeper.declare(Source::Name(name.to_owned()), prefixes.into());
    }

    /// Where each model is that was opened or asked for since the engine started, by name.
    pub fn residency(&self) -> Arc<[ModelResidency]> {
        self.handle.keeper.residency()
    }

    /// [`Engine::residency`] as it changes. A change of leases alone shows with the next other change.
    pub fn watch_residency(&self) -> watch::Receiver<Arc<[ModelResidency]>> {
        self.handle.keeper.watch()
    }

    /// Bytes that models have in memory at most, and the bound on them.
    pub fn memory(&self) -> (u64, u64) {
        self.handle.keeper.memory()
    }

    /// The device that models compute on, if it has memory of its own, and what is in that. Blocks while the device is
    /// busy.
    pub fn device(&self) -> Option<DeviceMemory> {
        self.handle.gauge.memory()
    }

    /// The models that are awake.
    pub fn loaded(&self) -> Vec<ModelInfo> {
        self.handle.keeper.loaded().iter().map(|loaded| loaded.info.clone()).collect()
    }

    /// What the engine is doing, as of its last step.
    pub fn stats(&self) -> Stats {
        self.handle.stats.borrow().clone()
    }

    /// [`Engine::stats`] as they change: after every step, and whenever a sequence or a model arrives.
    pub fn watch_stats(&self) -> watch::Receiver<Stats> {
        self.handle.stats.clone()
    }

    /// Cancels everything, keeps prefixes of the models that are awake, and waits until all threads have
    /// ended; a step or a wake under way is completed first. Blocks. Other handles stay valid, but everything they do is [`Error::Cancelled`].
    pub fn shutdown(&self) {
        self.handle.keeper.close();
        let (left, residents) = channel();
        // An error means that it has ended already.
        drop(self.handle.commands.send(Command::Shutdown { left }));
        self.handle.keeper.hand_over(Task::Stop { left: residents });
        let mut threads = self.handle.threads.lock().expect("nothing panics while this is locked");
        for thread in threads.drain(..) {
            // A panic was caught and reported within the thread.
            drop(thread.join());
        }
    }

    fn start_on(backend: impl Backend, config: Config, gauge: Gauge) -> Result<Self, Error> {
        let catalog = Catalog::open(&config.models_dir)?;
        // Room for every queued job; a model's arrival and departure wait for their turn.
        let (commands, commands_in) = sync_channel(config.queue_max);
        let (orders, orders_in) = sync_channel(config.queue_max);
        let (tasks, tasks_in) = channel();
        let ready_dir = &config.residency.ready_dir;
        let store = Store::open(ready_dir, config.residency.ready_bytes_max)
            .map_err(|error| Error::Failed(format!("folder {}: {error}", ready_dir.display())))?;
        let (stats_in, stats) = watch::channel(Stats::default());
        let keeper = Keeper::new(bounds(&config), orders, tasks);
        let lost = Arc::downgrade(&keeper);
        let worker = Worker::new(commands_in, stats_in, move |id| {
            lost.upgrade().inspect(|keeper| keeper.lost(id));
        });
        let weak = || Arc::downgrade(&keeper);
        let resolver =
            Resolver::new(orders_in, weak(), catalog, store.clone(), backend.clone(), config.clone());
        let loader = Loader::new(tasks_in, weak(), backend, config.clone(), commands.clone(), store);
        let threads = vec![
            spawn("engine", move || worker.run())?,
            spawn("loader", move || loader.run())?,
            spawn("residency", move || resolver.run())?,
        ];
        let queue = Queue::new(config.queue_max);
        let threads = Mutex::new(threads);
        Ok(Self { handle: Arc::new(Handle { config, commands, keeper, queue, stats, threads, gauge }) })
    }

    async fn open_source(&self, source: Source, open: Open) -> Result<Model, Error> {
        let began = Instant::now();
        let name = source.to_string();
        let wait = open.wait_max.unwrap_or(self.handle.config.residency.wake_wait_max);
        let wish = Wish { deadline: began + wait, keep_alive: open.keep_alive };
        let opened = self.handle.keeper.open(source, wish).await?;
        let wake = match opened.from {
            Tier::Awake => Duration::ZERO,
            _ => began.elapsed(),
        };
        Ok(Model::new(self.handle.clone(), opened, name, wake))
    }

    async fn ask(&self, name: &str, ask: Ask) -> Result<(), Error> {
        self.handle.keeper.ask(Source::Name(name.to_owned()), ask).await
    }
}

impl Handle {
    /// The engine's bounds.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Has the declared prefixes of a model written; answers how many blocks of them aren't on disk then.
    pub(crate) async fn keep_prefixes(&self, loaded: Arc<Loaded>) -> Result<usize, Error> {
        let (reply, kept) = oneshot::channel();
        self.keeper.hand_over(Task::Keep { loaded, reply });
        kept.await.unwrap_or(Err(Error::Cancelled))
    }

    /// Queues a sequence of a model, which stays awake for it.
    pub(crate) fn submit(
        &self,
        model: ModelId,
        lease: Arc<Lease>,
        caller: Caller,
        prompt: Vec<u32>,
        work: Work,
    ) -> Result<(), Error> {
        let place = self.queue.enter()?;
        let job = Job { caller, prompt, work, place, arrived: Instant::now(), lease: Some(lease) };
        let sent = self.commands.try_send(Command::Submit { model, job });
        sent.map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::Overloaded(format!("{} requests wait already (queue_max)", self.config.queue_max))
            }
            TrySendError::Disconnected(_) => Error::Cancelled,
        })
    }
}

fn bounds(config: &Config) -> Bounds {
    let residency = &config.residency;
    Bounds {
        memory_bytes_max: residency.memory_bytes_max,
        waiters_max: residency.waiters_max,
        residence_min: residency.residence_min,
        backoff: (residency.backoff_min, residency.backoff_max),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|error| Error::Failed(format!("can't start thread \"{name}\": {error}")))
}
