//! Goes over the positions of a part: scores, weights, and the sum of the values.

use cubecl_core::{self as cubecl, prelude::*};

use super::{LOWEST, Plan, Task, is_split};
use crate::backend::gpu::rope::cached_at;

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
pub(super) fn attend_in_step<H: Size>(
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
pub(super) fn attend_over(
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
