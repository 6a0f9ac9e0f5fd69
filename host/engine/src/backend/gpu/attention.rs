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

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    memory::{Buffer, Cache},
    rope::{RopeStore, Turn, bf16_bits, cached_at, check_heads, turn, turned},
    step::{PART, Parts, Step},
};
use crate::backend::{BLOCK_TOKENS, Heads, RopePairs};

/// Scores of positions that aren't seen.
const LOWEST: f32 = -1e30;
/// Units that run in step, where they share what they load.
const IN_STEP: usize = 8;
/// Query heads that such a cube has at most.
const HEADS_MAX: usize = 4;
/// Units of a cube that adds parts up.
const SUM_UNITS: usize = 32;

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
        let sum = Sum { step, parts, heads, plan, out: self.out };
        sum.prepare(device);
        parts.each(step.rows, |first, rows| {
            device.count();
            // SAFETY: the shapes were checked; the step's blocks are in the cache; the parts have room.
            unsafe {
                attend::launch_unchecked(
                    device.client(),
                    plan.cubes(rows, parts),
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
            sum.run(device, first, rows);
        });
    }
}

impl RopeAttention<'_> {
    pub(super) fn run(&self, device: &Device) {
        let RopeStore { step, layer, heads, norms, pairs, angles, turning, qkv, cache } = self.rope;
        let parts = &self.parts;
        let has_norms = norms.is_some();
        let plan = Plan { has_own: true, pairs, has_norms, ..Plan::new(device, heads) };
        check(heads, qkv, cache, step, self.out);
        self.rope.check();
        assert!(step.is_alone, "rows that are alone in their sequences");
        let (query_gain, key_gain, epsilon) = norms.unwrap_or((angles, angles, 0.0));
        let layer = &cache.layers[layer];
        let sum = Sum { step, parts, heads, plan, out: self.out };
        sum.prepare(device);
        parts.each(step.rows, |first, rows| {
            device.count();
            // SAFETY: the shapes were checked; the step's blocks are in the cache; the parts have room.
            unsafe {
                rope_attend::launch_unchecked(
                    device.client(),
                    plan.cubes(rows, parts),
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
                    turning as u32,
                    qkv.columns as u32,
                    epsilon,
                    window(heads),
                    heads.scale,
                    plan,
                );
            }
            sum.run(device, first, rows);
        });
    }
}

/// What follows attention to rows that have several parts.
struct Sum<'a> {
    step: &'a Step,
    parts: &'a Parts,
    heads: Heads,
    plan: Plan,
    out: &'a Buffer,
}

impl Sum<'_> {
    /// Has the device compile it, before any row is long: what it makes of `out` is to be overwritten.
    fn prepare(&self, device: &Device) {
        if self.parts.are_new {
            self.launch(device, 0, 1);
        }
    }

    /// Adds the parts of `rows` rows from `first` on up, if there are some.
    fn run(&self, device: &Device, first: usize, rows: usize) {
        if self.parts.count > 1 {
            device.count();
            self.launch(device, first, rows);
        }
    }

    fn launch(&self, device: &Device, first: usize, rows: usize) {
        let Self { step, parts, heads, plan, out } = *self;
        let of_rows = parts.of_rows.as_ref().expect("parts that are added up lie somewhere");
        // SAFETY: the parts have room for as many rows; the other shapes were checked.
        unsafe {
            add_parts::launch_unchecked(
                device.client(),
                CubeCount::Static(rows as u32, plan.query as u32, 1),
                CubeDim::new_1d(SUM_UNITS as u32),
                step.places.argument(),
                of_rows.argument(),
                out.argument(),
                first as u32,
                parts.count as u32,
                window(heads),
                plan.of_sum(),
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

/// Keeps a head's result, whose elements are two words' of a unit's and of those `stride` further on.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a result is")]
fn keep(
    out: &mut [f32],
    at: usize,
    word: usize,
    low: f32,
    high: f32,
    highest: f32,
    weight_sum: f32,
    #[comptime] plan: Plan,
) {
    if is_split() {
        out[at + 2 * word] = low;
        out[at + 2 * word + 1] = high;
        if word == 0 {
            out[at + comptime!(plan.size)] = highest;
            out[at + comptime!(plan.size + 1)] = weight_sum;
        }
    } else {
        out[at + 2 * word] = low / weight_sum;
        out[at + 2 * word + 1] = high / weight_sum;
    }
}

/// The values of some positions, by the softmax of their keys and the scaled queries of several heads, where units run
/// in step: each scores a position for all heads, then gathers some elements of all the positions' values.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn attend_in_step<H: Size>(
    blocks: &[u32],
    task: &Task,
    query: &Array<Vector<f32, H>>,
    own_score: Vector<f32, H>,
    own_value: &Array<f32>,
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    let heads = comptime!(plan.heads());
    let size = comptime!(plan.size);
    let words = comptime!(plan.size / 2);
    let own = comptime!(plan.words());
    let (start, end) = (task.start, task.end);
    let lowest = Vector::<f32, H>::new(LOWEST.runtime());
    let mut highest = lowest;
    let mut weight_sum = Vector::<f32, H>::new(0.0f32);
    let mut lows = Array::<Vector<f32, H>>::new(own);
    let mut highs = Array::<Vector<f32, H>>::new(own);
    #[unroll]
    for w in 0..own {
        lows[w] = Vector::<f32, H>::new(0.0f32);
        highs[w] = Vector::<f32, H>::new(0.0f32);
    }

    let mut first = start / 8 * 8;
    while first < end {
        let position = first + unit as u32;
        // What isn't seen may have no place: it is computed as the nearest, and not used.
        let near = u32::min(u32::max(position, start), end - 1);
        let at = cached_at(blocks, task.table, near as usize, task.kv, comptime!(plan.kv), size);
        let mut score = Vector::<f32, H>::new(0.0f32);
        #[unroll]
        for i in 0..words {
            let word = keys[at + i];
            let low = Vector::<f32, H>::new(f32::reinterpret(word << 16));
            let high = Vector::<f32, H>::new(f32::reinterpret(word & 0xffff_0000));
            score += plane_broadcast(query[comptime!(2 * i / 8)], comptime!(2 * i as u32 % 8)) * low;
            score += plane_broadcast(query[comptime!(2 * i / 8)], comptime!((2 * i as u32 + 1) % 8)) * high;
        }
        if comptime!(plan.has_own) {
            score = select(position == task.position, own_score, score);
        }
        let is_seen = position == near;
        score = select(is_seen, score, lowest);
        let mut top = highest;
        #[unroll]
        for i in 0..8u32 {
            let of_unit = plane_broadcast(score, i);
            top = select_many(top.greater_than(&of_unit), top, of_unit);
        }
        let factor = Vector::exp(highest - top);
        highest = top;
        let weight = select(is_seen, Vector::exp(score - top), Vector::<f32, H>::new(0.0f32));
        weight_sum *= factor;
        #[unroll]
        for w in 0..own {
            lows[w] *= factor;
            highs[w] *= factor;
        }
        #[unroll]
        for i in 0..8u32 {
            let weight = plane_broadcast(weight, i);
            let from = plane_broadcast(at as u32, i) as usize;
            // Positions that aren't seen have other sequences' values: they are passed over.
            if first + i >= start && first + i < end {
                weight_sum += weight;
                #[unroll]
                for w in 0..own {
                    let value = values[from + usize::min(unit + 8 * w, words - 1)];
                    let mut low = f32::reinterpret(value << 16);
                    let mut high = f32::reinterpret(value & 0xffff_0000);
                    if comptime!(plan.has_own) {
                        // Another cube may be writing to the cache just now: what was read is not used.
                        let is_own = first + i == task.position;
                        low = select(is_own, own_value[2 * w], low);
                        high = select(is_own, own_value[2 * w + 1], high);
                    }
                    lows[w] += weight * Vector::<f32, H>::new(low);
                    highs[w] += weight * Vector::<f32, H>::new(high);
                }
            }
        }
        first += 8;
    }

    #[unroll]
    for h in 0..heads {
        let at = task.out + h * task.stride;
        #[unroll]
        for w in 0..own {
            if unit + 8 * w < words {
                let (low, high) = (lows[w].extract(h), highs[w].extract(h));
                keep(out, at, unit + 8 * w, low, high, highest.extract(h), weight_sum.extract(h), plan);
            }
        }
    }
}

/// The values of a head's positions, by the softmax of their keys and a scaled query: a unit scores a position, then
/// each gathers some elements of the values.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn attend_over(
    blocks: &[u32],
    task: &Task,
    query: &Shared<[f32]>,
    own_key: &Shared<[f32]>,
    own_value: &Shared<[f32]>,
    keys: &[u32],
    values: &[u32],
    out: &mut [f32],
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    let size = comptime!(plan.size);
    let words = comptime!(plan.size / 2);
    let chunk = comptime!(plan.positions);
    let own = comptime!((plan.size / 2).div_ceil(plan.positions));
    let (start, end) = (task.start, task.end);
    let mut scores = Shared::<[f32]>::new_slice(chunk);
    let mut weights = Shared::<[f32]>::new_slice(chunk);
    let mut places_of = Shared::<[u32]>::new_slice(chunk);

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
            let at = cached_at(blocks, task.table, position as usize, task.kv, comptime!(plan.kv), size);
            places_of[unit] = at as u32;
            let mut sum = 0.0f32;
            let mut is_cached = true.runtime();
            if comptime!(plan.has_own) {
                is_cached = position != task.position;
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
                        if first + i as u32 == task.position {
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

    #[unroll]
    for w in 0..own {
        let word = unit + w * chunk;
        if word < words {
            keep(out, task.out, word, sums[2 * w], sums[2 * w + 1], highest, weight_sum, plan);
        }
    }
}

/// The parts of one head of one row, in their order.
#[cube(launch_unchecked)]
fn add_parts(
    places: &[u32],
    parts: &[f32],
    out: &mut [f32],
    first_row: u32,
    most: u32,
    window: u32,
    #[comptime] plan: Plan,
) {
    let row = first_row as usize + CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let size = comptime!(plan.size);
    let seen = seen(places, row, window, plan);
    let count = ((seen.end - 1) / 512 - seen.start / 512 + 1) as usize;
    let start = (CUBE_POS_X as usize * comptime!(plan.query) + head) * most as usize * (size + 2);
    let mut d = UNIT_POS as usize;
    while d < size {
        let mut sum = parts[start + d];
        let mut highest = parts[start + size];
        let mut weight_sum = parts[start + size + 1];
        for part in 1..count {
            let at = start + part * (size + 2);
            let of_part = parts[at + size];
            let top = f32::max(highest, of_part);
            let factor = f32::exp(highest - top);
            let of_part = f32::exp(of_part - top);
            sum = sum * factor + parts[at + d] * of_part;
            weight_sum = weight_sum * factor + parts[at + size + 1] * of_part;
            highest = top;
        }
        out[(row * comptime!(plan.query) + head) * size + d] = sum / weight_sum;
        d += 32;
    }
}

const _: () = assert!(
    BLOCK_TOKENS == 16 && PART == 512 && IN_STEP == 8 && SUM_UNITS == 32,
    "the kernels above have them as numbers"
);
