//! The inference engine: models, KV cache, scheduler and kernels. No wasmtime, no HTTP.
//!
//! A token's path, in the order the files are best read:
//! [`catalog`] finds a model's file, `gguf` maps it, `tokenizer` and `template` turn text
//! into ids, [`engine`](Engine) hands a [`Request`] to the engine thread (`worker`), the `scheduler`
//! puts its sequence into a batch, `models` run the forward pass over a `backend`, `sampler` picks
//! the next id, `stream` makes text of it, and a [`Completion`] gives it to the caller.

#![deny(unsafe_code)]

mod backend;
pub mod catalog;
mod completion;
mod config;
mod engine;
mod error;
mod gguf;
mod kv;
mod loader;
mod model;
mod models;
mod quant;
mod request;
mod sampler;
mod scheduler;
mod stats;
mod stream;
mod template;
#[cfg(test)]
mod testing;
mod tokenizer;
mod worker;

/// Timing of the kernels, for `examples/kernels.rs`.
#[doc(hidden)]
pub use backend::cpu::measure;
pub use catalog::Catalog;
pub use completion::Completion;
pub use config::{Config, Device};
pub use engine::Engine;
pub use error::Error;
pub use model::{Model, ModelInfo};
pub use request::{Chunk, Finish, Message, Prompt, Request, Sampling, TokenLogprob, Usage};
pub use stats::{ModelStats, Stats};
