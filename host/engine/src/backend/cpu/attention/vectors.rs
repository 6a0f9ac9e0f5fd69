//! A step on vectors. It rounds and adds like the tiles of a matrix unit (see `tiles`), so that a row's
//! bits don't depend on which of the two took it: products of bf16 are exact; over 16 pairs those of
//! the first elements are summed apart from those of the second, and then both are added to the rest.

use super::{Attend, BLOCKS, STEP, Step, WeightedRow, soften};
use crate::backend::cpu::simd::{LANES, Simd};

/// Pairs of a chunk, whose first and second elements are summed apart.
const PAIRS: usize = 16;

/// Takes a step's positions into the state of all rows, four at a time.
#[inline(always)]
pub(super) fn step<S: Simd>(simd: S, to: &mut Attend<'_>, step: Step<'_>) {
    let rows = to.task.rows.len();
    for row in (0..rows).step_by(4) {
        match rows - row {
            1 => step_rows::<S, 1>(simd, to, step, row),
            2 => step_rows::<S, 2>(simd, to, step, row),
            3 => step_rows::<S, 3>(simd, to, step, row),
            _ => step_rows::<S, 4>(simd, to, step, row),
        }
    }
}

/// Takes a step's positions into the state of `R` rows.
#[inline(always)]
fn step_rows<S: Simd, const R: usize>(simd: S, to: &mut Attend<'_>, step: Step<'_>, row: usize) {
    let width = to.width;
    let queries = &to.state.queries[row * width..(row + R) * width];
    let mut scores = [[simd.splat(f32::NEG_INFINITY); R]; BLOCKS];
    for (first, scores) in (0..step.blocks).step_by(2).zip(scores.as_chunks_mut::<2>().0) {
        let blocks = (step.blocks - first).min(2);
        let keys = [step.pages.keys[first], step.pages.keys[first + 1]];
        let both = score::<S, R>(simd, keys, queries, width);
        scores[..blocks].copy_from_slice(&both[..blocks]);
    }

    let mut weights = [[0.0; STEP]; R];
    let mut factors = [simd.splat(0.0); R];
    for r in 0..R {
        let scores = [scores[0][r], scores[1][r], scores[2][r], scores[3][r]];
        let WeightedRow { weights: of_row, factor } = soften(simd, to.state, step, row + r, scores);
        let words: &mut [[f32; LANES]] = weights[r].as_chunks_mut().0;
        for (to, weights) in words.iter_mut().zip(of_row) {
            simd.store(simd.bf16(&weights), to);
        }
        factors[r] = simd.splat(factor);
    }

    let mut d = 0;
    while d + 2 * LANES <= width {
        add_values::<S, R, 2>(simd, to, step, row, d, &weights, &factors);
        d += 2 * LANES;
    }
    if d < width {
        add_values::<S, R, 1>(simd, to, step, row, d, &weights, &factors);
    }
}

/// Scores of two blocks' positions for `R` queries of `width` elements.
#[inline(always)]
fn score<S: Simd, const R: usize>(
    simd: S,
    keys: [&[u8]; 2],
    queries: &[f32],
    width: usize,
) -> [[S::F32; R]; 2] {
    let mut scores = [[simd.splat(0.0); R]; 2];
    let keys: [&[[u8; 64]]; 2] = [keys[0].as_chunks().0, keys[1].as_chunks().0];
    for first in (0..width / 2).step_by(PAIRS) {
        let mut sums = [[[simd.splat(0.0); 2]; R]; 2];
        for pair in first..(first + PAIRS).min(width / 2) {
            let keys = [simd.bf16_pairs(&keys[0][pair]), simd.bf16_pairs(&keys[1][pair])];
            for r in 0..R {
                for e in 0..2 {
                    let q = simd.splat(queries[r * width + 2 * pair + e]);
                    sums[0][r][e] = simd.fma(keys[0][e], q, sums[0][r][e]);
                    sums[1][r][e] = simd.fma(keys[1][e], q, sums[1][r][e]);
                }
            }
        }
        for r in 0..R {
            for p in 0..2 {
                scores[p][r] = simd.add(scores[p][r], simd.add(sums[p][r][0], sums[p][r][1]));
            }
        }
    }
    scores
}

/// `values[r, d..] = factor[r] * values[r, d..] + sum_p weight[r, p] * v[p, d..]` for `V` vectors of the
/// rows from `row`.
#[inline(always)]
fn add_values<S: Simd, const R: usize, const V: usize>(
    simd: S,
    to: &mut Attend<'_>,
    step: Step<'_>,
    row: usize,
    d: usize,
    weights: &[[f32; STEP]; R],
    factors: &[S::F32; R],
) {
    let width = to.width;
    let place = |r: usize, v: usize| (row + r) * width + d + v * LANES;
    let mut totals = [[simd.splat(0.0); V]; R];
    for (r, (totals, factor)) in totals.iter_mut().zip(factors).enumerate() {
        for (v, total) in totals.iter_mut().enumerate() {
            let from = to.state.values[0][place(r, v)..][..LANES].as_array().expect("16 values");
            *total = simd.mul(simd.load(from), *factor);
        }
    }
    for (b, values) in step.pages.values[..step.blocks].iter().enumerate() {
        let vectors: &[[u8; 64]] = values.as_chunks().0;
        let mut sums = [[[simd.splat(0.0); 2]; V]; R];
        for pair in 0..LANES / 2 {
            let vectors = &vectors[(pair * width + d) / LANES..][..V];
            for v in 0..V {
                let values = simd.bf16_pairs(&vectors[v]);
                for r in 0..R {
                    for e in 0..2 {
                        let weight = simd.splat(weights[r][b * LANES + 2 * pair + e]);
                        sums[r][v][e] = simd.fma(values[e], weight, sums[r][v][e]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                totals[r][v] = simd.add(totals[r][v], simd.add(sums[r][v][0], sums[r][v][1]));
            }
        }
    }
    for (r, totals) in totals.into_iter().enumerate() {
        for (v, total) in totals.into_iter().enumerate() {
            let to = to.state.values[0][place(r, v)..][..LANES].as_mut_array().expect("16 values");
            simd.store(total, to);
        }
    }
}
