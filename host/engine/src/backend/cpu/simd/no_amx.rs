//! What `amx` is on machines that can't have it: types without a value.

/// Proof of an AMX unit; there is none.
#[derive(Clone, Copy)]
pub(crate) enum Amx {}

/// Configured tile registers; there are none.
pub(crate) enum Tiles<const T: usize> {}

/// Configured tile registers; there are none.
pub(crate) enum AttentionTiles {}

/// Sums of 16 weight rows for each of `T` activation rows.
#[derive(Clone, Copy)]
pub(crate) struct Sums<const T: usize>(pub(crate) [[i32; 16]; T]);

impl Amx {
    pub(crate) fn tiles<const T: usize>(self, _columns: usize) -> Tiles<T> {
        match self {}
    }

    pub(crate) fn attention_tiles(self, _rows: usize) -> AttentionTiles {
        match self {}
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

impl<const T: usize> Tiles<T> {
    pub(crate) fn multiply<const COLUMNS: usize>(&self, _: &[i32], _: &[u8], _: &mut [Sums<T>; 4]) {
        match *self {}
    }
}
