//! Who is told of an event's end: functions of this node, each by an event of its own on the queue. It is
//! there before the end is written, under an id made of the first one's, so that it is there once.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    super::functions::rfc3339,
    events::{AGE_MAX, RETRIES},
    name::{Arn, LATEST, Name},
    state::State,
};
use crate::{
    function::Function,
    http::Code,
    prediction::{Call, Input, PredictionId, Record, Status, Submission},
    service::Service,
};

/// Events that may follow from one another.
const DEPTH_MAX: u32 = 16;

/// What the dialect wants back with an event's prediction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memo {
    /// Empty for `$LATEST`.
    pub(super) qualifier: String,
    pub(super) version: String,
    /// Events that led to this one.
    pub(super) depth: u32,
}

impl Memo {
    pub(super) fn to_value(&self) -> Value {
        json!({"lambda": self})
    }

    fn of(record: &Record) -> Option<Self> {
        serde_json::from_value(record.memo.get("lambda")?.clone()).ok()
    }
}

/// How an event is queued.
pub(super) fn submission(state: &State, qualifier: &str, now: SystemTime) -> Submission {
    let events = state.events.get(qualifier);
    let retries = events.and_then(|events| events.retries_max).unwrap_or(RETRIES);
    let age = events.and_then(|events| events.age_max_s).unwrap_or(AGE_MAX);
    Submission {
        deadline: Some(now + std::time::Duration::from_secs(age)),
        attempts_max: Some(retries + 1),
        retries_failures: true,
        ..Submission::default()
    }
}

/// Tells of an event's end, if it is one and someone is to be told.
pub(in crate::http) async fn ended(service: &Arc<Service>, record: &Record) {
    let (Some(memo), true) = (Memo::of(record), record.status != Status::Canceled) else { return };
    let Some(function) = service.store.registry.find(record.function.as_str()) else { return };
    let state = match service.lambda.get(service, &function).await {
        Ok(state) => state,
        Err(refusal) => {
            tracing::warn!(id = %record.id, message = refusal.error.message, "can't tell whom to tell");
            return;
        }
    };
    let events = state.events.get(&memo.qualifier).cloned().unwrap_or_default();
    let (kind, arn) = match record.failure {
        None => ("onsuccess", events.on_success),
        Some(_) => ("onfailure", events.on_failure),
    };
    if let Some(arn) = arn {
        let message = message(service, record, &memo);
        send(service, record, &memo, kind, &arn, message).await;
    }
    if let (Some(_), Some(arn)) = (&record.failure, &state.dead_letters) {
        send(service, record, &memo, "deadletter", arn, record.input.to_value()).await;
    }
}

async fn send(service: &Arc<Service>, record: &Record, memo: &Memo, kind: &str, arn: &str, message: Value) {
    let sent = async {
        if memo.depth >= DEPTH_MAX {
            return Err(format!("{DEPTH_MAX} events followed from one another"));
        }
        let name = Name::parse(arn, None).map_err(|refusal| refusal.error.message)?;
        let function = service.store.registry.find(&name.function);
        let function = function.ok_or_else(|| format!("no function \"{}\"", name.function))?;
        let id = PredictionId::parse(&format!("{}-{kind}", record.id)).map_err(|error| error.to_string())?;
        let (memo, call) = call(function, id, message, memo.depth + 1);
        let state = service.lambda.get(service, &call.function).await;
        let state = state.map_err(|refusal| refusal.error.message)?;
        let submission = submission(&state, &memo.qualifier, SystemTime::now());
        service.predictions.submit(service, call, submission).await.map_err(|error| error.message)
    };
    if let Err(reason) = sent.await {
        tracing::warn!(id = %record.id, arn, reason, "an event's end could not be told");
    }
}

fn call(function: Arc<Function>, id: PredictionId, message: Value, depth: u32) -> (Memo, Call) {
    let memo = Memo { version: LATEST.to_owned(), depth, ..Memo::default() };
    let bytes = message.to_string().len();
    let call = Call {
        revision: function.live().clone(),
        function,
        input: Input::Value(message, bytes),
        id: Some(id),
        webhook: None,
        memo: memo.to_value(),
        keep_alive: None,
        arrived: Instant::now(),
    };
    (memo, call)
}

/// An invocation record:
/// <https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html>.
fn message(service: &Service, record: &Record, memo: &Memo) -> Value {
    let qualifier = if memo.qualifier.is_empty() { LATEST } else { &memo.qualifier };
    let aws = &service.config.aws;
    let arn = Arn { aws, function: record.function.as_str(), qualifier: Some(qualifier) };
    let condition = match record.failure.as_ref().map(|failure| failure.code) {
        None => "Success",
        Some(Code::Timeout) if record.started_at.is_none() => "EventAgeExceeded",
        Some(_) => "RetriesExhausted",
    };
    let mut response = json!({"statusCode": 200, "executedVersion": memo.version});
    if record.failure.is_some() {
        response["functionError"] = json!("Unhandled");
    }
    json!({
        "version": "1.0",
        "timestamp": rfc3339(record.ended_at.unwrap_or_else(SystemTime::now)),
        "requestContext": {
            "requestId": record.id,
            "functionArn": arn.to_string(),
            "condition": condition,
            "approximateInvokeCount": record.order.as_ref().map_or(1, |order| order.attempt.max(1)),
        },
        "requestPayload": record.input.to_value(),
        "responseContext": response,
        "responsePayload": super::invoke::payload(record),
    })
}
