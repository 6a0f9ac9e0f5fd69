//! Predictions that nobody waits for on the line: acknowledged when they are on disk, run when there is
//! a place, tried again when the node failed them.
//!
//! ```text
//! enqueue ──► queued ──claim──► running ──finish──► succeeded, failed, canceled
//!               ▲                  │ lease ran out, or the node's fault
//!               └──────────────────┘ up to `attempts_max`, then failed and dead
//! ```
//!
//! [`Lanes`] decides what to claim, [`Backoff`] what becomes of a failure; [`Queue`] keeps them on disk
//! and the worker drives both. Execution is at least once; the result is written once, by whoever
//! holds the claim.

#[cfg(test)]
pub(crate) mod conformance;
mod lanes;
mod retry;
mod worker;

use std::{sync::Arc, time::SystemTime};

use crate::{
    function::FunctionName,
    prediction::{Failure, PredictionId, Record},
    store::ChangeError,
};

pub(crate) use lanes::{Bounds, Full, Got, Lanes, Want};
pub(crate) use retry::{Backoff, Verdict};
pub(crate) use worker::{Worker, work};

/// A durable queue of predictions. An implementation may be shared by many nodes.
pub(crate) trait Queue: Send + Sync + 'static {
    /// Keeps a prediction until it is claimed; it is durable when this returns. One whose id or key is
    /// known is left as it is and answered.
    fn enqueue(&self, record: Arc<Record>, key: Option<Key>) -> impl Answer<Enqueued>;

    /// Takes predictions that are ready, of each lane no more than wanted and `max` in all, those of
    /// higher priority and then those that came first. They are the caller's until `lease`.
    fn claim(&self, wants: Vec<Want>, max: usize, now: SystemTime, lease: SystemTime)
    -> impl Answer<Claimed>;

    /// Prolongs every claim of this node.
    fn extend(&self, lease: SystemTime) -> impl Answer<()>;

    /// Ends a claim. False when it was not the caller's any more; then nothing has changed.
    fn finish(&self, claim: &Claim, finish: Finish) -> impl Answer<bool>;

    /// Cancels one that waits; asks for one that runs to be canceled, also by a later run.
    fn cancel(&self, id: &PredictionId, now: SystemTime) -> impl Answer<Cancel>;

    /// Fails those that wait beyond their deadline, and puts back those whose claim ran out or whose
    /// owner is gone; those that have had all their attempts fail with `lost`.
    fn recover(&self, now: SystemTime, lost: Failure, late: Failure) -> impl Answer<Recovered>;

    /// Makes dead ones wait again, with all their attempts; of one lane, or one by id. Answers how many.
    fn redrive(&self, which: Which, now: SystemTime) -> impl Answer<usize>;

    /// How many wait in each lane.
    fn depths(&self) -> impl Answer<Vec<(FunctionName, usize)>>;
}

/// What the queue's operations answer, each in its time.
pub(crate) trait Answer<T>: Future<Output = Result<T, ChangeError>> + Send {}

impl<T, F: Future<Output = Result<T, ChangeError>> + Send> Answer<T> for F {}

/// A client's own name for a request, so that repeating the request repeats nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) String);

/// What became of a prediction that came in.
#[derive(Debug, Clone)]
pub(crate) enum Enqueued {
    New,
    /// It was known already, by id or key.
    Known(Arc<Record>),
}

/// What a claim brought.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) jobs: Vec<Job>,
    /// One for each want.
    pub(crate) got: Vec<Got>,
}

/// What had been left behind.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Those that ended without running again.
    pub(crate) ended: Vec<Arc<Record>>,
    /// How many wait again.
    pub(crate) requeued: usize,
}

/// A prediction to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) record: Arc<Record>,
    pub(crate) claim: Claim,
    /// Someone wanted it canceled while it ran before.
    pub(crate) is_canceled: bool,
}

/// The right to end a prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: PredictionId,
    /// Which of its runs this is, from 1.
    pub(crate) attempt: u32,
}

/// How a claim ends.
#[derive(Debug, Clone)]
pub(crate) enum Finish {
    /// The prediction has ended; the record says how.
    Done(Arc<Record>),
    /// It waits again until `at`. An attempt that did not count is given back.
    Requeue { at: SystemTime, counts: bool },
}

/// What a cancellation met.
#[derive(Debug, Clone)]
pub(crate) enum Cancel {
    /// It waited; now it is canceled.
    Waiting(Arc<Record>),
    /// It runs; whoever runs it is to stop.
    Running,
    Ended,
    Absent,
}

/// Dead predictions to bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    One(PredictionId),
    Lane(FunctionName),
    All,
}
