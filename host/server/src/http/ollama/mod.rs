//! Ollama's HTTP API: <https://github.com/ollama/ollama/blob/main/docs/api.md> and what its clients do.
//!
//! Models are those of this node, with or without `:latest`, and functions. Their `keep_alive` is how long a
//! model stays awake; `ps` lists those that are. What would change an answer and can't be honoured is
//! refused by name.

mod embed;
mod generate;
mod lines;
mod models;
mod pull;
mod request;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{Code, Error, openai::Failure};
use crate::service::Service;

/// The version of Ollama whose API this is.
const VERSION: &str = "0.9.0";
/// The tag of a name without one.
const LATEST: &str = ":latest";

/// The dialect's routes.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/api/version", get(version))
        .route("/api/tags", get(models::list))
        .route("/api/ps", get(models::awake))
        .route("/api/show", post(models::show))
        .route("/api/delete", delete(models::remove))
        .route("/api/pull", post(pull::pull))
        .route("/api/generate", post(generate::generate))
        .route("/api/chat", post(generate::chat))
        .route("/api/embed", post(embed::embed))
        .route("/api/embeddings", post(embed::embeddings))
        .route("/api/copy", post(refuse_copy))
        .route("/api/create", post(refuse_create))
        .route("/api/push", post(refuse_push))
}

/// Whether a path is one that this dialect's clients ask, so that they read an error of it.
pub(super) fn is_route(path: &str) -> bool {
    path.starts_with("/api/")
}

/// Why a client can't have what it asked for.
#[derive(Debug)]
pub(super) struct Refusal(Failure);

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Error::new(Code::InvalidRequest, message).into()
    }

    /// A field that can't be honoured.
    fn unsupported(field: &str) -> Self {
        Self::new(format!("{field} is not offered"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = self.0.error();
        error.response(json!({"error": error.message}))
    }
}

/// `GET /api/version`.
async fn version() -> Json<Value> {
    Json(json!({"version": VERSION}))
}

async fn refuse_copy(body: Body) -> Refusal {
    drop(body);
    Refusal::new("copy is not offered: `dormouse model pull SOURCE --name NAME` gives a model another name")
}

async fn refuse_create(body: Body) -> Refusal {
    drop(body);
    Refusal::new("create is not offered: a model is a GGUF file, and what is built on it is a function")
}

async fn refuse_push(body: Body) -> Refusal {
    drop(body);
    Refusal::new("push is not offered")
}

/// A name as the node knows it: the tag `latest` goes without saying, unless a model is called so.
async fn plain_name(service: &Service, name: &str) -> Result<String, Refusal> {
    let Some(plain) = name.strip_suffix(LATEST) else { return Ok(name.to_owned()) };
    let (catalog, full) = (service.catalog.clone(), name.to_owned());
    let is_known = spawn_blocking(move || catalog.resolve(&full).is_ok()).await.map_err(Error::internal)?;
    Ok(if is_known { name } else { plain }.to_owned())
}

/// A name as this dialect's clients show it.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") }
}
