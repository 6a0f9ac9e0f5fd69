//! What `amx` is on machines that can't have it: types without a value.

use super::{Line, Sums};

/// Proof of an AMX unit; there is none.
#[derive(Clone, Copy)]
pub(crate) enum Amx {}

/// Configured tile registers; there are none.
pub(crate) enum MatrixTiles {}

/// Configured tile registers; there are none.
pub(crate) enum AttentionTiles {}

impl Amx {
    pub(crate) fn matrix_tiles(self, _rows: [usize; 2]) -> MatrixTiles {
        match self {}
    }

    pub(crate) fn attention_tiles(self, _rows: usize) -> AttentionTiles {
        match self {}
    }
}

impl MatrixTiles {
    pub(crate) fn rows(&self) -> [usize; 2] {
        match *self {}
    }

    pub(crate) fn multiply(&self, _: [&[Line]; 2], _: [&[Line]; 2], _: &mut [[Sums; 2]; 2]) {
        match *self {}
    }
}

impl AttentionTiles {
    pub(crate) fn score(&self, _: &[[u8; 32]], _: usize, _: [&[u8]; 4], _: &mut [[[f32; 16]; 16]; 4]) {
        match *self {}
    }

    pub(crate) fn add_values(&self, _: &[[[u8; 32]; 4]; 16], _: &[&[u8]], _: usize, _: &mut [f32]) {
        match *self {}
    }
}
