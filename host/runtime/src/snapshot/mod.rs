//! `setup` run once: what it left in an instance becomes the image that later instances start from.
//!
//! An image is a component of the same world, made of the author's by replacing what its core modules
//! start with. `outline` reads a component down to its sections and `module` its modules; [`Probe`]
//! (`probe`) adds exports through which the state after `setup` can be read; a [`State`] (`state`) is that
//! state; `rewrite` puts it back in as initial values. Tables need no copy: a module that could change one
//! while it runs has no image.
//!
//! Handles live in the host, outside of any module. Those of models and of the standard streams are
//! written down as they come and go (`handles`), and an image that holds some exports [`RESTORE`], which
//! takes them again, by name, under the same numbers. What holds anything else has no image.

mod handles;
mod module;
mod outline;
mod probe;
mod rewrite;
mod state;

pub(crate) use probe::{Probe, READER_BYTES};
pub(crate) use state::State;

/// Export that tells an image from a component whose `setup` is still to run.
pub(crate) const SET_UP: &str = "is-set-up";
/// Export of an image that takes its handles; it has the type of `setup`.
pub(crate) const RESTORE: &str = "restore-handles";

/// Why a component has no image, as a sentence's part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Only for bytes that the sandbox compiles and that this reader can't make out after all.
impl From<wasmparser::BinaryReaderError> for Refusal {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self(format!("its bytes can't be made out: {error}"))
    }
}

impl From<wasm_encoder::reencode::Error> for Refusal {
    fn from(error: wasm_encoder::reencode::Error) -> Self {
        Self(format!("its bytes can't be written again: {error}"))
    }
}

impl From<std::num::TryFromIntError> for Refusal {
    fn from(_: std::num::TryFromIntError) -> Self {
        Self("it has more parts than its format counts".into())
    }
}
