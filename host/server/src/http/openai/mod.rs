//! The OpenAI dialect: chats, completions, responses and embeddings from the models of this node, as
//! <https://platform.openai.com/docs/api-reference> has them.
//!
//! What a request asks goes to the engine as it is: no predictor stands between. A field that would
//! change the answer and can't be honoured is refused by name; one that can't change it is ignored.

mod answer;
mod chat;
mod completions;
mod embeddings;
mod failure;
mod generation;
mod models;
mod request;
mod responses;
mod stream;
mod tools;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::service::Service;

pub(super) use failure::Failure;
pub(super) use models::ModelItem;

/// The dialect's routes.
pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/models/{id}", get(models::show))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/responses", post(responses::create))
}

/// Whether a path is one that this dialect's clients ask, so that they read an error of it.
pub(super) fn is_route(path: &str) -> bool {
    ["/v1/models", "/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/responses"]
        .into_iter()
        .any(|prefix| path.starts_with(prefix))
}
