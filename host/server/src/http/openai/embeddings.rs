//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::{Json, body::Body, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{super::Error, Failure, completions::Prompts, generation, request};
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
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    body: Body,
) -> Result<Json<Embeddings>, Failure> {
    let bytes = request::read(body, &service.config.http).await?;
    let embed: Embed = request::parse(&bytes)?;
    let inputs = embed.input.list();
    if !(1..=INPUTS_MAX).contains(&inputs.len()) {
        let message = format!("{} inputs are not 1 to {INPUTS_MAX}", inputs.len());
        return Err(Failure::invalid("input", message));
    }
    let model = generation::open(&service, &embed.model).await?;
    let dimension = model.info().dimension;
    let kept = embed.dimensions.unwrap_or(dimension);
    if !(1..=dimension).contains(&kept) {
        return Err(Failure::invalid("dimensions", format!("{kept} is not in 1 to {dimension}")));
    }
    let tokenizer = model.clone();
    let tokenized = spawn_blocking(move || {
        inputs.iter().map(|input| tokenizer.prompt_tokens(input)).collect::<Result<Vec<_>, _>>()
    });
    let tokens = tokenized.await.map_err(Error::internal)??;
    let prompt_tokens = tokens.iter().map(Vec::len).sum::<usize>();
    let vectors = model.embed_tokens(tokens).await?;
    service.metrics.tokens(prompt_tokens as u64, 0, 0);
    let item = |(index, vector): (usize, Vec<f32>)| {
        let embedding = embed.encoding_format.write(&shortened(vector, kept));
        json!({"object": "embedding", "index": index, "embedding": embedding})
    };
    Ok(Json(Embeddings {
        object: "list",
        data: vectors.into_iter().enumerate().map(item).collect(),
        model: embed.model,
        usage: json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}),
    }))
}

/// The first elements, at length 1 again.
fn shortened(mut vector: Vec<f32>, kept: usize) -> Vec<f32> {
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
