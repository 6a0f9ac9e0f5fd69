//! The runtime's face, on small components: what each fault is called, what each limit does, and that
//! nothing of one invocation is left for the next.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cache;
mod ends;
mod faults;
mod guest;
mod limits;
mod models;
mod node;
mod says;
mod wasi;
mod world;
