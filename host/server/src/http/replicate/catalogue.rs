//! Models, versions, and who the caller is.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{find, no_version, of_id};
use crate::{
    function::{Function, Revision},
    http::{Error, cog, functions, functions::rfc3339},
    service::Service,
};

/// Models of a page.
const PAGE: usize = 100;

/// One page of models.
#[derive(Debug, Serialize)]
pub(in super::super) struct Models {
    results: Vec<Value>,
    /// URL of the next page.
    next: Option<String>,
    previous: (),
}

impl Models {
    /// The models after `cursor`, which is a function's name.
    pub(in super::super) fn page(service: &Service, headers: &HeaderMap, cursor: Option<&str>) -> Self {
        let base = functions::base_url(&service.config, headers);
        let functions = functions::visible(service);
        let from =
            cursor.map_or(0, |cursor| functions.partition_point(|function| function.name.as_str() <= cursor));
        let page = &functions[from..functions.len().min(from + PAGE)];
        let next = (from + PAGE < functions.len()).then(|| {
            let last = &page.last().expect("a full page is not empty").name;
            format!("{base}/v1/models?cursor={last}")
        });
        Self {
            results: page.iter().map(|function| model_document(service, function, &base)).collect(),
            next,
            previous: (),
        }
    }

    /// The models whose name or description has all words of a query.
    pub(in super::super) fn search(service: &Service, headers: &HeaderMap, query: &str) -> Self {
        let base = functions::base_url(&service.config, headers);
        let words: Vec<_> = query.split_whitespace().map(str::to_lowercase).collect();
        let fits = |function: &&Arc<Function>| {
            let manifest = &function.live().predictor.manifest;
            let text = format!("{} {}", function.name, manifest.description).to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        let functions = functions::visible(service);
        let results = functions.iter().filter(fits).take(PAGE);
        Self {
            results: results.map(|function| model_document(service, function, &base)).collect(),
            next: None,
            previous: (),
        }
    }
}

/// `GET /v1/models/{owner}/{name}`.
pub(super) async fn model(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Error> {
    let function = find(&service, &owner, &name)?;
    let base = functions::base_url(&service.config, &headers);
    Ok(Json(model_document(&service, &function, &base)))
}

/// `DELETE /v1/models/{owner}/{name}`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    let function = find(&service, &owner, &name)?;
    functions::remove(State(service), Path(function.name.to_string())).await
}

/// `GET /v1/models/{owner}/{name}/versions`.
pub(super) async fn versions(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let function = find(&service, &owner, &name)?;
    let results: Vec<_> =
        function.revisions.iter().map(|revision| version_document(&function, revision)).collect();
    Ok(Json(json!({"previous": null, "next": null, "results": results})))
}

/// `GET /v1/models/{owner}/{name}/versions/{id}`.
pub(super) async fn version(
    State(service): State<Arc<Service>>,
    Path((owner, name, id)): Path<(String, String, String)>,
) -> Result<Json<Value>, Error> {
    let function = find(&service, &owner, &name)?;
    match of_id(&function, &id) {
        Some(revision) => Ok(Json(version_document(&function, &revision))),
        None => Err(Error::not_found(no_version(&id).message)),
    }
}

/// `GET /v1/account`.
pub(super) async fn account(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(account_document(&service.config.owner))
}

/// `GET /v1/hardware`: what functions run on is the node's.
pub(super) async fn hardware() -> Json<Value> {
    Json(json!([{"sku": "cpu", "name": "CPU"}]))
}

pub(super) fn account_document(owner: &str) -> Value {
    json!({"type": "organization", "username": owner, "name": owner, "github_url": null, "avatar_url": null})
}

fn model_document(service: &Service, function: &Function, base: &str) -> Value {
    let owner = &service.config.owner;
    json!({
        "url": format!("{base}/fn/{}", function.name),
        "owner": owner,
        "name": function.name,
        "description": function.live().predictor.manifest.description,
        "visibility": "private",
        "github_url": null,
        "paper_url": null,
        "license_url": null,
        "run_count": 0,
        "cover_image_url": null,
        "default_example": null,
        "latest_version": version_document(function, function.live()),
    })
}

fn version_document(function: &Function, revision: &Revision) -> Value {
    json!({
        "id": revision.id,
        "created_at": rfc3339(revision.created_at),
        "cog_version": cog::VERSION,
        "openapi_schema": cog::openapi_document(function, revision),
    })
}
