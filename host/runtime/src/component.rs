//! A compiled component: from bytes to something that instantiates in microseconds.

use std::{sync::Arc, time::Duration};

/// A compiled, linked component of the predictor world; cloning shares it.
#[derive(Clone)]
pub struct Component {
    #[allow(dead_code)]
    inner: Arc<()>,
}

/// How a [`Component`] came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Compiled from wasm in this time, and written to the cache.
    Compiled(Duration),
    /// Mapped from the cache in this time.
    Mapped(Duration),
}

impl Component {
    /// Hex SHA-256 of the wasm bytes.
    pub fn digest(&self) -> &str {
        todo!()
    }
}
