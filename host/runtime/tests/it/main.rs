//! The runtime's face, on small components: what each fault is called, what each limit does, and that
//! nothing of one invocation is left for the next.

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
