//! The models of this node.

use std::sync::Arc;

use axum::{Json, extract::State};
use dormouse_engine::catalog;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{Error, openai};
use crate::service::Service;

/// The list in the form of every dialect that asks for it here.
#[derive(Debug, Serialize)]
pub(super) struct ModelList {
    /// `list`, as OpenAI's clients want it.
    object: &'static str,
    data: Vec<openai::ModelItem>,
    models: Vec<ModelItem>,
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

/// `GET /v1/models`.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Json<ModelList>, Error> {
    let read = spawn_blocking(move || -> Result<_, dormouse_engine::Error> {
        let loaded = service.engine.loaded();
        let stats = service.engine.stats().models;
        let entries = service.catalog.list()?;
        let data = entries.iter().map(openai::ModelItem::new).collect();
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
        Ok(ModelList { object: "list", data, models: models.collect() })
    });
    Ok(Json(read.await.map_err(Error::internal)?.map_err(Error::internal)?))
}
