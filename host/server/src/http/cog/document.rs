//! What Cog's clients are answered.

use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{
    super::{Code, Dialect, Error, timing::Timing},
    status,
};
use crate::{function::Problem, prediction::Record};

/// A prediction as it is now.
pub(in super::super) fn snapshot(record: &Record) -> Value {
    let mut document = json!({
        "id": record.id,
        "status": status(record.status),
        "logs": record.logs(),
        "metrics": metrics(record),
    });
    if let (Some(output), None) = (record.output(), &record.failure) {
        document["output"] = output.to_value();
    }
    if let Some(failure) = record.failure.as_ref().filter(|failure| failure.code != Code::Cancelled) {
        document["error"] = failure.message.clone().into();
    }
    document
}

/// A prediction as it is now, with what it was given.
pub(super) fn with_input(record: &Record) -> Value {
    let mut document = snapshot(record);
    document["input"] = record.input.to_value();
    document
}

fn metrics(record: &Record) -> Value {
    let mut all = Map::new();
    if let Some(metrics) = &record.metrics {
        all.extend(metrics.custom.iter().map(|(name, value)| (name.clone(), json!(value))));
    }
    if record.is_ended() {
        all.insert("predict_time".to_owned(), json!(record.took().as_secs_f64()));
    }
    all.into()
}

/// A prediction that has ended: its failure is data, not an error of HTTP.
pub(super) fn ended(record: &Record) -> Response {
    Timing::of_record(record).tell(axum::Json(snapshot(record)).into_response())
}

/// A prediction that goes on.
pub(super) fn accepted(document: &Value) -> Response {
    super::super::error::accepted(document)
}

/// A request that came to nothing.
pub(super) fn error(error: Error) -> Response {
    let body = match error.code {
        Code::InvalidInput => json!({"detail": error.details().iter().map(detail).collect::<Vec<_>>()}),
        Code::Overloaded => json!({"error": "At capacity - all prediction slots busy", "status": "failed"}),
        Code::Conflict | Code::Draining => json!({"error": error.message, "status": "failed"}),
        Code::NotAcceptable => json!({"error": error.message}),
        // As frameworks say it, in plain text.
        Code::InvalidRequest | Code::UnsupportedMediaType => return error.plain(Dialect::Cog),
        _ => return error.into_response(),
    };
    error.response_in(Dialect::Cog, body)
}

/// A problem the way Cog tells it: the place within the input is one step.
fn detail(problem: &Problem) -> Value {
    let is_input = problem.loc.iter().take(2).map(ToString::to_string).eq(["body", "input"]);
    let (msg, kind) = match &*problem.msg {
        "field required" => ("Field required", "value_error.missing"),
        _ => (problem.full.as_deref().unwrap_or(&problem.msg), "value_error"),
    };
    let loc = match is_input {
        false => json!(problem.loc),
        true => {
            let rest: Vec<_> = problem.loc[2..].iter().map(ToString::to_string).collect();
            let field = if rest.is_empty() { "__root__".to_owned() } else { rest.join("/") };
            json!(["body", "input", field])
        }
    };
    json!({"loc": loc, "msg": msg, "type": kind})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dormouse_runtime::Event;

    use super::*;
    use crate::prediction::{Failure, Json, Metrics, Status, queued_record};

    fn record(status: Status) -> Record {
        let mut record = queued_record("a", "f");
        record.status = status;
        record
    }

    #[test]
    fn a_prediction_that_runs_has_what_it_has_said_so_far() {
        let mut record = record(Status::Running);
        record.events = vec![Arc::new(Event::Output("\"x\"".to_owned()))];
        let expected = json!({"id": "a", "status": "processing", "logs": "", "metrics": {}, "output": ["x"]});
        assert_eq!(snapshot(&record), expected);
        assert_eq!(with_input(&record)["input"], json!({}));
    }

    #[test]
    fn one_that_failed_says_why_and_one_that_was_canceled_does_not() {
        let mut failed = record(Status::Failed);
        failed.returned = Json::parse("1".to_owned()).ok();
        failed.failure = Some(Failure { code: Code::PredictorFailed, message: "no".to_owned() });
        let custom = [("n".to_owned(), 2.0)].into();
        failed.metrics = Some(Box::new(Metrics { custom, ..Metrics::default() }));
        let metrics = json!({"n": 2.0, "predict_time": 0.0});
        let expected = json!({"id": "a", "status": "failed", "logs": "", "metrics": metrics, "error": "no"});
        assert_eq!(snapshot(&failed), expected);
        let mut canceled = record(Status::Canceled);
        canceled.failure = Some(Failure { code: Code::Cancelled, message: "canceled".to_owned() });
        let expected = json!({"id": "a", "status": "canceled", "logs": "", "metrics": {"predict_time": 0.0}});
        assert_eq!(snapshot(&canceled), expected);
    }

    #[test]
    fn a_problem_is_told_as_cog_tells_it() {
        let missing = Problem::new(["body", "input", "name"], "field required");
        let expected =
            json!({"loc": ["body", "input", "name"], "msg": "Field required", "type": "value_error.missing"});
        assert_eq!(detail(&missing), expected);
        let root = Problem::new(["body", "input"], "value is not of type \"object\"");
        assert_eq!(detail(&root)["loc"], json!(["body", "input", "__root__"]));
        let nested = Problem::new(["body", "input", "stop", "1"], "is odd");
        assert_eq!(detail(&nested)["loc"], json!(["body", "input", "stop/1"]));
        assert_eq!(detail(&Problem::new(["body", "id"], "is odd"))["loc"], json!(["body", "id"]));
    }
}
