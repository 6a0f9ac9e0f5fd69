//! The runtime's face, on small components: what each fault is called, what each limit does, and that
//! nothing of one invocation is left for the next.

#![expect(clippy::unwrap_used, reason = "the helpers of tests unwrap as tests do")]

mod cache;
mod ends;
mod faults;
mod guest;
mod limits;
mod models;
mod node;
mod says;
mod snapshot;
mod wasi;
mod world;
