//! The service over HTTP: routes, and what every request passes on its way to one.

mod answer;
mod body;
mod cog;
mod dialect;
mod error;
mod functions;
mod guard;
mod invoke;
mod lambda;
mod mcp;
mod models;
mod node;
mod ollama;
mod openai;
mod openapi;
mod origin;
mod predictions;
mod prefer;
mod replicate;
mod residency;
mod sse;
mod timing;
mod tokens;
mod trace;
mod upload;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post, put},
};

use crate::service::Service;

pub(crate) use dialect::{Dialect, ended, prediction_body, run_errand};
use error::created;
pub(crate) use error::{Code, Error};
#[cfg(test)]
pub(crate) use functions::{moment, rfc3339};
pub(crate) use lambda::{States, map_provisioned, provisioned_models};
pub(crate) use openai::{Counts, sweep_files};

/// All routes. Every body is bounded where it is read, so the default bound is off.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let function = get(functions::show).put(upload::deploy).delete(functions::remove);
    let alias = put(functions::set_alias).delete(functions::remove_alias);
    let invocation = post(invoke::by_path).get(functions::show_target);
    Router::new()
        .route("/", get(node::root).post(invoke::by_host))
        .route("/healthz", get(node::health))
        .route("/readyz", get(node::ready))
        .route("/metrics", get(node::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
        .route("/mcp", post(mcp::answer))
        .route("/fn/{target}", invocation)
        .route("/fn/{target}/", get(cog::root))
        .route("/fn/{target}/health-check", get(cog::health))
        .route("/fn/{target}/openapi.json", get(cog::openapi))
        .route("/fn/{target}/docs", get(openapi::function_page))
        .route("/fn/{target}/shutdown", post(cog::shutdown))
        .route("/fn/{target}/predictions", post(cog::create))
        .route("/fn/{target}/predictions/{id}", get(cog::show).put(cog::put))
        .route("/fn/{target}/predictions/{id}/cancel", post(cog::cancel))
        .route("/v1/functions", get(functions::list))
        .route("/v1/functions/{name}", function)
        .route("/v1/functions/{name}/revisions", get(functions::revisions))
        .route("/v1/functions/{name}/aliases", get(functions::aliases))
        .route("/v1/functions/{name}/aliases/{alias}", alias)
        .route("/v1/functions/{name}/rollback", post(functions::roll_back))
        .route("/v1/functions/{name}/logs", get(functions::logs))
        .route("/v1/predictions", get(predictions::list).post(predictions::create))
        .route("/v1/predictions/{id}", get(predictions::show).put(predictions::put))
        .route("/v1/predictions/{id}/cancel", post(predictions::cancel))
        .route("/v1/predictions/{id}/events", get(predictions::events))
        .route("/v1/dead-letters", get(predictions::dead))
        .route("/v1/dead-letters/redrive", post(predictions::redrive))
        .route("/v1/models", get(models::list).fallback(models::query))
        .route("/v1/webhooks/default/secret", get(node::webhook_secret))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .merge(lambda::routes())
        .merge(ollama::routes())
        .merge(openai::routes())
        .route("/v1/residency", get(residency::list))
        .route("/v1/residency/{model}", post(residency::set))
        .merge(replicate::routes())
        .fallback(guard::no_route)
        .method_not_allowed_fallback(guard::no_method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(service.clone(), guard::pass))
        .with_state(service)
}
