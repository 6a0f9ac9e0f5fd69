//! The engine's bounds.

use std::path::PathBuf;

use crate::Error;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor, with the fastest kernels that it has instructions for.
    #[default]
    Cpu,
    /// Plain loops on one thread: slow, and what the others are compared with.
    Reference,
}

/// Everything that limits the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of the model catalogue.
    pub models_dir: PathBuf,
    /// What computes.
    pub device: Device,
    /// Compute threads of a step.
    pub threads: usize,
    /// Sequences that run in one batch.
    pub sequences_max: usize,
    /// Sequences that wait for a place; beyond it a request is [`Error::Overloaded`](crate::Error).
    pub queue_max: usize,
    /// Tokens of one step, prefill and decode together; at least `sequences_max`.
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
            device: Device::default(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            sequences_max: 32,
            queue_max: 1024,
            batch_tokens_max: 256,
            kv_bytes_max: 512 << 20,
            context_tokens_max: 8192,
        }
    }
    /// [`Error::Invalid`] names the bound that lets nothing run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let least = [
            ("threads", self.threads, 1),
            ("sequences_max", self.sequences_max, 1),
            ("queue_max", self.queue_max, 1),
            ("batch_tokens_max", self.batch_tokens_max, self.sequences_max),
            ("context_tokens_max", self.context_tokens_max, 1),
        ];
        match least.into_iter().find(|(_, found, least)| found < least) {
            Some((name, found, least)) => {
                Err(Error::Invalid(format!("{name} is {found}, expected at least {least}")))
            }
            None => Ok(()),
        }
    }
}
