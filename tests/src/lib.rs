//! What the service's tests and measurements share: a server with a data folder of its own, in this
//! process ([`Server`]) or as the real binary ([`Process`]); a [`Client`] that speaks its HTTP; and the
//! language model they use ([`model`]).

#![forbid(unsafe_code)]

mod client;
mod events;
mod kill;
pub mod model;
mod process;
mod server;

pub use client::{Answer, Client};
pub use events::{Event, Events};
pub use kill::{Report, kill_during_deploys};
pub use process::{Process, binary};
pub use server::Server;
