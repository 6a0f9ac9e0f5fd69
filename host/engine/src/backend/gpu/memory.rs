//! What lies in a device's memory.

use std::sync::Mutex;

use cubecl_core::{prelude::BufferArg, server::Handle};

use crate::{quant::DType, ready};

/// `[rows, columns]` f32.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(super) handle: Handle,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// f32 values, or indices.
#[derive(Debug, Clone)]
pub(crate) struct Vector {
    pub(super) handle: Handle,
    pub(super) len: usize,
}

/// Stacked rows, or the gate and up halves of a gated layer.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(super) columns: usize,
    pub(super) parts: Vec<Part>,
    pub(super) is_gated: bool,
}

/// Rows of one format in one buffer, laid out as [`super::weights`] says.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) handle: Handle,
    pub(super) words: usize,
    pub(super) dtype: DType,
    /// Rows of the result: of a gated matrix, the buffer has twice as many.
    pub(super) rows: usize,
    /// The words as they were uploaded, until an image was made of them.
    pub(super) unkept: Mutex<Option<ready::Bytes>>,
}

/// Keys and values of a model: of each layer `[block][kv head][position][D/2]` words of two bf16.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(super) layers: Vec<Layer>,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
    pub(super) blocks: usize,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) keys: Vector,
    pub(super) values: Vector,
}

impl Matrix {
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }
}

impl Buffer {
    pub(super) fn argument(&self) -> BufferArg {
        argument(&self.handle, self.rows * self.columns)
    }
}

impl Vector {
    pub(super) fn argument(&self) -> BufferArg {
        argument(&self.handle, self.len)
    }
}

impl Part {
    pub(super) fn argument(&self) -> BufferArg {
        argument(&self.handle, self.words)
    }
}

/// A buffer of `len` words.
fn argument(handle: &Handle, len: usize) -> BufferArg {
    assert!(handle.size_in_used() >= 4 * len as u64, "{len} words in {} bytes", handle.size_in_used());
    // SAFETY: the length was checked, and every element is a word.
    unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
}
