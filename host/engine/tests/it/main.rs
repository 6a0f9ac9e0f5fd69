//! The engine through its face, on a real model.

mod batching;
mod errors;
mod golden;
mod support;
mod text;
