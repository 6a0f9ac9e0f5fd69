//! The runtime: one `wasmtime::Engine`, its cache of compiled components, and invocations.

use std::path::PathBuf;

use dormouse_engine::Engine;
use tokio::sync::mpsc;

use crate::{Component, Error, Event, Invocation, Limits, Load, Metrics, Outcome};

/// The runtime's bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of compiled components.
    pub cache_dir: PathBuf,
    /// Instances live at once on this node.
    pub instances_max: usize,
    /// Upper bound on [`Limits::memory_bytes`].
    pub memory_bytes_max: usize,
    /// Wasm stack of an instance.
    pub stack_bytes: usize,
    /// Bytes of a component that will be compiled.
    pub component_bytes_max: usize,
}

impl Config {
    /// Defaults, with the cache under `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            instances_max: 1000,
            memory_bytes_max: 1 << 30,
            stack_bytes: 512 << 10,
            component_bytes_max: 64 << 20,
        }
    }
}

/// Runs predictors; cloning shares it.
#[derive(Clone)]
pub struct Runtime {}

impl Runtime {
    /// Makes the wasmtime engine and starts its epoch ticker. Models come from `engine`.
    pub fn new(config: Config, engine: Engine) -> Result<Self, Error> {
        let _ = (config, engine);
        todo!()
    }

    /// Compiles the component, or maps it when its digest is in the cache. Blocks for up to seconds:
    /// call it from a blocking context.
    pub fn load(&self, wasm: &[u8]) -> Result<(Component, Load), Error> {
        let _ = wasm;
        todo!()
    }

    /// Maps a component that was compiled before; `None` when the cache lacks it or it was made by
    /// another version (then [`Runtime::load`] the bytes). Blocks for a map and a link.
    pub fn load_cached(&self, digest: &str) -> Result<Option<(Component, Load)>, Error> {
        let _ = digest;
        todo!()
    }

    /// The predictor's manifest: the JSON that `describe` gives, under `limits`, with no model.
    pub async fn describe(&self, component: &Component, limits: &Limits) -> Result<serde_json::Value, Error> {
        let _ = (component, limits);
        todo!()
    }

    /// Runs one prediction in a fresh instance: `setup`, then `predict`. Events go to `events` as they
    /// happen. Metrics come back however it ends. Dropping the future ends the guest and its
    /// completions.
    pub async fn predict(
        &self,
        component: &Component,
        invocation: Invocation,
        events: mpsc::Sender<Event>,
    ) -> (Result<Outcome, Error>, Metrics) {
        let _ = (component, invocation, events);
        todo!()
    }

    /// Instances running now.
    pub fn instances(&self) -> usize {
        todo!()
    }
}
