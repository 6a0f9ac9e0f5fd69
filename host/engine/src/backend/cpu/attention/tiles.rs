//! A step on a matrix unit: 16 rows of queries at once, as they are or with room left.

use super::{Attend, BLOCKS, ROWS, STEP, Step, WeightedRow, soften};
use crate::backend::cpu::simd::{AttentionTiles, LANES, Simd};

/// What tiles are loaded from and stored to.
#[repr(align(64))]
pub(super) struct Scratch {
    /// `[block][row][16]`.
    scores: [[[f32; LANES]; ROWS]; BLOCKS],
    /// `[row][64]` bf16.
    weights: [[[u8; 2 * LANES]; BLOCKS]; ROWS],
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { scores: [[[0.0; LANES]; ROWS]; BLOCKS], weights: [[[0; 2 * LANES]; BLOCKS]; ROWS] }
    }
}

/// Whether the unit takes heads of this width: it multiplies 64 elements at a time.
pub(super) fn fit(width: usize) -> bool {
    width.is_multiple_of(STEP)
}

/// Takes a step's positions into the state of all rows.
#[inline(always)]
pub(super) fn step<S: Simd>(simd: S, unit: &AttentionTiles, to: &mut Attend<'_>, step: Step<'_>) {
    let (width, rows) = (to.width, to.task.rows.len());
    unit.score(&to.state.query_pairs, width, step.pages.keys, &mut to.scratch.scores);
    for row in 0..rows {
        let mut scores = [simd.splat(f32::NEG_INFINITY); BLOCKS];
        for (to, from) in scores.iter_mut().zip(&to.scratch.scores).take(step.blocks) {
            *to = simd.load(&from[row]);
        }
        let WeightedRow { weights, factor } = soften(simd, to.state, step, row, scores);
        to.scratch.weights[row] = weights;
        if factor != 1.0 {
            let values = to.state.values[0][row * width..(row + 1) * width].as_chunks_mut().0;
            for values in values {
                simd.store(simd.mul(simd.load(values), simd.splat(factor)), values);
            }
        }
    }
    let values = &step.pages.values[..step.blocks];
    unit.add_values(&to.scratch.weights, values, width, &mut to.state.values[0]);
}
