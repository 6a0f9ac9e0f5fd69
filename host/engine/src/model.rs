//! A loaded model as its callers see it.

use std::time::Duration;

use crate::{Completion, Error, Message, Request};

/// Facts about a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelInfo {
    /// The name it was opened by.
    pub name: String,
    /// Architecture as the file names it.
    pub architecture: String,
    /// How most weights are stored.
    pub quantization: String,
    /// `sha256:` and the file's hex digest.
    pub digest: String,
    /// The most tokens of a sequence.
    pub context_length: usize,
    /// Length of an embedding.
    pub dimension: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Bytes of weights.
    pub weights_bytes: u64,
}

/// A model that is ready to be used; cloning shares it. Tokenizing runs on the caller's thread,
/// everything else on the engine's.
#[derive(Clone, Debug)]
pub struct Model {}

impl Model {
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        todo!()
    }

    /// How long [`Engine::open`](crate::Engine::open) waited for it to load; zero when it was there.
    pub fn wake(&self) -> Duration {
        todo!()
    }

    /// The tokens of a text. `special` reads control tokens spelled in it as such.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let _ = (text, special);
        todo!()
    }

    /// The text of tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String, Error> {
        let _ = tokens;
        todo!()
    }

    /// A chat as the model's template writes it, up to the assistant's turn.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let _ = messages;
        todo!()
    }

    /// Starts a completion and returns at once. Tokenizes on the calling thread: for prompts over
    /// some kilobytes call it from a blocking context.
    pub fn generate(&self, request: Request) -> Result<Completion, Error> {
        let _ = request;
        todo!()
    }

    /// Unit-length mean-pooled embeddings, one for each input.
    pub async fn embed(&self, inputs: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
        let _ = inputs;
        todo!()
    }

    /// The `top` largest logits after each of the tokens, teacher-forced: element `i` tells what
    /// follows `tokens[..=i]`.
    pub async fn score(&self, tokens: Vec<u32>, top: usize) -> Result<Vec<Vec<(u32, f32)>>, Error> {
        let _ = (tokens, top);
        todo!()
    }
}
