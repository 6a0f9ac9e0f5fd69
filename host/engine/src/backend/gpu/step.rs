//! What kernels must know of a batch: uploaded once, by the first layer, and found again by the others.

use cubecl_core::prelude::BufferArg;

use super::{
    device::Device,
    memory::{Buffer, Vector},
};
use crate::backend::{Batch, Heads, Rope};

/// Rotations that a model's layers differ in.
const ROPES_MAX: usize = 4;
/// Positions that one cube attends to.
pub(super) const PART: usize = 512;
/// Bytes of parts that aren't added up yet, unless a single row has more.
const PARTS_BYTES_MAX: usize = 8 << 20;

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

/// What the rows of a batch see in a layer, part by part.
#[derive(Debug)]
pub(super) struct Parts {
    /// Parts of the row that has most.
    pub(super) count: usize,
    /// Rows whose parts have room at a time.
    pub(super) rows: usize,
    /// Whether no layer had such heads before.
    pub(super) are_new: bool,
    /// `[rows][H][count][D + 2]`: elements, the highest score and the sum of the weights. `None` where no
    /// row has more than one.
    pub(super) of_rows: Option<Vector>,
}

impl Parts {
    /// Calls with the first row and the number of rows of each round.
    pub(super) fn each(&self, rows: usize, mut run: impl FnMut(usize, usize)) {
        (0..rows).step_by(self.rows).for_each(|first| run(first, self.rows.min(rows - first)));
    }

    /// Where attention is to put its result.
    pub(super) fn argument(&self, out: &Buffer) -> BufferArg {
        match &self.of_rows {
            Some(of_rows) if self.count > 1 => of_rows.argument(),
            _ => out.argument(),
        }
    }
}

/// The last batch, and what was made of it.
#[derive(Debug, Default)]
pub(super) struct Steps {
    places: Vec<u32>,
    blocks: Vec<u32>,
    step: Option<Step>,
    angles: Vec<(Vec<f32>, Vector)>,
    /// Room for [`Parts::of_rows`], which grows.
    parts: Option<Vector>,
    /// What layers had so far.
    heads: Vec<Heads>,
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

    /// The parts of the batch that is there.
    pub(super) fn parts(&mut self, device: &Device, heads: Heads) -> Parts {
        let count = self.places.chunks_exact(3).map(|place| parts_of(place, heads)).max().unwrap_or(1);
        let rows = self.step().rows;
        let are_new = !self.heads.contains(&heads);
        if are_new {
            self.heads.push(heads);
        }
        if count == 1 && !are_new {
            return Parts { count, rows, are_new, of_rows: None };
        }
        let words = heads.query * count * (heads.size + 2);
        let room_rows = rows.min(PARTS_BYTES_MAX / (4 * words)).max(1);
        let room = match self.parts.take().filter(|room| room.len >= room_rows * words) {
            Some(room) => room,
            // Longer contexts find it there: a step asks for no memory.
            None => device.uninitialized((room_rows * words).max(PARTS_BYTES_MAX / 4)),
        };
        self.parts = Some(room.clone());
        let rows = if count == 1 { rows } else { room_rows };
        Parts { count, rows, are_new, of_rows: Some(room) }
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

/// In how many parts the positions lie that a row sees.
fn parts_of(place: &[u32], heads: Heads) -> usize {
    let end = if heads.causal { place[0] as usize + 1 } else { place[1] as usize };
    let start = end - heads.window.map_or(end, |window| window.min(end));
    (end - 1) / PART - start / PART + 1
}
