//! What is kept of a sleeping model on disk, so that it wakes fast and where it left off: its weights as
//! the device wants them (an [`Image`]), and blocks of its prefix cache ([`Prefixes`]).
//!
//! Both are [`container`] files, named by the digest of the model file and by the device's layout, so
//! that one of another model, or of kernels that want other bytes, is never taken for it. A file appears
//! by rename only when it is whole and synced, and what is read of it is checked before it is used:
//! whatever is wrong with it, the model is made from its own file again. All of them can be removed at
//! any time.

mod bytes;
mod container;
mod image;
mod prefixes;
mod proof;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use bytes::Bytes;
pub(crate) use image::{Image, Matrices, Part};
pub(crate) use prefixes::{Block, Prefixes, now};
pub(crate) use store::Store;
