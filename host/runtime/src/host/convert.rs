//! Between the types of interface `llm` and the engine's.

use std::time::Duration;

use dormouse_engine::{
    Chunk, Error, Finish, Message, ModelInfo, Prompt, Request, Sampling, TokenLogprob, Usage,
};

use crate::bindings::dormouse::predictor::llm;

pub(super) fn request(request: llm::Request) -> Request {
    Request {
        prompt: prompt(request.prompt),
        max_tokens: to_usize(request.max_tokens),
        sampling: sampling(request.sampling),
        stop: request.stop,
        format: request.format,
        logprobs: request.logprobs,
        adapter: request.adapter,
        // The function's settings say.
        guess_tokens: None,
    }
}

fn prompt(prompt: llm::Prompt) -> Prompt {
    match prompt {
        llm::Prompt::Text(text) => Prompt::Text(text),
        llm::Prompt::Messages(messages) => Prompt::Messages(self::messages(messages)),
        llm::Prompt::Tokens(tokens) => Prompt::Tokens(tokens),
    }
}

pub(super) fn messages(messages: Vec<llm::Message>) -> Vec<Message> {
    messages.into_iter().map(|llm::Message { role, content }| Message { role, content }).collect()
}

fn sampling(sampling: llm::Sampling) -> Sampling {
    let default = Sampling::default();
    Sampling {
        temperature: sampling.temperature.unwrap_or(default.temperature),
        top_p: sampling.top_p.unwrap_or(default.top_p),
        top_k: sampling.top_k.unwrap_or(default.top_k),
        min_p: sampling.min_p.unwrap_or(default.min_p),
        repeat_penalty: sampling.repeat_penalty.unwrap_or(default.repeat_penalty),
        seed: sampling.seed,
    }
}

pub(super) fn chunk(chunk: Chunk) -> llm::Chunk {
    llm::Chunk {
        text: chunk.text,
        tokens: chunk.tokens,
        logprobs: chunk
            .logprobs
            .into_iter()
            .map(|TokenLogprob { token, logprob, top }| llm::TokenLogprob { token, logprob, top })
            .collect(),
    }
}

pub(super) fn finish(finish: Finish) -> llm::Finish {
    match finish {
        Finish::Stop => llm::Finish::Stop,
        Finish::Length => llm::Finish::Length,
        Finish::Cancelled => llm::Finish::Cancelled,
    }
}

pub(super) fn usage(usage: Usage) -> llm::Usage {
    llm::Usage {
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.cached_tokens,
        completion_tokens: usage.completion_tokens,
        wake_us: micros(usage.wake),
        queue_us: micros(usage.queue),
        prefill_us: micros(usage.prefill),
        decode_us: micros(usage.decode),
        device_us: micros(usage.device),
    }
}

pub(super) fn model_info(info: &ModelInfo) -> llm::ModelInfo {
    llm::ModelInfo {
        name: info.name.clone(),
        architecture: info.architecture.clone(),
        quantization: info.quantization.clone(),
        digest: info.digest.clone(),
        context_length: to_u32(info.context_length),
        dimension: to_u32(info.dimension),
        vocabulary: to_u32(info.vocabulary),
    }
}

/// A file's path is the operator's business: the guest learns that the model can't be used, the log why.
pub(super) fn error(error: Error) -> llm::Error {
    match error {
        Error::UnknownModel(_) => llm::Error::UnknownModel(error.to_string()),
        Error::Invalid(reason) => llm::Error::Invalid(reason),
        Error::TooLong { .. } => llm::Error::TooLong(error.to_string()),
        Error::Overloaded(reason) | Error::NoMemory(reason) | Error::OutOfMemory(reason) => {
            llm::Error::Overloaded(reason)
        }
        Error::Cancelled => llm::Error::Cancelled,
        Error::BadModel { .. } => {
            tracing::warn!(%error, "a guest opened a model that can't be used");
            llm::Error::Failed("the model's file can't be used".into())
        }
        Error::Failed(reason) => llm::Error::Failed(reason),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
