//! Head norms, rotation, and storing keys and values.

use super::{
    cache::{Cache, HEAD_MAX, Layout, Place},
    elementwise::normalize,
    pool::Pool,
    simd::{Isa, Kernel, Simd},
    split::Split,
};
use crate::{
    KvType,
    backend::{BLOCK_TOKENS, Batch, Heads, Rope, RopePairs, Span},
};

/// Rows of a chunk.
const ROWS: usize = 8;

/// Sines and cosines of a step's positions, the same for all layers.
#[derive(Default)]
pub(super) struct Angles {
    positions: Vec<u32>,
    frequencies: Vec<f32>,
    /// `[T][2][F]`: cosines, then sines.
    values: Vec<f32>,
}

impl Angles {
    /// Computes them, unless they are those of the last call.
    pub(super) fn prepare(&mut self, positions: &[u32], frequencies: &[f32]) {
        if self.positions == positions && self.frequencies == frequencies {
            return;
        }
        self.positions.clear();
        self.positions.extend_from_slice(positions);
        self.frequencies.clear();
        self.frequencies.extend_from_slice(frequencies);
        self.values.clear();
        for &position in positions {
            let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
            self.values.extend(angles.clone().map(f32::cos));
            self.values.extend(angles.map(f32::sin));
        }
    }

    /// Cosines and sines of row `t`.
    fn row(&self, t: usize) -> (&[f32], &[f32]) {
        let len = self.frequencies.len();
        self.values[t * 2 * len..(t + 1) * 2 * len].split_at(len)
    }
}

/// What [`rope_store`] does to every row.
pub(super) struct RopeStore<'a> {
    pub(super) batch: Batch<'a>,
    pub(super) layer: usize,
    pub(super) heads: Heads,
    /// Gains of the query and the key heads, and epsilon.
    pub(super) norms: Option<(&'a [f32], &'a [f32], f32)>,
    pub(super) rope: &'a Rope,
    pub(super) angles: &'a Angles,
}

impl RopeStore<'_> {
    /// Normalises and rotates q and k in `qkv`, whose rows have `columns` values, and stores k and v.
    pub(super) fn run(&self, isa: Isa, pool: &Pool, qkv: &mut [f32], columns: usize, cache: &mut Cache) {
        let rows = self.batch.positions.len();
        let layout = cache.layout();
        let (qkv, bytes) = (Split::new(qkv), cache.split());
        pool.run(rows.div_ceil(ROWS), &|chunk| {
            let rows = chunk * ROWS..((chunk + 1) * ROWS).min(rows);
            for span in self.batch.spans {
                for t in span.rows.start.max(rows.start)..span.rows.end.min(rows.end) {
                    #[expect(unsafe_code, reason = "threads share the rows")]
                    // SAFETY: every row is in one span and one chunk.
                    let row = unsafe { qkv.part(t * columns..(t + 1) * columns) };
                    isa.run(RowKernel { all: self, span, t, row, layout, bytes: &bytes });
                }
            }
        });
    }
}

/// One row.
struct RowKernel<'a> {
    all: &'a RopeStore<'a>,
    span: &'a Span,
    t: usize,
    row: &'a mut [f32],
    layout: Layout,
    bytes: &'a Split<'a, u8>,
}

impl Kernel for RowKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let RopeStore { batch, layer, heads, norms, rope, angles } = *self.all;
        let size = heads.size;
        let (cos, sin) = angles.row(self.t);
        for (h, head) in self.row.chunks_exact_mut(size).take(heads.query + heads.kv).enumerate() {
            if let Some((query, key, epsilon)) = norms {
                normalize(simd, head, if h < heads.query { query } else { key }, epsilon);
            }
            rotate(head, cos, sin, rope.pairs);
        }

        let position = batch.positions[self.t] as usize;
        let block = batch.blocks[self.span.blocks.start..self.span.blocks.end][position / BLOCK_TOKENS];
        let (k, v) = self.row[heads.query * size..].split_at(heads.kv * size);
        // The last row of a block that this step began leaves finite values behind it.
        let is_last = self.t + 1 == self.span.rows.end;
        let first = batch.positions[self.span.rows.start] as usize;
        let clears = is_last && position / BLOCK_TOKENS * BLOCK_TOKENS >= first;
        for head in 0..heads.kv {
            let slot = position % BLOCK_TOKENS;
            let place = Place { block, layer, head, slot };
            store(simd, self.layout, self.bytes, place, &k[head * size..][..size], &v[head * size..][..size]);
            if clears {
                (slot + 1..BLOCK_TOKENS)
                    .for_each(|slot| clear(self.layout, self.bytes, Place { slot, ..place }));
            }
        }
    }
}

#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs) {
    let turns = cos.iter().zip(sin);
    match pairs {
        RopePairs::Adjacent => {
            for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
            }
        }
        RopePairs::Halves => {
            let (first, second) = head.split_at_mut(cos.len());
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

/// Writes a position's key and value.
#[inline(always)]
fn store<S: Simd>(simd: S, layout: Layout, bytes: &Split<'_, u8>, place: Place, k: &[f32], v: &[f32]) {
    let (key_at, value_at) = (layout.key_pair(place, 0), layout.value(place, 0));
    if layout.kv_type() == KvType::Q8 {
        let [k_scale, v_scale] = layout.scales(place);
        let mut codes = [0; HEAD_MAX];
        let codes = &mut codes[..layout.width()];
        put(bytes, k_scale, quantize(simd, k, codes).to_le_bytes());
        for (i, pair) in codes.as_chunks::<2>().0.iter().enumerate() {
            put(bytes, key_at + 2 * BLOCK_TOKENS * i, *pair);
        }
        put(bytes, v_scale, quantize(simd, v, codes).to_le_bytes());
        for (i, code) in codes.iter().enumerate() {
            put(bytes, value_at + 2 * i, [*code]);
        }
        return;
    }
    let mut pairs = [[0; 4]; HEAD_MAX / 2];
    let pairs = &mut pairs[..layout.width() / 2];
    to_pairs(simd, k, pairs);
    for (i, pair) in pairs.iter().enumerate() {
        put(bytes, key_at + i * BLOCK_TOKENS * 4, *pair);
    }
    to_pairs(simd, v, pairs);
    for (i, [a, b, c, d]) in pairs.iter().enumerate() {
        put(bytes, value_at + 8 * i, [*a, *b]);
        put(bytes, value_at + 8 * i + 4, [*c, *d]);
    }
}

/// Makes a position's value 0.
#[inline(always)]
fn clear(layout: Layout, bytes: &Split<'_, u8>, place: Place) {
    if layout.kv_type() == KvType::Q8 {
        let [_, scale] = layout.scales(place);
        return put(bytes, scale, [0; 4]);
    }
    let start = layout.value(place, 0);
    for d in 0..layout.width() {
        put(bytes, start + 4 * d, [0; 2]);
    }
}

/// Rounds values to signed bytes times the scale that is returned, with zeros behind.
#[inline(always)]
fn quantize<S: Simd>(simd: S, values: &[f32], codes: &mut [u8]) -> f32 {
    let mut largest = 0.0f32;
    for value in values {
        largest = largest.max(value.abs());
    }
    // Below the least normal f32 times 127 the factor would overflow; such values are zero.
    let (scale, factor) = if largest > 1e-35 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
    let (chunks, tail) = values.as_chunks();
    let to = codes.as_chunks_mut::<16>().0;
    for (chunk, to) in chunks.iter().zip(to.iter_mut()) {
        *to = simd.low_bytes(simd.round(simd.mul(simd.load(chunk), simd.splat(factor))));
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; 16];
        lanes[..tail.len()].copy_from_slice(tail);
        to[chunks.len()] = simd.low_bytes(simd.round(simd.mul(simd.load(&lanes), simd.splat(factor))));
    }
    scale
}

/// Values as bf16, two by two, with zeros behind.
#[inline(always)]
fn to_pairs<S: Simd>(simd: S, values: &[f32], pairs: &mut [[u8; 4]]) {
    let (chunks, tail) = values.as_chunks();
    let (to, rest) = pairs.as_flattened_mut().as_chunks_mut();
    debug_assert!(rest.is_empty(), "whole vectors of pairs");
    for (chunk, to) in chunks.iter().zip(to.iter_mut()) {
        *to = simd.to_bf16(simd.load(chunk));
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; 16];
        lanes[..tail.len()].copy_from_slice(tail);
        to[chunks.len()] = simd.to_bf16(simd.load(&lanes));
    }
}

#[inline(always)]
fn put<const N: usize>(bytes: &Split<'_, u8>, at: usize, value: [u8; N]) {
    #[expect(unsafe_code, reason = "threads share the cache")]
    // SAFETY: a position has bytes of its own in every page, and a position is one row's; those
    // behind the last are only that row's too.
    let to = unsafe { bytes.part(at..at + N) };
    to.copy_from_slice(&value);
}
