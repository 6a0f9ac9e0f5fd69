//! Attention over the paged KV cache, with the softmax computed online (arXiv 2205.14135).
//!
//! Query rows of one key/value head (a token's heads of the group, tokens one after the other) are
//! taken up to 16 at a time over 64 positions, so that 16 KB of keys and values are read from the
//! first-level cache by all of them: on a matrix unit (`tiles`), where there is one, or on vectors
//! (`vectors`). Decode, batches and prefill are the same code.
//!
//! Queries and softmax weights are rounded to bf16, which the cache holds; everything is added in f32.
//!
//! A row's result doesn't depend on its neighbours, the thread, or how a prompt was cut: positions are
//! taken in steps of 64 from multiples of 64, and each segment of 256 starts afresh and is merged into
//! the segments before it. Steps of which a row sees nothing leave it as it is to the bit. The
//! segments also let a long context's few rows be divided between threads.

mod pages;
mod tiles;
mod vectors;

use std::{cell::RefCell, ops::Range};

use super::{
    cache::Cache,
    math::exp2,
    pool::Pool,
    simd::{Amx, Isa, Kernel, LANES, Simd},
    split::Split,
};
use crate::backend::{BLOCK_TOKENS, Batch, Heads};
use pages::Pages;

/// Query rows of a task.
const ROWS: usize = 16;
/// Blocks of a step.
const BLOCKS: usize = 4;
/// Positions of a step.
const STEP: usize = BLOCKS * BLOCK_TOKENS;
/// Positions of a segment.
const SEGMENT: usize = 256;
/// Below every score, but finite: differences from it are.
const LOWEST: f32 = -1e30;

/// One layer's attention.
pub(super) struct Attention<'a> {
    pub(super) batch: Batch<'a>,
    pub(super) layer: usize,
    pub(super) heads: Heads,
    /// `[T, (H+2G)*D]`, q rotated.
    pub(super) qkv: &'a [f32],
    pub(super) cache: &'a Cache,
}

/// Rows of a span and the segments they look at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    span: usize,
    kv_head: usize,
    /// Row `r` is head `r % group` of the group, of token `r / group` of the span.
    rows: Range<usize>,
    segments: Range<usize>,
    /// Where its results go if other tasks have the same rows' other segments.
    partial: Option<usize>,
}

/// What is kept from one call to the next.
#[derive(Default)]
pub(super) struct Scratch {
    tasks: Vec<Task>,
    /// Maxima, sums and unnormalised outputs of partial tasks: `[rows][2 + D]`.
    partials: Vec<f32>,
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new()) };
    static TILES: RefCell<tiles::Scratch> = const { RefCell::new(tiles::Scratch::new()) };
}

impl Attention<'_> {
    /// Writes `out` `[T, H*D]`.
    pub(super) fn run(&self, isa: Isa, pool: &Pool, scratch: &mut Scratch, out: &mut [f32]) {
        let Scratch { tasks, partials } = scratch;
        let partial_len = self.plan(tasks);
        partials.resize(partial_len.max(partials.len()), 0.0);
        let (split_out, split_partials) = (Split::new(out), Split::new(partials));
        let tasks = &*tasks;
        pool.run(tasks.len(), &|index| {
            STATE.with_borrow_mut(|state| {
                TILES.with_borrow_mut(|scratch| {
                    let to = Attend { all: self, task: &tasks[index], width: self.width(), state, scratch };
                    isa.run(TaskKernel { to, unit: isa.amx(), out: &split_out, partials: &split_partials });
                });
            });
        });
        if partial_len > 0 {
            STATE.with_borrow_mut(|state| {
                isa.run(Merge { all: self, tasks, state, partials, out: &Split::new(out) });
            });
        }
    }

    /// Lists the tasks; returns the length of all partial results.
    fn plan(&self, tasks: &mut Vec<Task>) -> usize {
        tasks.clear();
        let mut partials = 0;
        for (index, span) in self.batch.spans.iter().enumerate() {
            let count = span.rows.len() * self.group();
            for kv_head in 0..self.heads.kv {
                for first in (0..count).step_by(ROWS) {
                    let rows = first..(first + ROWS).min(count);
                    let segments = self.segments(index, &rows);
                    let task = Task { span: index, kv_head, rows, segments, partial: None };
                    if count > ROWS || task.segments.len() == 1 {
                        tasks.push(task);
                        continue;
                    }
                    for segment in task.segments.clone() {
                        let segments = segment..segment + 1;
                        tasks.push(Task { segments, partial: Some(partials), ..task.clone() });
                        partials += task.rows.len() * (2 + self.width());
                    }
                }
            }
        }
        partials
    }

    /// Query heads of a key/value head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    fn width(&self) -> usize {
        self.cache.layout().width()
    }

    /// Positions that a row of a span sees.
    fn sees(&self, span: usize, row: usize) -> Range<usize> {
        let rows = &self.batch.spans[span].rows;
        let last = if self.heads.causal { rows.start + row / self.group() } else { rows.end - 1 };
        let end = self.batch.positions[last] as usize + 1;
        self.heads.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Segments that some of the rows see.
    fn segments(&self, span: usize, rows: &Range<usize>) -> Range<usize> {
        let (first, last) = (self.sees(span, rows.start), self.sees(span, rows.end - 1));
        first.start / SEGMENT..last.end.div_ceil(SEGMENT)
    }

    /// Where a row's output lies.
    fn output(&self, task: &Task, row: usize) -> Range<usize> {
        let (group, size) = (self.group(), self.heads.size);
        let t = self.batch.spans[task.span].rows.start + row / group;
        let start = (t * self.heads.query + task.kv_head * group + row % group) * size;
        start..start + size
    }
}

/// Running softmax of some rows.
struct State {
    /// Positions that each row sees.
    sees: [Range<usize>; ROWS],
    /// `[rows][D]` queries, scaled for a softmax of base 2 and rounded to bf16: as f32, and as they are.
    queries: Vec<f32>,
    query_pairs: Vec<[u8; 2 * LANES]>,
    /// `[rows][D]` sums of weighted values, of the current segment and of all before.
    values: [Vec<f32>; 2],
    /// Largest score so far, likewise.
    max: [[f32; ROWS]; 2],
    /// Sum of `2^(score - max)`, likewise.
    sum: [[f32; ROWS]; 2],
    /// Of the pages of a step.
    unpacked: Vec<u8>,
}

impl State {
    const fn new() -> Self {
        Self {
            sees: [const { 0..0 }; ROWS],
            queries: Vec::new(),
            query_pairs: Vec::new(),
            values: [Vec::new(), Vec::new()],
            max: [[LOWEST; ROWS]; 2],
            sum: [[0.0; ROWS]; 2],
            unpacked: Vec::new(),
        }
    }

    /// Forgets the current segment, or all before.
    fn reset(&mut self, which: usize, len: usize) {
        self.max[which] = [LOWEST; ROWS];
        self.sum[which] = [0.0; ROWS];
        self.values[which].clear();
        self.values[which].resize(len, 0.0);
    }
}

/// A task under way.
struct Attend<'a> {
    all: &'a Attention<'a>,
    task: &'a Task,
    /// Head size in memory.
    width: usize,
    state: &'a mut State,
    scratch: &'a mut tiles::Scratch,
}

/// Up to 64 positions.
#[derive(Clone, Copy)]
struct Step<'a> {
    /// Blocks that there are, at least one and at most [`BLOCKS`].
    blocks: usize,
    /// The first block's first.
    position: usize,
    pages: &'a Pages<'a>,
}

/// What a row makes of a step's scores.
struct WeightedRow {
    /// Weights of the positions, bf16.
    weights: [[u8; 2 * LANES]; BLOCKS],
    /// Of the values summed so far.
    factor: f32,
}

/// Runs a task.
struct TaskKernel<'a> {
    to: Attend<'a>,
    unit: Option<Amx>,
    out: &'a Split<'a, f32>,
    partials: &'a Split<'a, f32>,
}

impl Kernel for TaskKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { mut to, unit, out, partials } = self;
        let unit = if S::MAY_HAVE_UNIT && tiles::fit(to.width) { unit } else { None };
        let (width, rows) = (to.width, to.task.rows.len());
        to.load_queries(simd);
        to.state.reset(1, rows * width);
        for segment in to.task.segments.clone() {
            to.state.reset(0, rows * width);
            to.attend(simd, unit, segment);
            if let Some(at) = to.task.partial {
                #[expect(unsafe_code, reason = "threads share the results")]
                // SAFETY: every partial task has a place of its own.
                return to.write_partial(unsafe { partials.part(at..at + rows * (2 + width)) });
            }
            let state = &mut *to.state;
            for row in 0..rows {
                let [current, total] = &mut state.values;
                let place = row * width..(row + 1) * width;
                let from = (state.max[0][row], state.sum[0][row], &current[place.clone()]);
                merge(simd, from, &mut state.max[1][row], &mut state.sum[1][row], &mut total[place]);
            }
        }
        write(to.all, to.task, to.state, out);
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn load_queries<S: Simd>(&mut self, simd: S) {
        let Heads { query, kv, size, scale, .. } = self.all.heads;
        let (group, columns, width) = (self.all.group(), (query + 2 * kv) * size, self.width);
        let Self { all, task, state, .. } = self;
        // Zeros behind a head whose size is no multiple of 16.
        state.queries.clear();
        state.queries.resize(task.rows.len() * width, 0.0);
        let scale = scale * std::f32::consts::LOG2_E;
        for (i, (row, to)) in task.rows.clone().zip(state.queries.chunks_exact_mut(width)).enumerate() {
            state.sees[i] = all.sees(task.span, row);
            let t = all.batch.spans[task.span].rows.start + row / group;
            let start = t * columns + (task.kv_head * group + row % group) * size;
            for (to, q) in to.iter_mut().zip(&all.qkv[start..start + size]) {
                *to = q * scale;
            }
        }
        state.query_pairs.clear();
        for query in state.queries.as_chunks_mut().0 {
            let pairs = simd.to_bf16(simd.load(query));
            state.query_pairs.push(pairs);
            simd.store(simd.bf16(&pairs), query);
        }
    }

    /// Takes a segment's positions into the state.
    #[inline(always)]
    fn attend<S: Simd>(&mut self, simd: S, unit: Option<Amx>, segment: usize) {
        let (all, task) = (self.all, self.task);
        let span = &all.batch.spans[task.span];
        let blocks = &all.batch.blocks[span.blocks.start..span.blocks.end];
        let first = all.sees(task.span, task.rows.start).start.max(segment * SEGMENT) / STEP * STEP;
        let end = all.sees(task.span, task.rows.end - 1).end.min((segment + 1) * SEGMENT);
        let mut memory = std::mem::take(&mut self.state.unpacked);
        let unit = unit.map(|unit| unit.attention_tiles(task.rows.len()));
        for position in (first..end).step_by(STEP) {
            let blocks = &blocks[position / BLOCK_TOKENS..end.min(position + STEP).div_ceil(BLOCK_TOKENS)];
            let pages = Pages::load(simd, all.cache, blocks, (all.layer, task.kv_head), &mut memory);
            let step = Step { blocks: blocks.len(), position, pages: &pages };
            match &unit {
                Some(unit) => tiles::step(simd, unit, self, step),
                None => vectors::step(simd, self, step),
            }
        }
        self.state.unpacked = memory;
    }

    /// Writes `[rows][2 + D]` of the current segment.
    fn write_partial(&self, to: &mut [f32]) {
        let (state, width) = (&*self.state, self.width);
        for (row, to) in to.chunks_exact_mut(2 + width).enumerate() {
            (to[0], to[1]) = (state.max[0][row], state.sum[0][row]);
            to[2..].copy_from_slice(&state.values[0][row * width..][..width]);
        }
    }
}

/// Turns a row's scores into weights, and takes their maximum and sum into the state. Scores of blocks
/// that the step doesn't have are negative infinity.
#[inline(always)]
fn soften<S: Simd>(
    simd: S,
    state: &mut State,
    step: Step<'_>,
    row: usize,
    mut scores: [S::F32; BLOCKS],
) -> WeightedRow {
    let sees = &state.sees[row];
    if let Some(scales) = &step.pages.scales {
        for (scores, [of_key, _]) in scores.iter_mut().zip(scales).take(step.blocks) {
            *scores = simd.mul(*scores, simd.load(of_key));
        }
    }
    if sees.start > step.position || sees.end < step.position + step.blocks * BLOCK_TOKENS {
        for (b, scores) in scores.iter_mut().enumerate() {
            let position = (step.position + b * BLOCK_TOKENS) as i32;
            let (from, to) = (sees.start as i32 - position, sees.end as i32 - position);
            *scores = simd.within(*scores, from, to, f32::NEG_INFINITY);
        }
    }
    let (max, sum) = (&mut state.max[0][row], &mut state.sum[0][row]);
    let highest = simd.max(simd.max(scores[0], scores[1]), simd.max(scores[2], scores[3]));
    let highest = simd.highest(highest);
    let new_max = if highest > *max { highest } else { *max };
    let factor = simd.lanes(exp2(simd, simd.splat(*max - new_max)))[0];
    let mut sums = simd.splat(0.0);
    let mut weights = [[0; 2 * LANES]; BLOCKS];
    for (b, (weights, scores)) in weights.iter_mut().zip(scores).enumerate() {
        *weights = simd.to_bf16(exp2(simd, simd.add(scores, simd.splat(-new_max))));
        let rounded = simd.bf16(weights);
        sums = simd.add(sums, rounded);
        if let Some(scales) = &step.pages.scales {
            *weights = simd.to_bf16(simd.mul(rounded, simd.load(&scales[b][1])));
        }
    }
    *max = new_max;
    *sum = *sum * factor + simd.sum(sums);
    WeightedRow { weights, factor }
}

/// Joins the segments of rows that were divided between tasks.
struct Merge<'a> {
    all: &'a Attention<'a>,
    tasks: &'a [Task],
    state: &'a mut State,
    partials: &'a [f32],
    out: &'a Split<'a, f32>,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { all, tasks, state, partials, out } = self;
        let width = all.width();
        let same_rows = |a: &Task, b: &Task| (a.span, a.kv_head) == (b.span, b.kv_head);
        for tasks in tasks.chunk_by(same_rows).filter(|tasks| tasks[0].partial.is_some()) {
            let rows = tasks[0].rows.len();
            state.reset(1, rows * width);
            for task in tasks {
                let at = task.partial.expect("rows are divided as a whole");
                let partials = partials[at..].chunks_exact(2 + width).take(rows);
                for (row, from) in partials.enumerate() {
                    let from = (from[0], from[1], &from[2..]);
                    let total = &mut state.values[1][row * width..][..width];
                    merge(simd, from, &mut state.max[1][row], &mut state.sum[1][row], total);
                }
            }
            write(all, &tasks[0], state, out);
        }
    }
}

/// Adds a segment's result to those before.
#[inline(always)]
fn merge<S: Simd>(
    simd: S,
    (from_max, from_sum, from): (f32, f32, &[f32]),
    max: &mut f32,
    sum: &mut f32,
    total: &mut [f32],
) {
    let new_max = if from_max > *max { from_max } else { *max };
    let old = exp2(simd, simd.splat(*max - new_max));
    let new = exp2(simd, simd.splat(from_max - new_max));
    *max = new_max;
    *sum = *sum * simd.lanes(old)[0] + from_sum * simd.lanes(new)[0];
    for (total, from) in total.as_chunks_mut().0.iter_mut().zip(from.as_chunks().0) {
        let scaled = simd.mul(simd.load(total), old);
        simd.store(simd.fma(simd.load(from), new, scaled), total);
    }
}

/// Divides by the sums.
#[inline(always)]
fn write(all: &Attention<'_>, task: &Task, state: &State, out: &Split<'_, f32>) {
    for (i, row) in task.rows.clone().enumerate() {
        #[expect(unsafe_code, reason = "threads share the output")]
        // SAFETY: every row is in one task, or is written by the one merge after all tasks.
        let to = unsafe { out.part(all.output(task, row)) };
        let factor = 1.0 / state.sum[1][i];
        for (to, value) in to.iter_mut().zip(&state.values[1][i * all.width()..]) {
            *to = value * factor;
        }
    }
}
