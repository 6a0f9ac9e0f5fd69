//! What a node says about itself.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::{Error, functions::Document, guard, invoke};
use crate::{
    metrics,
    service::{Phase, Service},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /`: what this is; on a function's host, the function.
pub(super) async fn root(State(service): State<Arc<Service>>, headers: HeaderMap) -> Result<Response, Error> {
    if let Some(label) = invoke::host_target(&headers) {
        let (function, revision) = invoke::label_target(&service, label)?;
        return Ok(Json(Document::of(&service, &function, &revision, &headers).await).into_response());
    }
    let node = json!({
        "name": "dormouse",
        "version": VERSION,
        "links": {"functions": "/v1/functions", "models": "/v1/models", "residency": "/v1/residency", "health": "/healthz", "metrics": "/metrics"},
    });
    Ok(Json(node).into_response())
}

#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    functions: usize,
}

/// `GET /healthz`.
pub(super) async fn health(State(service): State<Arc<Service>>) -> Json<Health> {
    let status = match service.phase() {
        Phase::Serving => "ok",
        Phase::Draining | Phase::Stopping => "draining",
    };
    Json(Health { status, version: VERSION, functions: service.store.registry.len() })
}

/// `GET /readyz`: whether the node takes work.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Result<Json<Health>, Error> {
    match service.phase() {
        Phase::Serving => {
            Ok(Json(Health { status: "ready", version: VERSION, functions: service.store.registry.len() }))
        }
        Phase::Draining | Phase::Stopping => Err(Error::draining()),
    }
}

/// What receivers of webhooks check signatures with.
#[derive(Debug, Serialize)]
pub(super) struct WebhookSecret {
    key: String,
}

/// `GET /v1/webhooks/default/secret`, where Replicate's clients ask for it too.
pub(super) async fn webhook_secret(
    State(service): State<Arc<Service>>,
) -> Result<Json<WebhookSecret>, Error> {
    guard::allow_all("webhooks")?;
    Ok(Json(WebhookSecret { key: service.predictions.webhooks.secret().text() }))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let text = service.metrics.render(&service.levels());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
