//! The handle on the engine's threads.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{TrySendError, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    Caller, Catalog, Config, DeviceStats, Error, Model, ModelInfo, Prefix, Stats,
    devices::{Known, Opened},
    loader::{Loaded, Loader, Source, Task},
    ready::Store,
    residency::{
        Ask, Bounds, Budget, DeviceId, KeepAlive, Keeper, Lease, ModelResidency, Resolver, Tier, Wish,
    },
    worker::{Job, Queue, Work, Worker, Workers},
};

/// The engine: for each device one thread that owns its awake models' state, one thread that wakes models and takes them
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
    workers: Workers,
    keeper: Arc<Keeper>,
    queue: Arc<Queue>,
    stats: watch::Receiver<Stats>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    devices: Vec<Known>,
}

/// A device of the engine, and what is in its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMemory {
    /// `cpu`, or `gpu:` and its index.
    pub device: String,
    /// What its maker calls it, where that is known.
    pub name: Option<String>,
    /// Bytes that models have there at most.
    pub models_bytes: u64,
    /// The bound on them.
    pub memory_bytes_max: u64,
    /// What the device itself counts, if it has memory of its own.
    pub gauge: Option<DeviceGauge>,
}

/// A device's memory as its allocator counts it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceGauge {
    /// What models, their caches and buffers have.
    pub used_bytes: u64,
    /// What was taken from the system for them.
    pub reserved_bytes: u64,
}

impl Engine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the bound that makes no sense; [`Error::Failed`] when a thread can't
    /// be started. A device that is not there is the first, one that doesn't start the second.
    pub fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        let devices = config.devices.iter().map(|device| Opened::open(*device, &config));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        Self::start_on(devices, config)
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

    /// Bytes that models have in the memory of all devices at most, and the bound on them.
    pub fn memory(&self) -> (u64, u64) {
        let devices =
            (0..self.handle.devices.len()).map(|index| self.handle.keeper.memory_of(DeviceId(index)));
        devices.fold((0, 0), |(used, max): (u64, u64), (more, most)| (used + more, max.saturating_add(most)))
    }

    /// The devices that models compute on, and what is in their memory. Blocks while a device is busy.
    pub fn devices(&self) -> Vec<DeviceMemory> {
        let devices = self.handle.devices.iter().enumerate().map(|(index, device)| {
            let (models_bytes, memory_bytes_max) = self.handle.keeper.memory_of(DeviceId(index));
            let (device, name, gauge) = (device.device.clone(), device.name.clone(), device.gauge.read());
            DeviceMemory { device, name, models_bytes, memory_bytes_max, gauge }
        });
        devices.collect()
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
        self.handle.workers.shut_down(&left);
        drop(left);
        self.handle.keeper.hand_over(Task::Stop { left: residents });
        let mut threads = self.handle.threads.lock().expect("nothing panics while this is locked");
        for thread in threads.drain(..) {
            // A panic was caught and reported within the thread.
            drop(thread.join());
        }
    }

    fn start_on(devices: Vec<Opened>, config: Config) -> Result<Self, Error> {
        let catalog = Catalog::open(&config.models_dir)?;
        let (orders, orders_in) = sync_channel(config.queue_max);
        let (tasks, tasks_in) = channel();
        let ready_dir = &config.residency.ready_dir;
        let store = Store::open(ready_dir, config.residency.ready_bytes_max)
            .map_err(|error| Error::Failed(format!("folder {}: {error}", ready_dir.display())))?;
        let names: Arc<[String]> = devices.iter().map(|device| device.known.device.clone()).collect();
        let keeper = Keeper::new(bounds(&config, &devices), names.clone(), orders, tasks);
        let weak = || Arc::downgrade(&keeper);

        let idle = |name: &String| DeviceStats { name: name.clone(), busy: Duration::ZERO };
        let stats = Stats { models: Vec::new(), devices: names.iter().map(idle).collect() };
        let (stats_in, stats) = watch::channel(stats);
        let stats_in = Arc::new(stats_in);
        // Room for every queued job; a model's arrival and departure wait for their turn.
        let (commands, commands_in): (Vec<_>, Vec<_>) =
            devices.iter().map(|_| sync_channel(config.queue_max)).unzip();
        let workers = Workers::new(commands);
        let mut threads = Vec::new();
        for (index, commands) in commands_in.into_iter().enumerate() {
            let lost = weak();
            let lost = move |id| drop(lost.upgrade().inspect(|keeper| keeper.lost(id)));
            let worker = Worker::new(DeviceId(index), commands, stats_in.clone(), lost);
            let name = if index == 0 { "engine".to_owned() } else { format!("engine-{index}") };
            threads.push(spawn(&name, move || worker.run())?);
        }

        let mut known = Vec::new();
        let (mut resolvers, mut loaders) = (Vec::new(), Vec::new());
        for Opened { known: device, makers: [resolver, loader], .. } in devices {
            known.push(device);
            resolvers.push(resolver);
            loaders.push(loader);
        }
        let resolver = Resolver::new(orders_in, weak(), catalog, store.clone(), resolvers, config.clone());
        let loader = Loader::new(tasks_in, weak(), loaders, config.clone(), workers.clone(), store);
        threads.push(spawn("loader", move || loader.run())?);
        threads.push(spawn("residency", move || resolver.run())?);
        let queue = Queue::new(config.queue_max);
        let (threads, devices) = (Mutex::new(threads), known);
        Ok(Self { handle: Arc::new(Handle { config, workers, keeper, queue, stats, threads, devices }) })
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
        model: &Loaded,
        lease: Arc<Lease>,
        caller: Caller,
        prompt: Vec<u32>,
        work: Work,
    ) -> Result<(), Error> {
        let place = self.queue.enter()?;
        let job = Job { caller, prompt, work, place, arrived: Instant::now(), lease: Some(lease) };
        self.workers.submit(model, job).map_err(|error| match *error {
            TrySendError::Full(_) => {
                Error::Overloaded(format!("{} requests wait already (queue_max)", self.config.queue_max))
            }
            TrySendError::Disconnected(_) => Error::Cancelled,
        })
    }
}

fn bounds(config: &Config, devices: &[Opened]) -> Bounds {
    let residency = &config.residency;
    let only = devices.len() == 1;
    let budget = |device: &Opened| Budget {
        memory_bytes_max: device.memory_bytes_max,
        is_fallback: !only && !device.known.gauge.has_memory_of_its_own(),
    };
    Bounds {
        devices: devices.iter().map(budget).collect(),
        waiters_max: residency.waiters_max,
        residence_min: residency.residence_min,
        backoff: (residency.backoff_min, residency.backoff_max),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|error| Error::Failed(format!("can't start thread \"{name}\": {error}")))
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;
    use crate::{Device, Prompt, Request, testing};

    /// What a model says next, or why it doesn't.
    async fn said(model: &Model) -> Result<String, Error> {
        let prompt = Prompt::Text("The capital of France is".into());
        let mut completion = model.generate(Request::new(prompt, 2))?;
        let mut text = String::new();
        while let Some(chunk) = completion.next().await? {
            text += &chunk.text;
        }
        Ok(text)
    }

    #[tokio::test]
    async fn a_lost_device_costs_what_ran_on_it_and_serves_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { devices: vec![Device::Gpu(0)], ..Config::new(folder.path()) };
        // The processor that stands in for a device may have much else to do.
        (config.residency.device_wait_max, config.residency.wake_wait_max) = (testing::LONG, testing::LONG);
        let engine = Engine::start(config).unwrap();
        let model = engine.open_file(testing::model()).await.unwrap();
        let before = said(&model).await.unwrap();
        engine.handle.devices[0].gauge.slot().current().lose();
        let error = said(&model).await.unwrap_err();
        assert!(matches!(error, Error::Failed(_)), "{error}");
        drop(model);
        let again = engine.open_file(testing::model()).await.unwrap();
        assert_eq!(said(&again).await.unwrap(), before);
    }
}
