//! `POST /api/embed`, and the older `POST /api/embeddings`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use dormouse_engine::Prompt;
use serde::Deserialize;
use serde_json::json;

use super::{
    super::openai::{
        answerer::Answerer,
        embeddings::{self, Made},
        request as openai_request,
    },
    Refusal, plain_name,
    request::Common,
};
use crate::service::Service;

/// The most texts of a request.
const INPUTS_MAX: usize = 2048;

#[derive(Debug, Deserialize)]
struct Embed {
    #[serde(default)]
    input: Texts,
    /// A text that is too long is cut unless it says no.
    truncate: Option<bool>,
    dimensions: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Default for Texts {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct Older {
    #[serde(default)]
    prompt: String,
}

/// `POST /api/embed`.
pub(super) async fn embed(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let began = Instant::now();
    let bytes = openai_request::read(body, &service.config.http).await?;
    let common: Common = openai_request::parse(&bytes)?;
    let embed: Embed = openai_request::parse(&bytes)?;
    let texts = match embed.input {
        Texts::One(text) if text.is_empty() => Vec::new(),
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    let is_cut = embed.truncate != Some(false);
    let mut made = make(&service, &common, texts, is_cut, bytes.len()).await?;
    if let Some(kept) = embed.dimensions.filter(|kept| *kept > 0) {
        let vectors = made.vectors.into_iter();
        made.vectors = vectors.map(|vector| embeddings::shortened(vector, kept)).collect();
    }
    let answer = Json(json!({
        "model": common.model,
        "embeddings": made.vectors,
        "total_duration": nanos(began.elapsed()),
        "load_duration": nanos(made.wake),
        "prompt_eval_count": made.prompt_tokens,
    }));
    Ok(made.timing.tell(answer.into_response()))
}

/// `POST /api/embeddings`.
pub(super) async fn embeddings(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Refusal> {
    let bytes = openai_request::read(body, &service.config.http).await?;
    let common: Common = openai_request::parse(&bytes)?;
    let Older { prompt } = openai_request::parse(&bytes)?;
    let texts = if prompt.is_empty() { Vec::new() } else { vec![prompt] };
    let mut made = make(&service, &common, texts, true, bytes.len()).await?;
    let answer = Json(json!({"embedding": made.vectors.pop().unwrap_or_default()}));
    Ok(made.timing.tell(answer.into_response()))
}

async fn make(
    service: &Arc<Service>,
    common: &Common,
    texts: Vec<String>,
    is_cut: bool,
    bytes: usize,
) -> Result<Made, Refusal> {
    if texts.len() > INPUTS_MAX {
        return Err(Refusal::new(format!("input has {} texts, at most {INPUTS_MAX} are taken", texts.len())));
    }
    let name = plain_name(service, &common.model).await?;
    let open = common.open()?;
    let answerer = Answerer::open(service, &name, open).await?;
    let is_empty = texts.is_empty();
    let prompts = texts.into_iter().map(Prompt::Text).collect();
    Ok(match &answerer {
        Answerer::Model(model) => embeddings::by_model(service, model, prompts, is_cut).await?,
        Answerer::Function(_) if is_empty => Made::default(),
        Answerer::Function(target) => {
            embeddings::by_function(service, target, prompts, bytes, open.keep_alive).await?
        }
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
