//! The models of this node.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, Method},
    response::{IntoResponse, Response},
};
use dormouse_engine::catalog;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{Code, Error, body, functions, openai, replicate};
use crate::{function::Function, service::Service};

/// The list in the form of every dialect that asks for it here.
#[derive(Debug, Serialize)]
pub(super) struct ModelList {
    /// `list`, as OpenAI's clients want it.
    object: &'static str,
    data: Vec<openai::ModelItem>,
    models: Vec<ModelItem>,
    /// Functions, as Replicate's clients want them.
    #[serde(flatten)]
    functions: replicate::Models,
}

#[derive(Debug, Serialize)]
struct ModelItem {
    name: String,
    digest: catalog::Digest,
    bytes: u64,
    source: String,
    architecture: String,
    quantization: String,
    context_length: Option<u64>,
    parameters: u64,
    vocabulary: Option<usize>,
    license: Option<String>,
    loaded: bool,
    /// Sequences in its batch.
    running: usize,
    /// Sequences that wait for the batch.
    queued: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    /// The last function of the page before.
    cursor: Option<String>,
}

/// `GET /v1/models`.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Query(ListQuery { cursor }): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<ModelList>, Error> {
    let functions = replicate::Models::page(&service, &headers, cursor.as_deref());
    let callable = functions::visible(&service);
    let read = spawn_blocking(move || -> Result<_, dormouse_engine::Error> {
        let loaded = service.engine.loaded();
        let stats = service.engine.stats().models;
        let entries = service.catalog.list()?;
        let mut data: Vec<_> = entries.iter().map(openai::ModelItem::new).collect();
        // A function answers under its name unless a model has it.
        let is_named = |function: &&Arc<Function>| {
            entries.iter().all(|entry| entry.record.name != function.name.as_str())
        };
        let names = callable.iter().filter(is_named);
        data.extend(names.map(|function| openai::ModelItem::of_function(function, function.name.as_str())));
        let models = entries.into_iter().filter_map(|entry| {
            let facts = catalog::inspect(&entry.path)
                .inspect_err(|error| tracing::warn!(%error, "model can't be read"))
                .ok()?;
            // The engine tells digests as the catalogue does.
            let digest = serde_json::to_value(&entry.record.digest).ok()?;
            let info = loaded.iter().find(|info| Some(&*info.digest) == digest.as_str());
            let stats = info.and_then(|info| stats.iter().find(|stats| stats.name == info.name));
            Some(ModelItem {
                name: entry.record.name,
                digest: entry.record.digest,
                bytes: entry.record.bytes,
                source: entry.record.source,
                architecture: facts.architecture,
                quantization: facts.quantization,
                context_length: facts.context_length,
                parameters: facts.parameters,
                vocabulary: facts.vocabulary,
                license: facts.license,
                loaded: info.is_some(),
                running: stats.map_or(0, |stats| stats.running),
                queued: stats.map_or(0, |stats| stats.queued),
            })
        });
        Ok(ModelList { object: "list", data, models: models.collect(), functions })
    });
    Ok(Json(read.await.map_err(Error::internal)?.map_err(Error::internal)?))
}

/// `QUERY /v1/models`: a search of functions, as Replicate's clients ask for it. Any other method gets here
/// too.
pub(super) async fn query(
    State(service): State<Arc<Service>>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    if method.as_str() != "QUERY" || body::media_type(&headers).as_deref() != Some("text/plain") {
        let message = format!("/v1/models does not take {method}");
        return Err(Error::new(Code::MethodNotAllowed, message));
    }
    let text = body::read(body, &service.config.http).await?;
    // Some clients send a JSON string, some plain text.
    let text = serde_json::from_slice(&text).unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned());
    Ok(Json(replicate::Models::search(&service, &headers, &text)).into_response())
}
