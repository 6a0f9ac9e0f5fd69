//! Matrix times activations, with what follows done before the sums leave their registers.
//!
//! One kernel serves decode, batches and prefill: a chunk is some pairs of panels, and each pair is
//! read once from memory and multiplied with every tile of rows while it is in the cache.

use std::{marker::PhantomData, ops::Range};

use super::{
    math,
    panels::Panels,
    pool::Pool,
    rows::{Rows, Tile, tiles},
    simd::{Isa, Kernel, LANES, Simd},
    split::Split,
    weights::{Weights, with_weights},
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
}

/// `y[t, first + n] = sum_k rows[t,k] * w[n,k]` or as `finish` says.
pub(super) fn linear(
    isa: Isa,
    pool: &Pool,
    rows: &Rows,
    w: &Panels,
    finish: Finish<'_>,
    first: usize,
    y: &mut Output<'_>,
) {
    assert_eq!(rows.columns(), w.columns(), "columns of the activations and of the matrix");
    assert!(first + w.rows() <= y.columns, "columns of the output");
    assert!(y.values.len() >= rows.count() * y.columns, "rows of the output");
    let (columns, y) = (y.columns, Split::new(y.values));
    let pairs = w.count().div_ceil(2);
    let plan = Plan::new(pairs, 2 * w.panel_bytes() * rows.count(), pool.threads());
    with_weights!(w.dtype(), W => pool.run(plan.chunks, &|chunk| {
        let pairs = plan.items(chunk);
        isa.run(Linear::<W> { rows, w, pairs, finish, first, columns, y: &y, weights: PhantomData });
    }));
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
    assert_eq!(rows.columns(), gate.columns(), "columns of the activations and of the matrix");
    assert!(gate.rows() <= h.columns && h.values.len() >= rows.count() * h.columns, "size of the output");
    let (columns, h) = (h.columns, Split::new(h.values));
    let plan = Plan::new(gate.count(), 2 * gate.panel_bytes() * rows.count(), pool.threads());
    with_weights!(gate.dtype(), W => pool.run(plan.chunks, &|chunk| {
        let panels = plan.items(chunk);
        isa.run(Gated::<W> { rows, gate, up, panels, activation, columns, h: &h, weights: PhantomData });
    }));
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

/// A chunk of [`linear`].
struct Linear<'a, W> {
    rows: &'a Rows,
    w: &'a Panels,
    pairs: Range<usize>,
    finish: Finish<'a>,
    first: usize,
    columns: usize,
    y: &'a Split<'a, f32>,
    weights: PhantomData<W>,
}

impl<W: Weights> Kernel for Linear<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for pair in self.pairs.clone() {
            for tile in tiles(self.rows.count()) {
                match tile.rows {
                    1 => self.pair::<S, 1>(simd, pair, tile),
                    2 => self.pair::<S, 2>(simd, pair, tile),
                    4 => self.pair::<S, 4>(simd, pair, tile),
                    _ => self.pair::<S, 8>(simd, pair, tile),
                }
            }
        }
    }
}

impl<W: Weights> Linear<'_, W> {
    #[inline(always)]
    fn pair<S: Simd, const T: usize>(&self, simd: S, pair: usize, tile: Tile) {
        let indices = [2 * pair, (2 * pair + 1).min(self.w.count() - 1)];
        let panels = [self.w.panel(indices[0]), self.w.panel(indices[1])];
        let sums = W::multiply::<S, T>(simd, panels, self.rows, tile);
        self.finish::<S, T>(simd, indices[0], tile, &sums[0]);
        // Of an odd number of panels the last is multiplied twice but written once.
        if indices[1] != indices[0] {
            self.finish::<S, T>(simd, indices[1], tile, &sums[1]);
        }
    }

    #[inline(always)]
    fn finish<S: Simd, const T: usize>(&self, simd: S, panel: usize, tile: Tile, sums: &[S::F32; T]) {
        let n = panel * LANES;
        let width = LANES.min(self.w.rows() - n);
        for (t, &sum) in sums.iter().enumerate() {
            let start = (tile.first + t) * self.columns + self.first + n;
            #[expect(unsafe_code, reason = "threads share the output")]
            // SAFETY: panels have columns of their own and each is in one chunk.
            let to = unsafe { self.y.part(start..start + width) };
            match self.finish {
                Finish::Store(None) => store(simd, sum, to),
                Finish::Store(Some(bias)) => {
                    let bias = load(simd, &bias[n..n + width]);
                    store(simd, simd.add(sum, bias), to);
                }
                Finish::Add => store(simd, simd.add(load(simd, to), sum), to),
            }
        }
    }
}

/// A chunk of [`gated`].
struct Gated<'a, W> {
    rows: &'a Rows,
    gate: &'a Panels,
    up: &'a Panels,
    panels: Range<usize>,
    activation: Activation,
    columns: usize,
    h: &'a Split<'a, f32>,
    weights: PhantomData<W>,
}

impl<W: Weights> Kernel for Gated<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for panel in self.panels.clone() {
            for tile in tiles(self.rows.count()) {
                match tile.rows {
                    1 => self.panel::<S, 1>(simd, panel, tile),
                    2 => self.panel::<S, 2>(simd, panel, tile),
                    4 => self.panel::<S, 4>(simd, panel, tile),
                    _ => self.panel::<S, 8>(simd, panel, tile),
                }
            }
        }
    }
}

impl<W: Weights> Gated<'_, W> {
    #[inline(always)]
    fn panel<S: Simd, const T: usize>(&self, simd: S, panel: usize, tile: Tile) {
        let panels = [self.gate.panel(panel), self.up.panel(panel)];
        let [gate, up] = W::multiply::<S, T>(simd, panels, self.rows, tile);
        let n = panel * LANES;
        let width = LANES.min(self.gate.rows() - n);
        for t in 0..T {
            let start = (tile.first + t) * self.columns + n;
            #[expect(unsafe_code, reason = "threads share the output")]
            // SAFETY: panels have columns of their own and each is in one chunk.
            let to = unsafe { self.h.part(start..start + width) };
            store(simd, simd.mul(math::activate(simd, self.activation, gate[t]), up[t]), to);
        }
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
