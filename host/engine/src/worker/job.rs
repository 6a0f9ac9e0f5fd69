//! What callers hand to the engine thread, and the bound on how much of it waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::oneshot;

use crate::{Caller, Error, Pooling, residency::Lease};

use super::generation::Generation;

/// A sequence to run.
#[derive(Debug)]
pub(crate) struct Job {
    /// Whom it is for.
    pub(crate) caller: Caller,
    /// Its first tokens: at least one, each in the vocabulary, together with what is generated no
    /// more than the context.
    pub(crate) prompt: Vec<u32>,
    pub(crate) work: Work,
    /// Given back when it is first put into a batch.
    pub(crate) place: QueuePlace,
    pub(crate) arrived: Instant,
    /// Keeps the model awake; `None` where nothing puts models to sleep.
    pub(crate) lease: Option<Arc<Lease>>,
}

/// What is wanted of a sequence.
#[derive(Debug)]
pub(crate) enum Work {
    /// The tokens that follow.
    Generate(Box<Generation>),
    /// Its hidden states as one of unit length; pooled as the model's file says, or otherwise.
    Embed { pooling: Option<Pooling>, reply: Reply<Vec<f32>> },
    /// Tokens and numbers after each of its tokens.
    Score { score: Score, reply: Reply<Scores> },
}

/// Which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Score {
    /// The largest logits, this many, largest first.
    Top(usize),
    /// ln p of the token that comes next; none after the last.
    Next,
}

/// For each token of a sequence, tokens that may follow and their numbers.
pub(crate) type Scores = Vec<Vec<(u32, f32)>>;

/// Where a result goes; closed when no one waits for it.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

impl Job {
    /// Ends it with an error before it began.
    pub(super) fn refuse(self, error: Error) {
        // Whoever is gone doesn't miss the error.
        match self.work {
            Work::Generate(generation) => generation.finish(Err(error)),
            Work::Embed { reply, .. } => drop(reply.send(Err(error))),
            Work::Score { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Counts the jobs that wait.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    max: usize,
}

/// A place in a [`Queue`], given back when dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    queue: Arc<Queue>,
}

impl Queue {
    /// A queue of at most `max` jobs.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(0), max })
    }

    /// A place; [`Error::Overloaded`] when all are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<QueuePlace, Error> {
        let one_more = |waiting| (waiting < self.max).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(QueuePlace { queue: self.clone() }),
            Err(_) => Err(Error::Overloaded(format!("{} sequences wait already (queue_max)", self.max))),
        }
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_until_a_place_is_given_back() {
        let queue = Queue::new(2);
        let (first, _second) = (queue.enter().unwrap(), queue.enter().unwrap());
        let error = queue.enter().unwrap_err();
        assert_eq!(error.to_string(), "overloaded: 2 sequences wait already (queue_max)");
        drop(first);
        queue.enter().unwrap();
    }
}
