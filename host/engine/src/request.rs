//! What a caller asks of a model and what it gets back. Mirrors `wit/predictor.wit`, interface `llm`.

use std::{fmt::Display, sync::Arc, time::Duration};

use crate::{Error, Tier};

/// The most stop strings of a request.
const STOPS_MAX: usize = 16;
/// The most alternatives to a token.
const ALTERNATIVES_MAX: u8 = 20;

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the model's template knows.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// What goes first when not all can run at once.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others, in whose place it may run.
    High,
    /// Before what can wait.
    #[default]
    Normal,
    /// When nothing else wants to run.
    Low,
}

/// Whom the engine works for. Callers of one name share what they get with those of other names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// A function's name.
    pub name: Arc<str>,
    /// What its sequences go before.
    pub priority: Priority,
    /// [`Request::guess_tokens`] of its requests that don't say.
    pub guess_tokens: Option<usize>,
}

impl Default for Caller {
    /// No one in particular.
    fn default() -> Self {
        Self { name: Arc::from(""), priority: Priority::default(), guess_tokens: None }
    }
}

/// How hidden states become one embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// What a completion continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Raw text; control tokens spelled in it stay ordinary text.
    Text(String),
    /// A chat, rendered by the model's template with the generation prompt added.
    Messages(Vec<Message>),
    /// Text as a chat template wrote it: control tokens spelled in it are read as such.
    Rendered(String),
    /// Token ids, each below the vocabulary's size.
    Tokens(Vec<u32>),
}

/// A beginning that many prompts share, such as a system message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// Of prompts that are raw text.
    Text(String),
    /// The first turns of chats.
    Messages(Vec<Message>),
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
    /// A JSON Schema that the text must match, at most 64 KiB; `$ref` only within it. The text has the
    /// spacing of `{"a": 1, "b": [2, 3]}`. When `max_tokens` end it early it is cut off.
    pub format: Option<String>,
    /// Alternatives to report for each token, at most 20; `None` reports no log-probabilities.
    pub logprobs: Option<u8>,
    /// Name of a LoRA adapter.
    pub adapter: Option<String>,
    /// Tokens that a step may guess from what the text repeats, and check at once, at most
    /// [`Config::guess_tokens_max`](crate::Config): the same text in fewer steps where much is repeated. 0
    /// guesses none; `None` takes the caller's wish, then the engine's.
    pub guess_tokens: Option<usize>,
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
            guess_tokens: None,
        }
    }

    /// [`Error::Invalid`] names the first field that is out of bounds, and its value.
    pub(crate) fn check(&self) -> Result<(), Error> {
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")?;
        self.sampling.check()?;
        let stops = self.stop.len();
        require(stops <= STOPS_MAX, "stop", format!("{stops} strings"), "at most 16 strings")?;
        require(!self.stop.iter().any(String::is_empty), "stop", "an empty string", "no empty string")?;
        let alternatives = self.logprobs.unwrap_or(0);
        require(alternatives <= ALTERNATIVES_MAX, "logprobs", alternatives, "at most 20")?;
        match &self.adapter {
            Some(name) => {
                Err(Error::Invalid(format!("adapter is \"{name}\", but none of this name is installed")))
            }
            None => Ok(()),
        }
    }
}

impl Sampling {
    fn check(&self) -> Result<(), Error> {
        let Self { temperature, top_p, min_p, repeat_penalty, .. } = *self;
        // Each is false for NaN.
        require((0.0..=100.0).contains(&temperature), "temperature", temperature, "0 to 100")?;
        require(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "above 0 and at most 1")?;
        require((0.0..=1.0).contains(&min_p), "min_p", min_p, "0 to 1")?;
        let is_penalty = repeat_penalty > 0.0 && repeat_penalty <= 10.0;
        require(is_penalty, "repeat_penalty", repeat_penalty, "above 0 and at most 10")
    }
}

fn require(is_met: bool, field: &str, found: impl Display, expected: &str) -> Result<(), Error> {
    match is_met {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{field} is {found}, expected {expected}"))),
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
    /// The tier that it was woken from; [`Tier::Awake`] when it was that.
    pub woken_from: Tier,
    /// Waiting for a place in a batch.
    pub queue: Duration,
    /// From the first prefill step to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// This sequence's share of each step's time, by tokens.
    pub device: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Request), expected: &str) {
        let mut request = Request::new(Prompt::Text("a".into()), 1);
        request.check().unwrap();
        change(&mut request);
        assert_eq!(request.check().unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_field_out_of_bounds_is_named_with_its_value() {
        check(|r| r.max_tokens = 0, "max_tokens is 0, expected at least 1");
        check(|r| r.sampling.temperature = -0.5, "temperature is -0.5, expected 0 to 100");
        check(|r| r.sampling.temperature = f32::NAN, "temperature is NaN, expected 0 to 100");
        check(|r| r.sampling.top_p = 0.0, "top_p is 0, expected above 0 and at most 1");
        check(|r| r.sampling.min_p = 1.5, "min_p is 1.5, expected 0 to 1");
        check(|r| r.sampling.repeat_penalty = 11.0, "repeat_penalty is 11, expected above 0 and at most 10");
        check(|r| r.stop = vec!["x".into(); 17], "stop is 17 strings, expected at most 16 strings");
        check(|r| r.stop = vec![String::new()], "stop is an empty string, expected no empty string");
        check(|r| r.logprobs = Some(21), "logprobs is 21, expected at most 20");
        check(|r| r.adapter = Some("poet".into()), "adapter is \"poet\", but none of this name is installed");
    }
}
