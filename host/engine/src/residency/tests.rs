//! Random events against the invariants of the machine, and what takes turns.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{
    Action, Bounds, Budget, DeviceId, Footprint, KeepAlive, ModelKey, Policy, Tier,
    machine::{Grant, Machine, Refusal, Time, WaiterId, Want},
};
use crate::testing::check_cases;

const MODELS: usize = 4;
/// Bytes of each model while awake; in memory it has three quarters of that.
const AWAKE_BYTES: [u64; MODELS] = [400, 600, 800, 1000];
const RESIDENCE_MIN: Time = ms(50);
const WAITERS_MAX: usize = 3;
/// What the largest model needs of a fallback is more than what it takes elsewhere.
const FALLBACK_FACTOR: u64 = 2;
const POLICY: Policy = Policy { idle: [Some(ms(100)), Some(ms(300)), Some(ms(1000))] };

const fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn footprint(awake_bytes: u64) -> Footprint {
    Footprint { awake_bytes, memory_bytes: awake_bytes / 4 * 3 }
}

/// One device of 1,600 bytes.
fn bounds() -> Bounds {
    bounds_of(&[budget(1600)])
}

fn bounds_of(devices: &[Budget]) -> Bounds {
    Bounds {
        devices: devices.to_vec(),
        waiters_max: WAITERS_MAX,
        residence_min: RESIDENCE_MIN,
        backoff: (ms(20), ms(100)),
    }
}

fn budget(memory_bytes_max: u64) -> Budget {
    Budget { memory_bytes_max, is_fallback: false }
}

/// Two devices, one of which never holds the largest model and the other not beside much else, and a fallback.
fn three_devices() -> Bounds {
    bounds_of(&[budget(900), budget(1100), Budget { memory_bytes_max: 2400, is_fallback: true }])
}

/// What a model takes on each device.
fn footprints(awake_bytes: u64, devices: &[Budget]) -> Vec<Footprint> {
    let on = |device: &Budget| footprint(awake_bytes * if device.is_fallback { FALLBACK_FACTOR } else { 1 });
    devices.iter().map(on).collect()
}

/// What happens to the models. Numbers pick one of what there is.
#[derive(Debug, Clone)]
enum Event {
    Want {
        model: usize,
        patience: u64,
    },
    Leave(usize),
    Release(usize, Option<KeepAlive>),
    Summon(usize),
    Pin(usize, bool),
    Sleep(usize, Tier),
    /// An action in flight ends, well or not.
    End(usize, bool),
    Lose(usize),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let model = || 0..MODELS;
    let tier = prop_oneof![Just(Tier::Memory), Just(Tier::Disk), Just(Tier::Cold)];
    let keep_alive = prop_oneof![
        3 => Just(None),
        1 => (0..200u64).prop_map(|time| Some(KeepAlive::AtLeast(ms(time)))),
        1 => (0..200u64).prop_map(|time| Some(KeepAlive::Exactly(ms(time)))),
    ];
    let event = prop_oneof![
        8 => (model(), 1..400u64).prop_map(|(model, patience)| Event::Want { model, patience }),
        1 => any::<usize>().prop_map(Event::Leave),
        6 => (any::<usize>(), keep_alive).prop_map(|(pick, keep)| Event::Release(pick, keep)),
        1 => model().prop_map(Event::Summon),
        1 => (model(), any::<bool>()).prop_map(|(model, pinned)| Event::Pin(model, pinned)),
        1 => (model(), tier).prop_map(|(model, tier)| Event::Sleep(model, tier)),
        8 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(pick, well)| Event::End(pick, well)),
        1 => model().prop_map(Event::Lose),
        6 => (1..80u64).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..200)
}

/// The machine, and what an onlooker knows of it.
struct World {
    machine: Machine,
    devices: Vec<Budget>,
    waiters_max: usize,
    now: Time,
    in_flight: Vec<Action>,
    waiting: Vec<(ModelKey, WaiterId)>,
    answered: HashSet<WaiterId>,
    leases: Vec<Grant>,
    tiers: [Tier; MODELS],
    woke_at: [Time; MODELS],
    wakes: usize,
    granted: usize,
    refusals: Vec<Refusal>,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let (devices, waiters_max) = (bounds.devices.clone(), bounds.waiters_max);
        let mut machine = Machine::new(bounds);
        let tiers = [Tier::Cold, Tier::Disk, Tier::Cold, Tier::Disk];
        for (bytes, tier) in AWAKE_BYTES.into_iter().zip(tiers) {
            machine.add(footprints(bytes, &devices), POLICY, tier, Time::ZERO);
        }
        Self {
            machine,
            devices,
            waiters_max,
            now: Time::ZERO,
            in_flight: Vec::new(),
            waiting: Vec::new(),
            answered: HashSet::new(),
            leases: Vec::new(),
            tiers,
            woke_at: [Time::ZERO; MODELS],
            wakes: 0,
            granted: 0,
            refusals: Vec::new(),
        }
    }

    fn apply(&mut self, event: &Event) {
        let (machine, now) = (&mut self.machine, self.now);
        match *event {
            Event::Want { model, patience } => self.want(model, ms(patience)),
            Event::Leave(pick) if !self.waiting.is_empty() => {
                let (key, waiter) = self.waiting.remove(pick % self.waiting.len());
                assert!(machine.leave(key, waiter, now), "it was not answered yet");
                assert!(!machine.leave(key, waiter, now), "it left");
                self.answered.insert(waiter);
            }
            Event::Release(pick, keep_alive) if !self.leases.is_empty() => {
                let grant = self.leases.remove(pick % self.leases.len());
                machine.release(grant, keep_alive, now);
            }
            Event::Summon(model) => machine.summon(ModelKey(model), now),
            // That it can be too much is tested below.
            Event::Pin(model, pinned) => drop(machine.pin(ModelKey(model), pinned, now)),
            Event::Sleep(model, tier) => machine.sleep(ModelKey(model), tier, now),
            Event::End(pick, well) if !self.in_flight.is_empty() => {
                let action = self.in_flight.remove(pick % self.in_flight.len());
                self.end(&action, well);
            }
            Event::Lose(model) => {
                let is_moving = machine.view(ModelKey(model)).moving.is_some();
                machine.lost(ModelKey(model), Tier::Disk, now);
                if self.tiers[model] == Tier::Awake && !is_moving {
                    self.tiers[model] = Tier::Disk;
                    // What they had a right to is gone.
                    let lost = self.leases.extract_if(.., |grant| grant.model.0 == model);
                    lost.for_each(|grant| self.machine.release(grant, None, now));
                }
            }
            Event::Pass(time) => {
                self.now += ms(time);
                self.machine.tick(self.now);
            }
            Event::Leave(_) | Event::Release(..) | Event::End(..) => {}
        }
        self.take_actions();
        self.check();
    }

    fn want(&mut self, model: usize, patience: Time) {
        let key = ModelKey(model);
        match self.machine.want(key, self.now + patience, self.now) {
            Ok(Want::Granted(grant)) => self.grant(grant),
            Ok(Want::Waits(waiter)) => self.waiting.push((key, waiter)),
            Err(refusal) => self.refusals.push(refusal),
        }
    }

    fn end(&mut self, action: &Action, well: bool) {
        let now = self.now;
        match *action {
            Action::Wake { model, .. } if well => {
                self.tiers[model.0] = Tier::Awake;
                self.woke_at[model.0] = now;
                self.wakes += 1;
                self.machine.woke(model, Ok(ms(10)), now);
            }
            Action::Wake { model, .. } => {
                self.tiers[model.0] = Tier::Cold;
                self.machine.woke(model, Err((Tier::Cold, "disk on fire".into())), now);
            }
            Action::Sleep { model, to, .. } => {
                self.tiers[model.0] = to;
                self.machine.slept(model, to, now);
            }
            Action::Answer { .. } => unreachable!("answers are not in flight"),
        }
    }

    fn take_actions(&mut self) {
        for action in self.machine.take_actions() {
            match &action {
                Action::Answer { waiter, answer } => {
                    let at = self.waiting.iter().position(|(_, other)| other == waiter);
                    let (key, _) = self.waiting.remove(at.expect("who waits is answered"));
                    assert!(self.answered.insert(*waiter), "answered once");
                    match answer {
                        Ok(grant) => {
                            assert_eq!(grant.model, key);
                            self.grant(*grant);
                        }
                        Err(refusal) => self.refusals.push(refusal.clone()),
                    }
                }
                Action::Wake { model, from, device } => {
                    let bytes = footprints(AWAKE_BYTES[model.0], &self.devices)[device.0].awake_bytes;
                    assert!(bytes <= self.devices[device.0].memory_bytes_max, "{model:?} on {device:?}");
                    self.begin(*model, *from, action);
                }
                Action::Sleep { model, from, to, device } => {
                    assert!(to > from, "sleep goes down");
                    let of_tier = self.machine.view(*model).device;
                    assert!(
                        of_tier.is_none_or(|of_tier| of_tier == *device),
                        "{model:?} is not on {device:?}"
                    );
                    assert!(!self.leases.iter().any(|grant| grant.model == *model), "a busy model sleeps");
                    self.begin(*model, *from, action);
                }
            }
        }
    }

    fn begin(&mut self, model: ModelKey, from: Tier, action: Action) {
        assert_eq!(self.tiers[model.0], from);
        assert!(!self.in_flight.iter().any(|other| model_of(other) == model), "two actions of {model:?}");
        self.in_flight.push(action);
    }

    fn grant(&mut self, grant: Grant) {
        assert_eq!(self.tiers[grant.model.0], Tier::Awake, "a lease of a sleeping model");
        assert!(!self.in_flight.iter().any(|action| model_of(action) == grant.model));
        self.granted += 1;
        self.leases.push(grant);
    }

    fn check(&self) {
        let bytes = |model: usize, device: DeviceId, tier| {
            let footprint = footprints(AWAKE_BYTES[model], &self.devices)[device.0];
            match tier {
                Tier::Awake => footprint.awake_bytes,
                Tier::Memory => footprint.memory_bytes,
                Tier::Disk | Tier::Cold => 0,
            }
        };
        let moving: HashMap<usize, Tier> = self
            .in_flight
            .iter()
            .map(|action| match action {
                Action::Sleep { model, to, .. } => (model.0, *to),
                _ => (model_of(action).0, Tier::Awake),
            })
            .collect();
        let most = |model: usize, device| {
            let now = bytes(model, device, self.tiers[model]);
            now.max(moving.get(&model).map_or(0, |to| bytes(model, device, *to)))
        };
        for (index, budget) in self.devices.iter().enumerate() {
            let device = DeviceId(index);
            let is_there = |model: &usize| self.machine.view(ModelKey(*model)).device == Some(device);
            let total: u64 = (0..MODELS).filter(is_there).map(|model| most(model, device)).sum();
            assert!(total <= budget.memory_bytes_max, "{total} bytes on {device:?} at {:?}", self.tiers);
            assert_eq!(self.machine.memory_of(device), (total, budget.memory_bytes_max));
        }
        for model in 0..MODELS {
            let view = self.machine.view(ModelKey(model));
            let leases = self.leases.iter().filter(|grant| grant.model.0 == model).count();
            let waiters = self.waiting.iter().filter(|(key, _)| key.0 == model).count();
            assert_eq!((view.tier, view.moving), (self.tiers[model], moving.get(&model).copied()));
            assert_eq!((view.leases, view.waiters), (leases, waiters));
            assert!(waiters <= self.waiters_max);
            let has_memory = view.tier <= Tier::Memory || view.moving.is_some_and(|to| to <= Tier::Memory);
            assert_eq!(view.device.is_some(), has_memory, "model {model} is where it has memory");
        }
    }

    /// Lets everything that is under way end, until nobody waits.
    fn run_out(&mut self) {
        for _ in 0..500 {
            if self.waiting.is_empty() && self.in_flight.is_empty() {
                return;
            }
            while let Some(action) = self.in_flight.pop() {
                self.end(&action, true);
                self.take_actions();
            }
            while let Some(grant) = self.leases.pop() {
                self.machine.release(grant, None, self.now);
                self.take_actions();
            }
            if let Some(next) = self.machine.next_tick(self.now) {
                self.now = next;
                self.machine.tick(next);
                self.take_actions();
            }
            self.check();
        }
        panic!("{:?} still wait, {:?} is in flight", self.waiting, self.in_flight);
    }
}

fn model_of(action: &Action) -> ModelKey {
    match action {
        Action::Wake { model, .. } | Action::Sleep { model, .. } => *model,
        Action::Answer { .. } => unreachable!("answers are not in flight"),
    }
}

#[test]
fn whatever_happens_the_invariants_hold_and_everyone_is_answered() {
    for bounds in [bounds(), three_devices()] {
        check_cases(2000, &events(), |events| {
            let mut world = World::new(bounds.clone());
            events.iter().for_each(|event| world.apply(event));
            world.run_out();
        });
    }
}

#[test]
fn models_go_where_most_is_free_and_to_the_fallback_only_if_they_fit_nowhere_else() {
    let mut world = World::new(bounds_of(&[budget(900), budget(900), three_devices().devices[2]]));
    let mut woken = |model: usize| {
        world.want(model, ms(1000));
        world.take_actions();
        let Some(Action::Wake { device, .. }) = world.in_flight.last() else { return None };
        Some(device.0)
    };
    assert_eq!(woken(1), Some(0), "the first of equals");
    assert_eq!(woken(0), Some(1), "most is free there");
    assert_eq!(woken(3), Some(2), "it would take 1,000 bytes of 900");
    // 800 bytes are free nowhere: it waits, and the fallback's 400 are not for it.
    assert_eq!(woken(2).map(|_| world.in_flight.len()), Some(3));
    world.run_out();
    assert_eq!(world.wakes, 4);
}

#[test]
fn a_model_that_failed_to_wake_is_tried_elsewhere() {
    let fallback = three_devices().devices[2];
    let places = |devices: &[Budget]| {
        let mut world = World::new(bounds_of(devices));
        [(); 4].map(|()| {
            world.want(1, ms(10_000));
            world.take_actions();
            let action = world.in_flight.pop().unwrap();
            let Action::Wake { device, .. } = action else { panic!("{action:?}") };
            world.end(&action, false);
            world.take_actions();
            world.now += ms(100);
            device.0
        })
    };
    assert_eq!(places(&[budget(900), budget(900), fallback]), [0, 1, 0, 1]);
    assert_eq!(places(&[budget(900), fallback]), [0, 1, 0, 1]);
    assert_eq!(places(&[budget(900)]), [0; 4]);
}

#[test]
fn without_a_fallback_what_fits_on_no_device_is_refused_with_the_largest() {
    let mut world = World::new(bounds_of(&[budget(700), budget(900)]));
    let refusal =
        Refusal::TooLarge { device: DeviceId(1), wanted_bytes: 1000, pinned_bytes: 0, memory_bytes_max: 900 };
    assert_eq!(world.machine.want(ModelKey(3), ms(9), ms(0)), Err(refusal));
    // One that is kept awake has its device for good; another goes to the other.
    world.machine.pin(ModelKey(2), true, ms(0)).unwrap();
    world.machine.pin(ModelKey(1), true, ms(0)).unwrap();
    world.take_actions();
    let devices = [2, 1].map(|model| world.machine.view(ModelKey(model)).device);
    assert_eq!(devices, [Some(DeviceId(1)), Some(DeviceId(0))]);
}

#[test]
fn a_thousand_callers_cause_one_wake() {
    let mut world = World::new(Bounds { waiters_max: 1000, ..bounds() });
    (0..1000).for_each(|_| world.want(0, ms(1000)));
    world.take_actions();
    assert_eq!(world.in_flight, [Action::Wake { model: ModelKey(0), from: Tier::Cold, device: DeviceId(0) }]);
    assert_eq!(world.machine.want(ModelKey(0), ms(9), ms(0)), Err(Refusal::Full { waiters_max: 1000 }));
    let action = world.in_flight.pop().unwrap();
    world.end(&action, true);
    world.take_actions();
    assert_eq!((world.leases.len(), world.wakes), (1000, 1));
}

#[test]
fn an_idle_model_goes_down_tier_by_tier_and_a_pinned_one_does_not() {
    let mut world = World::new(bounds());
    world.machine.pin(ModelKey(1), true, ms(0)).unwrap();
    world.machine.summon(ModelKey(0), ms(0));
    let mut seen = Vec::new();
    for _ in 0..10 {
        world.take_actions();
        for action in std::mem::take(&mut world.in_flight) {
            world.end(&action, true);
            seen.push((world.now.as_millis(), model_of(&action).0, world.tiers[model_of(&action).0]));
        }
        let Some(next) = world.machine.next_tick(world.now) else { break };
        world.now = next;
        world.machine.tick(next);
    }
    let down = [
        (100, 0, Tier::Memory),
        (400, 0, Tier::Disk),
        // One that was on disk from the beginning.
        (1000, 3, Tier::Cold),
        (1400, 0, Tier::Cold),
    ];
    assert_eq!(seen, [&[(0, 1, Tier::Awake), (0, 0, Tier::Awake)], &down[..]].concat());
    assert_eq!(world.tiers[1], Tier::Awake);
}

#[test]
fn the_last_user_says_how_long_a_model_stays() {
    let stays = |keep_alives: [Option<KeepAlive>; 2]| {
        let mut world = World::new(bounds());
        (0..2).for_each(|_| world.want(0, ms(1000)));
        world.take_actions();
        let wake = world.in_flight.pop().unwrap();
        world.end(&wake, true);
        world.take_actions();
        for (grant, keep_alive) in world.leases.drain(..).zip(keep_alives) {
            world.machine.release(grant, keep_alive, ms(10));
        }
        world.machine.view(ModelKey(0)).sleeps_at.map(|at| at.as_millis())
    };
    assert_eq!(stays([None, None]), Some(110));
    assert_eq!(stays([Some(KeepAlive::AtLeast(ms(500))), None]), Some(510));
    assert_eq!(stays([Some(KeepAlive::AtLeast(ms(5))), None]), Some(110));
    assert_eq!(stays([None, Some(KeepAlive::Exactly(ms(20)))]), Some(30));
    assert_eq!(stays([None, Some(KeepAlive::Exactly(Time::ZERO))]), None, "it sleeps at once");
}

#[test]
fn a_failed_wake_tells_why_and_is_not_tried_again_at_once() {
    let mut world = World::new(bounds());
    for wait in [20, 40, 80, 100, 100] {
        world.want(0, ms(10_000));
        world.take_actions();
        let action = world.in_flight.pop().unwrap();
        world.end(&action, false);
        world.take_actions();
        let failed = Refusal::Failed { reason: "disk on fire".into(), retry_in: ms(wait) };
        assert_eq!(world.refusals.pop(), Some(failed.clone()));
        world.want(0, ms(10_000));
        assert_eq!(world.refusals.pop(), Some(failed));
        world.now += ms(wait);
    }
}

#[test]
fn a_model_that_never_fits_is_refused_with_the_numbers() {
    let mut world = World::new(bounds());
    world.machine.pin(ModelKey(2), true, ms(0)).unwrap();
    let refusal = |wanted_bytes| {
        Err(Refusal::TooLarge {
            device: DeviceId(0),
            wanted_bytes,
            pinned_bytes: 800,
            memory_bytes_max: 1600,
        })
    };
    assert_eq!(world.machine.want(ModelKey(3), ms(9), ms(0)).map(drop), refusal(1000));
    assert_eq!(world.machine.pin(ModelKey(3), true, ms(0)), refusal(1000));
    world.machine.pin(ModelKey(1), true, ms(0)).unwrap();
}

#[test]
fn models_that_dont_fit_together_take_turns_and_none_starves() {
    const CALLS: u64 = 20_000;
    // Between them they would take 1,800 of 1,600 bytes.
    let mut world = World::new(Bounds { waiters_max: 1000, ..bounds() });
    let mut asked: HashMap<WaiterId, Time> = HashMap::new();
    let (mut longest, mut ends) = (Time::ZERO, Vec::new());
    for call in 0..CALLS {
        // A call each millisecond, to either model in turn; it takes 3 ms, a wake 10, a sleep 5.
        world.now = ms(call);
        let key = ModelKey(2 + call as usize % 2);
        match world.machine.want(key, ms(1_000_000), world.now).unwrap() {
            Want::Granted(grant) => world.grant(grant),
            Want::Waits(waiter) => {
                world.waiting.push((key, waiter));
                asked.insert(waiter, world.now);
            }
        }
        let waited: HashSet<WaiterId> = world.waiting.iter().map(|(_, waiter)| *waiter).collect();
        world.machine.tick(world.now);
        world.take_actions();
        for action in world.in_flight.drain(..) {
            let takes = if matches!(action, Action::Wake { .. }) { 10 } else { 5 };
            ends.push((call + takes, Some(action), None));
        }
        ends.extend(world.leases.drain(..).map(|grant| (call + 3, None, Some(grant))));
        for (_, action, grant) in ends.extract_if(.., |(at, ..)| *at <= call).collect::<Vec<_>>() {
            if let Some(action) = action {
                world.end(&action, true);
            }
            if let Some(grant) = grant {
                world.machine.release(grant, None, world.now);
            }
        }
        let still: HashSet<WaiterId> = world.waiting.iter().map(|(_, waiter)| *waiter).collect();
        for waiter in waited.difference(&still) {
            longest = longest.max(world.now - asked[waiter]);
        }
    }
    let turn = RESIDENCE_MIN;
    let turns_max = (CALLS / turn.as_millis() as u64) as usize + 2;
    assert!(world.wakes <= turns_max, "{} wakes in {CALLS} ms are more than {turns_max}", world.wakes);
    assert!(world.wakes > turns_max / 3, "only {} wakes: one of them has it all", world.wakes);
    // Who comes as the own turn ends waits for the other's, and twice for what still runs, a sleep and a
    // wake; two for the steps of this test.
    assert!(longest <= turn + 2 * ms(3 + 5 + 10) + ms(2), "a caller waited {longest:?}");
    assert!(world.refusals.is_empty(), "{:?}", world.refusals);
}
