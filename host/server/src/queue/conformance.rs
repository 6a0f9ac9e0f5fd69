//! What every [`Queue`] must do. `Nodes` gives the queue as different nodes see it; time is passed in.

use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    http::Code,
    prediction::{Json, Order, Status, queued_record},
};

/// A queue that several nodes share.
pub(crate) trait Nodes {
    type Queue: Queue;

    /// The queue as one more node sees it.
    fn node(&self) -> Self::Queue;
}

const LEASE: Duration = Duration::from_secs(30);

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn record(id: &str) -> Record {
    queued_record(id, "f")
}

fn with_order(id: &str, change: impl FnOnce(&mut Order)) -> Record {
    let mut record = record(id);
    change(record.order.as_mut().unwrap());
    record
}

fn id(id: &str) -> PredictionId {
    PredictionId::parse(id).unwrap()
}

fn want(lane: &str, max: usize) -> Want {
    Want { lane: FunctionName::parse(lane).unwrap(), max }
}

fn failure(code: Code) -> Failure {
    Failure { code, message: "why".to_owned() }
}

async fn put(queue: &impl Queue, record: Record) {
    assert!(matches!(queue.enqueue(record.into(), None).await.unwrap(), Enqueued::New));
}

/// Claims up to `max` of `f`; answers the ids.
async fn claim(queue: &impl Queue, max: usize, now: SystemTime) -> Vec<Job> {
    queue.claim(vec![want("f", max)], 100, now, now + LEASE).await.unwrap().jobs
}

fn ids(jobs: &[Job]) -> Vec<&str> {
    jobs.iter().map(|job| job.record.id.as_str()).collect()
}

fn done(job: &Job) -> Finish {
    let mut record = Record::clone(&job.record);
    record.status = Status::Succeeded;
    record.ended_at = Some(at(9));
    record.returned = Some(Json::parse("1".to_owned()).unwrap());
    Finish::Done(record.into())
}

async fn recover(queue: &impl Queue, now: SystemTime) -> (Vec<Arc<Record>>, usize) {
    let recovered = queue.recover(now, failure(Code::Internal), failure(Code::Timeout)).await.unwrap();
    (recovered.ended, recovered.requeued)
}

pub(crate) async fn an_id_or_a_key_is_taken_once(nodes: &impl Nodes) {
    let queue = nodes.node();
    let key = || Some(Key("k".to_owned()));
    assert!(matches!(queue.enqueue(record("a").into(), key()).await.unwrap(), Enqueued::New));
    for (again, key) in [("a", None), ("b", key())] {
        let known = match queue.enqueue(record(again).into(), key).await.unwrap() {
            Enqueued::Known(known) => known,
            Enqueued::New => panic!("{again} is new"),
        };
        assert_eq!(known.id.as_str(), "a");
    }
    assert_eq!(ids(&claim(&queue, 9, at(0)).await), ["a"]);
}

pub(crate) async fn the_urgent_go_first_and_then_the_oldest(nodes: &impl Nodes) {
    let queue = nodes.node();
    for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)] {
        put(&queue, with_order(name, |order| order.priority = priority)).await;
    }
    assert_eq!(ids(&claim(&queue, 3, at(0)).await), ["b", "d", "a"]);
    assert_eq!(ids(&claim(&queue, 3, at(0)).await), ["c", "e"]);
    assert_eq!(ids(&claim(&queue, 3, at(0)).await), [""; 0]);
}

pub(crate) async fn no_lane_gets_more_than_it_wants_nor_all_more_than_the_bound(nodes: &impl Nodes) {
    let queue = nodes.node();
    for name in ["a", "b", "c"] {
        put(&queue, record(name)).await;
    }
    for name in ["x", "y"] {
        put(&queue, queued_record(name, "g")).await;
    }
    let wants = vec![want("f", 2), want("g", 2), want("h", 2)];
    let claimed = queue.claim(wants, 3, at(0), at(30)).await.unwrap();
    assert_eq!(ids(&claimed.jobs), ["a", "b", "x"]);
    let got: Vec<_> = claimed.got.iter().map(|got| (got.claimed, got.has_more, got.next_at)).collect();
    assert_eq!(got, [(2, true, None), (1, true, None), (0, false, None)]);
    let depths = queue.depths().await.unwrap();
    let depths: Vec<_> = depths.iter().map(|(lane, count)| (lane.as_str(), *count)).collect();
    assert_eq!(depths, [("f", 1), ("g", 1)]);
}

pub(crate) async fn a_result_is_written_once(nodes: &impl Nodes) {
    let (queue, other) = (nodes.node(), nodes.node());
    put(&queue, record("a")).await;
    let job = claim(&queue, 1, at(0)).await.remove(0);
    assert_eq!(job.claim.attempt, 1);
    assert!(!other.finish(&job.claim, done(&job)).await.unwrap(), "it is not theirs");
    assert!(queue.finish(&job.claim, done(&job)).await.unwrap());
    assert!(!queue.finish(&job.claim, done(&job)).await.unwrap(), "it is over");
    assert_eq!(recover(&queue, at(1000)).await.1, 0);
    assert!(claim(&queue, 1, at(1000)).await.is_empty());
}

pub(crate) async fn a_claim_that_ran_out_is_anothers(nodes: &impl Nodes) {
    let queue = nodes.node();
    put(&queue, record("a")).await;
    let first = claim(&queue, 1, at(0)).await.remove(0);
    assert_eq!(recover(&queue, at(29)).await.1, 0);
    queue.extend(at(40)).await.unwrap();
    assert_eq!(recover(&queue, at(39)).await.1, 0, "it was prolonged");
    assert_eq!(recover(&queue, at(40)).await.1, 1);
    let second = claim(&queue, 1, at(40)).await.remove(0);
    assert_eq!(second.claim.attempt, 2);
    assert!(!queue.finish(&first.claim, done(&first)).await.unwrap());
    assert!(queue.finish(&second.claim, done(&second)).await.unwrap());
}

pub(crate) async fn one_that_waits_for_its_time_is_not_claimed_before(nodes: &impl Nodes) {
    let queue = nodes.node();
    put(&queue, record("a")).await;
    let job = claim(&queue, 1, at(0)).await.remove(0);
    let later = Finish::Requeue { at: at(10), counts: true };
    assert!(queue.finish(&job.claim, later).await.unwrap());
    let claimed = queue.claim(vec![want("f", 1)], 1, at(9), at(99)).await.unwrap();
    assert!(claimed.jobs.is_empty());
    assert_eq!(claimed.got[0].next_at, Some(at(10)));
    let job = claim(&queue, 1, at(10)).await.remove(0);
    assert_eq!(job.claim.attempt, 2);
    let free = Finish::Requeue { at: at(10), counts: false };
    assert!(queue.finish(&job.claim, free).await.unwrap());
    assert_eq!(claim(&queue, 1, at(10)).await.remove(0).claim.attempt, 2, "that one did not count");
}

pub(crate) async fn one_without_attempts_left_is_dead_until_it_is_redriven(nodes: &impl Nodes) {
    let queue = nodes.node();
    put(&queue, with_order("a", |order| order.attempts_max = 2)).await;
    for attempt in 1..=2 {
        let now = u64::from(attempt) * 30;
        assert_eq!(claim(&queue, 1, at(now)).await.remove(0).claim.attempt, attempt);
        let (ended, requeued) = recover(&queue, at(now + 30)).await;
        assert_eq!((ended.len(), requeued), if attempt == 1 { (0, 1) } else { (1, 0) });
        if let [ended] = &*ended {
            assert_eq!(
                (ended.status, ended.failure.clone()),
                (Status::Failed, Some(failure(Code::Internal)))
            );
            assert!(ended.order.as_ref().unwrap().is_dead);
        }
    }
    assert_eq!(queue.redrive(Which::One(id("b")), at(99)).await.unwrap(), 0);
    assert_eq!(queue.redrive(Which::Lane(FunctionName::parse("f").unwrap()), at(99)).await.unwrap(), 1);
    assert_eq!(queue.redrive(Which::All, at(99)).await.unwrap(), 0, "it is not dead any more");
    let job = claim(&queue, 1, at(99)).await.remove(0);
    assert_eq!((job.claim.attempt, &job.record.failure), (1, &None));
}

pub(crate) async fn a_cancellation_holds_at_every_stage(nodes: &impl Nodes) {
    let queue = nodes.node();
    assert!(matches!(queue.cancel(&id("a"), at(0)).await.unwrap(), Cancel::Absent));
    put(&queue, record("a")).await;
    match queue.cancel(&id("a"), at(1)).await.unwrap() {
        Cancel::Waiting(record) => {
            assert_eq!((record.status, record.ended_at), (Status::Canceled, Some(at(1))))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(queue.cancel(&id("a"), at(2)).await.unwrap(), Cancel::Ended));
    put(&queue, record("b")).await;
    let job = claim(&queue, 1, at(0)).await.remove(0);
    assert!(matches!(queue.cancel(&id("b"), at(1)).await.unwrap(), Cancel::Running));
    // Its run goes back to the queue, as when its node stops: the next one knows.
    assert!(queue.finish(&job.claim, Finish::Requeue { at: at(1), counts: false }).await.unwrap());
    let job = claim(&queue, 1, at(1)).await.remove(0);
    assert!(job.is_canceled);
    // Its node ends: nobody runs it again.
    let (ended, requeued) = recover(&queue, at(31)).await;
    assert_eq!((ended.len(), ended[0].status, requeued), (1, Status::Canceled, 0));
}

pub(crate) async fn one_that_waits_beyond_its_deadline_fails(nodes: &impl Nodes) {
    let queue = nodes.node();
    put(&queue, with_order("a", |order| order.deadline = Some(at(5)))).await;
    assert_eq!(recover(&queue, at(4)).await.0.len(), 0);
    let (ended, _) = recover(&queue, at(5)).await;
    assert_eq!(ended[0].failure, Some(failure(Code::Timeout)));
    assert!(!ended[0].order.as_ref().unwrap().is_dead, "trying again would not help");
    assert!(claim(&queue, 1, at(5)).await.is_empty());
}

pub(crate) async fn what_a_node_that_is_gone_ran_is_run_again(nodes: &impl Nodes) {
    let old = nodes.node();
    for name in ["a", "b"] {
        put(&old, record(name)).await;
    }
    assert_eq!(ids(&claim(&old, 1, at(0)).await), ["a"]);
    let new = nodes.node();
    assert_eq!(recover(&new, at(31)).await.1, 1);
    assert_eq!(ids(&claim(&new, 9, at(31)).await), ["a", "b"]);
}
