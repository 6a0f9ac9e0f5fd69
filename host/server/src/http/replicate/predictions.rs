//! New predictions.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    document::{document, memo, waiting},
    find, find_version,
};
use crate::{
    function::{Function, Problem, Revision},
    http::{
        Code, Dialect, Error, body, cog, created, functions, guard::Arrived, prefer::Prefer, timing::Timing,
    },
    prediction::{Call, Input, Submission, new_id},
    service::Service,
    webhook::{Event, Webhook, trace_headers},
};

/// The body of a new prediction. Fields that are not known here are let through, as Replicate does.
#[derive(Debug, Default, Deserialize)]
pub(in super::super) struct Create {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    webhook: Option<String>,
    /// What came before the filter: a hook for the end only.
    #[serde(default)]
    webhook_completed: Option<String>,
    #[serde(default)]
    webhook_events_filter: Option<Vec<Event>>,
}

impl Create {
    /// Reads a body that is this dialect's: it names a version, or a model its path has named.
    pub(in super::super) fn read(body: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(body)
            .map_err(|error| Error::new(Code::InvalidRequest, format!("body: {error}")))
    }
}

/// `POST /v1/predictions` with a version.
pub(in super::super) async fn create(
    service: &Arc<Service>,
    create: Create,
    bytes: usize,
    arrived: Arrived,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let version = create.version.as_deref().unwrap_or_default();
    let target = find_version(service, version)?;
    submit(service, target, None, create, bytes, arrived, headers).await
}

/// `POST /v1/models/{owner}/{name}/predictions`.
pub(super) async fn create_by_model(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let function = find(&service, &owner, &name)?;
    let revision = function.live().clone();
    create_for(&service, (function, revision), None, arrived, &headers, body).await
}

/// A prediction of what the path has named.
pub(super) async fn create_for(
    service: &Arc<Service>,
    target: (Arc<Function>, Arc<Revision>),
    deployment: Option<&str>,
    arrived: Arrived,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let body = body::read(body, &service.config.http).await?;
    submit(service, target, deployment, Create::read(&body)?, body.len(), arrived, headers).await
}

async fn submit(
    service: &Arc<Service>,
    (function, revision): (Arc<Function>, Arc<Revision>),
    deployment: Option<&str>,
    create: Create,
    bytes: usize,
    Arrived(arrived): Arrived,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let base = functions::base_url(&service.config, headers);
    let webhook = webhook(service, &create, &base, headers)?;
    let stream_key = revision.predictor.manifest.streaming.then(new_id);
    let memo = memo(&service.config.owner, stream_key, deployment);
    let input = create.input.unwrap_or_else(|| json!({}));
    let input = Input::Value(cog::known_only(input, &revision.predictor.manifest.input), bytes);
    let Prefer { keep_alive, wait, .. } = Prefer::of(headers);
    let call = Call { function, revision, input, id: None, webhook, memo, keep_alive, arrived };
    let submitted = service.predictions.submit(service, call, Submission::default()).await?;
    let mut record = submitted.record;
    if let Some(wait) = wait {
        record = service.predictions.wait(&record.id, wait.min(service.config.http.wait_max)).await?;
    }
    let document = document(&record, &base, &service.config.owner);
    Ok(Timing::of_record(&record).tell(created(waiting(document))))
}

fn webhook(
    service: &Service,
    create: &Create,
    base: &str,
    headers: &HeaderMap,
) -> Result<Option<Box<Webhook>>, Error> {
    let (url, events) = match (&create.webhook, &create.webhook_completed) {
        (Some(url), _) => (url, create.webhook_events_filter.clone().unwrap_or(Event::ALL.to_vec())),
        (None, Some(url)) => (url, vec![Event::Completed]),
        (None, None) => return Ok(None),
    };
    Webhook::check(url, &service.config.webhook)
        .map_err(|reason| Error::invalid_input(vec![Problem::new(["body", "webhook"], reason)]))?;
    Ok(Some(Box::new(Webhook {
        url: url.clone(),
        events,
        dialect: Dialect::Replicate,
        base: base.to_owned(),
        headers: trace_headers(headers),
    })))
}
