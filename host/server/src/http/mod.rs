//! The service over HTTP: routes, and what every request passes on its way to one.

mod body;
mod error;
mod functions;
mod guard;
mod invoke;
mod models;
mod node;
mod sse;
mod upload;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post, put},
};

use crate::service::Service;

pub(crate) use error::{Code, Error};
pub(crate) use sse::Frame;

/// All routes. Every body is bounded where it is read, so the default bound is off.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let function = get(functions::show).put(upload::deploy).delete(functions::remove);
    let alias = put(functions::set_alias).delete(functions::remove_alias);
    let invocation = post(invoke::by_path).get(functions::show_target);
    Router::new()
        .route("/", get(node::root).post(invoke::by_host))
        .route("/healthz", get(node::health))
        .route("/metrics", get(node::metrics))
        .route("/fn/{target}", invocation)
        .route("/v1/functions", get(functions::list))
        .route("/v1/functions/{name}", function)
        .route("/v1/functions/{name}/revisions", get(functions::revisions))
        .route("/v1/functions/{name}/aliases", get(functions::aliases))
        .route("/v1/functions/{name}/aliases/{alias}", alias)
        .route("/v1/functions/{name}/rollback", post(functions::roll_back))
        .route("/v1/functions/{name}/logs", get(functions::logs))
        .route("/v1/models", get(models::list))
        .fallback(guard::no_route)
        .method_not_allowed_fallback(guard::no_method)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(service.clone(), guard::pass))
        .with_state(service)
}
