//! Attention over the blocks of the cache, in one pass (arXiv 2205.14135).
//!
//! A cube has one query head of one row. It takes positions in chunks that begin at multiples of their size,
//! whatever the step: a unit scores a position, then each gathers some elements of the values. So a
//! row's result depends on nothing but its position.
//!
//! Where every row is the only one of its sequence, its own key and value come from the row and not from the cache, so
//! that [`RopeAttention`] rotates, stores and attends in one dispatch. They are rounded as the cache has them: the
//! result is the same to the bit.

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    memory::{Buffer, Cache},
    rope::{RopeStore, bf16_bits, cached_at, check_heads, turned},
    step::Step,
};
use crate::backend::{BLOCK_TOKENS, Heads, RopePairs};

/// Scores of positions that aren't seen.
const LOWEST: f32 = -1e30;

/// What one launch computes.
pub(super) struct Attention<'a> {
    pub(super) step: &'a Step,
    pub(super) layer: usize,
    pub(super) heads: Heads,
    pub(super) qkv: &'a Buffer,
    pub(super) cache: &'a Cache,
    pub(super) out: &'a Buffer,
}

/// [`RopeStore`] and [`Attention`] of rows that are alone in their sequences.
pub(super) struct RopeAttention<'a> {
    pub(super) rope: RopeStore<'a>,
    pub(super) out: &'a Buffer,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    size: usize,
    query: usize,
    kv: usize,
    /// Positions of a chunk; units of a cube.
    positions: usize,
    is_causal: bool,
    /// Whether a row brings its own key and value.
    has_own: bool,
    pairs: RopePairs,
    has_norms: bool,
}

impl Attention<'_> {
    pub(super) fn run(&self, device: &Device) {
        let Heads { query, kv, size, .. } = self.heads;
        let plan = Plan {
            size,
            query,
            kv,
            positions: device.units().positions,
            is_causal: self.heads.causal,
            has_own: false,
            pairs: RopePairs::Adjacent,
            has_norms: false,
        };
        check(self.heads, self.qkv, self.cache, self.step, self.out);
        let layer = &self.cache.layers[self.layer];
        device.count();
        // SAFETY: the shapes were checked; the step's blocks are in the cache.
        unsafe {
            attend::launch_unchecked(
                device.client(),
                CubeCount::Static(self.step.rows as u32, query as u32, 1),
                CubeDim::new_1d(plan.positions as u32),
                self.step.places.argument(),
                self.step.blocks.argument(),
                self.qkv.argument(),
                layer.keys.argument(),
                layer.values.argument(),
                self.out.argument(),
                self.qkv.columns as u32,
                window(self.heads),
                self.heads.scale,
                plan,
            );
        }
    }
}

impl RopeAttention<'_> {
    pub(super) fn run(&self, device: &Device) {
        let RopeStore { step, layer, heads, norms, pairs, angles, turning, qkv, cache } = self.rope;
        let Heads { query, kv, size, causal, .. } = heads;
        let positions = device.units().positions;
        let has_norms = norms.is_some();
        let plan = Plan { size, query, kv, positions, is_causal: causal, has_own: true, pairs, has_norms };
        check(heads, qkv, cache, step, self.out);
        self.rope.check();
        assert!(step.is_alone, "rows that are alone in their sequences");
        let (query_gain, key_gain, epsilon) = norms.unwrap_or((angles, angles, 0.0));
        let layer = &cache.layers[layer];
        device.count();
        // SAFETY: the shapes were checked; the step's blocks are in the cache.
        unsafe {
            rope_attend::launch_unchecked(
                device.client(),
                CubeCount::Static(step.rows as u32, query as u32, 1),
                CubeDim::new_1d(positions as u32),
                step.places.argument(),
                step.blocks.argument(),
                angles.argument(),
                query_gain.argument(),
                key_gain.argument(),
                qkv.argument(),
                layer.keys.argument(),
                layer.values.argument(),
                self.out.argument(),
                turning as u32,
                qkv.columns as u32,
                epsilon,
                window(heads),
                heads.scale,
                plan,
            );
        }
    }
}

fn check(heads: Heads, qkv: &Buffer, cache: &Cache, step: &Step, out: &Buffer) {
    check_heads(heads, qkv, cache);
    assert_eq!(out.columns, heads.query * heads.size, "columns of the output");
    assert!(step.rows <= out.rows.min(qkv.rows), "rows of the batch");
}

fn window(heads: Heads) -> u32 {
    heads.window.map_or(u32::MAX, |window| window as u32)
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn attend(
    places: &[u32],
    blocks: &[u32],
    qkv: &[f32],
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    stride: u32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let size = comptime!(plan.size);
    let mut query = Shared::<[f32]>::new_slice(size);
    let mut d = UNIT_POS as usize;
    while d < size {
        query[d] = qkv[row * stride as usize + head * size + d] * scale;
        d += comptime!(plan.positions);
    }
    // There is no key of its own, and none is looked for.
    attend_over(places, blocks, &query, &query, &query, keys, values, out, window, plan);
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn rope_attend(
    places: &[u32],
    blocks: &[u32],
    angles: &[f32],
    query_gain: &[f32],
    key_gain: &[f32],
    qkv: &[f32],
    keys: &mut [u32],
    values: &mut [u32],
    out: &mut [f32],
    turning: u32,
    stride: u32,
    epsilon: f32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let size = comptime!(plan.size);
    let units = comptime!(plan.positions);
    let kv = head / comptime!(plan.query / plan.kv);
    let turning = turning as usize;
    let start = row * stride as usize;
    let query = loaded(qkv, start + head * size, query_gain, epsilon, plan);
    let key = loaded(qkv, start + (comptime!(plan.query) + kv) * size, key_gain, epsilon, plan);

    let mut turned_query = Shared::<[f32]>::new_slice(size);
    let mut own_key = Shared::<[f32]>::new_slice(size);
    let mut own_value = Shared::<[f32]>::new_slice(size);
    let mut d = UNIT_POS as usize;
    while d < size {
        turned_query[d] = turned(&query, angles, row, d, turning, comptime!(plan.pairs)) * scale;
        own_key[d] = rounded(turned(&key, angles, row, d, turning, comptime!(plan.pairs)));
        own_value[d] = rounded(qkv[start + (comptime!(plan.query + plan.kv) + kv) * size + d]);
        d += units;
    }
    sync_cube();

    // The first query head of a key's stores it.
    if head % comptime!(plan.query / plan.kv) == 0 {
        let (table, position) = (places[3 * row + 2] as usize, places[3 * row] as usize);
        let at = cached_at(blocks, table, position, kv, comptime!(plan.kv), size);
        let mut i = UNIT_POS as usize;
        while i < size / 2 {
            keys[at + i] = word_of(&own_key, i);
            values[at + i] = word_of(&own_value, i);
            i += units;
        }
    }
    attend_over(places, blocks, &turned_query, &own_key, &own_value, &*keys, &*values, out, window, plan);
}

/// A head in shared memory, normalised if its kind is.
#[cube]
fn loaded(qkv: &[f32], start: usize, gain: &[f32], epsilon: f32, #[comptime] plan: Plan) -> Shared<[f32]> {
    let size = comptime!(plan.size);
    let mut head = Shared::<[f32]>::new_slice(size);
    let mut d = UNIT_POS as usize;
    while d < size {
        head[d] = qkv[start + d];
        d += comptime!(plan.positions);
    }
    sync_cube();
    if comptime!(plan.has_norms) {
        let mut sum = 0.0f32;
        for d in 0..size {
            sum += head[d] * head[d];
        }
        let factor = 1.0 / f32::sqrt(sum / size as f32 + epsilon);
        sync_cube();
        let mut d = UNIT_POS as usize;
        while d < size {
            head[d] *= factor * gain[d];
            d += comptime!(plan.positions);
        }
        sync_cube();
    }
    head
}

/// The nearest bf16.
#[cube]
fn rounded(value: f32) -> f32 {
    f32::reinterpret(bf16_bits(value) << 16)
}

/// Two values that are bf16 already.
#[cube]
fn word_of(head: &Shared<[f32]>, i: usize) -> u32 {
    (u32::reinterpret(head[2 * i]) >> 16) | u32::reinterpret(head[2 * i + 1])
}

/// The values of a head's positions, by the softmax of their keys and a scaled query.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn attend_over(
    places: &[u32],
    blocks: &[u32],
    query: &Shared<[f32]>,
    own_key: &Shared<[f32]>,
    own_value: &Shared<[f32]>,
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    window: u32,
    #[comptime] plan: Plan,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let unit = UNIT_POS as usize;
    let size = comptime!(plan.size);
    let words = comptime!(plan.size / 2);
    let chunk = comptime!(plan.positions);
    let own = comptime!((plan.size / 2).div_ceil(plan.positions));
    let kv = head / comptime!(plan.query / plan.kv);
    let mut scores = Shared::<[f32]>::new_slice(chunk);
    let mut weights = Shared::<[f32]>::new_slice(chunk);
    let mut places_of = Shared::<[u32]>::new_slice(chunk);

    let table = places[3 * row + 2] as usize;
    let own_position = places[3 * row];
    let end = if comptime!(plan.is_causal) { own_position + 1 } else { places[3 * row + 1] };
    let start = end - u32::min(end, window);
    let mut sums = Array::<f32>::new(comptime!(2 * own));
    #[unroll]
    for i in 0..comptime!(2 * own) {
        sums[i] = 0.0;
    }
    let mut highest = LOWEST.runtime();
    let mut weight_sum = 0.0f32;
    sync_cube();

    let mut first = start / chunk as u32 * chunk as u32;
    while first < end {
        let position = first + unit as u32;
        let mut score = LOWEST.runtime();
        if position >= start && position < end {
            let at = cached_at(blocks, table, position as usize, kv, comptime!(plan.kv), size);
            places_of[unit] = at as u32;
            let mut sum = 0.0f32;
            let mut is_cached = true.runtime();
            if comptime!(plan.has_own) {
                is_cached = position != own_position;
            }
            if is_cached {
                for i in 0..words {
                    let word = keys[at + i];
                    sum += query[2 * i] * f32::reinterpret(word << 16);
                    sum += query[2 * i + 1] * f32::reinterpret(word & 0xffff_0000);
                }
            } else {
                for d in 0..size {
                    sum += query[d] * own_key[d];
                }
            }
            score = sum;
        }
        scores[unit] = score;
        sync_cube();
        let mut top = highest;
        for i in 0..chunk {
            top = f32::max(top, scores[i]);
        }
        let factor = f32::exp(highest - top);
        highest = top;
        weights[unit] = f32::exp(score - top);
        sync_cube();

        // Positions that aren't seen have other sequences' values: they are passed over.
        let from = start - u32::min(start, first);
        let to = u32::min(end - first, chunk as u32);
        weight_sum *= factor;
        for i in from as usize..to as usize {
            weight_sum += weights[i];
        }
        #[unroll]
        for w in 0..own {
            let word = unit + w * chunk;
            if word < words {
                let mut low = sums[2 * w] * factor;
                let mut high = sums[2 * w + 1] * factor;
                for i in from as usize..to as usize {
                    let value = values[places_of[i] as usize + word];
                    let mut value_low = f32::reinterpret(value << 16);
                    let mut value_high = f32::reinterpret(value & 0xffff_0000);
                    if comptime!(plan.has_own) {
                        // Another cube may be writing to the cache just now: what was read is not used.
                        if first + i as u32 == own_position {
                            value_low = own_value[2 * word];
                            value_high = own_value[2 * word + 1];
                        }
                    }
                    low += weights[i] * value_low;
                    high += weights[i] * value_high;
                }
                sums[2 * w] = low;
                sums[2 * w + 1] = high;
            }
        }
        sync_cube();
        first += chunk as u32;
    }

    let start = (row * comptime!(plan.query) + head) * size;
    #[unroll]
    for w in 0..own {
        let word = unit + w * chunk;
        if word < words {
            out[start + 2 * word] = sums[2 * w] / weight_sum;
            out[start + 2 * word + 1] = sums[2 * w + 1] / weight_sum;
        }
    }
}

const _: () = assert!(BLOCK_TOKENS == 16, "the kernels above have it as a number");
