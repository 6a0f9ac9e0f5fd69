//! Predictions that may outlast the request: `/v1/predictions`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Code, Dialect, Error, answer, answer::Document, body, functions, guard::Arrived, invoke, prefer::Prefer,
    sse,
};
use crate::{
    function::{FunctionName, Problem},
    prediction::{Call, Cursor, Input, PredictionId, Record, Status, Submission, Submitted},
    queue::Which,
    service::Service,
    store::Filter,
    webhook::{Event, Webhook, trace_headers},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Bytes of a client's own name for a request.
const KEY_BYTES_MAX: usize = 255;
/// Predictions of a list, where the client doesn't say.
const PAGE: usize = 20;

/// The body of a new prediction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    /// `NAME`, or `NAME:REFERENCE`.
    function: String,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    priority: i32,
    /// RFC 3339.
    #[serde(default)]
    deadline: Option<String>,
    #[serde(default)]
    max_attempts: Option<u32>,
    /// Whether the predictor's own failures are tried again too.
    #[serde(default)]
    retry_failures: bool,
    #[serde(default)]
    webhook: Option<String>,
    #[serde(default)]
    webhook_events: Option<Vec<Event>>,
}

/// `POST /v1/predictions`.
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let bytes = body::read(body, &service.config.http).await?;
    submit(&service, arrived, &headers, read(&bytes)?, bytes.len()).await
}

/// `PUT /v1/predictions/{id}`: the same again gives the same prediction.
pub(super) async fn put(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let bytes = body::read(body, &service.config.http).await?;
    let mut create = read(&bytes)?;
    if create.id.as_ref().is_some_and(|own| *own != id) {
        return Err(invalid(format!("body: id is not the path's \"{id}\"")));
    }
    create.id = Some(id);
    submit(&service, arrived, &headers, create, bytes.len()).await
}

fn read(bytes: &[u8]) -> Result<Create, Error> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("body: {error}")))
}

async fn submit(
    service: &Arc<Service>,
    Arrived(arrived): Arrived,
    headers: &HeaderMap,
    create: Create,
    bytes: usize,
) -> Result<Response, Error> {
    let (function, revision) = invoke::path_target(service, &create.function)?;
    let id = create.id.as_deref().map(PredictionId::parse).transpose()?;
    let deadline = create.deadline.as_deref().map(time).transpose()?;
    let input = Input::Value(create.input.unwrap_or_else(|| json!({})), bytes);
    let webhook = webhook(service, create.webhook, create.webhook_events, headers)?;
    let call = Call { function, revision, input, id, webhook, memo: Value::Null, arrived };
    let submission = Submission {
        priority: create.priority,
        deadline,
        attempts_max: create.max_attempts,
        retries_failures: create.retry_failures,
        key: key(headers)?,
    };
    let Submitted { mut record, is_new } = service.predictions.submit(service, call, submission).await?;
    if let Some(wait) = Prefer::of(headers).wait
        && !record.is_ended()
    {
        let wait = wait.min(service.config.http.wait_max);
        record = service.predictions.wait(&record.id, wait).await?;
    }
    let status = if record.is_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let base = functions::base_url(&service.config, headers);
    let mut response = (status, Json(Document::of(&record, &base))).into_response();
    let location = format!("{base}/v1/predictions/{}", record.id);
    let location = HeaderValue::try_from(location).expect("a host and an id fit a header");
    response.headers_mut().insert(header::LOCATION, location);
    if !is_new {
        let replayed = HeaderName::from_static("idempotent-replayed");
        response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// `GET /v1/predictions/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Document>, Error> {
    let record = service.predictions.find(&PredictionId::parse(&id)?).await?;
    Ok(document(&service, &headers, &record))
}

/// `POST /v1/predictions/{id}/cancel`: answers how it is then. One that has ended stays as it is.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Document>, Error> {
    let (record, _) = service.predictions.cancel(&PredictionId::parse(&id)?).await?;
    Ok(document(&service, &headers, &record))
}

/// `GET /v1/predictions/{id}/events`: from the beginning, or from after `Last-Event-ID`.
pub(super) async fn events(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let cursor: Cursor = service.predictions.follow(&PredictionId::parse(&id)?).await?;
    let after = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
    let events = sse::follow(Box::new(cursor), answer::events(after));
    Ok(sse::response(events, service.config.http.keep_alive))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    function: Option<String>,
    status: Option<Status>,
    limit: Option<usize>,
    cursor: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    predictions: Vec<Document>,
    /// URL of the next page.
    next: Option<String>,
}

/// `GET /v1/predictions`: newest first.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<List>, Error> {
    page(&service, &headers, query, "/v1/predictions", false).await
}

/// `GET /v1/dead-letters`: those that ran out of attempts.
pub(super) async fn dead(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<List>, Error> {
    page(&service, &headers, query, "/v1/dead-letters", true).await
}

async fn page(
    service: &Service,
    headers: &HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
    path: &str,
    is_dead: bool,
) -> Result<Json<List>, Error> {
    let Query(query) = query.map_err(|error| invalid(error.body_text()))?;
    let filter = Filter {
        function: query.function.as_deref().map(FunctionName::parse).transpose()?,
        status: query.status,
        is_dead,
        before: query.cursor,
        limit: query.limit.unwrap_or(PAGE),
        ..Filter::default()
    };
    let page = service.predictions.list(filter).await?;
    let base = functions::base_url(&service.config, headers);
    let next = page.next.map(|cursor| {
        let mut pairs = form_urlencoded::Serializer::new(format!("{base}{path}?"));
        pairs.extend_pairs(query.function.iter().map(|function| ("function", function)));
        pairs.extend_pairs(query.status.iter().map(|status| ("status", status.as_str())));
        pairs.extend_pairs(query.limit.iter().map(|limit| ("limit", limit.to_string())));
        pairs.append_pair("cursor", &cursor.to_string()).finish()
    });
    let predictions = page.records.iter().map(|record| Document::of(record, &base)).collect();
    Ok(Json(List { predictions, next }))
}

/// The body of a redrive: one by id, those of a function, or all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    id: Option<String>,
    function: Option<String>,
}

/// `POST /v1/dead-letters/redrive`: makes them wait again, with all their attempts.
pub(super) async fn redrive(State(service): State<Arc<Service>>, body: Body) -> Result<Json<Value>, Error> {
    let which = match body::json(body, &service.config.http).await? {
        Redrive { id: Some(id), function: None } => Which::One(PredictionId::parse(&id)?),
        Redrive { id: None, function: Some(function) } => Which::Lane(FunctionName::parse(&function)?),
        Redrive { id: None, function: None } => Which::All,
        Redrive { .. } => return Err(invalid("body: names both \"id\" and \"function\"")),
    };
    Ok(Json(json!({"redriven": service.predictions.redrive(which).await?})))
}

fn document(service: &Service, headers: &HeaderMap, record: &Record) -> Json<Document> {
    Json(Document::of(record, &functions::base_url(&service.config, headers)))
}

fn webhook(
    service: &Service,
    url: Option<String>,
    events: Option<Vec<Event>>,
    headers: &HeaderMap,
) -> Result<Option<Box<Webhook>>, Error> {
    let Some(url) = url else { return Ok(None) };
    Webhook::check(&url, &service.config.webhook)
        .map_err(|reason| Error::invalid_input(vec![Problem::new(["body", "webhook"], reason)]))?;
    Ok(Some(Box::new(Webhook {
        url,
        events: events.unwrap_or(Event::ALL.to_vec()),
        dialect: Dialect::Native,
        base: functions::base_url(&service.config, headers),
        headers: trace_headers(headers),
    })))
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(invalid(format!("idempotency-key is not 1 to {KEY_BYTES_MAX} visible ASCII characters"))),
    }
}

fn time(text: &str) -> Result<SystemTime, Error> {
    let time = humantime::parse_rfc3339_weak(text);
    let time = time.map_err(|error| invalid(format!("deadline \"{text}\": {error}")))?;
    // What lies before 1970 has passed too.
    Ok(time.max(SystemTime::UNIX_EPOCH + Duration::from_millis(1)))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidRequest, message)
}
