//! A prediction in the service's own dialect.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use dormouse_engine::{Phase, Tier};
use dormouse_runtime::{Event, Wake};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Error, functions::rfc3339, sse, timing::Timing};
use crate::prediction::{Failure, Item, Json as Raw, Record, millis};

/// What an invocation URL answers: how a prediction ended.
struct Brief<'a>(&'a Record);

impl Serialize for Brief<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = to.serialize_map(None)?;
        if let Some(failure) = &record.failure {
            map.serialize_entry("error", failure)?;
        }
        map.serialize_entry("id", &record.id)?;
        map.serialize_entry("status", &record.status)?;
        if let (Some(output), None) = (record.output(), &record.failure) {
            map.serialize_entry("output", &output)?;
        }
        map.serialize_entry("logs", &record.logs())?;
        if let Some(metrics) = &record.metrics {
            map.serialize_entry("metrics", metrics)?;
        }
        map.end()
    }
}

/// The answer to an invocation that has ended.
pub(super) fn brief(record: &Record) -> Response {
    let response = match &record.failure {
        Some(failure) => Error::from(failure.clone()).response(Brief(record)),
        None => Json(Brief(record)).into_response(),
    };
    Timing::of_record(record).tell(response)
}

/// Writes what a prediction tells as events with numbers, those up to `after` left out.
pub(super) fn events(after: u64) -> impl FnMut(&Item) -> String + Send + 'static {
    #[derive(Serialize)]
    struct Progress<'a> {
        fraction: f32,
        note: &'a str,
    }
    let (mut id, mut runs) = (0, 0);
    move |item| {
        let (name, data) = match item {
            Item::Started => {
                runs += 1;
                match runs {
                    1 => return String::new(),
                    _ => ("restart", "{}".to_owned()),
                }
            }
            Item::Event(event) => match &**event {
                Event::Output(json) => ("output", sse::one_line(json)),
                Event::Log(line) => ("log", sse::json(line)),
                Event::Progress { fraction, note } => {
                    ("progress", sse::json(&Progress { fraction: *fraction, note }))
                }
                Event::Wake(wake) => ("wake", sse::json(&WakeDocument::of(wake))),
            },
            Item::Ended(record) if record.failure.is_some() => ("error", sse::json(&Brief(record))),
            Item::Ended(record) => ("done", sse::json(&Brief(record))),
        };
        id += 1;
        match id > after {
            true => sse::event(name, Some(id), &data),
            false => String::new(),
        }
    }
}

/// How far a model's wake is, to whoever waits for it.
#[derive(Debug, Serialize)]
pub(super) struct WakeDocument<'a> {
    model: &'a str,
    phase: Phase,
    from: Tier,
    bytes: u64,
    bytes_total: u64,
    /// As far as it is known from the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<f64>,
}

impl<'a> WakeDocument<'a> {
    pub(super) fn of(wake: &'a Wake) -> Self {
        Self {
            model: &wake.model,
            phase: wake.phase,
            from: wake.from,
            bytes: wake.bytes,
            bytes_total: wake.bytes_total,
            remaining_ms: wake.remaining.map(millis),
        }
    }
}

/// All that is known of a prediction.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    id: String,
    function: String,
    revision: String,
    status: crate::prediction::Status,
    input: Raw,
    output: Option<Raw>,
    logs: String,
    error: Option<Failure>,
    metrics: Option<Box<crate::prediction::Metrics>>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueDocument>,
    urls: Urls,
}

/// How the queue treats a prediction.
#[derive(Debug, Serialize)]
struct QueueDocument {
    priority: i32,
    deadline: Option<String>,
    attempts: u32,
    attempts_max: u32,
    dead: bool,
}

#[derive(Debug, Serialize)]
struct Urls {
    get: String,
    cancel: String,
    events: String,
}

impl Document {
    /// `base` is what stands before the paths of this service's URLs.
    pub(super) fn of(record: &Record, base: &str) -> Self {
        let path = format!("{base}/v1/predictions/{}", record.id);
        Self {
            id: record.id.to_string(),
            function: record.function.to_string(),
            revision: record.revision.to_string(),
            status: record.status,
            input: record.input.clone(),
            output: record.output(),
            logs: record.logs(),
            error: record.failure.clone(),
            metrics: record.metrics.clone(),
            created_at: rfc3339(record.created_at),
            started_at: record.started_at.map(rfc3339),
            completed_at: record.ended_at.map(rfc3339),
            queue: record.order.as_ref().map(|order| QueueDocument {
                priority: order.priority,
                deadline: order.deadline.map(rfc3339),
                attempts: order.attempt,
                attempts_max: order.attempts_max,
                dead: order.is_dead,
            }),
            urls: Urls { cancel: format!("{path}/cancel"), events: format!("{path}/events"), get: path },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_runtime::{Level, LogLine, LogSource};

    use super::*;
    use crate::{
        http::Code,
        prediction::{Status, queued_record},
    };

    fn all(items: &[Item], after: u64) -> String {
        items.iter().map(events(after)).collect()
    }

    fn event(event: Event) -> Item {
        Item::Event(event.into())
    }

    #[test]
    fn events_have_names_numbers_and_json() {
        let line = LogLine { source: LogSource::Log, level: Level::Info, message: "m".to_owned() };
        let items = [
            Item::Started,
            event(Event::Output("\"a\"".to_owned())),
            event(Event::Log(line)),
            event(Event::Progress { fraction: 0.5, note: "half".to_owned() }),
        ];
        let log = r#"{"source":"log","level":"info","message":"m"}"#;
        let expected = format!(
            "event: output\nid: 1\ndata: \"a\"\n\nevent: log\nid: 2\ndata: {log}\n\n\
             event: progress\nid: 3\ndata: {{\"fraction\":0.5,\"note\":\"half\"}}\n\n"
        );
        assert_eq!(all(&items, 0), expected);
        assert!(all(&items, 2).starts_with("event: progress\nid: 3\n"));
    }

    #[test]
    fn another_run_is_told_and_the_end_says_how() {
        let mut record = queued_record("a", "f");
        record.status = Status::Failed;
        record.failure = Some(Failure { code: Code::PredictorFailed, message: "no".to_owned() });
        let text = all(&[Item::Started, Item::Started, Item::Ended(Arc::new(record))], 0);
        let error =
            r#"{"error":{"code":"predictor_failed","message":"no"},"id":"a","status":"failed","logs":""}"#;
        let expected = format!("event: restart\nid: 1\ndata: {{}}\n\nevent: error\nid: 2\ndata: {error}\n\n");
        assert_eq!(text, expected);
    }
}
