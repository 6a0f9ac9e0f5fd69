//! Components, instances and the host interface. No HTTP.
//!
//! An invocation's path, in the order the files are best read: [`Runtime`] compiles a component once
//! and maps it ever after (`library`, `cache`, `component`), `instance` gives every prediction a fresh
//! store (`state`) in the `sandbox` under its [`Limits`], begun as `setup` left one at deploy (`snapshot`),
//! `host` serves the imports of
//! `wit/predictor.wit` and WASI 0.2, models from the inference engine, and [`Event`]s go through the
//! `outbox` to the caller, followed by an [`Outcome`] or an [`Error`] (`fault` tells which).

#![deny(unsafe_code)]

mod bindings;
mod cache;
mod component;
mod error;
mod fault;
mod host;
mod instance;
mod invocation;
mod library;
mod memory;
mod outbox;
mod runtime;
mod sandbox;
mod snapshot;
mod state;

pub use component::{Component, Load};
pub use error::Error;
pub use invocation::{
    EVENT_BYTES, Event, Invocation, Level, Limits, LogLine, LogSource, Metrics, Outcome, Wake,
};
pub use runtime::{Config, Prepared, Runtime, Setup};
