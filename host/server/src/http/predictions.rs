//! Predictions that may outlast the request: `/v1/predictions`.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny},
};
use serde_json::{Number, Value, json};

use super::{
    Code, Dialect, Error, answer,
    answer::Document,
    body, functions,
    guard::{self, Arrived},
    invoke,
    prefer::Prefer,
    replicate, sse,
    timing::Timing,
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
/// Bytes of a client's own name for a request.
const KEY_BYTES_MAX: usize = 255;
/// Predictions that a list may be asked for; a page may have fewer.
pub(super) const LIMIT_MAX: usize = 1000;
/// Predictions of a list, where the client doesn't say.
const PAGE: usize = 20;

/// The body of a new prediction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    /// `NAME`, or `NAME:REFERENCE`.
    function: String,
    #[serde(default, deserialize_with = "body::present")]
    input: Option<Value>,
    #[serde(default, deserialize_with = "body::present")]
    id: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    priority: Option<i32>,
    /// RFC 3339.
    #[serde(default, deserialize_with = "body::present")]
    deadline: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    max_attempts: Option<u32>,
    /// Whether the predictor's own failures are tried again too.
    #[serde(default)]
    retry_failures: bool,
    #[serde(default, deserialize_with = "body::present")]
    webhook: Option<String>,
    #[serde(default, deserialize_with = "body::present")]
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
    if is_replicates(&bytes) {
        let create = replicate::Create::read(&bytes)?;
        return replicate::create(&service, create, bytes.len(), arrived, &headers).await;
    }
    submit(&service, arrived, &headers, read(&bytes)?, bytes.len()).await
}

/// Whether a body names a version, as Replicate's clients do, and not a function.
fn is_replicates(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Names {
        function: Option<IgnoredAny>,
        version: Option<IgnoredAny>,
    }
    let names = serde_json::from_slice(body);
    names.is_ok_and(|Names { function, version }| function.is_none() && version.is_some())
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
    let Prefer { keep_alive, wait, .. } = Prefer::of(headers);
    let call = Call { function, revision, input, id, webhook, memo: Value::Null, keep_alive, arrived };
    let submission = Submission {
        priority: create.priority.unwrap_or(0),
        deadline,
        attempts_max: create.max_attempts,
        retries_failures: create.retry_failures,
        key: key(headers)?,
    };
    let Submitted { mut record, is_new } = service.predictions.submit(service, call, submission).await?;
    if let Some(wait) = wait
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
    Ok(Timing::of_record(&record).tell(response))
}

/// `GET /v1/predictions/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    let record = find(&service, &id).await?;
    Ok(document(&service, &headers, &record))
}

/// `POST /v1/predictions/{id}/cancel`: answers how it is then. One that has ended stays as it is.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    let known = find(&service, &id).await?;
    let (record, _) = service.predictions.cancel(&known.id).await?;
    Ok(document(&service, &headers, &record))
}

/// `GET /v1/predictions/{id}/events`: from the beginning, or from after `Last-Event-ID`.
pub(super) async fn events(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let known = find(&service, &id).await?;
    let cursor: Cursor = service.predictions.follow(&known.id).await?;
    let events = sse::follow(Box::new(cursor), answer::events(sse::last_event_id(&headers)));
    Ok(sse::response(events, service.config.http.keep_alive))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    function: Option<String>,
    status: Option<Status>,
    limit: Option<usize>,
    cursor: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    predictions: Vec<Document>,
    /// The same, as Replicate's clients want them.
    results: Vec<Value>,
    /// URL of the next page.
    next: Option<String>,
    previous: (),
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
    if let Some(limit) = query.limit.filter(|limit| *limit > LIMIT_MAX) {
        return Err(invalid(format!("limit is {limit}, at most {LIMIT_MAX} are listed")));
    }
    let function = query.function.as_deref().map(FunctionName::parse).transpose()?;
    function.iter().try_for_each(guard::allow)?;
    let filter = Filter {
        among: guard::limited_to(),
        function,
        status: query.status,
        is_dead,
        before: query.cursor.map(|cursor| i64::try_from(cursor).unwrap_or(i64::MAX)),
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
    let owner = &service.config.owner;
    let results = page.records.iter().map(|record| replicate::document(record, &base, owner)).collect();
    let predictions = page.records.iter().map(|record| Document::of(record, &base)).collect();
    Ok(Json(List { predictions, results, next, previous: () }))
}

/// The body of a redrive: one by id, those of a function, or all.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redrive {
    #[serde(default, deserialize_with = "body::present")]
    id: Option<String>,
    #[serde(default, deserialize_with = "body::present")]
    function: Option<String>,
}

/// `POST /v1/dead-letters/redrive`: makes them wait again, with all their attempts.
pub(super) async fn redrive(State(service): State<Arc<Service>>, body: Body) -> Result<Json<Value>, Error> {
    let which = match body::json(body, &service.config.http).await? {
        Redrive { id: Some(id), function: None } => {
            let id = PredictionId::parse(&id)?;
            if guard::limited_to().is_some() {
                find(&service, id.as_str()).await?;
            }
            Which::One(id)
        }
        Redrive { id: None, function: Some(function) } => {
            let function = FunctionName::parse(&function)?;
            guard::allow(&function)?;
            Which::Lane(function)
        }
        Redrive { id: None, function: None } if guard::limited_to().is_none() => Which::All,
        Redrive { id: None, function: None } => {
            return Err(Error::new(Code::Forbidden, "this token is for some functions, so name one of them"));
        }
        Redrive { .. } => return Err(invalid("body: names both \"id\" and \"function\"")),
    };
    Ok(Json(json!({"redriven": service.predictions.redrive(which).await?})))
}

/// A prediction that the caller may see.
async fn find(service: &Service, id: &str) -> Result<Arc<Record>, Error> {
    let record = service.predictions.find(&PredictionId::parse(id)?).await?;
    guard::allow(&record.function)?;
    Ok(record)
}

/// A prediction in the dialect of whoever made it.
fn document(service: &Service, headers: &HeaderMap, record: &Record) -> Json<Value> {
    let base = functions::base_url(&service.config, headers);
    Json(match replicate::is_ours(record) {
        true => replicate::document(record, &base, &service.config.owner),
        false => json!(Document::of(record, &base)),
    })
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
    functions::moment(text).map_err(|error| invalid(format!("deadline \"{text}\": {error}")))
}

/// A number without a fraction, however it is written: to JSON Schema `3.0` is an integer.
fn whole<'de, D: Deserializer<'de>, T: TryFrom<i64>>(from: D) -> Result<Option<T>, D::Error> {
    let number = Number::deserialize(from)?;
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15);
    let whole = number.as_i64().or_else(|| float().map(|float| float as i64));
    let fits = whole.and_then(|whole| T::try_from(whole).ok());
    fits.map(Some).ok_or_else(|| de::Error::custom(format_args!("{number} is out of range")))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidRequest, message)
}
