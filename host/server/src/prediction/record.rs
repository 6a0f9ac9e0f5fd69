//! What is known of a prediction, from its creation to its end.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dormouse_engine::{KeepAlive, Tier};
use dormouse_runtime::{Event, LogLine};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, value::RawValue};

use super::{PredictionId, Submission};
use crate::{
    config,
    dispatch::ColdStart,
    function::{FunctionName, RevisionId},
    http::Code,
    webhook::Webhook,
};

/// A prediction as its caller may see it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: PredictionId,
    pub(crate) function: FunctionName,
    pub(crate) revision: RevisionId,
    pub(crate) status: Status,
    pub(crate) created_at: SystemTime,
    /// When it last got a place to run in.
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) ended_at: Option<SystemTime>,
    /// As the caller gave it, defaults not filled in.
    pub(crate) input: Json,
    /// What it has told so far, in order.
    pub(crate) events: Vec<Arc<Event>>,
    /// What `predict` returned.
    pub(crate) returned: Option<Json>,
    pub(crate) failure: Option<Failure>,
    pub(crate) metrics: Option<Box<Metrics>>,
    /// How the queue is to treat it; `None` for one whose caller holds a connection open for it.
    pub(crate) order: Option<Order>,
    /// Whom to tell what becomes of it.
    pub(crate) webhook: Option<Box<Webhook>>,
    /// What the dialect that created it wants back, null if nothing.
    pub(crate) memo: Value,
}

/// How far a prediction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Queued,
    Running,
    Succeeded,
    Failed,
    /// Someone said so, its caller went away, or the node stopped.
    Canceled,
}

/// How the queue treats a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The higher goes first within its function.
    pub(crate) priority: i32,
    /// When it fails unless it has ended before.
    #[serde(skip)]
    pub(crate) deadline: Option<SystemTime>,
    /// Runs that have begun.
    #[serde(skip)]
    pub(crate) attempt: u32,
    /// Runs that may begin.
    pub(crate) attempts_max: u32,
    /// Whether the predictor's own failures are tried again, not only the node's.
    pub(crate) retries_failures: bool,
    /// How long models stay awake after it, if its caller says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive_ms: Option<u64>,
    /// It ran out of attempts and waits for someone to look at it.
    #[serde(skip)]
    pub(crate) is_dead: bool,
}

impl Order {
    /// Of a prediction that has not run yet.
    pub(crate) fn new(
        submission: &Submission,
        keep_alive: Option<KeepAlive>,
        bounds: &config::Queue,
    ) -> Self {
        let attempts_max = submission.attempts_max.unwrap_or(bounds.attempts);
        let keep_alive_ms = keep_alive.map(|keep_alive| match keep_alive {
            KeepAlive::Exactly(time) | KeepAlive::AtLeast(time) => {
                time.as_millis().try_into().unwrap_or(u64::MAX)
            }
        });
        Self {
            priority: submission.priority,
            deadline: submission.deadline,
            attempt: 0,
            attempts_max: attempts_max.clamp(1, bounds.attempts_max.max(1)),
            retries_failures: submission.retries_failures,
            keep_alive_ms,
            is_dead: false,
        }
    }

    /// How long models stay awake after it, if its caller says.
    pub(crate) fn keep_alive(&self) -> Option<KeepAlive> {
        self.keep_alive_ms.map(|ms| KeepAlive::Exactly(Duration::from_millis(ms)))
    }
}

/// Why a prediction failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// What a prediction cost. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Metrics {
    pub(crate) queue_ms: f64,
    pub(crate) cold_start: ColdStart,
    pub(crate) cold_start_ms: f64,
    pub(crate) instantiate_ms: f64,
    pub(crate) setup_ms: f64,
    pub(crate) predict_ms: f64,
    /// From the request's arrival to its answer.
    pub(crate) total_ms: f64,
    pub(crate) memory_bytes: usize,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) wake_ms: f64,
    /// The deepest tier that a model was woken from; absent when it opened none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tier: Option<Tier>,
    pub(crate) device_ms: f64,
    /// What the predictor recorded itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) custom: BTreeMap<String, f64>,
}

impl Record {
    /// Whether nothing will come any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.status.is_ended()
    }

    /// Elements that it emitted, as JSON.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match &**event {
            Event::Output(element) => Some(element.as_str()),
            _ => None,
        })
    }

    /// Its output so far.
    pub(crate) fn output(&self) -> Option<Json> {
        output(self.returned.as_ref(), self.elements())
    }

    /// Its log lines so far, each with its end.
    pub(crate) fn logs(&self) -> String {
        self.events.iter().fold(String::new(), |mut logs, event| {
            if let Event::Log(LogLine { message, .. }) = &**event {
                logs.push_str(message);
                logs.push('\n');
            }
            logs
        })
    }

    /// From start to end, zero when it never ran.
    pub(crate) fn took(&self) -> Duration {
        match &self.metrics {
            Some(metrics) => {
                let ran = metrics.instantiate_ms + metrics.setup_ms + metrics.predict_ms;
                Duration::try_from_secs_f64(ran / 1e3).unwrap_or_default()
            }
            None => {
                self.started_at.zip(self.ended_at).map_or(Duration::ZERO, |(start, end)| between(start, end))
            }
        }
    }

    /// From its making to its end.
    pub(crate) fn total(&self) -> Option<Duration> {
        self.ended_at.map(|end| between(self.created_at, end))
    }
}

/// Time between moments in whole milliseconds, as they are kept: a record tells the same from memory and disk.
fn between(start: SystemTime, end: SystemTime) -> Duration {
    let millis = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Duration::from_millis(millis(end).saturating_sub(millis(start)).try_into().unwrap_or(u64::MAX))
}

/// A prediction's output: what `predict` returned, or the list of what it emitted where that is `null`.
pub(crate) fn output<'a>(returned: Option<&Json>, elements: impl Iterator<Item = &'a str>) -> Option<Json> {
    let is_null = returned.is_none_or(Json::is_null);
    let mut elements = elements.peekable();
    match (is_null, elements.peek()) {
        (true, Some(_)) => Some(Json::list(elements)),
        _ => returned.cloned(),
    }
}

impl Status {
    pub(crate) fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is known to be JSON; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Json(Arc<RawValue>);

impl Json {
    /// Takes a text that is JSON already.
    pub(crate) fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(|raw| Self(raw.into()))
    }

    /// A value's text.
    pub(crate) fn of(value: &Value) -> Self {
        Self(serde_json::value::to_raw_value(value).expect("a value is JSON").into())
    }

    /// A list of texts that are JSON.
    pub(crate) fn list<'a>(elements: impl Iterator<Item = &'a str>) -> Self {
        let mut text = "[".to_owned();
        for (index, element) in elements.enumerate() {
            text.push_str(if index > 0 { "," } else { "" });
            text.push_str(element);
        }
        text.push(']');
        Self::parse(text).expect("a list of JSON is JSON")
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.get()
    }

    pub(crate) fn to_value(&self) -> Value {
        serde_json::from_str(self.as_str()).expect("it is JSON")
    }

    pub(super) fn is_null(&self) -> bool {
        self.as_str().trim_ascii() == "null"
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// Milliseconds to the microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use dormouse_runtime::{Level, LogSource};

    use super::*;
    use crate::function::{Digest, Settings};

    /// A queued prediction of a function.
    pub(crate) fn queued(id: &str, function: &str) -> Record {
        Record {
            id: PredictionId::parse(id).unwrap(),
            function: FunctionName::parse(function).unwrap(),
            revision: RevisionId::of(&Digest::of(b""), &Settings::default()),
            status: Status::Queued,
            created_at: SystemTime::UNIX_EPOCH,
            started_at: None,
            ended_at: None,
            input: Json::parse("{}".to_owned()).unwrap(),
            events: Vec::new(),
            returned: None,
            failure: None,
            metrics: None,
            order: Some(Order::new(&Submission::default(), None, &config::Queue::default())),
            webhook: None,
            memo: Value::Null,
        }
    }

    pub(crate) fn log(message: &str) -> Event {
        Event::Log(LogLine { source: LogSource::Log, level: Level::Info, message: message.to_owned() })
    }

    #[track_caller]
    fn check(elements: &[&str], returned: Option<&str>, expected: Option<&str>) {
        let mut record = queued("a", "f");
        record.events = elements.iter().map(|json| Event::Output((*json).to_owned()).into()).collect();
        record.returned = returned.map(|text| Json::parse(text.to_owned()).unwrap());
        assert_eq!(record.output().as_ref().map(Json::as_str), expected);
    }

    #[test]
    fn the_output_is_what_was_returned_or_else_emitted() {
        check(&[], None, None);
        check(&[], Some("1"), Some("1"));
        check(&[], Some("null"), Some("null"));
        check(&["1", "\"a\""], None, Some("[1,\"a\"]"));
        check(&["1"], Some(" null "), Some("[1]"));
        check(&["1"], Some("2"), Some("2"));
    }

    #[test]
    fn logs_are_lines() {
        let mut record = queued("a", "f");
        record.events = vec![log("one").into(), Event::Output("1".to_owned()).into(), log("two").into()];
        assert_eq!(record.logs(), "one\ntwo\n");
    }
}
