//! Who runs now, who waits, who is turned away: the decision, without clock, tasks or I/O.
//!
//! A prediction takes one of its function's places and one of the node's. When either is lacking it
//! waits in its function's queue; when that or the node's is full it is refused. Places go to the
//! prediction that has waited longest of those whose function has a place, so a busy function holds
//! up only itself.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::function::FunctionName;

/// Share of the newest prediction in a function's mean time.
const MEAN_WEIGHT: f64 = 0.2;
/// Bounds of [`Full::retry_after`].
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How many may run and how many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) running_max: usize,
    pub(crate) queue_max: usize,
}

/// A prediction's place in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// What became of a prediction that came in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// It runs: [`Gate::leave`] when it ends.
    Started,
    /// It waits: it is started by somebody's leaving, or [`Gate::cancel`]s.
    Queued(Ticket),
    /// It is turned away.
    Refused(Full),
}

/// Why a prediction was turned away.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{running} predictions of {whose} are running and {queued} wait, its bounds are {} and {}",
    bounds.running_max, bounds.queue_max)]
pub(crate) struct Full {
    /// Whose queue was full: a function's or the node's.
    pub(crate) whose: String,
    pub(crate) running: usize,
    pub(crate) queued: usize,
    pub(crate) bounds: Bounds,
    /// When a place should be free, going by how long the function's predictions took lately.
    pub(crate) retry_after: Duration,
}

/// The predictions of a node that run and wait.
#[derive(Debug)]
pub(crate) struct Gate {
    bounds: Bounds,
    running: usize,
    queued: usize,
    next_ticket: u64,
    /// Those that have a prediction running or waiting.
    functions: HashMap<FunctionName, Lane>,
    /// The first in line of each function that has a free place.
    ready: BTreeMap<Ticket, FunctionName>,
}

/// A function's predictions that run and wait.
#[derive(Debug)]
struct Lane {
    bounds: Bounds,
    running: usize,
    queue: VecDeque<Ticket>,
    /// Seconds that its predictions took, newest weighted most.
    mean_seconds: f64,
}

impl Lane {
    fn has_place(&self) -> bool {
        self.running < self.bounds.running_max
    }

    /// The ticket to start next, if there is a place for it.
    fn ready(&self) -> Option<Ticket> {
        self.queue.front().copied().filter(|_| self.has_place())
    }

    fn retry_after(&self, queued: usize, running_max: usize) -> Duration {
        let rounds = (queued + 1) as f64 / running_max.max(1) as f64;
        let seconds = Duration::try_from_secs_f64(rounds * self.mean_seconds).unwrap_or(RETRY_AFTER.1);
        seconds.clamp(RETRY_AFTER.0, RETRY_AFTER.1)
    }
}

impl Gate {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            running: 0,
            queued: 0,
            next_ticket: 0,
            functions: HashMap::new(),
            ready: BTreeMap::new(),
        }
    }

    /// A prediction comes in. `bounds` are the function's from now on.
    pub(crate) fn enter(&mut self, function: &FunctionName, bounds: Bounds) -> Entry {
        let lane = self.functions.entry(function.clone()).or_insert_with(|| Lane {
            bounds,
            running: 0,
            queue: VecDeque::new(),
            mean_seconds: 0.0,
        });
        lane.bounds = bounds;
        // Nobody of another function is passed by: one that is ready waits only for want of a place
        // on the node.
        if lane.queue.is_empty() && lane.has_place() && self.running < self.bounds.running_max {
            lane.running += 1;
            self.running += 1;
            return Entry::Started;
        }
        let entry = if lane.queue.len() >= bounds.queue_max {
            Entry::Refused(Full {
                whose: format!("function \"{function}\""),
                running: lane.running,
                queued: lane.queue.len(),
                bounds,
                retry_after: lane.retry_after(lane.queue.len(), bounds.running_max),
            })
        } else if self.queued >= self.bounds.queue_max {
            Entry::Refused(Full {
                whose: "this node".to_owned(),
                running: self.running,
                queued: self.queued,
                bounds: self.bounds,
                retry_after: lane.retry_after(self.queued, self.bounds.running_max),
            })
        } else {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            self.queued += 1;
            lane.queue.push_back(ticket);
            Entry::Queued(ticket)
        };
        self.settle(function);
        entry
    }

    /// A prediction that ran for `took` ends; answers those that start in its place.
    pub(crate) fn leave(&mut self, function: &FunctionName, took: Duration) -> Vec<Ticket> {
        let lane = self.functions.get_mut(function).expect("what leaves has entered");
        lane.running = lane.running.checked_sub(1).expect("what leaves has entered");
        self.running -= 1;
        lane.mean_seconds = match lane.mean_seconds {
            0.0 => took.as_secs_f64(),
            mean => mean + MEAN_WEIGHT * (took.as_secs_f64() - mean),
        };
        self.settle(function);
        self.start()
    }

    /// A prediction that waits goes away; false when it has been started meanwhile (then it must
    /// [`Gate::leave`]).
    pub(crate) fn cancel(&mut self, function: &FunctionName, ticket: Ticket) -> bool {
        let Some(lane) = self.functions.get_mut(function) else { return false };
        let Some(place) = lane.queue.iter().position(|queued| *queued == ticket) else { return false };
        self.ready.remove(&ticket);
        lane.queue.remove(place);
        self.queued -= 1;
        self.settle(function);
        true
    }

    /// Predictions running and waiting on the node.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.running, self.queued)
    }

    /// Predictions of a function running and waiting.
    pub(crate) fn load_of(&self, function: &FunctionName) -> (usize, usize) {
        self.functions.get(function).map_or((0, 0), |lane| (lane.running, lane.queue.len()))
    }

    /// Gives free places to those that have waited longest.
    fn start(&mut self) -> Vec<Ticket> {
        let mut started = Vec::new();
        while self.running < self.bounds.running_max
            && let Some((ticket, function)) = self.ready.pop_first()
        {
            let lane = self.functions.get_mut(&function).expect("who waits has a lane");
            lane.queue.pop_front();
            lane.running += 1;
            self.running += 1;
            self.queued -= 1;
            self.settle(&function);
            started.push(ticket);
        }
        started
    }

    /// Brings `ready` up to date with a function, and forgets a function that has nothing to do.
    fn settle(&mut self, function: &FunctionName) {
        let Some(lane) = self.functions.get(function) else { return };
        match (lane.ready(), lane.queue.front()) {
            (Some(ticket), _) => _ = self.ready.insert(ticket, function.clone()),
            (None, Some(ticket)) => _ = self.ready.remove(ticket),
            (None, None) if lane.running == 0 => _ = self.functions.remove(function),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: Bounds = Bounds { running_max: 3, queue_max: 5 };
    const FUNCTION: Bounds = Bounds { running_max: 2, queue_max: 3 };

    fn name(index: usize) -> FunctionName {
        FunctionName::parse(&format!("f{index}")).unwrap()
    }

    #[derive(Debug, Clone)]
    enum Event {
        Enter(usize, usize),
        Leave(usize),
        Cancel(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..4_usize, 1..4_usize).prop_map(|(function, running)| Event::Enter(function, running)),
            2 => any::<usize>().prop_map(Event::Leave),
            1 => any::<usize>().prop_map(Event::Cancel),
        ]
    }

    /// What the gate should have, kept the plain way.
    #[derive(Default)]
    struct Model {
        running: Vec<usize>,
        queue: Vec<(Ticket, usize)>,
        bounds: HashMap<usize, Bounds>,
    }

    impl Model {
        fn running_of(&self, function: usize) -> usize {
            self.running.iter().filter(|other| **other == function).count()
        }

        fn queued_of(&self, function: usize) -> usize {
            self.queue.iter().filter(|(_, other)| *other == function).count()
        }

        /// The first that should be running but waits.
        fn overdue(&self) -> Option<usize> {
            self.queue.iter().position(|(_, function)| {
                self.running.len() < NODE.running_max
                    && self.running_of(*function) < self.bounds[function].running_max
            })
        }

        fn start(&mut self, started: Vec<Ticket>) {
            for ticket in started {
                let first = self.overdue().expect("none starts without a place");
                let (expected, function) = self.queue.remove(first);
                assert_eq!(ticket, expected, "the one that has waited longest starts");
                self.running.push(function);
            }
        }

        fn check(&self, gate: &Gate) {
            assert_eq!(gate.load(), (self.running.len(), self.queue.len()));
            assert!(self.running.len() <= NODE.running_max && self.queue.len() <= NODE.queue_max);
            for function in 0..4 {
                let load = (self.running_of(function), self.queued_of(function));
                assert_eq!(gate.load_of(&name(function)), load);
            }
            let busy = gate.functions.values().all(|lane| lane.running + lane.queue.len() > 0);
            assert!(busy, "a function with nothing to do is forgotten");
        }
    }

    proptest! {
        #[test]
        fn places_are_never_exceeded_left_empty_or_given_out_of_turn(
            events in prop::collection::vec(event(), 1..200),
        ) {
            let (mut gate, mut model) = (Gate::new(NODE), Model::default());
            for event in events {
                match event {
                    Event::Enter(function, running_max) => {
                        // A function keeps its first bounds; changing them is tested below.
                        let bounds = Bounds { running_max, ..FUNCTION };
                        let bounds = *model.bounds.entry(function).or_insert(bounds);
                        match gate.enter(&name(function), bounds) {
                            Entry::Started => {
                                prop_assert!(model.running_of(function) < bounds.running_max);
                                prop_assert_eq!(model.queued_of(function), 0);
                                model.running.push(function);
                            }
                            Entry::Queued(ticket) => {
                                prop_assert!(model.queued_of(function) < bounds.queue_max);
                                model.queue.push((ticket, function));
                            }
                            Entry::Refused(full) => {
                                let function_full = model.queued_of(function) == bounds.queue_max;
                                prop_assert!(function_full || model.queue.len() == NODE.queue_max);
                                prop_assert!(full.retry_after >= RETRY_AFTER.0);
                            }
                        }
                    }
                    Event::Leave(pick) if !model.running.is_empty() => {
                        let function = model.running.remove(pick % model.running.len());
                        model.start(gate.leave(&name(function), Duration::from_millis(10)));
                    }
                    Event::Cancel(pick) if !model.queue.is_empty() => {
                        let (ticket, function) = model.queue.remove(pick % model.queue.len());
                        prop_assert!(gate.cancel(&name(function), ticket));
                        prop_assert!(!gate.cancel(&name(function), ticket));
                    }
                    Event::Leave(_) | Event::Cancel(_) => {}
                }
                model.check(&gate);
                prop_assert_eq!(model.overdue(), None, "nobody waits for a place that is free");
            }
        }
    }

    #[test]
    fn one_that_was_started_cannot_cancel() {
        let mut gate = Gate::new(NODE);
        let bounds = Bounds { running_max: 1, queue_max: 1 };
        assert_eq!(gate.enter(&name(0), bounds), Entry::Started);
        let Entry::Queued(ticket) = gate.enter(&name(0), bounds) else { panic!("the second waits") };
        assert_eq!(gate.leave(&name(0), Duration::ZERO), [ticket]);
        assert!(!gate.cancel(&name(0), ticket));
    }

    #[test]
    fn fewer_places_are_kept_to_as_those_that_run_leave() {
        let mut gate = Gate::new(NODE);
        let [two, one] = [2, 1].map(|running_max| Bounds { running_max, queue_max: 3 });
        assert_eq!(gate.enter(&name(0), two), Entry::Started);
        assert_eq!(gate.enter(&name(0), two), Entry::Started);
        let Entry::Queued(ticket) = gate.enter(&name(0), one) else { panic!("the third waits") };
        assert_eq!(gate.leave(&name(0), Duration::ZERO), []);
        assert_eq!(gate.leave(&name(0), Duration::ZERO), [ticket]);
    }

    #[test]
    fn retry_after_goes_by_how_long_predictions_took() {
        let mut gate = Gate::new(NODE);
        let bounds = Bounds { running_max: 2, queue_max: 3 };
        for _ in 0..3 {
            gate.enter(&name(0), bounds);
        }
        gate.leave(&name(0), Duration::from_secs(10));
        for _ in 0..3 {
            gate.enter(&name(0), bounds);
        }
        let Entry::Refused(full) = gate.enter(&name(0), bounds) else { panic!("the queue is full") };
        assert_eq!(full.retry_after, Duration::from_secs(20));
        let message = "2 predictions of function \"f0\" are running and 3 wait, its bounds are 2 and 3";
        assert_eq!(full.to_string(), message);
    }
}
