//! Rotates queries and keys, and stores keys and values in the cache.

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    memory::{Buffer, Cache, Vector},
    step::Step,
};
use crate::backend::{BLOCK_TOKENS, HeadNorms, Heads, Rope, RopePairs};

/// Units that share a head.
const UNITS: usize = 16;

/// What one launch does.
pub(super) struct RopeStore<'a> {
    pub(super) step: &'a Step,
    pub(super) layer: usize,
    pub(super) heads: Heads,
    pub(super) norms: Option<HeadNorms<'a, Vector>>,
    pub(super) rope: &'a Rope,
    /// `[T][rotated/2]` of cosine and sine.
    pub(super) angles: &'a Vector,
    pub(super) qkv: &'a Buffer,
    pub(super) cache: &'a Cache,
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    pairs: RopePairs,
    has_norms: bool,
    size: usize,
    query: usize,
    kv: usize,
}

impl RopeStore<'_> {
    /// Pairs of a head that turn.
    pub(super) fn turning(&self) -> usize {
        self.rope.frequencies.len()
    }

    /// Gains of the query and of the key heads, and epsilon; where they have no norms, something to bind.
    pub(super) fn gains(&self) -> (&Vector, &Vector, f32) {
        match &self.norms {
            Some(norms) => (norms.query, norms.key, norms.epsilon),
            None => (self.angles, self.angles, 0.0),
        }
    }

    /// Panics unless everything fits together.
    pub(super) fn check(&self) {
        let size = self.heads.size;
        check_heads(self.heads, self.qkv, self.cache);
        assert!(size.is_multiple_of(2), "a head of {size} has no pairs");
        assert!(self.step.rows <= self.qkv.rows, "rows of the batch");
        assert!(2 * self.turning() <= size, "pairs of a head");
    }

    pub(super) fn run(&self, device: &Device) {
        self.check();
        let Heads { query, kv, size, .. } = self.heads;
        let plan = Plan { pairs: self.rope.pairs, has_norms: self.norms.is_some(), size, query, kv };
        let (query_gain, key_gain, epsilon) = self.gains();
        let layer = &self.cache.layers[self.layer];
        device.count();
        // SAFETY: the shapes were checked; the step's blocks are in the cache.
        unsafe {
            rope_store::launch_unchecked(
                device.client(),
                CubeCount::Static(self.step.rows as u32, (query + 2 * kv) as u32, 1),
                CubeDim::new_1d(UNITS as u32),
                self.step.places.argument(),
                self.step.blocks.argument(),
                self.angles.argument(),
                query_gain.argument(),
                key_gain.argument(),
                self.qkv.argument(),
                layer.keys.argument(),
                layer.values.argument(),
                self.turning() as u32,
                self.qkv.columns as u32,
                epsilon,
                plan,
            );
        }
    }
}

/// Panics unless all of these fit together.
pub(super) fn check_heads(heads: Heads, qkv: &Buffer, cache: &Cache) {
    assert_eq!((heads.kv, heads.size), (cache.kv_heads, cache.head_size), "heads of the cache");
    assert!(heads.query.is_multiple_of(heads.kv), "query heads of a key head");
    assert_eq!(qkv.columns, (heads.query + 2 * heads.kv) * heads.size, "columns of q, k and v");
}

/// One head of one row: the cube's.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn rope_store(
    places: &[u32],
    blocks: &[u32],
    angles: &[f32],
    query_gain: &[f32],
    key_gain: &[f32],
    qkv: &mut [f32],
    keys: &mut [u32],
    values: &mut [u32],
    turning: u32,
    stride: u32,
    epsilon: f32,
    #[comptime] plan: Plan,
) {
    let row = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize;
    let size = comptime!(plan.size);
    let turning = turning as usize;
    let start = row * stride as usize + head * size;
    let is_query = head < comptime!(plan.query);
    let is_value = head >= comptime!(plan.query + plan.kv);

    let mut shared = Shared::<[f32]>::new_slice(size);
    let mut d = UNIT_POS as usize;
    while d < size {
        shared[d] = qkv[start + d];
        d += 16;
    }
    sync_cube();

    if comptime!(plan.has_norms) {
        let mut factor = 1.0f32;
        if !is_value {
            let mut sum = 0.0f32;
            for d in 0..size {
                sum += shared[d] * shared[d];
            }
            factor = 1.0 / f32::sqrt(sum / size as f32 + epsilon);
        }
        sync_cube();
        let mut d = UNIT_POS as usize;
        while d < size {
            if is_query {
                shared[d] *= factor * query_gain[d];
            } else if !is_value {
                shared[d] *= factor * key_gain[d];
            }
            d += 16;
        }
        sync_cube();
    }

    let (table, position) = (places[3 * row + 2] as usize, places[3 * row] as usize);
    let mut i = UNIT_POS as usize;
    while i < size / 2 {
        let mut a = shared[2 * i];
        let mut b = shared[2 * i + 1];
        if !is_value {
            a = turned(&shared, angles, row, 2 * i, turning, comptime!(plan.pairs));
            b = turned(&shared, angles, row, 2 * i + 1, turning, comptime!(plan.pairs));
            qkv[start + 2 * i] = a;
            qkv[start + 2 * i + 1] = b;
        }
        if !is_query {
            let word = bf16_bits(a) | (bf16_bits(b) << 16);
            if is_value {
                let kv = head - comptime!(plan.query + plan.kv);
                let at = cached_at(blocks, table, position, kv, comptime!(plan.kv), size);
                values[at + i] = word;
            } else {
                let kv = head - comptime!(plan.query);
                let at = cached_at(blocks, table, position, kv, comptime!(plan.kv), size);
                keys[at + i] = word;
            }
        }
        i += 16;
    }
}

/// Where the key and the value of a position begin in the cache, by its sequence's table of blocks.
#[cube]
pub(super) fn cached_at(
    blocks: &[u32],
    table: usize,
    position: usize,
    head: usize,
    #[comptime] heads: usize,
    #[comptime] size: usize,
) -> usize {
    let block = blocks[table + position / 16] as usize;
    ((block * heads + head) * 16 + position % 16) * comptime!(size / 2)
}

/// An element of a rotated head.
#[cube]
pub(super) fn turned(
    head: &Shared<[f32]>,
    angles: &[f32],
    row: usize,
    d: usize,
    turning: usize,
    #[comptime] pairs: RopePairs,
) -> f32 {
    let mut value = head[d];
    if d < 2 * turning {
        let turn = turn(row, d, turning, pairs);
        let other = head[turn.other];
        let (cos, sin) = (angles[turn.angle], angles[turn.angle + 1]);
        if turn.is_first {
            value = value * cos - other * sin;
        } else {
            value = other * sin + value * cos;
        }
    }
    value
}

/// The element that one turns with, whether it is the second, and where their angle lies.
#[derive(CubeType)]
pub(super) struct Turn {
    pub(super) other: usize,
    pub(super) is_first: bool,
    pub(super) angle: usize,
}

/// How an element of a row's head turns.
#[cube]
pub(super) fn turn(row: usize, d: usize, turning: usize, #[comptime] pairs: RopePairs) -> Turn {
    let mut pair = d / 2;
    let mut is_first = d % 2 == 0;
    let mut other = d + 1;
    if !is_first {
        other = d - 1;
    }
    if comptime!(pairs == RopePairs::Halves) {
        is_first = d < turning;
        pair = d;
        other = d + turning;
        if !is_first {
            pair = d - turning;
            other = d - turning;
        }
    }
    Turn { other, is_first, angle: 2 * (row * turning + pair) }
}

/// The nearest bf16, ties to even.
#[cube]
pub(super) fn bf16_bits(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
}

const _: () = assert!(BLOCK_TOKENS == 16 && UNITS == 16, "the kernel above has them as numbers");
