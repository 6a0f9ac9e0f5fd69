//! Predictions as Replicate's clients read them. They are strict: `model`, `version` and every URL must
//! be text, and a status must be one they know.

use serde_json::{Map, Value, json};

use super::{super::functions::rfc3339, model_name};
use crate::{
    http::Code,
    prediction::{Record, Status},
};

/// What this dialect keeps with a prediction.
const MEMO: &str = "replicate";

/// Notes for a prediction: its owner, a key for its stream if it has one, its deployment if it is of one.
pub(super) fn memo(owner: &str, stream_key: Option<String>, deployment: Option<&str>) -> Value {
    json!({MEMO: {"owner": owner, "stream": stream_key, "deployment": deployment}})
}

/// Whether a prediction was made by this dialect's clients, so that they read it.
pub(in super::super) fn is_ours(record: &Record) -> bool {
    record.memo.get(MEMO).is_some()
}

/// What opens a prediction's stream.
pub(super) fn stream_key(record: &Record) -> Option<&str> {
    record.memo.get(MEMO)?.get("stream")?.as_str()
}

/// A prediction as it is now. `base` is what stands before the paths of this service's URLs; `owner`
/// is whose a model is where the prediction does not say.
pub(in super::super) fn document(record: &Record, base: &str, owner: &str) -> Value {
    let note =
        |name: &str| record.memo.get(MEMO).and_then(|memo| memo.get(name)).filter(|note| !note.is_null());
    let owner = note("owner").and_then(Value::as_str).unwrap_or(owner);
    let path = format!("{base}/v1/predictions/{}", record.id);
    let mut urls = json!({"get": path, "cancel": format!("{path}/cancel")});
    if let Some(key) = stream_key(record) {
        urls["stream"] = format!("{base}/v1/streams/{}/{key}", record.id).into();
    }
    let failure = record.failure.as_ref().filter(|failure| failure.code != Code::Cancelled);
    let mut document = json!({
        "id": record.id,
        "model": model_name(owner, &record.function),
        "version": record.revision,
        "input": record.input.to_value(),
        "logs": record.logs(),
        "output": record.output().filter(|_| failure.is_none()).map(|output| output.to_value()),
        "error": failure.map(|failure| &failure.message),
        "status": status(record.status),
        "created_at": rfc3339(record.created_at),
        "started_at": record.started_at.map(rfc3339),
        "completed_at": record.ended_at.map(rfc3339),
        "data_removed": false,
        "source": "api",
        "metrics": metrics(record),
        "urls": urls,
    });
    if let Some(deployment) = note("deployment") {
        document["deployment"] = deployment.clone();
    }
    document
}

/// A prediction that its caller has waited for in vain: clients take any other status for the end.
pub(super) fn waiting(mut document: Value) -> Value {
    if document["status"] == "processing" {
        document["status"] = "starting".into();
    }
    document
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Queued => "starting",
        Status::Running => "processing",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Canceled => "canceled",
    }
}

fn metrics(record: &Record) -> Value {
    let mut all = Map::new();
    if let Some(metrics) = &record.metrics {
        all.extend(metrics.custom.iter().map(|(name, value)| (name.clone(), json!(value))));
        all.insert("input_token_count".to_owned(), json!(metrics.prompt_tokens));
        all.insert("output_token_count".to_owned(), json!(metrics.completion_tokens));
    }
    if let Some(total) = record.total() {
        all.insert("predict_time".to_owned(), json!(record.took().as_secs_f64()));
        all.insert("total_time".to_owned(), json!(total.as_secs_f64()));
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::queued_record;

    #[test]
    fn a_prediction_has_text_wherever_clients_want_it() {
        let mut record = queued_record("a", "f");
        record.status = Status::Running;
        let plain = document(&record, "http://x", "me");
        assert_eq!((&plain["model"], &plain["status"]), (&json!("me/f"), &json!("processing")));
        assert_eq!(
            plain["urls"],
            json!({"get": "http://x/v1/predictions/a", "cancel": "http://x/v1/predictions/a/cancel"})
        );
        assert!(plain["version"].is_string() && plain["error"].is_null() && plain["output"].is_null());
        assert!(!is_ours(&record));
        record.memo = memo("you", Some("key".to_owned()), None);
        let ours = document(&record, "http://x", "me");
        assert!(is_ours(&record));
        assert_eq!(
            (&ours["model"], &ours["urls"]["stream"]),
            (&json!("you/f"), &json!("http://x/v1/streams/a/key"))
        );
        assert_eq!(waiting(ours)["status"], "starting");
    }
}
