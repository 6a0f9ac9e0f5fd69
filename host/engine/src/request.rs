//! What a caller asks of a model and what it gets back. Mirrors `wit/predictor.wit`, interface `llm`.

use std::time::Duration;

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the model's template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// What a completion continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Raw text; control tokens spelled in it stay ordinary text.
    Text(String),
    /// A chat, rendered by the model's template with the generation prompt added.
    Messages(Vec<Message>),
    /// Token ids, each below the vocabulary's size.
    Tokens(Vec<u32>),
}

/// How the next token is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; at most 100.
    pub temperature: f32,
    /// Nucleus mass in (0, 1].
    pub top_p: f32,
    /// Number of most likely tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Fraction of the likeliest token's probability below which tokens are dropped, in [0, 1].
    pub min_p: f32,
    /// Divides the positive logits of the last 64 tokens, multiplies the negative; in (0, 10].
    pub repeat_penalty: f32,
    /// Seed of the draws; `None` takes a fresh one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, repeat_penalty: 1.0, seed: None }
    }
}

/// One completion to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// The most tokens to generate, at least 1.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Generation ends before any of these; at most 16, none empty.
    pub stop: Vec<String>,
    /// A JSON Schema that the text must match.
    pub format: Option<String>,
    /// Alternatives to report for each token, at most 20; `None` reports no log-probabilities.
    pub logprobs: Option<u8>,
    /// Name of a LoRA adapter.
    pub adapter: Option<String>,
}

impl Request {
    /// A greedy request without stop strings.
    pub fn new(prompt: Prompt, max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: Sampling::default(),
            stop: Vec::new(),
            format: None,
            logprobs: None,
            adapter: None,
        }
    }
}

/// A token and the natural logarithm of its probability before temperature and filters.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub token: u32,
    /// ln p.
    pub logprob: f32,
    /// The likeliest tokens at this place, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A piece of a completion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// Final text: whole UTF-8, no part of a stop string.
    pub text: String,
    /// Tokens generated since the last chunk.
    pub tokens: Vec<u32>,
    /// One for each token, when asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-text token or a stop string.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// Dropped.
    Cancelled,
}

/// What a completion cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, how many came from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated, an end-of-text token not counted.
    pub completion_tokens: u32,
    /// Waiting for the model to be loaded or woken.
    pub wake: Duration,
    /// Waiting for a place in a batch.
    pub queue: Duration,
    /// From the first prefill step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// This sequence's share of each step's time, by tokens.
    pub device: Duration,
}
