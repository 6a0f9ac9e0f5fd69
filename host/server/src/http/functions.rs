//! Functions, revisions and aliases as documents.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
};
use dormouse_engine::Priority;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Code, Error, body, guard, invoke, predictions::LIMIT_MAX};
use crate::{
    config::Config,
    deploy::Timings,
    function::{Alias, Effective, Function, FunctionName, Reference, Revision, Start},
    prediction::{Failure, Record, Status, millis},
    residence,
    service::Service,
    store::Filter,
};

type Answer<T> = Result<Json<T>, Error>;

/// A function at one of its revisions.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    name: String,
    revision: String,
    component_digest: String,
    pub(super) url: String,
    description: String,
    input_schema: Value,
    output_schema: Value,
    streaming: bool,
    models: Vec<String>,
    setup: SetupDocument,
    settings: SettingsDocument,
    aliases: BTreeMap<String, String>,
    running: usize,
    queued: usize,
    /// Those that wait in the durable queue.
    waiting: usize,
    pub(super) warnings: Vec<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unchanged: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timings: Option<Timings>,
}

/// A revision's settings as they act on this node.
#[derive(Debug, Serialize)]
struct SettingsDocument {
    timeout_ms: u128,
    memory_bytes: usize,
    concurrency: usize,
    queue_max: usize,
    priority: Priority,
    guess_tokens: Option<usize>,
    env: BTreeMap<String, String>,
    models: Vec<String>,
    /// Time for which its models stay awake after each use at least, if it says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_after_ms: Option<u128>,
    keep_warm: bool,
    /// When its models wake without a prediction, as cron writes it, in UTC.
    prewake: Vec<String>,
    /// Number of prefixes that are computed beforehand.
    prefixes: usize,
}

/// When `setup` runs.
#[derive(Debug, Serialize)]
struct SetupDocument {
    /// It ran at deploy, and predictions begin where it ended.
    is_image: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_digest: Option<String>,
    /// Why it runs in each prediction instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl SetupDocument {
    fn of(start: &Start) -> Self {
        Self {
            is_image: start.image().is_some(),
            image_digest: start.image().map(ToString::to_string),
            reason: start.reason().map(str::to_owned),
        }
    }
}

impl SettingsDocument {
    fn of(effective: &Effective) -> Self {
        Self {
            timeout_ms: effective.limits.timeout.as_millis(),
            memory_bytes: effective.limits.memory_bytes,
            concurrency: effective.concurrency,
            queue_max: effective.queue_max,
            priority: effective.priority,
            guess_tokens: effective.guess_tokens,
            env: effective.env.iter().cloned().collect(),
            models: effective.models.to_vec(),
            idle_after_ms: effective.stays().map(|time| time.as_millis()),
            keep_warm: effective.keep_warm,
            prewake: effective.prewake.to_vec(),
            prefixes: effective.prefixes.len(),
        }
    }
}

impl Document {
    pub(super) async fn of(
        service: &Service,
        function: &Function,
        revision: &Revision,
        headers: &HeaderMap,
    ) -> Self {
        let (effective, manifest) = (&revision.effective, &revision.predictor.manifest);
        let missing = service.missing_models(&effective.models).await;
        let missing = missing.iter().map(|model| {
            format!("model \"{model}\" is not on this node yet; `dormouse model pull {model}` brings it")
        });
        let (running, queued) = service.permits.load_of(&function.name);
        Self {
            name: function.name.to_string(),
            revision: revision.id.to_string(),
            component_digest: revision.predictor.digest.to_string(),
            url: url(&service.config, headers, &function.name),
            description: manifest.description.clone(),
            input_schema: manifest.input.clone(),
            output_schema: manifest.output.clone(),
            streaming: manifest.streaming,
            models: effective.models.to_vec(),
            setup: SetupDocument::of(&revision.start),
            settings: SettingsDocument::of(effective),
            aliases: aliases_of(function),
            running,
            queued,
            waiting: service.predictions.worker.waiting_of(&function.name),
            warnings: effective.warnings.iter().cloned().chain(missing).collect(),
            created_at: rfc3339(revision.created_at),
            unchanged: None,
            timings: None,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct FunctionList {
    functions: Vec<FunctionItem>,
}

#[derive(Debug, Serialize)]
struct FunctionItem {
    name: String,
    revision: String,
    url: String,
    description: String,
    streaming: bool,
    models: Vec<String>,
    /// When the function was first deployed.
    created_at: String,
    /// When its live revision was.
    deployed_at: String,
}

/// `GET /v1/functions`.
pub(super) async fn list(State(service): State<Arc<Service>>, headers: HeaderMap) -> Json<FunctionList> {
    let functions = visible(&service);
    let functions = functions.iter().map(|function| {
        let live = function.live();
        FunctionItem {
            name: function.name.to_string(),
            revision: live.id.to_string(),
            url: url(&service.config, &headers, &function.name),
            description: live.predictor.manifest.description.clone(),
            streaming: live.predictor.manifest.streaming,
            models: live.effective.models.to_vec(),
            created_at: rfc3339(function.created_at),
            deployed_at: rfc3339(live.created_at),
        }
    });
    Json(FunctionList { functions: functions.collect() })
}

/// The functions that the caller may use, by name.
pub(super) fn visible(service: &Service) -> Vec<Arc<Function>> {
    let all = service.store.registry.all();
    all.into_iter().filter(|function| guard::may_use(&function.name)).collect()
}

/// A function's name, if the caller may use it.
fn own(name: &str) -> Result<FunctionName, Error> {
    let name = FunctionName::parse(name)?;
    guard::allow(&name)?;
    Ok(name)
}

/// `GET /v1/functions/{name}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer<Document> {
    let function = invoke::find(&service, &name)?;
    Ok(Json(Document::of(&service, &function, function.live(), &headers).await))
}

/// `GET /fn/{target}`.
pub(super) async fn show_target(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
    headers: HeaderMap,
) -> Answer<Document> {
    let (function, revision) = invoke::path_target(&service, &target)?;
    Ok(Json(Document::of(&service, &function, &revision, &headers).await))
}

/// `DELETE /v1/functions/{name}`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Error> {
    let name = own(&name)?;
    let freed = service.store.remove_function(name.clone()).await?;
    service.release(freed);
    service.forget(&name).await;
    residence::apply(&service).await;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize)]
pub(super) struct RevisionList {
    revisions: Vec<RevisionItem>,
}

#[derive(Debug, Serialize)]
struct RevisionItem {
    revision: String,
    component_digest: String,
    created_at: String,
    settings: SettingsDocument,
    aliases: Vec<String>,
}

/// `GET /v1/functions/{name}/revisions`: newest deployed first.
pub(super) async fn revisions(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Answer<RevisionList> {
    let function = invoke::find(&service, &name)?;
    let revisions = function.revisions.iter().map(|revision| RevisionItem {
        revision: revision.id.to_string(),
        component_digest: revision.predictor.digest.to_string(),
        created_at: rfc3339(revision.created_at),
        settings: SettingsDocument::of(&revision.effective),
        aliases: function.aliases_of(&revision.id).map(str::to_owned).collect(),
    });
    Ok(Json(RevisionList { revisions: revisions.collect() }))
}

#[derive(Debug, Serialize)]
pub(super) struct AliasList {
    aliases: BTreeMap<String, String>,
}

/// `GET /v1/functions/{name}/aliases`.
pub(super) async fn aliases(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Answer<AliasList> {
    let function = invoke::find(&service, &name)?;
    Ok(Json(AliasList { aliases: aliases_of(&function) }))
}

/// The body of an alias or a roll-back.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    revision: Option<String>,
}

/// `PUT /v1/functions/{name}/aliases/{alias}`.
pub(super) async fn set_alias(
    State(service): State<Arc<Service>>,
    Path((name, alias)): Path<(String, String)>,
    body: Body,
) -> Answer<AliasList> {
    let (name, alias) = (own(&name)?, Alias::parse(&alias)?);
    let Target { revision } = body::json(body, &service.config.http).await?;
    let missing = || Error::new(Code::InvalidRequest, "body: names no \"revision\"");
    let reference = Reference::parse(&revision.ok_or_else(missing)?)?;
    let is_live = alias == Alias::live();
    let function = service.store.set_alias(name, alias, reference).await?;
    if is_live {
        residence::moved(&service, &function).await;
    }
    Ok(Json(AliasList { aliases: aliases_of(&function) }))
}

/// `DELETE /v1/functions/{name}/aliases/{alias}`.
pub(super) async fn remove_alias(
    State(service): State<Arc<Service>>,
    Path((name, alias)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    service.store.remove_alias(own(&name)?, Alias::parse(&alias)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/functions/{name}/rollback`.
pub(super) async fn roll_back(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<Document> {
    let name = own(&name)?;
    let Target { revision } = body::json(body, &service.config.http).await?;
    let reference = revision.as_deref().map(Reference::parse).transpose()?;
    let function = service.store.roll_back(name, reference).await?;
    residence::moved(&service, &function).await;
    Ok(Json(Document::of(&service, &function, function.live(), &headers).await))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct PredictionList {
    predictions: Vec<PredictionItem>,
}

#[derive(Debug, Serialize)]
struct PredictionItem {
    id: String,
    revision: String,
    status: Status,
    started_at: String,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    logs: String,
}

/// `GET /v1/functions/{name}/logs`: newest first.
pub(super) async fn logs(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    query: Result<Query<LogsQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<PredictionList> {
    let Query(query) = query.map_err(|error| Error::new(Code::InvalidRequest, error.body_text()))?;
    if let Some(limit) = query.limit.filter(|limit| *limit > LIMIT_MAX) {
        let message = format!("limit is {limit}, at most {LIMIT_MAX} are listed");
        return Err(Error::new(Code::InvalidRequest, message));
    }
    let function = invoke::find(&service, &name)?;
    let page = service.predictions.list(Filter {
        function: Some(function.name.clone()),
        has_ended: true,
        since: Some(function.created_at),
        limit: query.limit.unwrap_or(service.config.queue.page_max),
        ..Filter::default()
    });
    let predictions = page.await?.records.into_iter().map(prediction);
    Ok(Json(PredictionList { predictions: predictions.collect() }))
}

fn prediction(record: Record) -> PredictionItem {
    PredictionItem {
        id: record.id.to_string(),
        revision: record.revision.to_string(),
        status: record.status,
        started_at: rfc3339(record.started_at.unwrap_or(record.created_at)),
        duration_ms: millis(record.took()),
        logs: record.logs(),
        error: record.failure,
    }
}

fn aliases_of(function: &Function) -> BTreeMap<String, String> {
    let named = function.aliases.iter().map(|(alias, id)| (alias.to_string(), id.to_string()));
    named.chain([(Alias::LATEST.to_owned(), function.latest().id.to_string())]).collect()
}

/// A function's invocation URL as this caller reaches it.
fn url(config: &Config, headers: &HeaderMap, name: &FunctionName) -> String {
    format!("{}/fn/{name}", base_url(config, headers))
}

/// What stands before the paths of this service's URLs as this caller reaches it.
pub(super) fn base_url(config: &Config, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let scheme = config.scheme();
    match (&config.public_url, host) {
        (Some(public), _) => public.trim_end_matches('/').to_owned(),
        (None, Some(host)) => format!("{scheme}://{host}"),
        (None, None) => format!("{scheme}://{}", config.listen),
    }
}

/// Reads RFC 3339, with any offset. What lies before 1970 is taken for 1970.
pub(crate) fn moment(text: &str) -> Result<SystemTime, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
    Ok(SystemTime::from(moment).max(SystemTime::UNIX_EPOCH + Duration::from_millis(1)))
}

/// RFC 3339, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    // The formatter takes nothing beyond the year 9999.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(SystemTime::UNIX_EPOCH, latest)).to_string()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_url_is_the_one_that_the_caller_reached() {
        let name = FunctionName::parse("f").unwrap();
        let host = |host| HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        let mut config = Config::new("");
        assert_eq!(url(&config, &host("node:80"), &name), "http://node:80/fn/f");
        assert_eq!(url(&config, &host("a b"), &name), "http://127.0.0.1:8080/fn/f");
        assert_eq!(url(&config, &HeaderMap::new(), &name), "http://127.0.0.1:8080/fn/f");
        config.tls = Some(crate::config::Tls { cert: "c".into(), key: "k".into() });
        assert_eq!(url(&config, &host("node:80"), &name), "https://node:80/fn/f");
        config.public_url = Some("https://example.com/".to_owned());
        assert_eq!(url(&config, &host("node:80"), &name), "https://example.com/fn/f");
    }

    #[test]
    fn times_are_rfc_3339() {
        let at = |second| Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        assert_eq!(moment("1970-01-02T01:00:00+01:00"), at(86_400));
        assert_eq!(moment("2000-01-01T00:00:00.000Z"), at(946_684_800));
        assert_eq!(
            moment("0075-09-10T18:23:47+16:28").map(rfc3339).as_deref(),
            Ok("1970-01-01T00:00:00.001Z")
        );
        assert!(moment("tomorrow").is_err() && moment("2000-13-01T00:00:00Z").is_err());
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
