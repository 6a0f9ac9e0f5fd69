//! Replicate's HTTP API: <https://replicate.com/docs/reference/http>. A function is a model of the
//! node's owner, a revision is a version.

mod catalogue;
mod deployments;
mod document;
mod predictions;
mod stream;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use super::{Code, Error, functions, invoke};
use crate::{
    function::{Function, FunctionName, Revision, RevisionId},
    service::Service,
};

pub(super) use catalogue::Models;
pub(super) use document::{document, is_ours};
pub(super) use predictions::{Create, create};

/// The dialect's own routes; those that it shares with others are theirs.
pub(super) fn routes() -> Router<Arc<Service>> {
    let model = get(catalogue::model).delete(catalogue::remove);
    Router::new()
        .route("/v1/models/{owner}/{name}", model)
        .route("/v1/models/{owner}/{name}/versions", get(catalogue::versions))
        .route("/v1/models/{owner}/{name}/versions/{id}", get(catalogue::version))
        .route("/v1/models/{owner}/{name}/predictions", post(predictions::create_by_model))
        .route("/v1/deployments", get(deployments::list).post(deployments::create))
        .route(
            "/v1/deployments/{owner}/{name}",
            get(deployments::show).patch(deployments::update).delete(deployments::remove),
        )
        .route("/v1/deployments/{owner}/{name}/predictions", post(deployments::predict))
        .route("/v1/account", get(catalogue::account))
        .route("/v1/hardware", get(catalogue::hardware))
        .route("/v1/streams/{id}/{key}", get(stream::show))
}

/// Paths whose last part nobody can guess, so that they need no token.
pub(super) fn is_capability(path: &str) -> bool {
    path.starts_with("/v1/streams/")
}

/// The function that a model's name means.
fn find(service: &Service, owner: &str, name: &str) -> Result<Arc<Function>, Error> {
    match owner == service.config.owner {
        true => invoke::find(service, name),
        false => Err(Error::not_found(format!("no model \"{owner}/{name}\""))),
    }
}

/// What a version means: an id, or a model with or without one, `OWNER/NAME` or `OWNER/NAME:ID`.
fn find_version(service: &Service, version: &str) -> Result<(Arc<Function>, Arc<Revision>), Error> {
    if let Some((owner, rest)) = version.split_once('/') {
        let (name, id) = rest.split_once(':').map_or((rest, None), |(name, id)| (name, Some(id)));
        let function = find(service, owner, name)?;
        let revision = match id {
            None => function.live().clone(),
            Some(id) => of_id(&function, id).ok_or_else(|| no_version(version))?,
        };
        return Ok((function, revision));
    }
    // The same component with the same settings may be several functions': any does the same.
    let allowed = functions::visible(service).into_iter();
    let found = allowed.filter_map(|function| of_id(&function, version).map(|revision| (function, revision)));
    let (mut others, mut live) = (Vec::new(), None);
    for (function, revision) in found {
        match function.live().id == revision.id {
            true => live = live.or(Some((function, revision))),
            false => others.push((function, revision)),
        }
    }
    live.or(others.into_iter().next()).ok_or_else(|| no_version(version))
}

fn of_id(function: &Function, id: &str) -> Option<Arc<Revision>> {
    function.revision(&RevisionId::parse(id).ok()?).cloned()
}

fn no_version(version: &str) -> Error {
    let version: String = version.chars().take(100).collect();
    Error::new(Code::InvalidInput, format!("no version \"{version}\" on this node"))
}

/// How this dialect calls a function.
fn model_name(owner: &str, function: &FunctionName) -> String {
    format!("{owner}/{function}")
}
