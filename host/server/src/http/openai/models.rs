//! `/v1/models` as the dialect has it; the list is the node's own, which carries both forms.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use dormouse_engine::catalog;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    super::Error,
    Failure,
    answerer::{Named, Target, named},
};
use crate::{function::Function, service::Service};

/// A model.
#[derive(Debug, Serialize)]
pub(in crate::http) struct ModelItem {
    id: String,
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    owned_by: String,
}

impl ModelItem {
    pub(in crate::http) fn new(entry: &catalog::Entry) -> Self {
        Self {
            id: entry.record.name.clone(),
            object: "model",
            created: entry.record.added_at,
            owned_by: "dormouse".to_owned(),
        }
    }

    /// A function, which answers under its name as a model does.
    pub(in crate::http) fn of_function(function: &Function, name: &str) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: Target::created(function),
            owned_by: "function".to_owned(),
        }
    }
}

/// `GET /v1/models/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Json<ModelItem>, Failure> {
    if let Named::Function(target) = named(&service, &id).await? {
        return Ok(Json(ModelItem::of_function(&target.function, &target.name)));
    }
    let catalog = service.catalog.clone();
    let found = spawn_blocking(move || match catalog.resolve(&id) {
        // No model can have such a name.
        Err(dormouse_engine::Error::Invalid(_)) => Err(dormouse_engine::Error::UnknownModel(id)),
        found => found,
    });
    Ok(Json(ModelItem::new(&found.await.map_err(Error::internal)??)))
}
