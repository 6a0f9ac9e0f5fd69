//! A completion that is yet to be started.

use super::{Completion, Error};
use crate::bindings::dormouse::predictor::llm as host;

/// Tokens generated at most, unless [`Request::max_tokens`] says otherwise.
const MAX_TOKENS_DEFAULT: u32 = 256;

/// A completion to run: set what matters, then [`start`](Request::start) it. Greedy by default.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is started"]
pub struct Request<'a> {
    model: &'a host::Model,
    request: host::Request,
}

impl<'a> Request<'a> {
    pub(super) fn new(model: &'a host::Model, prompt: host::Prompt) -> Self {
        let sampling = host::Sampling {
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repeat_penalty: None,
            seed: None,
        };
        let request = host::Request {
            prompt,
            max_tokens: MAX_TOKENS_DEFAULT,
            sampling,
            stop: Vec::new(),
            format: None,
            logprobs: None,
            adapter: None,
        };
        Self { model, request }
    }

    /// The most tokens to generate, at least 1. Default 256.
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.request.max_tokens = tokens;
        self
    }

    /// 0, the default, always takes the likeliest token; at most 100.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.request.sampling.temperature = Some(temperature);
        self
    }

    /// Draw from the likeliest tokens whose probabilities sum to this much, in (0, 1].
    pub fn top_p(mut self, mass: f32) -> Self {
        self.request.sampling.top_p = Some(mass);
        self
    }

    /// Draw from this many of the likeliest tokens; 0 for all.
    pub fn top_k(mut self, tokens: u32) -> Self {
        self.request.sampling.top_k = Some(tokens);
        self
    }

    /// Drop tokens less likely than this fraction of the likeliest, in [0, 1].
    pub fn min_p(mut self, fraction: f32) -> Self {
        self.request.sampling.min_p = Some(fraction);
        self
    }

    /// Make recent tokens less likely by this factor, in (0, 10]; 1 is off.
    pub fn repeat_penalty(mut self, penalty: f32) -> Self {
        self.request.sampling.repeat_penalty = Some(penalty);
        self
    }

    /// The same seed, prompt and sampling give the same text.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.sampling.seed = Some(seed);
        self
    }

    /// End before this text; may be called up to 16 times.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.request.stop.push(text.into());
        self
    }

    /// A JSON Schema that the text must match.
    pub fn format(mut self, schema: &serde_json::Value) -> Self {
        self.request.format = Some(schema.to_string());
        self
    }

    /// Report the log-probability of each token and of this many alternatives, at most 20.
    pub fn logprobs(mut self, alternatives: u8) -> Self {
        self.request.logprobs = Some(alternatives);
        self
    }

    /// Name of a LoRA adapter to apply.
    pub fn adapter(mut self, name: impl Into<String>) -> Self {
        self.request.adapter = Some(name.into());
        self
    }

    /// Starts the completion and returns at once; several may run together.
    pub fn start(self) -> Result<Completion, Error> {
        Ok(Completion::new(self.model.generate(&self.request)?))
    }

    /// Runs the completion to its end and returns its text.
    pub fn text(self) -> Result<String, Error> {
        self.start()?.text()
    }
}
