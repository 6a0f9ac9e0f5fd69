//! The engine's bounds.

use std::path::PathBuf;

/// Everything that limits the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of the model catalogue.
    pub models_dir: PathBuf,
    /// Compute threads of a step.
    pub threads: usize,
    /// Sequences that run in one batch.
    pub sequences_max: usize,
    /// Sequences that wait for a place; beyond it a request is [`Error::Overloaded`](crate::Error).
    pub queue_max: usize,
    /// Tokens of one step, prefill and decode together.
    pub batch_tokens_max: usize,
    /// Bytes of KV cache of one model.
    pub kv_bytes_max: usize,
    /// Cap on the context length a model's file names, in tokens.
    pub context_tokens_max: usize,
}

impl Config {
    /// Defaults for a machine, with models under `models_dir`.
    pub fn new(models_dir: impl Into<PathBuf>) -> Self {
        Self {
            models_dir: models_dir.into(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            sequences_max: 32,
            queue_max: 1024,
            batch_tokens_max: 256,
            kv_bytes_max: 512 << 20,
            context_tokens_max: 8192,
        }
    }
}
