//! The service: HTTP, functions, storage.

#![forbid(unsafe_code)]

pub mod config;
mod error;
mod serve;

pub use config::Config;
pub use error::Error;
pub use serve::serve;
