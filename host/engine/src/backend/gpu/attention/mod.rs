//! Attention over the blocks of the cache, in one pass (arXiv 2205.14135).
//!
//! A cube has one query head of one row, or, where its units run in step, the heads that share keys. It takes positions
//! in chunks that begin at multiples of their size, whatever the step. So a row's result depends on nothing but its
//! position.
//!
//! Positions that lie far apart are of different parts, which begin at multiples of [`PART`]. Each is a cube's, so that
//! a long context keeps a device busy; a dispatch more adds the parts of a row up in their order (Flash-Decoding, as
//! arXiv 2311.01282 describes it). A step whose rows all have one part does without, to the same bits.
//!
//! Where every row is the only one of its sequence, its own key and value come from the row and not from the cache, so
//! that [`RopeAttention`] rotates, stores and attends in one dispatch. They are rounded as the cache has them: the
//! result is the same to the bit.

mod over;
mod sum;

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    memory::{Buffer, Cache},
    rope::{RopeStore, Turn, bf16_bits, cached_at, check_heads, turn, turned},
    step::{PART, Parts, Step},
};
use crate::backend::{BLOCK_TOKENS, Heads, RopePairs};
use over::{attend_in_step, attend_over};
use sum::Sum;

/// Scores of positions that aren't seen.
const LOWEST: f32 = -1e30;
/// Units that run in step, where they share what they load.
const IN_STEP: usize = 8;
/// Query heads that such a cube has at most.
const HEADS_MAX: usize = 4;

/// What one launch computes.
pub(super) struct Attention<'a> {
    pub(super) step: &'a Step,
    pub(super) parts: Parts,
    pub(super) layer: usize,
    pub(super) heads: Heads,
    pub(super) qkv: &'a Buffer,
    pub(super) cache: &'a Cache,
    pub(super) out: &'a Buffer,
}

/// [`RopeStore`] and [`Attention`] of rows that are alone in their sequences.
pub(super) struct RopeAttention<'a> {
    pub(super) rope: RopeStore<'a>,
    pub(super) parts: Parts,
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
    /// Whether the units run in step, and ask each other instead of shared memory.
    shares: bool,
    is_causal: bool,
    /// Whether a row brings its own key and value.
    has_own: bool,
    pairs: RopePairs,
    has_norms: bool,
}

impl Plan {
    fn new(device: &Device, heads: Heads) -> Self {
        let Heads { query, kv, size, causal, .. } = heads;
        let units = device.units();
        Self {
            size,
            query,
            kv,
            positions: if units.shares { IN_STEP } else { units.positions },
            shares: units.shares,
            is_causal: causal,
            has_own: false,
            pairs: RopePairs::Adjacent,
            has_norms: false,
        }
    }

    /// The same where keys and values are no more looked at, so that a model needs one kernel.
    fn of_sum(self) -> Self {
        Self { has_own: false, has_norms: false, pairs: RopePairs::Adjacent, ..self }
    }

    /// Query heads of a cube.
    fn heads(&self) -> usize {
        let sharing = self.query / self.kv;
        let most = if self.shares { HEADS_MAX } else { 1 };
        (1..=most).rev().find(|heads| sharing.is_multiple_of(*heads)).unwrap_or(1)
    }

    /// Length of a vector that has a number for each of these.
    fn width(&self) -> usize {
        self.heads().next_power_of_two()
    }

    /// Elements of a head that a unit has, and words.
    fn elements(&self) -> usize {
        self.size.div_ceil(IN_STEP)
    }

    fn words(&self) -> usize {
        (self.size / 2).div_ceil(IN_STEP)
    }

    fn cubes(&self, rows: usize, parts: &Parts) -> CubeCount {
        CubeCount::Static(rows as u32, (self.query / self.heads()) as u32, parts.count as u32)
    }
}

impl Attention<'_> {
    pub(super) fn run(&self, device: &Device) {
        let Self { step, ref parts, heads, .. } = *self;
        let plan = Plan::new(device, heads);
        check(heads, self.qkv, self.cache, step, self.out);
        let layer = &self.cache.layers[self.layer];
        Sum { step, parts, heads, plan, out: self.out }.after_each(device, |first, cubes| {
            // SAFETY: the shapes were checked; the step's blocks are in the cache; the parts have room.
            unsafe {
                attend::launch_unchecked(
                    device.client(),
                    cubes,
                    CubeDim::new_1d(plan.positions as u32),
                    plan.width(),
                    step.places.argument(),
                    step.blocks.argument(),
                    self.qkv.argument(),
                    layer.keys.argument(),
                    layer.values.argument(),
                    parts.argument(self.out),
                    first as u32,
                    self.qkv.columns as u32,
                    window(heads),
                    heads.scale,
                    plan,
                );
            }
        });
    }
}

impl RopeAttention<'_> {
    pub(super) fn run(&self, device: &Device) {
        let RopeStore { step, layer, heads, ref norms, rope, angles, qkv, cache } = self.rope;
        let parts = &self.parts;
        let (pairs, has_norms) = (rope.pairs, norms.is_some());
        let plan = Plan { has_own: true, pairs, has_norms, ..Plan::new(device, heads) };
        check(heads, qkv, cache, step, self.out);
        self.rope.check();
        assert!(step.is_alone, "rows that are alone in their sequences");
        let (query_gain, key_gain, epsilon) = self.rope.gains();
        let layer = &cache.layers[layer];
        Sum { step, parts, heads, plan, out: self.out }.after_each(device, |first, cubes| {
            // SAFETY: the shapes were checked; the step's blocks are in the cache; the parts have room.
            unsafe {
                rope_attend::launch_unchecked(
                    device.client(),
                    cubes,
                    CubeDim::new_1d(plan.positions as u32),
                    plan.width(),
                    step.places.argument(),
                    step.blocks.argument(),
                    angles.argument(),
                    query_gain.argument(),
                    key_gain.argument(),
                    qkv.argument(),
                    layer.keys.argument(),
                    layer.values.argument(),
                    parts.argument(self.out),
                    first as u32,
                    self.rope.turning() as u32,
                    qkv.columns as u32,
                    epsilon,
                    window(heads),
                    heads.scale,
                    plan,
                );
            }
        });
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

/// What a cube is to do.
#[derive(CubeType)]
struct Task {
    row: usize,
    /// The first of its query heads, and their key head.
    head: usize,
    kv: usize,
    /// Positions of the part that the row sees.
    start: u32,
    end: u32,
    /// The row's own position, and where its table of blocks begins.
    position: u32,
    table: usize,
    /// Where the result of the first head goes, and how far the next head's is.
    out: usize,
    stride: usize,
}

#[cube]
fn task(places: &[u32], first_row: u32, window: u32, #[comptime] plan: Plan) -> Task {
    let row = first_row as usize + CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize * comptime!(plan.heads());
    let seen = seen(places, row, window, plan);
    let part = seen.start / 512 + CUBE_POS_Z;
    let mut out = (row * comptime!(plan.query) + head) * comptime!(plan.size);
    let mut stride = comptime!(plan.size).runtime();
    if is_split() {
        stride = CUBE_COUNT_Z as usize * comptime!(plan.size + 2);
        out = (CUBE_POS_X as usize * comptime!(plan.query) + head) * stride
            + CUBE_POS_Z as usize * comptime!(plan.size + 2);
    }
    Task {
        row,
        head,
        kv: head / comptime!(plan.query / plan.kv),
        start: u32::max(seen.start, part * 512),
        end: u32::min(seen.end, part * 512 + 512),
        position: places[3 * row],
        table: places[3 * row + 2] as usize,
        out,
        stride,
    }
}

/// Whether results are of parts, which are added up later.
#[cube]
fn is_split() -> bool {
    CUBE_COUNT_Z > 1
}

/// The positions that a row sees.
#[derive(CubeType)]
struct Seen {
    start: u32,
    end: u32,
}

#[cube]
fn seen(places: &[u32], row: usize, window: u32, #[comptime] plan: Plan) -> Seen {
    let end = if comptime!(plan.is_causal) { places[3 * row] + 1 } else { places[3 * row + 1] };
    Seen { start: end - u32::min(end, window), end }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn attend<H: Size>(
    places: &[u32],
    blocks: &[u32],
    qkv: &[f32],
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    first_row: u32,
    stride: u32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let task = task(places, first_row, window, plan);
    let size = comptime!(plan.size);
    if task.start < task.end {
        let from = task.row * stride as usize + task.head * size;
        if comptime!(plan.shares) {
            let mut query = Array::<Vector<f32, H>>::new(comptime!(plan.elements()));
            #[unroll]
            for e in 0..comptime!(plan.elements()) {
                let d = usize::min(UNIT_POS as usize + 8 * e, size - 1);
                query[e] = elements_of::<H>(qkv, from + d, comptime!(plan.heads()), plan)
                    * Vector::<f32, H>::new(scale);
            }
            // There is no key of its own, and none is looked for.
            let own_value = Array::<f32>::new(comptime!(2 * plan.words()));
            attend_in_step::<H>(
                blocks,
                &task,
                &query,
                Vector::<f32, H>::new(0.0f32),
                &own_value,
                keys,
                values,
                out,
                plan,
            );
        } else {
            let mut query = Shared::<[f32]>::new_slice(size);
            let mut d = UNIT_POS as usize;
            while d < size {
                query[d] = qkv[from + d] * scale;
                d += comptime!(plan.positions);
            }
            attend_over(blocks, &task, &query, &query, &query, keys, values, out, plan);
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn rope_attend<H: Size>(
    places: &[u32],
    blocks: &[u32],
    angles: &[f32],
    query_gain: &[f32],
    key_gain: &[f32],
    qkv: &[f32],
    keys: &mut [u32],
    values: &mut [u32],
    out: &mut [f32],
    first_row: u32,
    turning: u32,
    stride: u32,
    epsilon: f32,
    window: u32,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let task = task(places, first_row, window, plan);
    let size = comptime!(plan.size);
    let units = comptime!(plan.positions);
    let turning = turning as usize;
    let row = task.row;
    if task.start < task.end {
        let start = row * stride as usize;
        let query_at = start + task.head * size;
        let key_at = start + (comptime!(plan.query) + task.kv) * size;
        let value_at = start + (comptime!(plan.query + plan.kv) + task.kv) * size;
        // The first query head of a key's stores it, where it attends to it.
        let stores = task.head % comptime!(plan.query / plan.kv) == 0 && task.position < task.end;
        let at = cached_at(blocks, task.table, task.position as usize, task.kv, comptime!(plan.kv), size);
        if comptime!(plan.shares) {
            let unit = UNIT_POS as usize;
            let query_factor = norm_factors::<H>(qkv, query_at, epsilon, comptime!(plan.heads()), plan);
            let key_factor = norm_factors::<Const<1>>(qkv, key_at, epsilon, 1usize, plan);
            let mut query = Array::<Vector<f32, H>>::new(comptime!(plan.elements()));
            let mut key = Array::<f32>::new(comptime!(plan.elements()));
            #[unroll]
            for e in 0..comptime!(plan.elements()) {
                let d = usize::min(unit + 8 * e, size - 1);
                let turn = turn(row, d, turning, comptime!(plan.pairs));
                let turns = d < 2 * turning;
                let of_heads = turned_from::<H>(
                    qkv,
                    query_at,
                    query_gain,
                    query_factor,
                    angles,
                    d,
                    &turn,
                    turns,
                    comptime!(plan.heads()),
                    plan,
                );
                query[e] = of_heads * Vector::<f32, H>::new(scale);
                let of_key = turned_from::<Const<1>>(
                    qkv, key_at, key_gain, key_factor, angles, d, &turn, turns, 1usize, plan,
                );
                key[e] = rounded(of_key.extract(0usize));
            }
            let mut own_score = Vector::<f32, H>::new(0.0f32);
            #[unroll]
            for d in 0..size {
                let element = plane_broadcast(key[comptime!(d / 8)], comptime!(d as u32 % 8));
                own_score += plane_broadcast(query[comptime!(d / 8)], comptime!(d as u32 % 8))
                    * Vector::<f32, H>::new(element);
            }
            let mut own_value = Array::<f32>::new(comptime!(2 * plan.words()));
            #[unroll]
            for w in 0..comptime!(plan.words()) {
                let word = usize::min(unit + 8 * w, size / 2 - 1);
                own_value[2 * w] = rounded(qkv[value_at + 2 * word]);
                own_value[2 * w + 1] = rounded(qkv[value_at + 2 * word + 1]);
                if stores && unit + 8 * w < comptime!(plan.size / 2) {
                    values[at + word] =
                        (u32::reinterpret(own_value[2 * w]) >> 16) | u32::reinterpret(own_value[2 * w + 1]);
                }
            }
            #[unroll]
            for e in 0..comptime!(plan.elements()) {
                let next = plane_shuffle_xor(key[e], 1u32);
                if stores && unit % 2 == 0 && unit + 8 * e < size {
                    keys[at + unit / 2 + 4 * e] = (u32::reinterpret(key[e]) >> 16) | u32::reinterpret(next);
                }
            }
            attend_in_step::<H>(blocks, &task, &query, own_score, &own_value, &*keys, &*values, out, plan);
        } else {
            let query = loaded(qkv, query_at, query_gain, epsilon, plan);
            let key = loaded(qkv, key_at, key_gain, epsilon, plan);
            let mut turned_query = Shared::<[f32]>::new_slice(size);
            let mut own_key = Shared::<[f32]>::new_slice(size);
            let mut own_value = Shared::<[f32]>::new_slice(size);
            let mut d = UNIT_POS as usize;
            while d < size {
                turned_query[d] = turned(&query, angles, row, d, turning, comptime!(plan.pairs)) * scale;
                own_key[d] = rounded(turned(&key, angles, row, d, turning, comptime!(plan.pairs)));
                own_value[d] = rounded(qkv[value_at + d]);
                d += units;
            }
            sync_cube();
            if stores {
                let mut i = UNIT_POS as usize;
                while i < size / 2 {
                    keys[at + i] = word_of(&own_key, i);
                    values[at + i] = word_of(&own_value, i);
                    i += units;
                }
            }
            attend_over(blocks, &task, &turned_query, &own_key, &own_value, &*keys, &*values, out, plan);
        }
    }
}

/// What heads that follow each other are multiplied by, if their kind is normalised: squares are added in their order.
#[cube]
fn norm_factors<H: Size>(
    qkv: &[f32],
    start: usize,
    epsilon: f32,
    #[comptime] heads: usize,
    #[comptime] plan: Plan,
) -> Vector<f32, H> {
    let mut factors = Vector::<f32, H>::new(1.0f32);
    if comptime!(plan.has_norms) {
        #[unroll]
        for h in 0..heads {
            let from = start + h * comptime!(plan.size);
            let mut sum = 0.0f32;
            for d in 0..comptime!(plan.size) {
                sum += qkv[from + d] * qkv[from + d];
            }
            factors.insert(h, 1.0 / f32::sqrt(sum / comptime!(plan.size) as f32 + epsilon));
        }
    }
    factors
}

/// An element of each of some rotated heads, which are normalised if their kind is.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what an element is made of")]
fn turned_from<H: Size>(
    qkv: &[f32],
    start: usize,
    gain: &[f32],
    factors: Vector<f32, H>,
    angles: &[f32],
    d: usize,
    turn: &Turn,
    turns: bool,
    #[comptime] heads: usize,
    #[comptime] plan: Plan,
) -> Vector<f32, H> {
    let mut value = elements_of::<H>(qkv, start + d, heads, plan);
    if comptime!(plan.has_norms) {
        value *= factors * Vector::<f32, H>::new(gain[d]);
    }
    if turns {
        let mut other = elements_of::<H>(qkv, start + turn.other, heads, plan);
        if comptime!(plan.has_norms) {
            other *= factors * Vector::<f32, H>::new(gain[turn.other]);
        }
        let cos = Vector::<f32, H>::new(angles[turn.angle]);
        let sin = Vector::<f32, H>::new(angles[turn.angle + 1]);
        if turn.is_first {
            value = value * cos - other * sin;
        } else {
            value = other * sin + value * cos;
        }
    }
    value
}

/// The same element of heads that follow each other.
#[cube]
fn elements_of<H: Size>(
    qkv: &[f32],
    at: usize,
    #[comptime] heads: usize,
    #[comptime] plan: Plan,
) -> Vector<f32, H> {
    let mut elements = Vector::<f32, H>::new(0.0f32);
    #[unroll]
    for h in 0..heads {
        elements.insert(h, qkv[at + h * comptime!(plan.size)]);
    }
    elements
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

const _: () =
    assert!(BLOCK_TOKENS == 16 && PART == 512 && IN_STEP == 8, "the kernels above have them as numbers");
