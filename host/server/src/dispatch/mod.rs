//! From a name to a place to run: permits and components.

mod gate;
mod permits;

pub(crate) use gate::{Bounds, Full};
pub(crate) use permits::{Permit, Permits, Refused};
