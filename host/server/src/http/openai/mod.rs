//! The OpenAI dialect: chats, completions, responses and embeddings from the models of this node, as
//! <https://platform.openai.com/docs/api-reference> has them.
//!
//! What a request asks of a model goes to the engine as it is: no predictor stands between. A model's name may
//! be a function's, which is then called. A field that would
//! change the answer and can't be honoured is refused by name; one that can't change it is ignored.

pub(super) mod adapt;
mod answer;
pub(super) mod answerer;
pub(super) mod batches;
mod chat;
mod completions;
pub(super) mod embeddings;
mod failure;
mod files;
pub(super) mod generation;
mod models;
pub(super) mod request;
mod responses;
pub(super) mod stream;
pub(super) mod tools;
mod waking;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::service::Service;

pub(crate) use batches::Counts;
pub(super) use failure::Failure;
pub(crate) use files::sweep as sweep_files;
pub(super) use models::ModelItem;

/// The dialect's routes.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/models/{id}", get(models::show))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::show).delete(files::remove))
        .route("/v1/files/{id}/content", get(files::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::show))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
}

/// Whether a path is one that this dialect's clients ask, so that they read an error of it.
pub(super) fn is_route(path: &str) -> bool {
    [
        "/v1/models",
        "/v1/chat/",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/files",
        "/v1/batches",
    ]
    .into_iter()
    .any(|prefix| path.starts_with(prefix))
}
