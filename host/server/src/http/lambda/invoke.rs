//! Invocations: answered, streamed, queued as events, or only checked.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use dormouse_runtime::Event;
use futures_util::stream;
use rand::RngExt;
use serde_json::{Value, json};

use super::{
    super::{Code, Error, body, guard::Arrived, prefer::Prefer, timing::Timing},
    Refusal,
    configuration::{Target, target},
    destinations::{Memo, submission},
    frames,
    functions::Qualified,
    name::Name,
};
use crate::{
    prediction::{Call, Failure, Held, Input, Item, Prediction, Record},
    service::Service,
};

const INVOCATION_TYPE: &str = "x-amz-invocation-type";
const LOG_TYPE: &str = "x-amz-log-type";
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Bytes of logs that an answer tells, the last.
const LOG_BYTES_MAX: usize = 4 << 10;

/// `POST …/invocations`.
pub(super) async fn invoke(
    State(service): State<Arc<Service>>,
    Extension(Arrived(arrived)): Extension<Arrived>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = Name::parse(&f, query.qualifier.as_deref())?;
    let bytes = body::read(body, &service.config.http).await?;
    let found = open(&service, &name).await?;
    let input = event(&bytes)?;
    let mut call = call(&found, input, bytes.len(), &headers, arrived);
    match headers.get(INVOCATION_TYPE).map_or(b"RequestResponse".as_slice(), HeaderValue::as_bytes) {
        b"RequestResponse" => {
            let prediction = match Prediction::prepare(&service, call).await {
                Ok(prediction) => prediction,
                Err(error) if error.code == Code::InvalidInput => return Ok(unfit(&found, error)),
                Err(error) => return Err(error.into()),
            };
            Ok(answer(&found, &*prediction.run().await, wants_logs(&headers)))
        }
        b"Event" => {
            let qualifier = found.qualifier.clone().unwrap_or_default();
            let submission = submission(&found.state, &qualifier, SystemTime::now());
            call.memo = Memo { qualifier, version: found.version.clone(), depth: 0 }.to_value();
            let submitted = service.predictions.submit(&service, call, submission).await?;
            let mut response = StatusCode::ACCEPTED.into_response();
            response.headers_mut().insert(REQUEST_ID, text(submitted.record.id.as_str()));
            Ok(response)
        }
        b"DryRun" => Ok(StatusCode::NO_CONTENT.into_response()),
        other => {
            let other = String::from_utf8_lossy(other);
            Err(Refusal::invalid(format!(
                "InvocationType \"{other}\" is not RequestResponse, Event or DryRun"
            )))
        }
    }
}

/// `POST …/response-streaming-invocations`.
pub(super) async fn stream(
    State(service): State<Arc<Service>>,
    Extension(Arrived(arrived)): Extension<Arrived>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = Name::parse(&f, query.qualifier.as_deref())?;
    let bytes = body::read(body, &service.config.http).await?;
    let found = open(&service, &name).await?;
    if headers.get(INVOCATION_TYPE).is_some_and(|kind| kind == "DryRun") {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let call = call(&found, event(&bytes)?, bytes.len(), &headers, arrived);
    let prediction = Prediction::prepare(&service, call).await?;
    let timing = Timing::of_start(&prediction);
    let reading = Reading { held: prediction.spawn(), has_said: false, wants_logs: wants_logs(&headers) };
    let id = text(reading.held.id().as_str());
    let chunks = stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        let (frames, is_last) = reading.next().await;
        Some((Ok::<_, Infallible>(Bytes::from(frames)), (!is_last).then_some(reading)))
    });
    let mut response = timing.tell(Response::new(Body::from_stream(chunks)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.amazon.eventstream"));
    headers.insert("x-amzn-remapped-content-type", HeaderValue::from_static("application/octet-stream"));
    headers.insert(EXECUTED_VERSION, text(&found.version));
    headers.insert(REQUEST_ID, id);
    Ok(response)
}

/// The function that is called, unless nothing of it may run.
async fn open(service: &Service, name: &Name) -> Result<Target, Refusal> {
    let draw = rand::rng().random();
    let found = target(service, name, draw).await?;
    if found.state.reserved == Some(0) {
        return Err(Error::new(Code::Overloaded, "Rate Exceeded.").into());
    }
    Ok(found)
}

fn event(bytes: &[u8]) -> Result<Value, Refusal> {
    match bytes.trim_ascii() {
        [] => Ok(json!({})),
        text => serde_json::from_slice(text).map_err(|error| {
            Refusal::invalid_content(format!("Could not parse request body into json: {error}"))
        }),
    }
}

fn call(
    found: &Target,
    input: Value,
    bytes: usize,
    headers: &HeaderMap,
    arrived: std::time::Instant,
) -> Call {
    Call {
        function: found.function.clone(),
        revision: found.revision.clone(),
        input: Input::Value(input, bytes),
        id: None,
        webhook: None,
        memo: Value::Null,
        keep_alive: Prefer::of(headers).keep_alive,
        arrived,
    }
}

fn answer(found: &Target, record: &Record, wants_logs: bool) -> Response {
    // What the node can't do now is no fault of the function's.
    if let Some(failure) = &record.failure
        && matches!(failure.code, Code::Overloaded | Code::Draining | Code::Internal | Code::ModelUnavailable)
    {
        return Refusal::from(Error::from(failure.clone())).into_response();
    }
    let mut response = Timing::of_record(record).tell(json_answer(payload(record).to_string()));
    let headers = response.headers_mut();
    headers.insert(EXECUTED_VERSION, text(&found.version));
    headers.insert(REQUEST_ID, text(record.id.as_str()));
    if record.failure.is_some() {
        headers.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    }
    if wants_logs {
        headers.insert(LOG_RESULT, text(&log_tail(record)));
    }
    response
}

/// An event that the function's schema refuses is the function's own error, as if its code had read it.
fn unfit(found: &Target, error: Error) -> Response {
    let failure = Failure { code: error.code, message: error.message };
    let mut response = json_answer(function_error(&failure).to_string());
    response.headers_mut().insert(EXECUTED_VERSION, text(&found.version));
    response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    response
}

fn json_answer(body: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// What a function answered, or why not.
pub(super) fn payload(record: &Record) -> Value {
    match &record.failure {
        Some(failure) => function_error(failure),
        None => record.output().map_or(Value::Null, |output| output.to_value()),
    }
}

fn function_error(failure: &Failure) -> Value {
    json!({"errorMessage": failure.message, "errorType": error_type(failure)})
}

fn error_type(failure: &Failure) -> &'static str {
    match failure.code {
        Code::Timeout => "Sandbox.Timedout",
        Code::PredictorOutOfMemory => "Runtime.OutOfMemory",
        Code::PredictorTrapped | Code::PredictorStackOverflow | Code::PredictorExited => "Runtime.ExitError",
        Code::PredictorBadOutput => "Runtime.MarshalError",
        Code::OutputTooLarge => "Function.ResponseSizeTooLarge",
        Code::InvalidInput => "InvalidInput",
        _ => "Error",
    }
}

fn wants_logs(headers: &HeaderMap) -> bool {
    headers.get(LOG_TYPE).is_some_and(|kind| kind == "Tail")
}

/// The end of the logs, with the lines that Lambda puts around them, in base64.
fn log_tail(record: &Record) -> String {
    let (id, metrics) = (&record.id, record.metrics.as_deref());
    let took = metrics.map_or(0.0, |metrics| metrics.predict_ms);
    let memory = metrics.map_or(0, |metrics| metrics.memory_bytes >> 20);
    let all = format!(
        "START RequestId: {id}\n{}END RequestId: {id}\n\
         REPORT RequestId: {id}\tDuration: {took:.2} ms\tMax Memory Used: {memory} MB\n",
        record.logs()
    );
    STANDARD.encode(&all.as_bytes()[all.len().saturating_sub(LOG_BYTES_MAX)..])
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// A prediction that is read as frames.
struct Reading {
    held: Held,
    has_said: bool,
    wants_logs: bool,
}

impl Reading {
    /// The next frames, and whether they are the last.
    async fn next(&mut self) -> (Vec<u8>, bool) {
        loop {
            match self.held.next().await {
                Item::Event(event) => {
                    if let Event::Output(json) = &*event {
                        self.has_said = true;
                        return (chunks(&said(json)), false);
                    }
                }
                Item::Started => {}
                Item::Ended(record) => return (self.last(&record), true),
            }
        }
    }

    fn last(&self, record: &Record) -> Vec<u8> {
        let mut frames = Vec::new();
        if let (None, false, Some(output)) = (&record.failure, self.has_said, record.output()) {
            frames = chunks(&said(output.as_str()));
        }
        let mut end = json!({});
        if let Some(failure) = &record.failure {
            end["ErrorCode"] = json!(error_type(failure));
            end["ErrorDetails"] = json!(failure.message);
        }
        if self.wants_logs {
            end["LogResult"] = json!(log_tail(record));
        }
        frames.extend(frames::complete(end.to_string().as_bytes()));
        frames
    }
}

/// What an element is to a reader of bytes: a string's text, or JSON.
fn said(json: &str) -> Vec<u8> {
    match serde_json::from_str::<String>(json) {
        Ok(text) => text.into_bytes(),
        Err(_) => json.as_bytes().to_vec(),
    }
}

fn chunks(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(frames::PAYLOAD_BYTES_MAX).flat_map(frames::chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::queued_record;

    #[test]
    fn a_failure_has_lambdas_type() {
        let kind = |code| error_type(&Failure { code, message: String::new() });
        assert_eq!(kind(Code::Timeout), "Sandbox.Timedout");
        assert_eq!(kind(Code::PredictorOutOfMemory), "Runtime.OutOfMemory");
        assert_eq!(kind(Code::PredictorFailed), "Error");
    }

    #[test]
    fn a_log_is_told_from_its_end() {
        let mut record = queued_record("a", "f");
        let line = |message: String| {
            let source = dormouse_runtime::LogSource::Log;
            let line = dormouse_runtime::LogLine { source, level: dormouse_runtime::Level::Info, message };
            Arc::new(Event::Log(line))
        };
        record.events = vec![line("hello".to_owned())];
        let told = String::from_utf8(STANDARD.decode(log_tail(&record)).unwrap()).unwrap();
        assert!(told.starts_with("START RequestId: a\nhello\nEND RequestId: a\nREPORT"), "{told}");
        record.events.push(line("x".repeat(10_000)));
        assert_eq!(STANDARD.decode(log_tail(&record)).unwrap().len(), LOG_BYTES_MAX);
    }

    #[test]
    fn an_element_is_text_or_json_and_a_large_one_several_frames() {
        assert_eq!(said("\"a\\n\""), b"a\n");
        assert_eq!(said("{\"a\":1}"), b"{\"a\":1}");
        let large = vec![0; frames::PAYLOAD_BYTES_MAX + 1];
        assert_eq!(chunks(&large).len(), large.len() + 2 * (chunks(b"x").len() - 1));
        assert!(chunks(b"").is_empty());
    }
}
