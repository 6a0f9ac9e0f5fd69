//! The handle on the engine thread.

use crate::{Config, Error, Model, ModelInfo};

/// The engine: one thread that owns every model's state, and handles to it.
#[derive(Clone, Debug)]
pub struct Engine {}

impl Engine {
    /// Starts the engine thread.
    pub fn start(config: Config) -> Result<Self, Error> {
        let _ = config;
        todo!()
    }

    /// The model of this name, loaded on first use; callers of a loading model share one load.
    pub async fn open(&self, name: &str) -> Result<Model, Error> {
        let _ = name;
        todo!()
    }

    /// The models that are loaded.
    pub fn loaded(&self) -> Vec<ModelInfo> {
        todo!()
    }
}
