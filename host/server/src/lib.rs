//! The service: HTTP, functions, storage.
//!
//! A request's path, in the order the files are best read: [`serve`] takes the connection, `http` leads
//! the request past its guard to a handler, `store` knows the function and its revisions,
//! `prediction` checks the input, waits at `dispatch` for a place and a component, and runs it in the
//! runtime. One that nobody waits for goes through the `queue`, which `store` keeps. A deploy goes from `http::upload` through `deploy` to `store`. What is bounded, and by how
//! much, stands in [`Config`].

#![forbid(unsafe_code)]

pub mod args;
mod auth;
pub mod cli;
pub mod config;
mod deploy;
pub mod device;
mod dispatch;
mod error;
mod function;
mod http;
mod local;
mod metrics;
mod prediction;
mod prewake;
pub mod pull;
mod queue;
mod residence;
pub mod scaffold;
mod serve;
mod service;
mod store;
mod telemetry;
mod tls;
mod webhook;

pub use config::Config;
pub use error::Error;
pub use local::LocalError;
pub use serve::serve;
