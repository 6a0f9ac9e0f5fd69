//! What happens to models, decided: events and time in, actions out. No clock, no I/O, no tasks.
//!
//! What holds after every event:
//! - a model has at most one action in flight;
//! - bytes of all models on a device, each counted at the most it has during its action, are within the
//!   device's budget;
//! - a model that has memory is on one device, and stays there until it has none;
//! - a waiter is answered exactly once;
//! - only an awake model that isn't moving has leases, and one with leases never moves;
//! - room is made in the order in which models were first wanted, and never by a model that is pinned,
//!   or that woke less than [`Bounds::residence_min`] ago. So two models that don't fit together take
//!   turns of at least that long, and each waits for the other's turn only.
//!
//! A model is placed as it is about to wake: on the device where the least is missing, and of those where
//! it fits the one with the most free bytes. A fallback takes only what no other device could ever hold. One that
//! failed to wake is tried elsewhere, on a fallback too if there is nothing else.

mod placing;

use std::{collections::VecDeque, fmt, time::Duration};

use super::victims::{self, Candidate, Rate};

/// Time since the engine started.
pub(crate) type Time = Duration;

/// Later than any.
const NEVER: Time = Time::MAX;
/// What a wake counts that was never measured.
const WAKE_MIN: Duration = Duration::from_millis(1);

/// How awake a model is; the smaller, the sooner it answers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Ready to compute.
    #[default]
    Awake,
    /// Weights and tokenizer are in memory, working buffers and the KV cache are not.
    Memory,
    /// A ready image is on disk, and prefixes worth keeping.
    Disk,
    /// There is only the model file.
    Cold,
}

/// How long a model stays awake once it is no longer used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// This long, or longer if somebody else asked for that.
    AtLeast(Duration),
    /// This long, whatever others asked for before; zero lets it sleep at once.
    Exactly(Duration),
}

/// One of the engine's devices, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceId(pub(crate) usize);

/// What bounds the models on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes that they have in its memory.
    pub(crate) memory_bytes_max: u64,
    /// Whether it is for those only that no other device could hold.
    pub(crate) is_fallback: bool,
}

/// What bounds all models together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// One for each device, at least one.
    pub(crate) devices: Vec<Budget>,
    /// Callers that wait for one model.
    pub(crate) waiters_max: usize,
    /// Time for which a model that woke stays, whoever else wants its room.
    pub(crate) residence_min: Duration,
    /// Time until a wake that failed is tried again: the first, doubled each time up to the second.
    pub(crate) backoff: (Duration, Duration),
}

/// What a model takes on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes while it is awake.
    pub(crate) awake_bytes: u64,
    /// Bytes in [`Tier::Memory`], no more.
    pub(crate) memory_bytes: u64,
}

/// When a model sleeps by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Time without use until it leaves [`Tier::Awake`], [`Tier::Memory`] and [`Tier::Disk`].
    pub(crate) idle: [Option<Duration>; 3],
}

/// A model of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ModelKey(pub(crate) usize);

/// A caller that waits for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// A right to use an awake model, to be given back by [`Machine::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) model: ModelKey,
    /// Which wake it is of.
    load: u64,
    /// The tier it was woken from for this caller; awake if it was that.
    pub(crate) from: Tier,
}

/// What [`Machine::want`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// It is awake.
    Granted(Grant),
    /// An answer will come.
    Waits(WaiterId),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Make a model ready, then say [`Machine::woke`].
    Wake { model: ModelKey, from: Tier, device: DeviceId },
    /// Take a model down, then say [`Machine::slept`].
    Sleep { model: ModelKey, from: Tier, to: Tier, device: DeviceId },
    /// Tell a waiter.
    Answer { waiter: WaiterId, answer: Result<Grant, Refusal> },
}

/// Why a caller gets no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It never fits, whatever else sleeps; the numbers are of the device that comes nearest.
    TooLarge { device: DeviceId, wanted_bytes: u64, pinned_bytes: u64, memory_bytes_max: u64 },
    /// Too many wait already.
    Full { waiters_max: usize },
    /// Its time is up.
    Late { waited: Duration },
    /// The wake failed, or failed lately.
    Failed { reason: String, retry_in: Duration },
    /// No more models are woken.
    Closed,
}

/// The state of one model, for those who look on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) tier: Tier,
    pub(crate) moving: Option<Tier>,
    pub(crate) yields: bool,
    pub(crate) pinned: bool,
    pub(crate) leases: usize,
    pub(crate) waiters: usize,
    /// Since when its first caller waits.
    pub(crate) waits_since: Option<Time>,
    /// Where it has memory, if it has any.
    pub(crate) device: Option<DeviceId>,
    /// Bytes it has in memory now.
    pub(crate) bytes: u64,
    /// Bytes it has while it is awake, where it is or was last.
    pub(crate) awake_bytes: u64,
    /// When it came to its tier.
    pub(crate) since: Time,
    /// When it goes one deeper, if nothing happens.
    pub(crate) sleeps_at: Option<Time>,
    /// Why it didn't wake, and when that is tried again at the earliest.
    pub(crate) failure: Option<(String, Time)>,
}

/// The states of all models.
#[derive(Debug)]
pub(crate) struct Machine {
    bounds: Bounds,
    models: Vec<Model>,
    actions: Vec<Action>,
    /// Numbers waiters, and orders models by when they were wanted.
    clock: u64,
    /// Changes whenever a tier, an action in flight, a failure or a number of waiters does.
    version: u64,
    closed: bool,
}

#[derive(Debug)]
struct Model {
    /// One for each device.
    footprints: Vec<Footprint>,
    /// Where it is; while it has no memory and is not pinned, where it was last.
    device: DeviceId,
    policy: Policy,
    pinned: bool,
    tier: Tier,
    /// The tier of the action in flight.
    moving: Option<Tier>,
    since: Time,
    leases: usize,
    /// Counts wakes, so that a lease of an earlier one is known as such.
    load: u64,
    /// The tier that the last wake began in.
    woken_from: Tier,
    /// How long the last wake from each tier took.
    wake_took: [Duration; 4],
    waiters: VecDeque<Waiter>,
    /// It shall wake though nobody waits.
    summoned: bool,
    /// Its turn, once it is wanted.
    ticket: Option<u64>,
    /// New callers wait, so that its leases run out.
    yields: bool,
    /// It was told to go to this tier.
    told: Option<Tier>,
    /// While it is awake: when it may sleep.
    idle_until: Time,
    failures: u32,
    failure: Option<String>,
    /// Where its last wake failed.
    failed_on: Option<DeviceId>,
    retry_at: Time,
    rate: Rate,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    id: WaiterId,
    since: Time,
    deadline: Time,
}

impl Machine {
    pub(crate) fn new(bounds: Bounds) -> Self {
        assert!(!bounds.devices.is_empty(), "models compute on something");
        Self { bounds, models: Vec::new(), actions: Vec::new(), clock: 0, version: 0, closed: false }
    }

    /// A further model, which is in `tier`, [`Tier::Disk`] or [`Tier::Cold`]. It has a footprint on each device.
    pub(crate) fn add(
        &mut self,
        footprints: Vec<Footprint>,
        policy: Policy,
        tier: Tier,
        now: Time,
    ) -> ModelKey {
        assert!(tier >= Tier::Disk, "a model is added asleep");
        assert_eq!(footprints.len(), self.bounds.devices.len(), "a footprint on each device");
        let shrinks = |footprint: &Footprint| footprint.memory_bytes <= footprint.awake_bytes;
        assert!(footprints.iter().all(shrinks), "{footprints:?} grow in their sleep");
        self.models.push(Model {
            footprints,
            device: DeviceId(0),
            policy,
            pinned: false,
            tier,
            moving: None,
            since: now,
            leases: 0,
            load: 0,
            woken_from: tier,
            wake_took: [Duration::ZERO; 4],
            waiters: VecDeque::new(),
            summoned: false,
            ticket: None,
            yields: false,
            told: None,
            idle_until: NEVER,
            failures: 0,
            failure: None,
            failed_on: None,
            retry_at: Time::ZERO,
            rate: Rate::default(),
        });
        self.version += 1;
        ModelKey(self.models.len() - 1)
    }

    /// A lease of a model that is awake and not about to sleep.
    pub(crate) fn lease(&mut self, key: ModelKey, now: Time) -> Option<Grant> {
        let model = &mut self.models[key.0];
        if !model.is_serving() || self.closed {
            return None;
        }
        model.rate.count(now);
        Some(model.grant(key, Tier::Awake))
    }

    /// A lease as soon as the model is awake, which this brings about; until `deadline`.
    pub(crate) fn want(&mut self, key: ModelKey, deadline: Time, now: Time) -> Result<Want, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if let Some(grant) = self.lease(key, now) {
            return Ok(Want::Granted(grant));
        }
        self.place(key, &[])?;
        let waiters_max = self.bounds.waiters_max;
        let model = &mut self.models[key.0];
        model.rate.count(now);
        if let Some(reason) = model.failure.as_ref().filter(|_| now < model.retry_at) {
            return Err(Refusal::Failed { reason: reason.clone(), retry_in: model.retry_at - now });
        }
        if model.waiters.len() >= waiters_max {
            return Err(Refusal::Full { waiters_max });
        }
        self.clock += 1;
        let id = WaiterId(self.clock);
        model.waiters.push_back(Waiter { id, since: now, deadline });
        model.ticket.get_or_insert(self.clock);
        self.version += 1;
        self.settle(now);
        Ok(Want::Waits(id))
    }

    /// A waiter went away. False when it was answered already: then a lease it got is its to give back.
    pub(crate) fn leave(&mut self, key: ModelKey, waiter: WaiterId, now: Time) -> bool {
        let model = &mut self.models[key.0];
        let waiting = model.waiters.len();
        model.waiters.retain(|other| other.id != waiter);
        let left = model.waiters.len() < waiting;
        if left {
            model.forget_want();
            self.version += 1;
            self.settle(now);
        }
        left
    }

    /// A lease ends. Of a load that is gone, nothing is left to give back.
    pub(crate) fn release(&mut self, grant: Grant, keep_alive: Option<KeepAlive>, now: Time) {
        let model = &mut self.models[grant.model.0];
        if grant.load != model.load {
            return;
        }
        model.leases = model.leases.checked_sub(1).expect("a lease is given back once");
        let default = model.idle_from(now);
        model.idle_until = match keep_alive {
            None => model.idle_until.max(default),
            Some(KeepAlive::AtLeast(time)) => model.idle_until.max(now.saturating_add(time)),
            Some(KeepAlive::Exactly(time)) => now.saturating_add(time),
        };
        if model.leases == 0 {
            self.settle(now);
        }
    }

    /// Wakes a model that nobody waits for, or lets an awake one stay as if it had just been used.
    pub(crate) fn summon(&mut self, key: ModelKey, now: Time) {
        let model = &mut self.models[key.0];
        model.rate.count(now);
        if model.tier == Tier::Awake {
            model.idle_until = model.idle_until.max(model.idle_from(now));
        } else {
            self.clock += 1;
            model.summoned = true;
            model.ticket.get_or_insert(self.clock);
        }
        self.settle(now);
    }

    /// Keeps a model awake for good, or no longer.
    pub(crate) fn pin(&mut self, key: ModelKey, pinned: bool, now: Time) -> Result<(), Refusal> {
        if pinned {
            self.models[key.0].device = self.place(key, &[])?;
        }
        self.models[key.0].pinned = pinned;
        self.version += 1;
        if pinned {
            self.summon(key, now);
        }
        self.settle(now);
        Ok(())
    }

    /// Tells a model to go to a tier at least this deep as soon as its leases have run out, whatever its
    /// timers say; callers that come meanwhile wait and wake it again.
    pub(crate) fn sleep(&mut self, key: ModelKey, to: Tier, now: Time) {
        let model = &mut self.models[key.0];
        if model.tier < to && !self.closed {
            model.told = Some(to);
            model.summoned = false;
            model.forget_want();
            self.version += 1;
            self.settle(now);
        }
    }

    /// A wake ended. One that failed leaves the model in the tier that it names.
    pub(crate) fn woke(&mut self, key: ModelKey, result: Result<Duration, (Tier, String)>, now: Time) {
        let backoff = self.bounds.backoff;
        let model = &mut self.models[key.0];
        assert_eq!(model.moving.take(), Some(Tier::Awake), "a wake ends once");
        model.since = now;
        match result {
            Ok(took) => {
                model.woken_from = model.tier;
                model.wake_took[model.tier as usize] = took;
                model.tier = Tier::Awake;
                model.load += 1;
                model.idle_until = model.idle_from(now);
                (model.failures, model.failure, model.failed_on) = (0, None, None);
            }
            Err((tier, reason)) => {
                model.tier = tier;
                let wait = backoff.0.saturating_mul(1 << model.failures.min(16)).min(backoff.1);
                model.retry_at = now.saturating_add(wait);
                model.failures += 1;
                (model.failure, model.failed_on) = (Some(reason.clone()), Some(model.device));
                // Whom nobody waits for is tried again only if it is pinned.
                model.summoned &= model.pinned;
                self.refuse(key, &Refusal::Failed { reason, retry_in: wait });
            }
        }
        self.version += 1;
        self.settle(now);
    }

    /// A model has gone to sleep, in the tier that it names.
    pub(crate) fn slept(&mut self, key: ModelKey, tier: Tier, now: Time) {
        let model = &mut self.models[key.0];
        let to = model.moving.take().expect("a sleep ends once");
        assert!(tier >= to, "{tier:?} holds more than {to:?}");
        (model.tier, model.since) = (tier, now);
        model.told = model.told.filter(|told| *told > tier);
        self.version += 1;
        self.settle(now);
    }

    /// An awake model's state is gone with its leases; it is in `tier` now. One that is being taken down
    /// is lost anyway.
    pub(crate) fn lost(&mut self, key: ModelKey, tier: Tier, now: Time) {
        let model = &mut self.models[key.0];
        if model.tier != Tier::Awake || model.moving.is_some() {
            return;
        }
        (model.tier, model.since, model.leases) = (tier, now, 0);
        model.load += 1;
        self.version += 1;
        self.settle(now);
    }

    /// Answers all waiters and wakes nothing any more. What is in flight may still end.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        for index in 0..self.models.len() {
            self.models[index].summoned = false;
            self.refuse(ModelKey(index), &Refusal::Closed);
        }
    }

    /// Whether it was [closed](Machine::close).
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Time) {
        self.settle(now);
    }

    /// When [`Machine::tick`] next changes something, if nothing else happens. Whatever was due before
    /// `now` has been done by the last event.
    pub(crate) fn next_tick(&self, now: Time) -> Option<Time> {
        let is_room_wanted = self.models.iter().any(|model| model.is_wanted() && model.moving.is_none());
        let times = self.models.iter().flat_map(|model| {
            let deadlines = model.waiters.iter().map(|waiter| waiter.deadline).min();
            let residence = (is_room_wanted && model.tier == Tier::Awake && model.moving.is_none())
                .then(|| model.since.saturating_add(self.bounds.residence_min));
            let retry = model.is_wanted().then_some(model.retry_at);
            [deadlines, residence, retry, model.sleeps_at()].into_iter().flatten()
        });
        times.filter(|time| *time > now && *time < NEVER).min()
    }

    /// What is to be done, in this order.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Changes with whatever is worth telling of; leases alone are not.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// How long a wake took the last time it began in this tier; zero before the first.
    pub(crate) fn wake_took(&self, key: ModelKey, from: Tier) -> Duration {
        self.models[key.0].wake_took[from as usize]
    }

    /// A model's state.
    pub(crate) fn view(&self, key: ModelKey) -> View {
        let model = &self.models[key.0];
        View {
            tier: model.tier,
            moving: model.moving,
            yields: model.yields,
            pinned: model.pinned,
            leases: model.leases,
            waiters: model.waiters.len(),
            waits_since: model.waiters.front().map(|waiter| waiter.since),
            device: (model.charge() > 0).then_some(model.device),
            bytes: model.charge(),
            awake_bytes: model.footprint().awake_bytes,
            since: model.since,
            sleeps_at: model.sleeps_at().filter(|time| *time < NEVER),
            failure: model.failure.clone().map(|reason| (reason, model.retry_at)),
        }
    }

    /// Does what is due: waiters whose time is up, room for those that are wanted, leases for those who
    /// wait for an awake model, and sleep for the idle.
    fn settle(&mut self, now: Time) {
        if !self.closed {
            self.expire(now);
            self.make_room(now);
            self.serve();
            self.sink(now);
        }
    }

    fn expire(&mut self, now: Time) {
        for model in &mut self.models {
            while let Some(at) = model.waiters.iter().position(|waiter| waiter.deadline <= now) {
                let waiter = model.waiters.remove(at).expect("it was found there");
                let answer = Err(Refusal::Late { waited: now.saturating_sub(waiter.since) });
                self.actions.push(Action::Answer { waiter: waiter.id, answer });
                model.forget_want();
                self.version += 1;
            }
        }
    }

    /// Wakes those that are wanted, first come, first served; where there is no room, puts others to
    /// sleep or has them yield. Nobody overtakes the first that finds none on its device.
    fn make_room(&mut self, now: Time) {
        let yielded: Vec<bool> = self.models.iter().map(|model| model.yields).collect();
        self.models.iter_mut().for_each(|model| model.yields = model.told.is_some());
        let mut taken = Vec::new();
        for key in self.wanted(now) {
            let device = match self.place(key, &taken) {
                Ok(device) if taken.contains(&device) => continue,
                Ok(device) => device,
                Err(refusal) => {
                    // Nobody waits for an answer to that.
                    self.models[key.0].summoned = false;
                    self.refuse(key, &refusal);
                    continue;
                }
            };
            let short = self.short(key, device);
            if short == 0 {
                self.wake(key, device);
                continue;
            }
            let coming = self.coming(device);
            if short > coming {
                self.free(key, device, short - coming, &yielded, now);
            }
            taken.push(device);
        }
    }

    /// Answers all who wait for a model.
    fn refuse(&mut self, key: ModelKey, refusal: &Refusal) {
        let model = &mut self.models[key.0];
        for waiter in std::mem::take(&mut model.waiters) {
            self.actions.push(Action::Answer { waiter: waiter.id, answer: Err(refusal.clone()) });
        }
        model.forget_want();
        self.version += 1;
    }

    /// Puts models to sleep for `bytes` of a device; if those that may are too few, others yield.
    fn free(&mut self, head: ModelKey, device: DeviceId, bytes: u64, yielded: &[bool], now: Time) {
        let residence_min = self.bounds.residence_min;
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        for (index, model) in self.models.iter().enumerate() {
            let is_there = model.device == device && model.charge() > 0;
            if ModelKey(index) == head || model.pinned || model.moving.is_some() || !is_there {
                continue;
            }
            let footprint = model.footprint();
            let candidate = Candidate {
                key: ModelKey(index),
                memory_bytes: model.charge(),
                working_bytes: match model.tier {
                    Tier::Awake => footprint.awake_bytes - footprint.memory_bytes,
                    _ => 0,
                },
                cost: model.rate.per_second(now) * model.slowest_wake().as_secs_f64(),
            };
            let is_old = model.tier != Tier::Awake || now >= model.since.saturating_add(residence_min);
            let is_free = model.leases == 0 && (model.waiters.is_empty() || yielded[index]);
            match is_old && is_free {
                true => idle.push(candidate),
                false => busy.push((candidate, is_old)),
            }
        }
        if let Some(chosen) = victims::choose(bytes, &idle) {
            for (key, to) in chosen {
                self.put_to_sleep(key, to);
            }
            return;
        }
        // Those that yield already go first, so that a turn that began to end does.
        busy.sort_by(|(a, _), (b, _)| {
            yielded[b.key.0].cmp(&yielded[a.key.0]).then(a.value().total_cmp(&b.value()))
        });
        let mut found: u64 = idle.iter().map(|candidate| candidate.memory_bytes).sum();
        for (candidate, is_old) in busy {
            if found >= bytes {
                break;
            }
            found += candidate.memory_bytes;
            // One that woke just now has its turn first.
            self.models[candidate.key.0].yields |= is_old;
        }
    }

    /// Models that shall wake and may, in order of their tickets.
    fn wanted(&self, now: Time) -> Vec<ModelKey> {
        let wants = |model: &Model| {
            let is_asleep = model.tier != Tier::Awake && model.moving.is_none();
            (is_asleep && model.is_wanted() && now >= model.retry_at).then_some(model.ticket).flatten()
        };
        let mut wanted: Vec<_> =
            self.models.iter().zip(0..).filter_map(|(model, index)| Some((wants(model)?, index))).collect();
        wanted.sort_unstable();
        wanted.into_iter().map(|(_, index)| ModelKey(index)).collect()
    }

    fn wake(&mut self, key: ModelKey, device: DeviceId) {
        let model = &mut self.models[key.0];
        model.device = device;
        model.moving = Some(Tier::Awake);
        model.told = None;
        self.version += 1;
        self.actions.push(Action::Wake { model: key, from: model.tier, device });
    }

    fn put_to_sleep(&mut self, key: ModelKey, to: Tier) {
        let model = &mut self.models[key.0];
        model.moving = Some(to);
        model.yields = false;
        self.version += 1;
        let (from, device) = (model.tier, model.device);
        self.actions.push(Action::Sleep { model: key, from, to, device });
    }

    fn serve(&mut self) {
        for (index, model) in self.models.iter_mut().enumerate().filter(|(_, model)| model.is_serving()) {
            model.summoned = false;
            model.ticket = None;
            self.version += u64::from(!model.waiters.is_empty());
            while let Some(waiter) = model.waiters.pop_front() {
                let answer = Ok(model.grant(ModelKey(index), model.woken_from));
                self.actions.push(Action::Answer { waiter: waiter.id, answer });
            }
        }
    }

    fn sink(&mut self, now: Time) {
        for index in 0..self.models.len() {
            let model = &self.models[index];
            let told = model.told.filter(|_| model.moving.is_none() && model.leases == 0);
            let next = match model.tier {
                Tier::Awake => Tier::Memory,
                Tier::Memory => Tier::Disk,
                Tier::Disk | Tier::Cold => Tier::Cold,
            };
            match told {
                Some(to) if model.tier < to => self.put_to_sleep(ModelKey(index), to),
                _ if model.sleeps_at().is_some_and(|at| at <= now) => {
                    self.put_to_sleep(ModelKey(index), next);
                }
                _ => {}
            }
        }
    }
}

impl Model {
    /// Until when it stays awake if it isn't used from now on.
    fn idle_from(&self, now: Time) -> Time {
        self.policy.idle[0].map_or(NEVER, |idle| now.saturating_add(idle))
    }

    /// Whether a caller gets a lease at once.
    fn is_serving(&self) -> bool {
        self.tier == Tier::Awake && self.moving.is_none() && !self.yields
    }

    fn is_wanted(&self) -> bool {
        !self.waiters.is_empty() || self.summoned
    }

    fn forget_want(&mut self) {
        if !self.is_wanted() {
            self.ticket = None;
        }
    }

    fn grant(&mut self, model: ModelKey, from: Tier) -> Grant {
        self.leases += 1;
        Grant { model, load: self.load, from }
    }

    /// What it takes where it is.
    fn footprint(&self) -> Footprint {
        self.footprints[self.device.0]
    }

    fn bytes_in(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Awake => self.footprint().awake_bytes,
            Tier::Memory => self.footprint().memory_bytes,
            Tier::Disk | Tier::Cold => 0,
        }
    }

    /// Bytes that it has in memory at most, until its action ends.
    fn charge(&self) -> u64 {
        self.bytes_in(self.tier).max(self.moving.map_or(0, |to| self.bytes_in(to)))
    }

    /// Bytes that its action will free.
    fn coming(&self) -> u64 {
        self.moving.map_or(0, |to| self.charge() - self.bytes_in(to))
    }

    /// The longest that a wake is known to take.
    fn slowest_wake(&self) -> Duration {
        self.wake_took.into_iter().fold(WAKE_MIN, Duration::max)
    }

    /// When it goes one tier deeper, if nothing happens.
    fn sleeps_at(&self) -> Option<Time> {
        if self.moving.is_some() || self.pinned || self.is_wanted() || self.leases > 0 {
            return None;
        }
        match self.tier {
            Tier::Awake => Some(self.idle_until),
            Tier::Cold => None,
            tier => self.policy.idle[tier as usize].map(|idle| self.since.saturating_add(idle)),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awake => "awake",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Cold => "cold",
        })
    }
}
