//! The inference engine: models, KV cache, scheduler and kernels. No wasmtime, no HTTP.
//!
//! A token's path, in the order the files are best read: [`catalog`] knows a model's file; `residency`
//! decides when it wakes and sleeps; the `loader` thread maps it (`gguf`, or its `ready` image) and makes
//! its `models` forward pass on a `backend`; `tokenizer` and
//! `template` turn text into ids; [`Model::generate`] hands a [`Request`] to the engine thread
//! (`worker`); the `scheduler` puts its sequence into a batch and gives it blocks of the `kv` cache; the
//! forward pass runs; the `sampler` picks the next id, within a `format` if one is asked for, which works
//! out beside the pass what may come next; `stream` holds back what may become a stop string; and a
//! [`Completion`] gives the text to the caller.

#![deny(unsafe_code)]

mod backend;
pub mod catalog;
mod completion;
mod config;
mod devices;
mod engine;
mod error;
mod format;
mod gguf;
mod kv;
mod loader;
mod memory;
mod model;
mod models;
mod quant;
mod ready;
mod request;
mod residency;
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
/// What steps take on a graphics processor, for `examples/gpu`.
#[cfg(feature = "gpu")]
#[doc(hidden)]
pub use backend::gpu::measure as gpu_measure;
#[cfg(feature = "gpu")]
pub use backend::gpu::{Adapter, AdapterKind, adapters, copy_bandwidth};
pub use catalog::Catalog;
pub use completion::Completion;
pub use config::{Config, Device, Idle, KvType, Residency};
pub use engine::{DeviceGauge, DeviceMemory, Engine, Open};
pub use error::Error;
pub use model::{Model, ModelInfo};
pub use request::{
    Caller, Chunk, Finish, Message, Pooling, Prefix, Priority, Prompt, Request, Sampling, TokenLogprob, Usage,
};
pub use residency::{KeepAlive, ModelResidency, Phase, Progress, Tier};
pub use stats::{DeviceStats, ModelStats, Stats};
