//! What kernels must know of a batch: uploaded once, by the first layer, and found again by the others.

use super::{device::Device, memory::Vector};
use crate::backend::{Batch, Rope};

/// Rotations that a model's layers differ in.
const ROPES_MAX: usize = 4;

/// A batch on the device.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) rows: usize,
    /// `[T][3]`: a row's position, the end of its sequence, and where its block table begins.
    pub(super) places: Vector,
    /// All block tables.
    pub(super) blocks: Vector,
    /// Whether each row is the only one of its sequence.
    pub(super) is_alone: bool,
}

/// The last batch, and what was made of it.
#[derive(Debug, Default)]
pub(super) struct Steps {
    places: Vec<u32>,
    blocks: Vec<u32>,
    step: Option<Step>,
    angles: Vec<(Vec<f32>, Vector)>,
}

impl Steps {
    /// Uploads a batch, unless it is the one that is there.
    pub(super) fn prepare(&mut self, device: &Device, batch: Batch<'_>) {
        let blocks = || batch.blocks.iter().map(|block| block.0);
        let is_there =
            self.places.iter().copied().eq(places(batch)) && self.blocks.iter().copied().eq(blocks());
        if self.step.is_none() || !is_there {
            (self.places, self.blocks) = (places(batch).collect(), blocks().collect());
            self.step = Some(Step {
                rows: batch.positions.len(),
                places: device.words(self.places.clone()),
                blocks: device.words(self.blocks.clone()),
                is_alone: batch.spans.len() == batch.positions.len(),
            });
            self.angles.clear();
        }
    }

    /// The batch that is there.
    pub(super) fn step(&self) -> &Step {
        self.step.as_ref().expect("a step is prepared before it is computed")
    }

    /// `[T][rotated/2]` cosines and sines of the batch that is there.
    pub(super) fn angles(&mut self, device: &Device, rope: &Rope) -> Vector {
        if let Some((_, angles)) = self.angles.iter().find(|(known, _)| *known == rope.frequencies) {
            return angles.clone();
        }
        let mut angles = Vec::with_capacity(2 * self.places.len() / 3 * rope.frequencies.len());
        for place in self.places.chunks_exact(3) {
            for frequency in &rope.frequencies {
                let (sin, cos) = (place[0] as f32 * frequency).sin_cos();
                angles.extend([cos, sin]);
            }
        }
        // A model without rotations has something to bind, too.
        if angles.is_empty() {
            angles.push(0.0);
        }
        let angles = device.vector(&angles);
        if self.angles.len() == ROPES_MAX {
            self.angles.remove(0);
        }
        self.angles.push((rope.frequencies.clone(), angles.clone()));
        angles
    }
}

/// [`Step::places`] of a batch.
fn places(batch: Batch<'_>) -> impl Iterator<Item = u32> {
    batch.spans.iter().flat_map(move |span| {
        let end = batch.positions[span.rows.end - 1] + 1;
        let of = move |position: &u32| [*position, end, span.blocks.start as u32];
        batch.positions[span.rows.clone()].iter().flat_map(of)
    })
}
