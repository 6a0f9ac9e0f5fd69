//! From a name to a place to run: permits and components.

mod components;
mod gate;
mod permits;

pub(crate) use components::{ColdStart, Components, Ready};
pub(crate) use gate::Bounds;
pub(crate) use permits::{Permit, Permits, Refused};
