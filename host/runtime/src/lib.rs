//! Components, instances and the host interface. No HTTP.
//!
//! An invocation's path, in the order the files are best read: [`Runtime`] compiles a component once
//! and maps it ever after (`component`), `instance` gives every prediction a fresh store under its
//! [`Limits`], `host` serves the imports of `wit/predictor.wit` from the inference engine, and
//! [`Event`]s and an [`Outcome`] (or an [`Error`]) go back to the caller.

#![deny(unsafe_code)]

mod component;
mod error;
mod invocation;
mod runtime;

pub use component::{Component, Load};
pub use error::Error;
pub use invocation::{Event, Invocation, Level, Limits, LogLine, LogSource, Metrics, Outcome};
pub use runtime::{Config, Runtime};
