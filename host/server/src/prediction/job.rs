//! A run of a prediction of the queue.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rand::RngExt;

use super::{
    Cursor, Errand, Failure, Input, Json, Live, Order, Record, Status,
    run::{Loaded, Outcome, Run, permit},
};
use crate::{
    http::{self, Code, Error},
    queue::{Backoff, Claim, Finish, Job, Queue, Verdict},
    service::{Phase, Service},
    webhook,
};

/// How long one that found no place stays away.
const NO_PLACE: Duration = Duration::from_secs(1);

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The prediction has ended, or is another's.
    Ended,
    /// It waits again until then.
    Requeued(SystemTime),
}

/// Runs a claimed prediction once and writes down what became of it.
pub(crate) async fn run(service: Arc<Service>, job: Job) -> After {
    let Job { record, claim, is_canceled } = job;
    let live = service.predictions.live.get(&record.id);
    live.create(record.clone());
    webhook::follow(&service.predictions.webhooks, Cursor::new(live.clone()), &record);
    let order = record.order.clone().expect("what is in the queue has an order");
    let outcome = match is_canceled {
        true => Outcome::failed(canceled()),
        false => {
            // In a task of its own: a panic is one more way to fail.
            let attempt = attempt(service.clone(), live.clone(), record, order.deadline);
            let ended = tokio::spawn(tracing::Instrument::in_current_span(attempt)).await;
            ended.unwrap_or_else(|lost| Outcome::failed(Error::internal(lost)))
        }
    };
    let finish = decide(&service, &live, &order, outcome);
    if let Finish::Done(record) = &finish {
        // Before the end is written: after a crash in between it is done again.
        http::ended(&service, record).await;
    }
    settle(&service, &live, &claim, finish).await
}

/// From the claim to the guest's end.
async fn attempt(
    service: Arc<Service>,
    live: Arc<Live>,
    record: Arc<Record>,
    deadline: Option<SystemTime>,
) -> Outcome {
    if let Some(errand) = Errand::of(&record.function) {
        return run_errand(&service, &live, errand, &record, deadline).await;
    }
    let since = Instant::now();
    let prepare = async {
        let function = service.store.registry.find(record.function.as_str());
        let function = function
            .ok_or_else(|| Error::not_found(format!("function \"{}\" was removed", record.function)))?;
        let revision = function.revision(&record.revision).cloned().ok_or_else(|| {
            let (function, revision) = (&record.function, &record.revision);
            Error::not_found(format!("function \"{function}\" has no revision \"{revision}\" any more"))
        })?;
        let loaded = Loaded::of(&service, &revision).await?;
        let checked = loaded.check(&service, Input::stored(&record.input)).await?;
        let (permit, queued) = permit(&service, &function).await?;
        let (function, filled) = (function.name.clone(), checked.filled);
        let keep_alive = record.order.as_ref().and_then(Order::keep_alive);
        Ok(Run { function, revision, loaded, filled, keep_alive, permit, queued, since })
    };
    let work = async {
        tokio::select! {
            run = prepare => match run {
                Ok(run) => run.execute(&service, &live).await,
                Err(error) => Outcome::failed(error),
            },
            () = live.canceled() => Outcome::failed(canceled()),
            () = service.stopping() => Outcome::failed(Error::draining()),
        }
    };
    in_time(deadline, work).await
}

/// Does what the node does itself.
async fn run_errand(
    service: &Arc<Service>,
    live: &Live,
    errand: Errand,
    record: &Record,
    deadline: Option<SystemTime>,
) -> Outcome {
    live.start(SystemTime::now());
    let work = async {
        let done = tokio::select! {
            done = http::run_errand(service, errand, record) => done,
            () = live.canceled() => Err(canceled()),
            () = service.stopping() => Err(Error::draining()),
        };
        Outcome { returned: done.map(|value| Json::of(&value)).map_err(Failure::from), metrics: None }
    };
    in_time(deadline, work).await
}

async fn in_time(deadline: Option<SystemTime>, work: impl Future<Output = Outcome>) -> Outcome {
    let Some(deadline) = deadline else { return work.await };
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
    match tokio::time::timeout(left, work).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::failed(Error::new(Code::Timeout, PAST_DEADLINE)),
    }
}

/// What is said of a prediction that was not done in time.
pub(crate) const PAST_DEADLINE: &str = "the deadline passed";

fn canceled() -> Error {
    Error::new(Code::Cancelled, "canceled")
}

fn decide(service: &Service, live: &Live, order: &Order, outcome: Outcome) -> Finish {
    let config = &service.config.queue;
    let backoff = Backoff { first: config.backoff, max: config.backoff_max };
    let now = SystemTime::now();
    let failure = outcome.returned.as_ref().err();
    let verdict = match failure {
        // The next start runs it again.
        Some(Failure { code: Code::Draining, .. }) => return Finish::Requeue { at: now, counts: false },
        // A full node has not tried.
        Some(Failure { code: Code::Overloaded, .. }) if outcome.metrics.is_none() => {
            return Finish::Requeue { at: now + NO_PLACE, counts: false };
        }
        Some(failure) => backoff.decide(order, failure, rand::rng().random()),
        None => Verdict::Fail,
    };
    if let Verdict::Retry(after) = verdict {
        return Finish::Requeue { at: now + after, counts: true };
    }
    let record = outcome.record(live);
    let order = record.order.clone().map(|order| Order { is_dead: verdict == Verdict::Bury, ..order });
    Finish::Done(Record { order, ..record }.into())
}

/// Writes down how a claim ended, then tells those who follow.
async fn settle(service: &Service, live: &Live, claim: &Claim, finish: Finish) -> After {
    let queue = &service.predictions.store;
    loop {
        match queue.finish(claim, finish.clone()).await {
            Ok(true) => break,
            Ok(false) => {
                tracing::warn!(id = %claim.id, attempt = claim.attempt, "a prediction was another's when it ended");
                return After::Ended;
            }
            Err(error) if service.phase() == Phase::Serving => {
                tracing::error!(%error, id = %claim.id, "can't write how a prediction ended; trying again");
                tokio::time::sleep(NO_PLACE).await;
            }
            // The next start runs it again.
            Err(_) => return After::Ended,
        }
    }
    match finish {
        Finish::Done(record) => {
            debug_assert!(record.status != Status::Queued);
            live.end(record.clone());
            service.ended(&record);
            After::Ended
        }
        Finish::Requeue { at, .. } => {
            live.give_up();
            After::Requeued(at)
        }
    }
}
