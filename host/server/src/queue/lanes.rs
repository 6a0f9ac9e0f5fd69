//! Which functions' predictions the queue may claim next: the decision, without clock, tasks or I/O.
//!
//! A **lane** is a function's part of the queue. What waits in it is in the store; here is only how
//! many wait, how many run, and whether any may be ready. An owner asks [`Lanes::wants`], claims that
//! much from the store and tells what it got.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::function::FunctionName;

/// How long a caller that met a full queue should stay away.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How many may wait and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Predictions that wait, in all lanes.
    pub(crate) waiting_max: usize,
    /// Predictions that wait in one lane.
    pub(crate) lane_waiting_max: usize,
    /// Predictions that are claimed at once.
    pub(crate) running_max: usize,
}

/// The queue is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} predictions of {whose} wait in the queue, its bound is {waiting_max}")]
pub(crate) struct Full {
    pub(crate) whose: String,
    pub(crate) waiting: usize,
    pub(crate) waiting_max: usize,
    pub(crate) retry_after: Duration,
}

/// So many predictions of a function may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) lane: FunctionName,
    pub(crate) max: usize,
}

/// What a claim brought for one [`Want`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) lane: FunctionName,
    pub(crate) claimed: usize,
    /// Whether more are ready.
    pub(crate) has_more: bool,
    /// When the next of those that wait for their time is ready.
    pub(crate) next_at: Option<SystemTime>,
}

/// The lanes of a node.
#[derive(Debug)]
pub(crate) struct Lanes {
    bounds: Bounds,
    waiting: usize,
    running: usize,
    /// Those that have a prediction waiting or running.
    lanes: BTreeMap<FunctionName, Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: usize,
    running: usize,
    ready: Ready,
    /// Something was stored since the owner last asked.
    has_news: bool,
}

/// When something of a lane may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Ready {
    /// Nothing waits.
    #[default]
    Never,
    At(SystemTime),
    Now,
}

impl Ready {
    fn or_at(self, at: SystemTime) -> Self {
        match self {
            Self::Never => Self::At(at),
            Self::At(other) => Self::At(at.min(other)),
            Self::Now => Self::Now,
        }
    }

    fn is_due(self, now: SystemTime) -> bool {
        match self {
            Self::Never => false,
            Self::At(at) => at <= now,
            Self::Now => true,
        }
    }
}

impl Lanes {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: 0, running: 0, lanes: BTreeMap::new() }
    }

    /// Makes room for one more that waits, before it is stored: it is [`Lanes::stored`] or
    /// [`Lanes::withdraw`]n.
    pub(crate) fn admit(&mut self, lane: &FunctionName) -> Result<(), Full> {
        let Bounds { waiting_max, lane_waiting_max, .. } = self.bounds;
        let in_lane = self.lanes.get(lane).map_or(0, |lane| lane.waiting);
        if in_lane >= lane_waiting_max {
            let whose = format!("function \"{lane}\"");
            return Err(full(whose, in_lane, lane_waiting_max));
        }
        if self.waiting >= waiting_max {
            return Err(full("this node".to_owned(), self.waiting, waiting_max));
        }
        self.waiting += 1;
        self.lanes.entry(lane.clone()).or_default().waiting += 1;
        Ok(())
    }

    /// One that was admitted is in the store, ready to be claimed.
    pub(crate) fn stored(&mut self, lane: &FunctionName) {
        let lane = self.lane(lane);
        (lane.ready, lane.has_news) = (Ready::Now, true);
    }

    /// One that was admitted is not stored after all, or one that waits has been canceled.
    pub(crate) fn withdraw(&mut self, lane: &FunctionName) {
        let entry = self.lane(lane);
        entry.waiting = entry.waiting.saturating_sub(1);
        self.waiting = self.waiting.saturating_sub(1);
        self.forget_idle(lane);
    }

    /// What may be claimed now, at most [`Lanes::room`] in all. `limit` is how many of a function may
    /// run at once.
    pub(crate) fn wants(&mut self, now: SystemTime, limit: impl Fn(&FunctionName) -> usize) -> Vec<Want> {
        let room = self.room();
        let wants = self.lanes.iter_mut().filter(|(_, lane)| lane.ready.is_due(now)).map(|(name, lane)| {
            lane.has_news = false;
            Want { lane: name.clone(), max: limit(name).saturating_sub(lane.running).min(room) }
        });
        wants.filter(|want| want.max > 0).collect()
    }

    /// Predictions that may still be claimed.
    pub(crate) fn room(&self) -> usize {
        self.bounds.running_max.saturating_sub(self.running)
    }

    /// What the claim brought that followed [`Lanes::wants`].
    pub(crate) fn claimed(&mut self, got: &Got) {
        self.running += got.claimed;
        self.waiting = self.waiting.saturating_sub(got.claimed);
        let lane = self.lanes.entry(got.lane.clone()).or_default();
        lane.running += got.claimed;
        lane.waiting = lane.waiting.saturating_sub(got.claimed);
        lane.ready = match (got.has_more, got.next_at) {
            (true, _) => Ready::Now,
            // What was stored meanwhile may have been too late for the claim.
            _ if lane.has_news => Ready::Now,
            (false, Some(at)) => Ready::At(at),
            (false, None) => Ready::Never,
        };
        self.forget_idle(&got.lane);
    }

    /// One that was claimed has ended.
    pub(crate) fn ended(&mut self, lane: &FunctionName) {
        let entry = self.lane(lane);
        entry.running = entry.running.checked_sub(1).expect("what ends was claimed");
        self.running -= 1;
        self.forget_idle(lane);
    }

    /// One that was claimed waits again, until `at`.
    pub(crate) fn requeued(&mut self, lane: &FunctionName, at: SystemTime) {
        let entry = self.lane(lane);
        entry.running = entry.running.checked_sub(1).expect("what is put back was claimed");
        entry.waiting += 1;
        entry.ready = entry.ready.or_at(at);
        self.running -= 1;
        self.waiting += 1;
    }

    /// Takes over how many wait from the store.
    pub(crate) fn recount(&mut self, waiting: &[(FunctionName, usize)]) {
        self.lanes.values_mut().for_each(|lane| lane.waiting = 0);
        self.waiting = 0;
        for (name, count) in waiting {
            let lane = self.lanes.entry(name.clone()).or_default();
            lane.waiting = *count;
            // One may have become ready without anybody telling; a claim that finds nothing says so.
            lane.ready = Ready::Now;
            self.waiting += count;
        }
        self.lanes.retain(|_, lane| lane.waiting + lane.running > 0);
    }

    /// When [`Lanes::wants`] may have more without anything else happening.
    pub(crate) fn next_at(&self) -> Option<SystemTime> {
        let times = self.lanes.values().filter_map(|lane| match lane.ready {
            Ready::At(at) => Some(at),
            Ready::Never | Ready::Now => None,
        });
        times.min()
    }

    /// Predictions that wait and run.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.waiting, self.running)
    }

    /// Predictions of a function that wait.
    pub(crate) fn waiting_of(&self, lane: &FunctionName) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.waiting)
    }

    fn lane(&mut self, name: &FunctionName) -> &mut Lane {
        self.lanes.entry(name.clone()).or_default()
    }

    fn forget_idle(&mut self, name: &FunctionName) {
        if self.lanes.get(name).is_some_and(|lane| lane.waiting + lane.running == 0) {
            self.lanes.remove(name);
        }
    }
}

fn full(whose: String, waiting: usize, waiting_max: usize) -> Full {
    Full { whose, waiting, waiting_max, retry_after: RETRY_AFTER }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { waiting_max: 8, lane_waiting_max: 5, running_max: 4 };
    const LIMIT: usize = 2;

    fn name(index: usize) -> FunctionName {
        FunctionName::parse(&format!("f{index}")).unwrap()
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    /// The store, kept the plain way: when each that waits is ready, and how many run.
    #[derive(Debug, Default)]
    struct Model {
        waiting: Vec<(usize, SystemTime)>,
        running: Vec<usize>,
    }

    impl Model {
        fn running_of(&self, function: usize) -> usize {
            self.running.iter().filter(|other| **other == function).count()
        }

        /// Claims as the store does.
        fn claim(&mut self, want: &Want, room: usize, now: SystemTime) -> Got {
            let function = want.lane.as_str()[1..].parse().unwrap();
            let mut claimed = 0;
            while claimed < want.max.min(room)
                && let Some(place) =
                    self.waiting.iter().position(|(lane, ready)| *lane == function && *ready <= now)
            {
                self.waiting.remove(place);
                self.running.push(function);
                claimed += 1;
            }
            let left = self.waiting.iter().filter(|(lane, _)| *lane == function).map(|(_, ready)| *ready);
            let has_more = left.clone().any(|ready| ready <= now);
            Got { lane: want.lane.clone(), claimed, has_more, next_at: left.min() }
        }

        /// Whether something could be claimed.
        fn is_idle(&self, now: SystemTime) -> bool {
            self.running.len() >= BOUNDS.running_max
                || self
                    .waiting
                    .iter()
                    .all(|(function, ready)| *ready > now || self.running_of(*function) >= LIMIT)
        }
    }

    #[derive(Debug, Clone)]
    enum Action {
        Submit(usize),
        Cancel(usize),
        End(usize),
        Requeue(usize, u64),
        Pass(u64),
        Recount,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            4 => (0..3_usize).prop_map(Action::Submit),
            1 => any::<usize>().prop_map(Action::Cancel),
            3 => any::<usize>().prop_map(Action::End),
            2 => (any::<usize>(), 0..9_u64).prop_map(|(which, after)| Action::Requeue(which, after)),
            2 => (1..5_u64).prop_map(Action::Pass),
            1 => Just(Action::Recount),
        ]
    }

    fn pick(from: usize, len: usize) -> Option<usize> {
        (len > 0).then(|| from % len)
    }

    proptest! {
        #[test]
        fn nothing_ready_waits_while_it_might_run(actions in proptest::collection::vec(action(), 1..200)) {
            let (mut lanes, mut model) = (Lanes::new(BOUNDS), Model::default());
            let mut now = at(0);
            for action in actions {
                match action {
                    Action::Submit(function) => {
                        let in_lane = model.waiting.iter().filter(|(lane, _)| *lane == function).count();
                        let fits = model.waiting.len() < BOUNDS.waiting_max && in_lane < BOUNDS.lane_waiting_max;
                        prop_assert_eq!(lanes.admit(&name(function)).is_ok(), fits);
                        if fits {
                            model.waiting.push((function, now));
                            lanes.stored(&name(function));
                        }
                    }
                    Action::Cancel(which) => if let Some(which) = pick(which, model.waiting.len()) {
                        lanes.withdraw(&name(model.waiting.remove(which).0));
                    },
                    Action::End(which) => if let Some(which) = pick(which, model.running.len()) {
                        lanes.ended(&name(model.running.remove(which)));
                    },
                    Action::Requeue(which, after) => if let Some(which) = pick(which, model.running.len()) {
                        let function = model.running.remove(which);
                        let ready = now + Duration::from_secs(after);
                        model.waiting.push((function, ready));
                        lanes.requeued(&name(function), ready);
                    },
                    Action::Pass(seconds) => now += Duration::from_secs(seconds),
                    Action::Recount => {
                        let counts: Vec<_> = (0..3).map(|function| {
                            let waiting = model.waiting.iter().filter(|(lane, _)| *lane == function).count();
                            (name(function), waiting)
                        }).filter(|(_, waiting)| *waiting > 0).collect();
                        lanes.recount(&counts);
                    }
                }
                // The owner claims for as long as there is something to claim.
                for _ in 0..100 {
                    let wants = lanes.wants(now, |_| LIMIT);
                    if wants.is_empty() {
                        break;
                    }
                    for want in wants {
                        let got = model.claim(&want, lanes.room(), now);
                        lanes.claimed(&got);
                    }
                }
                prop_assert!(model.is_idle(now), "{lanes:?} {model:?}");
                prop_assert!(model.running.len() <= BOUNDS.running_max);
                prop_assert!((0..3).all(|function| model.running_of(function) <= LIMIT));
                prop_assert_eq!(lanes.load(), (model.waiting.len(), model.running.len()));
                let next = model.waiting.iter().map(|(_, ready)| *ready).filter(|ready| *ready > now).min();
                prop_assert!(next.is_none() || lanes.next_at().is_some_and(|at| at <= next.unwrap())
                    || lanes.lanes.values().any(|lane| lane.ready == Ready::Now));
            }
        }
    }

    #[test]
    fn what_is_stored_while_a_claim_is_under_way_is_not_forgotten() {
        let mut lanes = Lanes::new(BOUNDS);
        lanes.admit(&name(0)).unwrap();
        lanes.stored(&name(0));
        let want = Want { lane: name(0), max: LIMIT };
        assert_eq!(lanes.wants(at(0), |_| LIMIT), std::slice::from_ref(&want));
        lanes.admit(&name(0)).unwrap();
        lanes.stored(&name(0));
        lanes.claimed(&Got { lane: name(0), claimed: 1, has_more: false, next_at: None });
        assert_eq!(lanes.wants(at(0), |_| LIMIT), [Want { max: 1, ..want }]);
    }

    #[test]
    fn a_full_queue_names_whose_it_is() {
        let mut lanes = Lanes::new(BOUNDS);
        (0..5).for_each(|_| lanes.admit(&name(0)).unwrap());
        let full = lanes.admit(&name(0)).unwrap_err().to_string();
        assert_eq!(full, "5 predictions of function \"f0\" wait in the queue, its bound is 5");
        (0..3).for_each(|_| lanes.admit(&name(1)).unwrap());
        let full = lanes.admit(&name(2)).unwrap_err().to_string();
        assert_eq!(full, "8 predictions of this node wait in the queue, its bound is 8");
        lanes.withdraw(&name(1));
        assert!(lanes.admit(&name(2)).is_ok());
    }
}
