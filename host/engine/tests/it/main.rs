//! The engine through its face, on a real model.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod architectures;
mod batching;
mod errors;
mod golden;
#[cfg(feature = "gpu")]
mod gpu;
mod residency;
mod support;
mod text;
