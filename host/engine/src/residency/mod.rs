//! Where each model is, and what moves it: how models sleep and wake.
//!
//! ```text
//!                  wanted, and there is room                  woke
//!  asleep in a tier ─────────────────────────► moving up ─────────────► awake
//!    ▲   ▲   │                                     │                   │     │
//!    │   │   └─ idle for long: one tier deeper     │ failed:           │     │ room is wanted, or
//!    │   └─────────── retried later ◄──────────────┘ waiters are told  │     │ it is told to sleep
//!    │                                                                 │     ▼
//!    │ slept                            idle for long, and no leases   │  yielding: old leases run out,
//!    └─────────── moving down ◄────────────────────────────────────────┴─ new callers wait
//! ```
//! Tiers, from fastest to slowest to wake: awake -> [`Tier::Memory`] (weights and tokenizer stay, KV
//! cache and buffers are given back) -> [`Tier::Disk`] (the ready image and kept prefixes are files)
//! -> [`Tier::Cold`] (only the model file).
//!
//! `machine` decides and is plain data; `keeper` owns it, holds the callers that wait and the leases
//! of those that don't; the `loader` thread does what it is told and reports back.

mod keeper;
mod machine;
mod resolver;
mod status;
#[cfg(test)]
mod tests;
mod victims;

#[cfg(test)]
pub(crate) use keeper::Found;
pub(crate) use keeper::{Ask, Keeper, Lease, Opened, Order, Origin, Wish};
pub(crate) use machine::{Action, Bounds, Budget, DeviceId, Footprint, ModelKey, Policy};
pub use machine::{KeepAlive, Tier};
pub(crate) use resolver::Resolver;
pub use status::{ModelResidency, Phase, Progress};
