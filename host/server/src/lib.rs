//! The service: HTTP, functions, storage.

#![forbid(unsafe_code)]

pub mod args;
pub mod cli;
pub mod config;
mod dispatch;
mod error;
mod function;
pub mod pull;
pub mod scaffold;
mod serve;
mod store;

pub use config::Config;
pub use error::Error;
pub use serve::serve;
