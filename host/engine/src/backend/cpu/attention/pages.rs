//! The keys and values of a step, as bf16.

use super::BLOCKS;
use crate::{
    KvType,
    backend::{
        BlockId,
        cpu::{
            cache::Cache,
            simd::{LANES, Simd},
        },
    },
};

/// Pages of a step's blocks, laid out as `cache` draws them. A block that isn't there is the last again.
pub(super) struct Pages<'a> {
    pub(super) keys: [&'a [u8]; BLOCKS],
    pub(super) values: [&'a [u8]; BLOCKS],
    /// Factors of each block's keys and of its values, where they have 8 bits.
    pub(super) scales: Option<[[[f32; LANES]; 2]; BLOCKS]>,
}

impl<'a> Pages<'a> {
    /// The pages of a layer and a head; unpacks bytes into `memory`.
    #[inline(always)]
    pub(super) fn load<S: Simd>(
        simd: S,
        cache: &'a Cache,
        blocks: &[BlockId],
        (layer, head): (usize, usize),
        memory: &'a mut Vec<u8>,
    ) -> Self {
        let mut keys: [&[u8]; BLOCKS] = [&[]; BLOCKS];
        let mut values: [&[u8]; BLOCKS] = [&[]; BLOCKS];
        let mut scales: [&[u8]; BLOCKS] = [&[]; BLOCKS];
        for b in 0..BLOCKS {
            let page = cache.page(blocks[b.min(blocks.len() - 1)], layer, head);
            (keys[b], values[b], scales[b]) = (page.keys, page.values, page.scales);
        }
        if cache.layout().kv_type() == KvType::Bf16 {
            return Self { keys, values, scales: None };
        }
        let len = 2 * keys[0].len();
        memory.resize(2 * BLOCKS * len, 0);
        for (to, from) in memory.chunks_exact_mut(len).zip(keys.iter().chain(&values)) {
            unpack(simd, from, to);
        }
        let mut unpacked = memory.chunks_exact(len);
        let mut next = || unpacked.next().expect("there is memory for all pages");
        Self {
            keys: [next(), next(), next(), next()],
            values: [next(), next(), next(), next()],
            scales: Some(scales.map(read_scales)),
        }
    }
}

/// Signed bytes as bf16, which has them all.
#[inline(always)]
fn unpack<S: Simd>(simd: S, from: &[u8], to: &mut [u8]) {
    for (from, to) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
        *to = simd.to_bf16(simd.to_f32(simd.i8s(from)));
    }
}

/// `[2][16]` f32.
#[inline(always)]
fn read_scales(bytes: &[u8]) -> [[f32; LANES]; 2] {
    let mut scales = [[0.0; LANES]; 2];
    for (to, from) in scales.as_flattened_mut().iter_mut().zip(bytes.as_chunks().0) {
        *to = f32::from_le_bytes(*from);
    }
    scales
}
