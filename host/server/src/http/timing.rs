//! Where a request's time went, as every dialect tells it: a header when its answer begins, and comments
//! of an event stream while a model wakes.
//!
//! The header is <https://www.w3.org/TR/server-timing/>, in milliseconds: `queue`, `cold` (the
//! component's code), `wake` (the model; its description is the tier that it was woken from), and what
//! else is known by then. Clients of other dialects take every event for a part of the answer, so there a
//! wake is told in comments, which the format has for whoever cares to look: `: wake {"phase": …}`.

use std::{fmt::Write, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use dormouse_engine::{Model, Tier, Usage};
use dormouse_runtime::Wake;

use super::{answer::WakeDocument, sse};
use crate::prediction::{Prediction, Record, millis};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What a header tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::http) struct Timing(String);

impl Timing {
    /// Of a prediction that has ended; nothing when it didn't run.
    pub(in crate::http) fn of_record(record: &Record) -> Self {
        let Some(metrics) = &record.metrics else { return Self::default() };
        Self::default()
            .part("queue", metrics.queue_ms)
            .part("cold", metrics.cold_start_ms)
            .wake(metrics.wake_ms, metrics.tier)
            .part("setup", metrics.setup_ms)
            .part("predict", metrics.predict_ms)
            .part("total", metrics.total_ms)
    }

    /// Of a prediction that begins.
    pub(in crate::http) fn of_start(prediction: &Prediction) -> Self {
        let (queue, cold) = prediction.waited();
        Self::default().part("queue", millis(queue)).part("cold", millis(cold))
    }

    /// Of a model that is awake.
    pub(in crate::http) fn of_model(model: &Model) -> Self {
        Self::of_wake(model.wake(), Some(model.woken_from()))
    }

    /// Of a wake, if anything was woken.
    pub(in crate::http) fn of_wake(wake: Duration, from: Option<Tier>) -> Self {
        Self::default().wake(millis(wake), from)
    }

    /// Of a completion that has ended.
    pub(in crate::http) fn of_usage(usage: &Usage) -> Self {
        Self::of_wake(usage.wake, Some(usage.woken_from))
            .part("queue", millis(usage.queue))
            .part("prefill", millis(usage.prefill))
            .part("decode", millis(usage.decode))
    }

    /// Tells it with an answer.
    pub(in crate::http) fn tell(self, mut response: Response) -> Response {
        if !self.0.is_empty() {
            let timing = HeaderValue::try_from(self.0).expect("names and numbers fit a header");
            response.headers_mut().insert(SERVER_TIMING, timing);
        }
        response
    }

    fn wake(self, millis: f64, from: Option<Tier>) -> Self {
        let Some(from) = from else { return self };
        let mut timing = self.part("wake", millis);
        write!(timing.0, ";desc={from}").expect("a string takes all");
        timing
    }

    fn part(mut self, name: &str, millis: f64) -> Self {
        let comma = if self.0.is_empty() { "" } else { ", " };
        write!(self.0, "{comma}{name};dur={millis}").expect("a string takes all");
        self
    }
}

/// How far a wake is, as a comment of an event stream.
pub(in crate::http) fn comment(wake: &Wake) -> String {
    format!(": wake {}\n\n", sse::json(&WakeDocument::of(wake)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use dormouse_engine::Phase;

    use super::*;
    use crate::prediction::{Metrics, queued_record};

    #[test]
    fn a_header_tells_the_parts_in_order_and_the_tier() {
        let mut record = queued_record("a", "f");
        assert_eq!(Timing::of_record(&record), Timing::default());
        let metrics = Metrics { wake_ms: 1.5, tier: Some(Tier::Disk), total_ms: 4.0, ..Metrics::default() };
        record.metrics = Some(Box::new(metrics));
        let answer = Timing::of_record(&record).tell(Response::new(Body::empty()));
        let expected =
            "queue;dur=0, cold;dur=0, wake;dur=1.5;desc=disk, setup;dur=0, predict;dur=0, total;dur=4";
        assert_eq!(answer.headers()[SERVER_TIMING], expected);
        let usage = Usage { woken_from: Tier::Cold, wake: Duration::from_millis(2), ..Usage::default() };
        let expected = "wake;dur=2;desc=cold, queue;dur=0, prefill;dur=0, decode;dur=0";
        assert_eq!(Timing::of_usage(&usage).0, expected);
        let nothing = Timing::default().tell(Response::new(Body::empty()));
        assert!(nothing.headers().is_empty());
    }

    #[test]
    fn a_comment_is_one_line_that_no_client_takes_for_an_event() {
        let (model, phase, from) = ("a\n\nb".to_owned(), Phase::Reading, Tier::Disk);
        let wake = Wake { model, phase, from, bytes: 1, bytes_total: 2, remaining: None };
        let expected =
            r#": wake {"model":"a\n\nb","phase":"reading","from":"disk","bytes":1,"bytes_total":2}"#;
        assert_eq!(comment(&wake), format!("{expected}\n\n"));
    }
}
