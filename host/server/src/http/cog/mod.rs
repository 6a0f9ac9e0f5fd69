//! Cog's HTTP API for one function, under `/fn/NAME/`: <https://github.com/replicate/cog>, docs/http.md
//! and what its server does.
//!
//! It differs where one process with one predictor can't be told from a service: a prediction that has
//! ended can be read and is not run again under the same id, and `/shutdown` has nothing to stop.

mod document;
mod openapi;
mod request;

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use dormouse_runtime::{Event, LogSource};
use serde_json::{Value, json};

use self::request::Request;
use super::{
    Code, Dialect, Error, functions,
    functions::rfc3339,
    guard::Arrived,
    invoke::{path_target, wants_events},
    prefer::Prefer,
    sse,
    timing::{self, Timing},
};
use crate::{
    function::{Function, Revision},
    prediction::{Call, Held, Input, Item, Prediction, PredictionId, Record, Status, Submission},
    service::Service,
};

pub(super) use document::snapshot;
pub(super) use openapi::document as openapi_document;
pub(super) use request::known_only;

/// The version of Cog whose protocol this is.
pub(super) const VERSION: &str = "0.23.1";

/// `GET /fn/{target}/`: where everything is.
pub(super) async fn root(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
) -> Result<Json<Value>, Error> {
    path_target(&service, &target)?;
    let base = format!("/fn/{target}");
    Ok(Json(json!({
        "cog_version": VERSION,
        "docs_url": format!("{base}/docs"),
        "openapi_url": format!("{base}/openapi.json"),
        "shutdown_url": format!("{base}/shutdown"),
        "healthcheck_url": format!("{base}/health-check"),
        "predictions_url": format!("{base}/predictions"),
        "predictions_idempotent_url": format!("{base}/predictions/{{prediction_id}}"),
        "predictions_cancel_url": format!("{base}/predictions/{{prediction_id}}/cancel"),
    })))
}

/// `GET /fn/{target}/health-check`.
pub(super) async fn health(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
) -> Result<Json<Value>, Error> {
    let (function, revision) = path_target(&service, &target)?;
    let (running, _) = service.permits.load_of(&function.name);
    let is_busy = running >= function.live().effective.concurrency;
    // Instances set themselves up for each prediction; what was checked once is the deploy.
    let checked = rfc3339(revision.created_at);
    Ok(Json(json!({
        "status": if is_busy { "BUSY" } else { "READY" },
        "setup": {"started_at": checked, "completed_at": checked, "status": "succeeded", "logs": ""},
        "version": {"coglet": VERSION, "dormouse": env!("CARGO_PKG_VERSION")},
    })))
}

/// `GET /fn/{target}/openapi.json`.
pub(super) async fn openapi(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
) -> Result<Json<Value>, Error> {
    let (function, revision) = path_target(&service, &target)?;
    Ok(Json(openapi::document(&function, &revision)))
}

/// `POST /fn/{target}/shutdown`: instances end with their predictions, so there is nothing to stop.
pub(super) async fn shutdown(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
) -> Result<Json<Value>, Error> {
    path_target(&service, &target)?;
    Ok(Json(json!({})))
}

/// `POST /fn/{target}/predictions`.
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path(target): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let made = async {
        let target = path_target(&service, &target)?;
        let request = Request::read(&service, &headers, body).await?;
        let id = request.id.as_deref().map(prediction_id).transpose()?;
        start(&service, target, request, id, arrived, &headers).await
    };
    made.await.unwrap_or_else(document::error)
}

/// `PUT /fn/{target}/predictions/{id}`: one that is known already is not made again.
pub(super) async fn put(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path((target, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let made = async {
        let target = path_target(&service, &target)?;
        let request = Request::read(&service, &headers, body).await?;
        if request.id.as_ref().is_some_and(|own| *own != id) {
            return Err(request::invalid_id("prediction ID must match the ID supplied in the URL"));
        }
        let id = prediction_id(&id)?;
        match service.predictions.find(&id).await {
            Ok(known) if known.function == target.0.name => again(&service, &target.1, known, &headers).await,
            Ok(_) => Err(Error::new(Code::Conflict, format!("prediction \"{id}\" is another function's"))),
            Err(error) if error.code == Code::NotFound => {
                start(&service, target, request, Some(id), arrived, &headers).await
            }
            Err(error) => Err(error),
        }
    };
    made.await.unwrap_or_else(document::error)
}

/// `GET /fn/{target}/predictions/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path((target, id)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let record = find(&service, &target, &id).await?;
    Ok(Json(document::with_input(&record)))
}

/// `POST /fn/{target}/predictions/{id}/cancel`: 404 when there is nothing to cancel.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Path((target, id)): Path<(String, String)>,
) -> Response {
    let canceled = async {
        let record = find(&service, &target, &id).await?;
        service.predictions.cancel(&record.id).await
    };
    match canceled.await {
        Ok((_, true)) => Json(json!({})).into_response(),
        Ok((_, false)) => Error::not_found("").response(json!({})),
        Err(error) if error.code == Code::NotFound => error.response(json!({})),
        Err(error) => document::error(error),
    }
}

async fn find(service: &Service, target: &str, id: &str) -> Result<Arc<Record>, Error> {
    let (function, _) = path_target(service, target)?;
    let record = service.predictions.find(&PredictionId::parse(id)?).await?;
    match record.function == function.name {
        true => Ok(record),
        false => Err(Error::not_found(format!("no prediction \"{id}\" of function \"{}\"", function.name))),
    }
}

fn prediction_id(text: &str) -> Result<PredictionId, Error> {
    PredictionId::parse(text).map_err(|error| request::invalid_id(error.to_string()))
}

/// Runs or queues a new prediction.
async fn start(
    service: &Arc<Service>,
    (function, revision): (Arc<Function>, Arc<Revision>),
    request: Request,
    id: Option<PredictionId>,
    Arrived(arrived): Arrived,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let is_stream = wants_events(headers);
    if is_stream && !revision.predictor.manifest.streaming {
        return Err(Error::new(Code::NotAcceptable, NO_STREAM));
    }
    let webhook = request.webhook(functions::base_url(&service.config, headers), headers);
    let input = known_only(request.input, &revision.predictor.manifest.input);
    let input = Input::Value(input, request.bytes);
    let keep_alive = Prefer::of(headers).keep_alive;
    let call = Call { function, revision, input, id, webhook, memo: Value::Null, keep_alive, arrived };
    if is_stream {
        let prediction = Prediction::prepare(service, call).await?;
        let timing = Timing::of_start(&prediction);
        return Ok(timing.tell(stream(service, prediction.spawn())));
    }
    if responds_async(headers) {
        let submitted = service.predictions.submit(service, call, Submission::default()).await?;
        return Ok(document::accepted(&json!({"id": submitted.record.id, "status": "starting"})));
    }
    let prediction = Prediction::prepare(service, call).await?;
    Ok(document::ended(&*prediction.run().await))
}

/// Answers for a prediction that is known already.
async fn again(
    service: &Arc<Service>,
    revision: &Revision,
    known: Arc<Record>,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    if wants_events(headers) {
        if !revision.predictor.manifest.streaming {
            return Err(Error::new(Code::NotAcceptable, NO_STREAM));
        }
        return Ok(stream(service, Held::join(service.predictions.follow(&known.id).await?)));
    }
    Ok(match known.is_ended() {
        true => document::ended(&known),
        false => document::accepted(&document::with_input(&known)),
    })
}

const NO_STREAM: &str =
    "this predictor does not stream its output; declare a streamed output to have server-sent events";

/// Cog takes the header's exact text only.
fn responds_async(headers: &HeaderMap) -> bool {
    headers.get("prefer").is_some_and(|prefer| prefer == "respond-async")
}

/// The prediction's events. When the last who reads them leaves, it is canceled.
fn stream(service: &Service, held: Held) -> Response {
    let id = held.id().to_string();
    let mut index = 0;
    let events = sse::follow(held, move |item| match item {
        Item::Started => {
            index = 0;
            sse::event("start", None, &sse::json(&json!({"id": id, "status": "processing"})))
        }
        Item::Event(event) => match &**event {
            Event::Output(chunk) => {
                let data = format!("{{\"chunk\":{},\"index\":{index}}}", sse::one_line(chunk));
                index += 1;
                sse::event("output", None, &data)
            }
            Event::Log(line) => {
                let source = if line.source == LogSource::Stderr { "stderr" } else { "stdout" };
                let data = json!({"source": source, "data": format!("{}\n", line.message)});
                sse::event("log", None, &sse::json(&data))
            }
            // Clients may not know of more events; a comment none minds.
            Event::Wake(wake) => timing::comment(wake),
            Event::Progress { .. } => String::new(),
        },
        Item::Ended(record) => {
            let metrics = record.metrics.iter().flat_map(|metrics| &metrics.custom);
            let metric = |(name, value): (&String, &f64)| {
                let data = json!({"name": name, "value": value, "mode": "replace"});
                sse::event("metric", None, &sse::json(&data))
            };
            let mut events: String = metrics.map(metric).collect();
            events.push_str(&sse::event("completed", None, &sse::json(&snapshot(record))));
            events
        }
    });
    sse::response(events, service.config.http.keep_alive)
}

/// How Cog calls a status.
fn status(status: Status) -> &'static str {
    match status {
        Status::Queued => "starting",
        Status::Running => "processing",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Canceled => "canceled",
    }
}

/// What this dialect is called where it is remembered.
pub(super) const DIALECT: Dialect = Dialect::Cog;
