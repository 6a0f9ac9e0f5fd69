//! Matrix times activations, with what follows done before the sums leave their registers.
//!
//! Panels are taken by pairs: two neighbours of a matrix, or one of the gate and one of the up half of a
//! gated layer. Each pair is read once from memory and multiplied with every tile of rows while it is in
//! the cache. A matrix unit, where there is one, multiplies the rows of prompts.

use std::{marker::PhantomData, ops::Range};

use super::{
    math,
    panels::Panels,
    pool::Pool,
    rows::{Rows, Tile, WIDE_ROWS},
    simd::{Amx, Isa, Kernel, LANES, MatrixTiles, Simd, Sums},
    split::Split,
    weights::{Weights, with_weights},
    wide::{self, Unpacked},
};
use crate::backend::Activation;

/// Multiplications (bytes of weights times rows) that a chunk should have: some microseconds, long
/// beside claiming it, short beside being descheduled in it.
const CHUNK_WORK: usize = 64 << 10;

/// `[rows, columns]` f32 that a job fills by places.
pub(super) struct Output<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) columns: usize,
}

/// What becomes of a sum.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// `y = sum`, plus the bias `[N]` of the panels' rows.
    Store(Option<&'a [f32]>),
    /// `y += sum`.
    Add,
    /// `y = act(gate's sum) * up's sum`.
    Gate(Activation),
}

/// `y[t, first + n] = sum_k rows[t,k] * w[n,k]` or as `finish` says, which isn't `Gate`.
pub(super) fn linear(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    w: &Panels,
    finish: Finish<'_>,
    first: usize,
    y: &mut Output<'_>,
) {
    assert!(!matches!(finish, Finish::Gate(_)), "a gate has two halves");
    run(isa, pool, rows, Pairs::Neighbours(w), finish, first, y);
}

/// `h[t,n] = act(sum_k rows[t,k] * gate[n,k]) * sum_k rows[t,k] * up[n,k]`; `gate` and `up` have the
/// same shape and format.
pub(super) fn gated(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    [gate, up]: [&Panels; 2],
    activation: Activation,
    h: &mut Output<'_>,
) {
    assert_eq!((gate.rows(), gate.columns(), gate.dtype()), (up.rows(), up.columns(), up.dtype()));
    run(isa, pool, rows, Pairs::Halves(gate, up), Finish::Gate(activation), 0, h);
}

fn run(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    pairs: Pairs<'_>,
    finish: Finish<'_>,
    first: usize,
    y: &mut Output<'_>,
) {
    let w = pairs.matrix();
    assert_eq!(rows.columns(), w.columns(), "columns of the activations and of the matrix");
    assert!(first + w.rows() <= y.columns, "columns of the output");
    assert!(y.values.len() >= rows.count() * y.columns, "rows of the output");
    let (columns, y) = (y.columns, Split::new(y.values));
    let sink = Sink { finish, rows: w.rows(), first, columns, y: &y };
    let plan = Plan::new(pairs.count(), 2 * w.panel_bytes() * rows.count(), pool.threads());
    with_weights!(w.dtype(), W => pool.run(plan.chunks, &|chunk| {
        wide::with_memory(|memory| {
            let items = plan.items(chunk);
            isa.run(Chunk::<W> { rows, pairs, items, unit: isa.amx(), memory, sink, weights: PhantomData });
        });
    }));
}

/// How panels pair.
#[derive(Clone, Copy)]
enum Pairs<'a> {
    /// Panels `2i` and `2i + 1`; a last one without a neighbour pairs with itself.
    Neighbours(&'a Panels),
    /// Panel `i` of both.
    Halves(&'a Panels, &'a Panels),
}

impl<'a> Pairs<'a> {
    fn count(self) -> usize {
        match self {
            Self::Neighbours(w) => w.count().div_ceil(2),
            Self::Halves(gate, _) => gate.count(),
        }
    }

    /// The matrix, or the first half.
    fn matrix(self) -> &'a Panels {
        match self {
            Self::Neighbours(w) | Self::Halves(w, _) => w,
        }
    }

    /// Indices of a pair's panels.
    #[inline(always)]
    fn indices(self, pair: usize) -> [usize; 2] {
        match self {
            Self::Neighbours(w) => [2 * pair, (2 * pair + 1).min(w.count() - 1)],
            Self::Halves(..) => [pair; 2],
        }
    }

    #[inline(always)]
    fn panels(self, [a, b]: [usize; 2]) -> [&'a [u8]; 2] {
        match self {
            Self::Neighbours(w) => [w.panel(a), w.panel(b)],
            Self::Halves(gate, up) => [gate.panel(a), up.panel(b)],
        }
    }
}

/// How a job's items are cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    items: usize,
    per_chunk: usize,
    chunks: usize,
}

impl Plan {
    fn new(items: usize, work_of_item: usize, threads: usize) -> Self {
        let per_chunk = (CHUNK_WORK / work_of_item.max(1)).clamp(1, (items / threads).max(1));
        Self { items, per_chunk, chunks: items.div_ceil(per_chunk) }
    }

    fn items(self, chunk: usize) -> Range<usize> {
        chunk * self.per_chunk..((chunk + 1) * self.per_chunk).min(self.items)
    }
}

/// Some pairs of panels times all rows.
struct Chunk<'a, W> {
    rows: &'a Rows,
    pairs: Pairs<'a>,
    items: Range<usize>,
    unit: Option<Amx>,
    memory: &'a mut [Unpacked; 2],
    sink: Sink<'a>,
    weights: PhantomData<W>,
}

impl<W: Weights> Kernel for Chunk<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, pairs, items, unit, memory, sink, .. } = self;
        let mut wide = Wide { unit: unit.filter(|_| !rows.wide().is_empty()), configured: None };
        for pair in items {
            let indices = pairs.indices(pair);
            let panels = pairs.panels(indices);
            if S::MAY_HAVE_UNIT && W::QUANTIZED && wide.unit.is_some() {
                W::unpack(simd, panels[0], &mut memory[0]);
                W::unpack(simd, panels[1], &mut memory[1]);
                wide.multiply(simd, rows, memory, indices, sink);
            }
            for &tile in rows.tiles(W::QUANTIZED) {
                match tile.rows {
                    1 => sink.put(simd, indices, tile, &W::multiply::<S, 1>(simd, panels, rows, tile)),
                    2 => sink.put(simd, indices, tile, &W::multiply::<S, 2>(simd, panels, rows, tile)),
                    4 => sink.put(simd, indices, tile, &W::multiply::<S, 4>(simd, panels, rows, tile)),
                    _ => sink.put(simd, indices, tile, &W::multiply::<S, 8>(simd, panels, rows, tile)),
                }
            }
        }
    }
}

/// A matrix unit at work on a chunk.
struct Wide {
    unit: Option<Amx>,
    /// For as many rows as came last.
    configured: Option<MatrixTiles>,
}

impl Wide {
    /// A pair of panels times all rows of prompts, two tiles at a time.
    #[inline(always)]
    fn multiply<S: Simd>(
        &mut self,
        simd: S,
        rows: &Rows,
        panels: &[Unpacked; 2],
        indices: [usize; 2],
        sink: Sink<'_>,
    ) {
        let panels = [panels[0].lines(), panels[1].lines()];
        let Range { start, end } = rows.wide();
        let mut sums = [[Sums::ZERO; 2]; 2];
        for (pair, first) in (start..end).step_by(2 * WIDE_ROWS).enumerate() {
            let counts =
                [end - first, (end - first).saturating_sub(WIDE_ROWS)].map(|left| left.min(WIDE_ROWS));
            let x = [rows.wide_tile(2 * pair), rows.wide_tile(2 * pair + usize::from(counts[1] > 0))];
            self.tiles(counts).multiply(x, panels, &mut sums);
            for (tile, (sums, count)) in sums.iter().zip(counts).enumerate() {
                for t in 0..count {
                    let row = first + tile * WIDE_ROWS + t;
                    sink.put_row(simd, indices, row, [simd.load(&sums[0].0[t]), simd.load(&sums[1].0[t])]);
                }
            }
        }
    }

    fn tiles(&mut self, counts: [usize; 2]) -> &MatrixTiles {
        if self.configured.as_ref().is_none_or(|tiles| tiles.rows() != counts) {
            // Released before they are configured anew.
            self.configured = None;
            self.configured = self.unit.map(|unit| unit.matrix_tiles(counts));
        }
        self.configured.as_ref().expect("a chunk with wide rows has a unit")
    }
}

/// Where sums go.
#[derive(Clone, Copy)]
struct Sink<'a> {
    finish: Finish<'a>,
    /// Rows of the matrix.
    rows: usize,
    /// Column of the matrix's first row.
    first: usize,
    columns: usize,
    y: &'a Split<'a, f32>,
}

impl Sink<'_> {
    /// Takes the sums of a pair of panels with the rows of a tile.
    #[inline(always)]
    fn put<S: Simd, const T: usize>(self, simd: S, indices: [usize; 2], tile: Tile, sums: &[[S::F32; T]; 2]) {
        // A loop of `T` turns is unrolled, which keeps sums in registers.
        for (t, (&first, &second)) in sums[0].iter().zip(&sums[1]).enumerate() {
            self.put_row(simd, indices, tile.first + t, [first, second]);
        }
    }

    /// Takes the sums of a pair of panels with a row.
    #[inline(always)]
    fn put_row<S: Simd>(self, simd: S, [a, b]: [usize; 2], row: usize, [first, second]: [S::F32; 2]) {
        if let Finish::Gate(activation) = self.finish {
            let value = simd.mul(math::activate(simd, activation, first), second);
            return self.put_panel(simd, a, row, value);
        }
        self.put_panel(simd, a, row, first);
        if b != a {
            self.put_panel(simd, b, row, second);
        }
    }

    /// Takes a panel's results with a row.
    #[inline(always)]
    fn put_panel<S: Simd>(self, simd: S, panel: usize, row: usize, mut value: S::F32) {
        let n = panel * LANES;
        let start = row * self.columns + self.first + n;
        #[expect(unsafe_code, reason = "threads share the output")]
        // SAFETY: panels have columns of their own, and each is in one chunk.
        let to = unsafe { self.y.part(start..start + LANES.min(self.rows - n)) };
        match self.finish {
            Finish::Store(Some(bias)) => value = simd.add(value, load(simd, &bias[n..n + to.len()])),
            Finish::Add => value = simd.add(load(simd, to), value),
            Finish::Store(None) | Finish::Gate(_) => {}
        }
        store(simd, value, to);
    }
}

/// Up to 16 values; the other lanes are 0.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::F32 {
    if let Some(from) = from.as_array() {
        return simd.load(from);
    }
    let mut lanes = [0.0; LANES];
    lanes[..from.len()].copy_from_slice(from);
    simd.load(&lanes)
}

/// The first lanes, as many as `to` takes.
#[inline(always)]
fn store<S: Simd>(simd: S, v: S::F32, to: &mut [f32]) {
    if let Some(to) = to.as_mut_array() {
        return simd.store(v, to);
    }
    let len = to.len();
    to.copy_from_slice(&simd.lanes(v)[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_covers_every_item_once() {
        for items in [0, 1, 2, 7, 96, 3072] {
            for work in [1, 1000, 1 << 20] {
                for threads in [1, 2, 5] {
                    let plan = Plan::new(items, work, threads);
                    let covered: Vec<usize> = (0..plan.chunks).flat_map(|chunk| plan.items(chunk)).collect();
                    assert_eq!(covered, (0..items).collect::<Vec<_>>());
                    assert!(items < threads || plan.chunks >= threads, "{plan:?} leaves threads idle");
                }
            }
        }
    }
}
