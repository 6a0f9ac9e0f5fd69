//! What the dialect's answers have in common: who answered, usage, log-probabilities, ends.

use std::time::{Duration, SystemTime};

use dormouse_engine::{Finish, TokenLogprob, Usage};
use serde::Serialize;
use serde_json::{Value, json};

use super::answerer::Answerer;
use crate::prediction::{millis, new_id};

/// What every object of an answer begins with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: String,
    /// Changes when what answers does.
    pub(super) system_fingerprint: String,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, answerer: &Answerer) -> Self {
        Self {
            id: format!("{prefix}{}", new_id()),
            object,
            created: now(),
            model: answerer.name().to_owned(),
            system_fingerprint: answerer.fingerprint(),
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a completion ended, in the dialect's words.
pub(super) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::Cancelled => "stop",
        Finish::Length => "length",
    }
}

/// What several completions of `prompts` prompts cost together: a prompt counts once, whatever the
/// number of its choices. Beside what OpenAI tells stand the times, in milliseconds.
pub(super) fn usage(usages: &[Usage], prompts: usize) -> Value {
    let choices = (usages.len() / prompts.max(1)).max(1);
    let count = |of: fn(&Usage) -> u32, step: usize| -> u64 {
        usages.iter().step_by(step).map(|usage| u64::from(of(usage))).sum()
    };
    let longest = |of: fn(&Usage) -> Duration| millis(usages.iter().map(of).max().unwrap_or_default());
    let prompt_tokens = count(|usage| usage.prompt_tokens, choices);
    let completion_tokens = count(|usage| usage.completion_tokens, 1);
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": count(|usage| usage.cached_tokens, choices)},
        "wake_ms": longest(|usage| usage.wake),
        "woken_from": usages.iter().map(|usage| usage.woken_from).max().unwrap_or_default(),
        "queue_ms": longest(|usage| usage.queue),
        "prefill_ms": longest(|usage| usage.prefill),
        "decode_ms": longest(|usage| usage.decode),
        "device_ms": millis(usages.iter().map(|usage| usage.device).sum()),
    })
}

/// A token as text and as bytes, and how likely it was.
#[derive(Debug, Serialize)]
pub(super) struct Likelihood {
    pub(super) token: String,
    pub(super) logprob: f32,
    bytes: Vec<u8>,
}

impl Likelihood {
    pub(super) fn new(answerer: &Answerer, token: u32, logprob: f32) -> Self {
        let bytes = answerer.token_bytes(token).to_vec();
        Self { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes }
    }
}

/// Log-probabilities of tokens as chats and responses have them.
pub(super) fn likelihoods(answerer: &Answerer, logprobs: &[TokenLogprob]) -> Vec<Value> {
    let one = |logprob: &TokenLogprob| {
        let top: Vec<_> =
            logprob.top.iter().map(|(id, value)| Likelihood::new(answerer, *id, *value)).collect();
        let mut value = json!(Likelihood::new(answerer, logprob.token, logprob.logprob));
        value["top_logprobs"] = json!(top);
        value
    };
    logprobs.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choices_of_a_prompt_share_its_tokens() {
        let one = |prompt_tokens, completion_tokens| Usage {
            prompt_tokens,
            completion_tokens,
            device: Duration::from_millis(2),
            ..Usage::default()
        };
        let found = usage(&[one(5, 1), one(5, 2), one(7, 3), one(7, 4)], 2);
        let expected =
            json!({"prompt_tokens": 12, "completion_tokens": 10, "total_tokens": 22, "device_ms": 8.0});
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&found[name], value, "{name}");
        }
    }
}
