//! The queue's contract, and what the records are.

use std::{path::Path, time::UNIX_EPOCH};

use dormouse_runtime::Event;
use tempfile::TempDir;

use super::*;
use crate::{
    Config,
    http::{Code, Dialect},
    prediction::{Json, Metrics, queued_record},
    queue::conformance::{self, Nodes},
    webhook::{self, Webhook},
};

/// A store and its folder; every node has an owner of its own.
struct Shared(Store, Config, #[expect(dead_code, reason = "removed when dropped")] TempDir);

impl Shared {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        Self(open(dir.path()), config, dir)
    }
}

impl Nodes for Shared {
    type Queue = Predictions;

    fn node(&self) -> Predictions {
        Predictions::new(self.0.clone(), &self.1)
    }
}

fn open(dir: &Path) -> Store {
    Store::open(Arc::new(Config::new(dir))).unwrap()
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $name() {
            conformance::$name(&Shared::new()).await;
        }
    )*};
}

contract!(
    an_id_or_a_key_is_taken_once,
    the_urgent_go_first_and_then_the_oldest,
    no_lane_gets_more_than_it_wants_nor_all_more_than_the_bound,
    a_result_is_written_once,
    a_claim_that_ran_out_is_anothers,
    one_that_waits_for_its_time_is_not_claimed_before,
    one_without_attempts_left_is_dead_until_it_is_redriven,
    a_cancellation_holds_at_every_stage,
    one_that_waits_beyond_its_deadline_fails,
    what_a_node_that_is_gone_ran_is_run_again,
);

fn predictions(change: impl FnOnce(&mut config::Queue)) -> (Predictions, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    change(&mut config.queue);
    (Predictions::new(open(dir.path()), &config), dir)
}

/// One that ended, with something in every field.
fn ended(id: &str, second: u64) -> Record {
    let at = UNIX_EPOCH + Duration::from_secs(second);
    let mut record = queued_record(id, "f");
    record.status = Status::Failed;
    (record.created_at, record.started_at, record.ended_at) = (at, Some(at), Some(at));
    record.input = Json::parse(r#"{"a":"\u2028"}"#.to_owned()).unwrap();
    let line = dormouse_runtime::LogLine {
        source: dormouse_runtime::LogSource::Stderr,
        level: dormouse_runtime::Level::Warn,
        message: "line \"1\"".to_owned(),
    };
    let progress = Event::Progress { fraction: 0.25, note: "a".to_owned() };
    let output = Event::Output("{\"b\": [1]}".to_owned());
    record.events = [output, Event::Log(line), progress].into_iter().map(Arc::new).collect();
    record.returned = Some(Json::parse("null".to_owned()).unwrap());
    record.failure = Some(Failure { code: Code::PredictorTrapped, message: "unreachable".to_owned() });
    let custom = [("tokens".to_owned(), 1.5)].into();
    record.metrics = Some(Box::new(Metrics { predict_ms: 0.25, custom, ..Metrics::default() }));
    record.webhook = Some(Box::new(Webhook {
        url: "http://127.0.0.1/".to_owned(),
        events: vec![webhook::Event::Start],
        dialect: Dialect::Cog,
        base: String::new(),
        headers: vec![("traceparent".to_owned(), "00-1".to_owned())],
    }));
    record.memo = serde_json::json!({"dialect": "cog"});
    record
}

#[tokio::test]
async fn a_record_reads_back_as_it_was() {
    let (predictions, _dir) = predictions(|_| {});
    let record = ended("a", 7);
    predictions.keep(vec![record.clone().into()]).await.unwrap();
    let found = predictions.find(&record.id).await.unwrap().unwrap();
    assert_eq!(format!("{found:?}"), format!("{record:?}"));
    assert!(predictions.find(&PredictionId::parse("b").unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn one_of_the_same_id_gives_way() {
    let (predictions, _dir) = predictions(|_| {});
    predictions.keep(vec![ended("a", 7).into(), ended("a", 8).into()]).await.unwrap();
    let page = predictions.list(Filter { limit: 9, ..Filter::default() }).await.unwrap();
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.records[0].created_at, UNIX_EPOCH + Duration::from_secs(8));
}

async fn pages(predictions: &Predictions, filter: Filter) -> Vec<Vec<String>> {
    let (mut pages, mut before) = (Vec::new(), None);
    loop {
        let page = predictions.list(Filter { before, ..filter.clone() }).await.unwrap();
        pages.push(page.records.iter().map(|record| record.id.to_string()).collect());
        match page.next {
            Some(next) => before = Some(next),
            None => return pages,
        }
    }
}

#[tokio::test]
async fn pages_are_newest_first_and_none_is_missed() {
    let (predictions, _dir) = predictions(|config| config.page_max = 3);
    let records = ["a", "b", "c", "d", "e"].map(|id| ended(id, 7).into());
    predictions.keep(records.to_vec()).await.unwrap();
    let limit = |limit| Filter { limit, ..Filter::default() };
    assert_eq!(pages(&predictions, limit(2)).await, [vec!["e", "d"], vec!["c", "b"], vec!["a"]]);
    assert_eq!(pages(&predictions, limit(99)).await, [vec!["e", "d", "c"], vec!["b", "a"]]);
    let function = FunctionName::parse("g").ok();
    assert_eq!(pages(&predictions, Filter { function, ..limit(2) }).await, [[""; 0]]);
    let since = Some(UNIX_EPOCH + Duration::from_secs(8));
    assert_eq!(pages(&predictions, Filter { since, ..limit(2) }).await, [[""; 0]]);
    assert_eq!(pages(&predictions, Filter { status: Some(Status::Queued), ..limit(2) }).await, [[""; 0]]);
}

#[tokio::test]
async fn a_page_ends_where_its_bytes_do() {
    let (predictions, _dir) = predictions(|config| config.page_bytes_max = 2500);
    let records = ["a", "b", "c", "d", "e"].map(|id| ended(id, 7).into());
    predictions.keep(records.to_vec()).await.unwrap();
    let limit = Filter { limit: 9, ..Filter::default() };
    assert_eq!(pages(&predictions, limit).await, [vec!["e", "d"], vec!["c", "b"], vec!["a"]]);
}

#[tokio::test]
async fn what_is_kept_long_enough_or_is_too_much_goes_oldest_first() {
    let (predictions, _dir) = predictions(|config| {
        config.keep = Duration::from_secs(10);
        config.kept_bytes_max = 2500;
    });
    let records = ["a", "b", "c", "d"].into_iter().zip(1..).map(|(id, second)| ended(id, second).into());
    predictions.keep(records.collect()).await.unwrap();
    let queued = queued_record("waits", "f");
    predictions.enqueue(queued.into(), None).await.unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(11);
    let mut removed = 0;
    while let count @ 1.. = predictions.sweep(now).await.unwrap() {
        removed += count;
    }
    assert_eq!(removed, 2, "one for its age, one for its bytes");
    let all = Filter { limit: 9, ..Filter::default() };
    assert_eq!(pages(&predictions, all).await, [["waits", "d", "c"]]);
}

#[tokio::test]
async fn what_waits_for_a_function_is_canceled_with_it() {
    let (predictions, _dir) = predictions(|_| {});
    for (id, function) in [("a", "f"), ("b", "g")] {
        predictions.enqueue(queued_record(id, function).into(), None).await.unwrap();
    }
    let canceled = predictions.cancel_all(&FunctionName::parse("f").unwrap(), UNIX_EPOCH).await.unwrap();
    assert_eq!(canceled.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["a"]);
    let depths = predictions.depths().await.unwrap();
    assert_eq!(depths.len(), 1);
}
