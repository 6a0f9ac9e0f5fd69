//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;

/// Any failure of the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No model of this name is in the catalogue. Pull it, or fix the name.
    #[error("no model named \"{0}\" on this node")]
    UnknownModel(String),
    /// The request breaks a rule. Fix the input.
    #[error("{0}")]
    Invalid(String),
    /// Prompt and tokens to generate exceed the context. Send less.
    #[error(
        "prompt has {prompt_tokens} tokens and asks for {max_tokens} more, model \"{model}\" takes {context_tokens}"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// The model's name.
        model: String,
        /// The model's context length.
        context_tokens: usize,
    },
    /// The engine is full. Retry later.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The model never fits in the memory that this node has for models. Use a smaller one, or
    /// configure a larger bound.
    #[error("{0}")]
    NoMemory(String),
    /// The system gave no memory, though the bound on models left room. Retry later, or configure a smaller
    /// bound.
    #[error("{0}")]
    OutOfMemory(String),
    /// The completion was dropped, or the engine is shutting down.
    #[error("cancelled")]
    Cancelled,
    /// The model's file can't be used. Pull it again, or use another.
    #[error("model file {path}: {reason}")]
    BadModel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine broke a promise of its own; the text is for the log.
    #[error("engine failed: {0}")]
    Failed(String),
}

impl Error {
    /// What the system doesn't give.
    pub(crate) fn no_memory_for(bytes: usize) -> Self {
        Self::OutOfMemory(format!("the system has no memory for {bytes} bytes"))
    }
}
