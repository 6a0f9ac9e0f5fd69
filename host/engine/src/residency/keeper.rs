//! The owner of the [`Machine`]: every event reaches it here, and its actions leave from here.
//!
//! Taking and giving back a lease of an awake model is a lock and some arithmetic on the caller's
//! thread. Whatever needs a file goes to the `residency` thread as an [`Order`], whatever takes time to
//! the `loader` thread as an [`Action`]. Both hold the keeper weakly: it lives as long as the engine's
//! handles, its models and their completions.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{Sender, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    Action, Bounds, DeviceId, Footprint, KeepAlive, ModelKey, ModelResidency, Phase, Policy, Progress, Tier,
    machine::{Grant, Machine, Refusal, Time, View, WaiterId, Want},
};
use crate::{
    Error, Prefix,
    catalog::Digest,
    loader::{Loaded, ModelId, Source, Task},
    worker::Reply,
};

/// What the device is called whose memory is the node's.
const CPU: &str = "cpu";

/// How long the `residency` thread sleeps when nothing is due.
const TICK_MAX: Duration = Duration::from_secs(3600);

/// What the `residency` thread is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Find a model and give a lease of it once it is awake.
    Open { source: Source, wish: Wish, reply: Reply<Opened> },
    /// Find a model and do something with it.
    Ask { source: Source, ask: Ask, reply: Reply<()> },
    /// Look again when something is due.
    Look,
    /// End.
    Stop,
}

/// What is asked of a model without a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Whether it could ever be awake.
    Fit,
    /// Wake, or stay awake, as if it were used now.
    Wake,
    /// Sleep once nobody uses it.
    Sleep(Tier),
    /// Stay awake for good, or no longer.
    Pin(bool),
}

/// How a caller wants a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Until when it waits.
    pub(crate) deadline: Instant,
    /// How long the model stays after it; `None` takes the model's own time.
    pub(crate) keep_alive: Option<KeepAlive>,
}

/// An awake model, leased.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) lease: Lease,
    /// The tier that it was woken from for this caller; awake if it was that.
    pub(crate) from: Tier,
}

/// What a model is loaded from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// What it was last opened as.
    pub(crate) source: Source,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
}

/// A right to use an awake model: while there is one, the model doesn't sleep.
#[derive(Debug)]
pub(crate) struct Lease {
    keeper: Arc<Keeper>,
    grant: Grant,
    keep_alive: Option<KeepAlive>,
}

/// The residency of all models.
#[derive(Debug)]
pub(crate) struct Keeper {
    state: Mutex<State>,
    /// What the engine's devices are called, in their order.
    devices: Arc<[String]>,
    epoch: Instant,
    orders: SyncSender<Order>,
    /// Holds no more than an action for each model.
    tasks: Sender<Task>,
    published: watch::Sender<Arc<[ModelResidency]>>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    models: Vec<Known>,
    keys: HashMap<Source, ModelKey>,
    /// What functions declare of each model.
    prefixes: HashMap<Source, Arc<[Prefix]>>,
    waiters: HashMap<WaiterId, Waiter>,
    version: u64,
    /// When the `residency` thread next looks.
    looks_at: Time,
}

#[derive(Debug)]
struct Waiter {
    key: ModelKey,
    keep_alive: Option<KeepAlive>,
    reply: Reply<Opened>,
}

/// What is known of a model besides its residency.
#[derive(Debug)]
struct Known {
    /// What it was last opened as, and where its file is.
    source: Source,
    path: PathBuf,
    digest: Digest,
    /// On each device.
    footprints: Vec<Footprint>,
    /// While it is awake.
    loaded: Option<Arc<Loaded>>,
    progress: Option<Progress>,
    wakes: u64,
    last_wake: Option<(Tier, Duration)>,
    /// What its last wake failed with.
    error: Option<Error>,
}

/// A model that the catalogue has.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) source: Source,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    /// On each device.
    pub(crate) footprints: Vec<Footprint>,
    pub(crate) policy: Policy,
    /// [`Tier::Disk`] or [`Tier::Cold`].
    pub(crate) tier: Tier,
}

/// Answers that are sent once the lock is gone: one that comes too late gives back its lease.
type Answers = Vec<(Reply<Opened>, Result<Opened, Error>)>;

impl Keeper {
    /// A keeper of no models.
    pub(crate) fn new(
        bounds: Bounds,
        devices: Arc<[String]>,
        orders: SyncSender<Order>,
        tasks: Sender<Task>,
    ) -> Arc<Self> {
        assert_eq!(devices.len(), bounds.devices.len(), "a name for each device");
        let state = State {
            machine: Machine::new(bounds),
            models: Vec::new(),
            keys: HashMap::new(),
            prefixes: HashMap::new(),
            waiters: HashMap::new(),
            version: 0,
            looks_at: TICK_MAX,
        };
        let published = watch::Sender::new(Arc::default());
        let (state, epoch) = (Mutex::new(state), Instant::now());
        Arc::new(Self { state, devices, epoch, orders, tasks, published })
    }

    /// A lease of a model as soon as it is awake. Dropping the future gives up the place in line; the
    /// wake goes on.
    pub(crate) async fn open(self: &Arc<Self>, source: Source, wish: Wish) -> Result<Opened, Error> {
        if let Some(opened) = self.open_awake(&source, wish) {
            return Ok(opened);
        }
        let (reply, opened) = oneshot::channel();
        self.order(Order::Open { source, wish, reply })?;
        // Whoever waits is answered, unless the engine was shut down.
        opened.await.unwrap_or(Err(Error::Cancelled))
    }

    /// Has something done with a model, once it is found.
    pub(crate) async fn ask(&self, source: Source, ask: Ask) -> Result<(), Error> {
        let (reply, done) = oneshot::channel();
        self.order(Order::Ask { source, ask, reply })?;
        done.await.unwrap_or(Err(Error::Cancelled))
    }

    /// Every model, by name.
    pub(crate) fn residency(&self) -> Arc<[ModelResidency]> {
        self.snapshot(&self.lock())
    }

    /// [`Keeper::residency`] whenever more than a number of leases changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<[ModelResidency]>> {
        self.published.subscribe()
    }

    /// Bytes that models have in a device's memory, and their bound.
    pub(crate) fn memory_of(&self, device: DeviceId) -> (u64, u64) {
        self.lock().machine.memory_of(device)
    }

    /// The awake model of this load.
    pub(crate) fn key_of(&self, id: ModelId) -> Option<ModelKey> {
        self.lock().key_of(id)
    }

    /// The declared prefixes of a model, under whatever name.
    pub(crate) fn prefixes(&self, key: ModelKey) -> Vec<Prefix> {
        let state = self.lock();
        let sources = state.keys.iter().filter(|(_, other)| **other == key).map(|(source, _)| source);
        sources.filter_map(|source| state.prefixes.get(source)).flat_map(|all| all.to_vec()).collect()
    }

    /// The awake models.
    pub(crate) fn loaded(&self) -> Vec<Arc<Loaded>> {
        self.lock().models.iter().filter_map(|known| known.loaded.clone()).collect()
    }

    /// Says which prefixes of a model are kept before all others, in place of those said before.
    pub(crate) fn declare(&self, source: Source, prefixes: Arc<[Prefix]>) {
        let declared = &mut self.lock().prefixes;
        match prefixes.is_empty() {
            true => drop(declared.remove(&source)),
            false => drop(declared.insert(source, prefixes)),
        }
    }

    /// Has the `loader` thread do something after all that it was told before.
    pub(crate) fn hand_over(&self, task: Task) {
        // An error means that it has ended already.
        drop(self.tasks.send(task));
    }

    /// Ends all waiting, and waking.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.machine.close();
        self.act(state);
        // An error means that the thread has ended already; a full queue, that it reads on and then sees
        // that it is closed.
        drop(self.orders.try_send(Order::Stop));
    }

    /// Whether all waiting has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().machine.is_closed()
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded("too many callers open models at once".into()),
            TrySendError::Disconnected(_) => Error::Cancelled,
        })
    }

    fn open_awake(self: &Arc<Self>, source: &Source, wish: Wish) -> Option<Opened> {
        let now = self.now();
        let mut state = self.lock();
        let key = *state.keys.get(source)?;
        let grant = state.machine.lease(key, now)?;
        Some(self.opened(&state, grant, wish.keep_alive))
    }

    fn opened(self: &Arc<Self>, state: &State, grant: Grant, keep_alive: Option<KeepAlive>) -> Opened {
        let loaded = state.models[grant.model.0].loaded.clone().expect("an awake model is loaded");
        Opened { loaded, lease: Lease { keeper: self.clone(), grant, keep_alive }, from: grant.from }
    }

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while residency is locked")
    }

    /// Sends what the machine decided on its way, and tells what changed.
    fn act(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut answers = Answers::new();
        for action in state.machine.take_actions() {
            let Action::Answer { waiter, answer } = action else {
                // An error means that the engine has been shut down.
                drop(self.tasks.send(Task::Do(action)));
                continue;
            };
            let waiter = state.waiters.remove(&waiter).expect("who waits can be answered");
            let answer = match answer {
                Ok(grant) => Ok(self.opened(&state, grant, waiter.keep_alive)),
                Err(refusal) => Err(state.models[waiter.key.0].explain(&refusal, &self.devices)),
            };
            answers.push((waiter.reply, answer));
        }
        let now = self.now();
        let is_earlier = state.machine.next_tick(now).is_some_and(|next| next < state.looks_at);
        if state.version != state.machine.version() {
            state.version = state.machine.version();
            self.published.send_replace(self.snapshot(&state));
        }
        drop(state);
        for (reply, answer) in answers {
            // Who is gone gives the lease back, by dropping it.
            drop(reply.send(answer));
        }
        if is_earlier {
            // A full queue is read soon enough.
            drop(self.orders.try_send(Order::Look));
        }
    }

    fn snapshot(&self, state: &State) -> Arc<[ModelResidency]> {
        let at = |time: Time| self.epoch.checked_add(time);
        let models = state.models.iter().enumerate().map(|(index, known)| {
            let view = state.machine.view(ModelKey(index));
            ModelResidency {
                name: known.source.to_string(),
                digest: known.digest.to_string(),
                tier: view.tier,
                moving: view.moving,
                is_draining: view.yields,
                is_pinned: view.pinned,
                leases: view.leases,
                waiting: view.waiters,
                device: view.device.map(|device| self.devices[device.0].clone()),
                memory_bytes: view.bytes,
                awake_bytes: view.awake_bytes,
                since: at(view.since).unwrap_or(self.epoch),
                sleeps_at: view.sleeps_at.and_then(at),
                progress: known.progress.or_else(|| self.queued(&view)),
                failure: view.failure.and_then(|(reason, retry_at)| Some((reason, at(retry_at)?))),
                wakes: known.wakes,
                last_wake: known.last_wake,
            }
        });
        let mut models: Vec<_> = models.collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models.into()
    }

    /// The progress of a model that is waited for, and not woken yet.
    fn queued(&self, view: &View) -> Option<Progress> {
        let since = self.epoch.checked_add(view.waits_since?)?;
        let (from, bytes_total) = (view.tier, view.awake_bytes);
        let queued = Progress { phase: Phase::Queued, from, bytes: 0, bytes_total, since, expected: None };
        (from != Tier::Awake).then_some(queued)
    }
}

/// What the `residency` thread reports.
impl Keeper {
    /// How long until something is due; the thread looks again then.
    pub(super) fn time_to_look(&self) -> Duration {
        let now = self.now();
        let mut state = self.lock();
        let next = state.machine.next_tick(now).unwrap_or(Time::MAX).min(now + TICK_MAX);
        state.looks_at = next;
        next - now
    }

    /// Something is due.
    pub(super) fn tick(self: &Arc<Self>) {
        let now = self.now();
        let mut state = self.lock();
        state.machine.tick(now);
        self.act(state);
    }

    /// The key of a model with this digest.
    pub(super) fn find(&self, digest: &Digest) -> Option<ModelKey> {
        self.lock().models.iter().position(|known| known.digest == *digest).map(ModelKey)
    }

    /// Whether a model that is not known could be awake beside those that are pinned.
    pub(super) fn check_size(&self, source: &Source, footprints: &[Footprint]) -> Result<(), Error> {
        let checked = self.lock().machine.check_size(footprints);
        checked.map_err(|refusal| too_large(source, footprints, &refusal, &self.devices))
    }

    /// A model that was not known before.
    pub(crate) fn add(&self, found: Found) -> Result<ModelKey, Error> {
        let now = self.now();
        let Found { source, path, digest, footprints, policy, tier } = found;
        self.check_size(&source, &footprints)?;
        let mut state = self.lock();
        let key = state.machine.add(footprints.clone(), policy, tier, now);
        state.models.push(Known {
            source,
            path,
            digest,
            footprints,
            loaded: None,
            progress: None,
            wakes: 0,
            last_wake: None,
            error: None,
        });
        Ok(key)
    }

    /// From now on, a source means this model.
    pub(crate) fn bind(&self, source: &Source, key: ModelKey, path: PathBuf) {
        let mut state = self.lock();
        let known = &mut state.models[key.0];
        (known.source, known.path) = (source.clone(), path);
        state.keys.insert(source.clone(), key);
    }

    /// Answers a caller once a model is awake.
    pub(crate) fn want(self: &Arc<Self>, key: ModelKey, wish: Wish, reply: Reply<Opened>) {
        let now = self.now();
        let mut state = self.lock();
        let deadline = wish.deadline.saturating_duration_since(self.epoch);
        let mut want = state.machine.want(key, deadline, now);
        if matches!(want, Err(Refusal::Full { .. })) {
            state.forget_gone(now);
            want = state.machine.want(key, deadline, now);
        }
        let answer = match want {
            Ok(Want::Waits(waiter)) => {
                state.waiters.insert(waiter, Waiter { key, keep_alive: wish.keep_alive, reply });
                return self.act(state);
            }
            Ok(Want::Granted(grant)) => Ok(self.opened(&state, grant, wish.keep_alive)),
            Err(refusal) => Err(state.models[key.0].explain(&refusal, &self.devices)),
        };
        self.act(state);
        drop(reply.send(answer));
    }

    /// Does what is asked of a model.
    pub(crate) fn answer(self: &Arc<Self>, key: ModelKey, ask: Ask) -> Result<(), Error> {
        let now = self.now();
        let mut state = self.lock();
        let machine = &mut state.machine;
        let done = match ask {
            Ask::Fit => machine.check_size_of(key),
            Ask::Wake => {
                machine.summon(key, now);
                Ok(())
            }
            Ask::Sleep(tier) => {
                machine.sleep(key, tier, now);
                Ok(())
            }
            Ask::Pin(pinned) => machine.pin(key, pinned, now),
        };
        let done = done.map_err(|refusal| state.models[key.0].explain(&refusal, &self.devices));
        self.act(state);
        done
    }
}

/// What the `loader` thread reports.
impl Keeper {
    /// How far a wake is.
    pub(crate) fn note_progress(&self, key: ModelKey, from: Tier, phase: Phase, bytes: u64, total: u64) {
        let mut state = self.lock();
        let expected = state.machine.wake_took(key, from);
        let progress = &mut state.models[key.0].progress;
        let since = match progress {
            Some(progress) => progress.since,
            None => Instant::now(),
        };
        let expected = (!expected.is_zero()).then_some(expected);
        *progress = Some(Progress { phase, from, bytes, bytes_total: total, since, expected });
        self.published.send_replace(self.snapshot(&state));
    }

    /// A wake that took this long ended well, or not and left the model in a tier.
    pub(crate) fn woke(
        self: &Arc<Self>,
        key: ModelKey,
        from: Tier,
        result: Result<Arc<Loaded>, (Tier, Error)>,
        took: Duration,
    ) {
        let now = self.now();
        let mut state = self.lock();
        let known = &mut state.models[key.0];
        known.progress = None;
        let result = match result {
            Ok(loaded) => {
                (known.loaded, known.error) = (Some(loaded), None);
                known.wakes += 1;
                known.last_wake = Some((from, took));
                Ok(took)
            }
            Err((tier, error)) => {
                known.error = Some(error.clone());
                Err((tier, error.to_string()))
            }
        };
        state.machine.woke(key, result, now);
        self.act(state);
    }

    /// What a model is loaded from, and what it was opened as.
    pub(crate) fn origin(&self, key: ModelKey) -> Origin {
        let state = self.lock();
        let Known { source, path, digest, .. } = &state.models[key.0];
        Origin { source: source.clone(), path: path.clone(), digest: digest.clone() }
    }

    /// A model begins to be taken down.
    pub(crate) fn take_loaded(&self, key: ModelKey) -> Option<Arc<Loaded>> {
        self.lock().models[key.0].loaded.take()
    }

    /// A model was taken down to a tier.
    pub(crate) fn slept(self: &Arc<Self>, key: ModelKey, tier: Tier) {
        let now = self.now();
        let mut state = self.lock();
        state.machine.slept(key, tier, now);
        self.act(state);
    }

    /// The engine thread has dropped a model whose step failed.
    pub(crate) fn lost(self: &Arc<Self>, id: ModelId) {
        let now = self.now();
        let mut state = self.lock();
        if let Some(key) = state.key_of(id) {
            state.models[key.0].loaded = None;
            state.machine.lost(key, Tier::Disk, now);
            self.act(state);
        }
    }
}

impl State {
    fn key_of(&self, id: ModelId) -> Option<ModelKey> {
        let is_it = |known: &Known| known.loaded.as_ref().is_some_and(|loaded| loaded.id == id);
        self.models.iter().position(is_it).map(ModelKey)
    }

    /// Gives up the places of callers that went away.
    fn forget_gone(&mut self, now: Time) {
        let Self { waiters, machine, .. } = self;
        waiters.retain(|id, waiter| !(waiter.reply.is_closed() && machine.leave(waiter.key, *id, now)));
    }
}

impl Known {
    fn explain(&self, refusal: &Refusal, devices: &[String]) -> Error {
        let name = &self.source;
        match refusal {
            Refusal::TooLarge { .. } => too_large(name, &self.footprints, refusal, devices),
            Refusal::Full { waiters_max } => {
                Error::Overloaded(format!("{waiters_max} callers wait for model \"{name}\" (waiters_max)"))
            }
            Refusal::Late { waited } => {
                Error::Overloaded(format!("model \"{name}\" did not wake within {waited:?}"))
            }
            Refusal::Failed { reason, .. } => {
                self.error.clone().unwrap_or_else(|| Error::Failed(reason.clone()))
            }
            Refusal::Closed => Error::Cancelled,
        }
    }
}

/// Tells what a model takes that can't be awake on this node, and what there is.
fn too_large(source: &Source, footprints: &[Footprint], refusal: &Refusal, devices: &[String]) -> Error {
    let Refusal::TooLarge { device, pinned_bytes, memory_bytes_max, .. } = refusal else {
        unreachable!("that is why it is refused");
    };
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let Footprint { awake_bytes, memory_bytes } = footprints[device.0];
    let [awake, weights] = [awake_bytes, memory_bytes].map(mib);
    let (place, bound) = match devices[device.0].as_str() {
        CPU => ("this node", "memory_bytes_max"),
        other => (other, "device_memory_bytes_max"),
    };
    let mut reason = format!(
        "model \"{source}\" takes {awake} MiB awake: {weights} of weights, {} of KV cache and buffers; \
         {place} has {} for models ({bound})",
        awake - weights,
        mib(*memory_bytes_max),
    );
    if *pinned_bytes > 0 {
        reason += &format!(", {} of them for those that are kept awake", mib(*pinned_bytes));
    }
    Error::NoMemory(reason)
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.keeper.now();
        let mut state = self.keeper.lock();
        state.machine.release(self.grant, self.keep_alive, now);
        self.keeper.act(state);
    }
}
