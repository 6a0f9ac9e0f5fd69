//! Drives the [`Gate`]: a permit for each prediction that runs, a future for each that waits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::gate::{Bounds, Entry, Full, Gate, Ticket};
use crate::function::FunctionName;

/// Hands out permits; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Permits {
    shared: Arc<Mutex<Shared>>,
    queue_timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    gate: Gate,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("no place for function \"{function}\" in {waited:?}")]
    TimedOut { function: FunctionName, waited: Duration },
}

impl Permits {
    /// Permits within the node's bounds. Nobody waits longer than `queue_timeout`.
    pub(crate) fn new(node: Bounds, queue_timeout: Duration) -> Self {
        let shared = Shared { gate: Gate::new(node), waiting: HashMap::new() };
        Self { shared: Arc::new(Mutex::new(shared)), queue_timeout }
    }

    /// Takes a place of a function, waiting for it in order of arrival. Dropping the future leaves the
    /// queue.
    pub(crate) async fn acquire(&self, function: &FunctionName, bounds: Bounds) -> Result<Permit, Refused> {
        let (mut waiting, started) = {
            let mut shared = self.lock();
            match shared.gate.enter(function, bounds) {
                Entry::Started => return Ok(self.permit(function)),
                Entry::Refused(full) => return Err(full.into()),
                Entry::Queued(ticket) => {
                    let (start, started) = oneshot::channel();
                    shared.waiting.insert(ticket, start);
                    (Waiting { permits: self, function, ticket: Some(ticket) }, started)
                }
            }
        };
        match timeout(self.queue_timeout, started).await {
            Ok(start) => {
                start.expect("who waits is started or leaves by itself");
                waiting.ticket = None;
                Ok(self.permit(function))
            }
            // Dropping `waiting` gives back a place that came at this very moment.
            Err(_) => Err(Refused::TimedOut { function: function.clone(), waited: self.queue_timeout }),
        }
    }

    /// Predictions running and waiting on the node.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.lock().gate.load()
    }

    /// Predictions of a function running and waiting.
    pub(crate) fn load_of(&self, function: &FunctionName) -> (usize, usize) {
        self.lock().gate.load_of(function)
    }

    fn permit(&self, function: &FunctionName) -> Permit {
        Permit { permits: self.clone(), function: function.clone(), since: Instant::now() }
    }

    fn leave(&self, function: &FunctionName, took: Duration) {
        let mut shared = self.lock();
        for ticket in shared.gate.leave(function, took) {
            let start = shared.waiting.remove(&ticket).expect("who waits has a channel");
            // One that is just leaving sees that it was started and gives the place back.
            let _ = start.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic holds this lock")
    }
}

/// A place for one prediction; dropping it gives the place to the next.
#[derive(Debug)]
pub(crate) struct Permit {
    permits: Permits,
    function: FunctionName,
    since: Instant,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.leave(&self.function, self.since.elapsed());
    }
}

/// A place in a queue, given up when dropped with its ticket.
struct Waiting<'a> {
    permits: &'a Permits,
    function: &'a FunctionName,
    ticket: Option<Ticket>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let was_queued = {
            let mut shared = self.permits.lock();
            shared.waiting.remove(&ticket);
            shared.gate.cancel(self.function, ticket)
        };
        if !was_queued {
            self.permits.leave(self.function, Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    const BOUNDS: Bounds = Bounds { running_max: 1, queue_max: 2 };

    fn permits() -> (Permits, FunctionName) {
        (Permits::new(BOUNDS, Duration::from_secs(5)), FunctionName::parse("f").unwrap())
    }

    #[tokio::test]
    async fn a_dropped_permit_starts_the_next_in_line() {
        let (permits, function) = permits();
        let first = permits.acquire(&function, BOUNDS).await.unwrap();
        let (mut second, mut third) =
            (Box::pin(permits.acquire(&function, BOUNDS)), Box::pin(permits.acquire(&function, BOUNDS)));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert_eq!(permits.load(), (1, 2));
        drop(first);
        assert!((&mut third).now_or_never().is_none());
        let Some(Ok(second)) = (&mut second).now_or_never() else { panic!("the second is next") };
        drop(second);
        assert!(third.await.is_ok());
        assert_eq!(permits.load(), (0, 0));
    }

    #[tokio::test]
    async fn one_that_leaves_the_queue_gives_back_even_a_place_it_was_just_given() {
        let (permits, function) = permits();
        let first = permits.acquire(&function, BOUNDS).await.unwrap();
        let mut second = Box::pin(permits.acquire(&function, BOUNDS));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(permits.load(), (1, 0));
        drop(second);
        assert_eq!(permits.load(), (0, 0));
        assert!(permits.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_bound() {
        let permits = Permits::new(BOUNDS, Duration::from_millis(20));
        let function = FunctionName::parse("f").unwrap();
        let _first = permits.acquire(&function, BOUNDS).await.unwrap();
        let error = permits.acquire(&function, BOUNDS).await.unwrap_err();
        assert_eq!(error.to_string(), "no place for function \"f\" in 20ms");
        assert_eq!(permits.load(), (1, 0));
    }

    #[tokio::test]
    async fn a_full_queue_turns_away_at_once() {
        let (permits, function) = permits();
        let _first = permits.acquire(&function, BOUNDS).await.unwrap();
        let (mut second, mut third) =
            (pin!(permits.acquire(&function, BOUNDS)), pin!(permits.acquire(&function, BOUNDS)));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        let fourth = permits.acquire(&function, BOUNDS).now_or_never().unwrap();
        assert!(matches!(fourth, Err(Refused::Full(_))), "{fourth:?}");
    }
}
