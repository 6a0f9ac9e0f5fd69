//! `POST /v1/embeddings`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dormouse_engine::{KeepAlive, Model, Prompt};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    super::{Code, Error, timing::Timing},
    Failure, adapt,
    answerer::{Answerer, Target},
    completions::Prompts,
    generation, request,
};
use crate::service::Service;

/// The most inputs of a request.
const INPUTS_MAX: usize = 2048;

#[derive(Debug, Deserialize)]
struct Embed {
    model: String,
    input: Prompts,
    #[serde(default)]
    encoding_format: EncodingFormat,
    dimensions: Option<usize>,
}

/// How vectors are written. The official clients ask for base64 unless told otherwise.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    #[default]
    Float,
    /// Little-endian f32.
    Base64,
}

#[derive(Debug, Serialize)]
pub(super) struct Embeddings {
    object: &'static str,
    data: Vec<Value>,
    model: String,
    usage: Value,
}

/// Embeds texts as vectors of length 1.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Failure> {
    let bytes = request::read(body, &service.config.http).await?;
    let embed: Embed = request::parse(&bytes)?;
    let inputs = embed.input.list();
    if !(1..=INPUTS_MAX).contains(&inputs.len()) {
        let message = format!("{} inputs are not 1 to {INPUTS_MAX}", inputs.len());
        return Err(Failure::invalid("input", message));
    }
    let open = request::open(&bytes)?;
    let Made { vectors, prompt_tokens, timing, .. } =
        match Answerer::open(&service, &embed.model, open).await? {
            Answerer::Model(model) => by_model(&service, &model, inputs, false).await?,
            Answerer::Function(target) => {
                by_function(&service, &target, inputs, bytes.len(), open.keep_alive).await?
            }
        };
    let dimension = vectors.iter().map(Vec::len).min().unwrap_or(0);
    let kept = embed.dimensions.unwrap_or(dimension);
    if !(1..=dimension).contains(&kept) {
        return Err(Failure::invalid("dimensions", format!("{kept} is not in 1 to {dimension}")));
    }
    let item = |(index, vector): (usize, Vec<f32>)| {
        let embedding = embed.encoding_format.write(&shortened(vector, kept));
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    let embeddings = Embeddings {
        object: "list",
        data: vectors.into_iter().enumerate().map(item).collect(),
        model: embed.model,
        usage: json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}),
    };
    Ok(timing.tell(Json(embeddings).into_response()))
}

/// Vectors, and what they cost.
#[derive(Debug, Default)]
pub(in crate::http) struct Made {
    pub(in crate::http) vectors: Vec<Vec<f32>>,
    /// Tokens that were read for them.
    pub(in crate::http) prompt_tokens: usize,
    /// Waiting for models to wake; the longest.
    pub(in crate::http) wake: Duration,
    pub(in crate::http) timing: Timing,
}

/// Vectors of a model. Inputs that are longer than the context are cut, or refused.
pub(in crate::http) async fn by_model(
    service: &Service,
    model: &Model,
    inputs: Vec<Prompt>,
    is_cut: bool,
) -> Result<Made, Failure> {
    let tokenizer = model.clone();
    let tokenized = spawn_blocking(move || {
        inputs.iter().map(|input| tokenizer.prompt_tokens(input)).collect::<Result<Vec<_>, _>>()
    });
    let mut tokens = tokenized.await.map_err(Error::internal)??;
    if is_cut {
        tokens.iter_mut().for_each(|tokens| tokens.truncate(model.info().context_length));
    }
    let prompt_tokens = tokens.iter().map(Vec::len).sum::<usize>();
    let vectors = model.embed_tokens(tokens).await?;
    service.metrics.tokens(prompt_tokens as u64, 0, 0);
    Ok(Made { vectors, prompt_tokens, wake: model.wake(), timing: Timing::of_model(model) })
}

/// Vectors of a function, which must be as many as the texts.
pub(in crate::http) async fn by_function(
    service: &Arc<Service>,
    target: &Target,
    inputs: Vec<Prompt>,
    bytes: usize,
    keep_alive: Option<KeepAlive>,
) -> Result<Made, Failure> {
    let text = |prompt| match prompt {
        Prompt::Text(text) => Ok(text),
        _ => {
            let message = format!("function \"{}\" takes text, not tokens", target.name);
            Err(Failure::invalid("input", message))
        }
    };
    let texts = inputs.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let inputs = adapt::texts(target, &texts)?;
    let output = |input| generation::output(service, target, input, bytes, keep_alive);
    let outputs = try_join_all(inputs.into_iter().map(output));
    let mut made = Made::default();
    for (output, usage, timing) in outputs.await? {
        made.vectors.extend(adapt::vectors(target, &output)?);
        made.prompt_tokens += usage.prompt_tokens as usize;
        // Of several predictions, the one that waited longest is told of.
        if usage.wake >= made.wake {
            (made.wake, made.timing) = (usage.wake, timing);
        }
    }
    match made.vectors.len() == texts.len() {
        true => Ok(made),
        false => {
            let (name, made, asked) = (&target.name, made.vectors.len(), texts.len());
            let message = format!("function \"{name}\" made {made} vectors of {asked} texts");
            Err(Error::new(Code::PredictorBadOutput, message).into())
        }
    }
}

/// The first elements, at length 1 again.
pub(in crate::http) fn shortened(mut vector: Vec<f32>, kept: usize) -> Vec<f32> {
    if kept < vector.len() {
        vector.truncate(kept);
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= length.max(f32::MIN_POSITIVE));
    }
    vector
}

impl EncodingFormat {
    fn write(self, vector: &[f32]) -> Value {
        match self {
            Self::Float => json!(vector),
            Self::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_little_endian_floats() {
        assert_eq!(EncodingFormat::Base64.write(&[1.0, -2.0]), json!("AACAPwAAAMA="));
        assert_eq!(EncodingFormat::Float.write(&[1.0, -2.0]), json!([1.0, -2.0]));
    }

    #[test]
    fn a_shortened_vector_has_length_1() {
        assert_eq!(shortened(vec![3.0, 4.0, 12.0], 2), [0.6, 0.8]);
        assert_eq!(shortened(vec![0.0, 0.0, 1.0], 2), [0.0, 0.0]);
        assert_eq!(shortened(vec![1.0, 0.0], 2), [1.0, 0.0]);
    }
}
