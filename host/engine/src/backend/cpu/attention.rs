//! Attention over the paged KV cache, with the softmax computed online (arXiv 2205.14135).
//!
//! Query rows of one key/value head (a token's heads of the group, tokens one after the other) are
//! taken up to 16 at a time over 64 positions, so that 16 KB of keys and values are read from the
//! first-level cache by all of them; within that, four rows share every load. Decode, batches and
//! prefill are the same code.
//!
//! A row's result doesn't depend on its neighbours, the thread, or how a prompt was cut: positions are
//! taken in steps of 64 from multiples of 64, and each segment of 256 starts afresh and is merged into
//! the segments before it. Steps of which a row sees nothing leave it as it is to the bit. The
//! segments also let a long context's few rows be divided between threads.

use std::{cell::RefCell, ops::Range};

use super::{
    cache::{Cache, Page},
    math::exp2,
    pool::Pool,
    rope::to_pairs,
    simd::{Isa, Kernel, LANES, Simd},
    split::Split,
};
use crate::backend::{BLOCK_TOKENS, Batch, BlockId, Heads};

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
                let (task, out, partials) = (&tasks[index], &split_out, &split_partials);
                isa.run_bf16(TaskKernel { all: self, task, state, out, partials });
            });
        });
        if partial_len > 0 {
            STATE.with_borrow_mut(|state| {
                isa.run_bf16(Merge { all: self, tasks, state, partials, out: &Split::new(out) });
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
        let end = self.batch.positions[self.batch.spans[span].rows.start + row / self.group()] as usize + 1;
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
    /// `[rows][D/2]` queries, bf16 pairs, scaled for a softmax of base 2.
    queries: Vec<u32>,
    /// `[rows][D]` sums of weighted values, of the current segment and of all before.
    values: [Vec<f32>; 2],
    /// Largest score so far, likewise.
    max: [[f32; ROWS]; 2],
    /// Sum of `2^(score - max)`, likewise.
    sum: [[f32; ROWS]; 2],
}

impl State {
    const fn new() -> Self {
        Self {
            sees: [const { 0..0 }; ROWS],
            queries: Vec::new(),
            values: [Vec::new(), Vec::new()],
            max: [[LOWEST; ROWS]; 2],
            sum: [[0.0; ROWS]; 2],
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

/// Runs a task.
struct TaskKernel<'a> {
    all: &'a Attention<'a>,
    task: &'a Task,
    state: &'a mut State,
    out: &'a Split<'a, f32>,
    partials: &'a Split<'a, f32>,
}

impl Kernel for TaskKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { all, task, state, out, partials } = self;
        let (width, rows) = (all.width(), task.rows.len());
        load_queries(simd, all, task, state);
        state.reset(1, rows * width);
        for segment in task.segments.clone() {
            state.reset(0, rows * width);
            attend(simd, all, task, segment, state);
            if let Some(at) = task.partial {
                #[expect(unsafe_code, reason = "threads share the results")]
                // SAFETY: every partial task has a place of its own.
                let to = unsafe { partials.part(at..at + rows * (2 + width)) };
                for (row, to) in to.chunks_exact_mut(2 + width).enumerate() {
                    (to[0], to[1]) = (state.max[0][row], state.sum[0][row]);
                    to[2..].copy_from_slice(&state.values[0][row * width..][..width]);
                }
                return;
            }
            for row in 0..rows {
                let [current, total] = &mut state.values;
                let place = row * width..(row + 1) * width;
                let from = (state.max[0][row], state.sum[0][row], &current[place.clone()]);
                merge(simd, from, &mut state.max[1][row], &mut state.sum[1][row], &mut total[place]);
            }
        }
        write(all, task, state, out);
    }
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

#[inline(always)]
fn load_queries<S: Simd>(simd: S, all: &Attention<'_>, task: &Task, state: &mut State) {
    let Heads { query, kv, size, scale, .. } = all.heads;
    let (group, columns) = (all.group(), (query + 2 * kv) * size);
    let pairs = all.width() / 2;
    state.queries.resize(task.rows.len() * pairs, 0);
    let scale = scale * std::f32::consts::LOG2_E;
    for (i, (row, to)) in task.rows.clone().zip(state.queries.chunks_exact_mut(pairs)).enumerate() {
        state.sees[i] = all.sees(task.span, row);
        let t = all.batch.spans[task.span].rows.start + row / group;
        let start = t * columns + (task.kv_head * group + row % group) * size;
        let q = &all.qkv[start..start + size];
        let (chunks, tail) = q.as_chunks();
        for (chunk, to) in chunks.iter().zip(to.as_chunks_mut().0) {
            *to = simd.to_bf16(simd.mul(simd.load(chunk), simd.splat(scale)));
        }
        if !tail.is_empty() {
            let tail_pairs = &mut to[chunks.len() * LANES / 2..];
            let scaled: [f32; LANES] = std::array::from_fn(|i| tail.get(i).map_or(0.0, |x| x * scale));
            to_pairs(simd, &scaled, tail_pairs);
        }
    }
}

/// Takes a segment's positions into the state.
#[inline(always)]
fn attend<S: Simd>(simd: S, all: &Attention<'_>, task: &Task, segment: usize, state: &mut State) {
    let span = &all.batch.spans[task.span];
    let blocks = &all.batch.blocks[span.blocks.start..span.blocks.end];
    let first = all.sees(task.span, task.rows.start).start.max(segment * SEGMENT) / STEP * STEP;
    let end = all.sees(task.span, task.rows.end - 1).end.min((segment + 1) * SEGMENT);
    for position in (first..end).step_by(STEP) {
        let blocks = &blocks[position / BLOCK_TOKENS..end.min(position + STEP).div_ceil(BLOCK_TOKENS)];
        for row in (0..task.rows.len()).step_by(4) {
            let args = StepArgs { all, task, blocks, position, row };
            match task.rows.len() - row {
                1 => step::<S, 1>(simd, args, state),
                2 => step::<S, 2>(simd, args, state),
                3 => step::<S, 3>(simd, args, state),
                _ => step::<S, 4>(simd, args, state),
            }
        }
    }
}

#[derive(Clone, Copy)]
struct StepArgs<'a> {
    all: &'a Attention<'a>,
    task: &'a Task,
    /// The step's blocks, at most [`BLOCKS`].
    blocks: &'a [BlockId],
    /// The first block's position.
    position: usize,
    /// First of the rows, within the task.
    row: usize,
}

/// Takes up to 64 positions into the state of `R` rows.
#[inline(always)]
fn step<S: Simd, const R: usize>(simd: S, args: StepArgs<'_>, state: &mut State) {
    let StepArgs { all, task, blocks, position, row } = args;
    let width = all.width();
    let queries = &state.queries[row * width / 2..(row + R) * width / 2];

    let mut scores = [[simd.splat(f32::NEG_INFINITY); R]; BLOCKS];
    for (blocks, scores) in blocks.chunks(2).zip(scores.as_chunks_mut::<2>().0) {
        // An odd last block is scored twice; the second scores aren't taken.
        let pages =
            [blocks[0], blocks[blocks.len() - 1]].map(|block| all.cache.page(block, all.layer, task.kv_head));
        let both = score::<S, R>(simd, pages, queries, width / 2);
        scores[..blocks.len()].copy_from_slice(&both[..blocks.len()]);
    }
    for (r, sees) in state.sees[row..row + R].iter().enumerate() {
        if sees.start > position || sees.end < position + blocks.len() * BLOCK_TOKENS {
            for b in 0..blocks.len() {
                let position = (position + b * BLOCK_TOKENS) as i32;
                let (from, to) = (sees.start as i32 - position, sees.end as i32 - position);
                scores[b][r] = simd.within(scores[b][r], from, to, f32::NEG_INFINITY);
            }
        }
    }

    let mut weights = [[[0; LANES / 2]; BLOCKS]; R];
    let mut factors = [simd.splat(0.0); R];
    for r in 0..R {
        let (max, sum) = (&mut state.max[0][row + r], &mut state.sum[0][row + r]);
        let highest = simd.max(simd.max(scores[0][r], scores[1][r]), simd.max(scores[2][r], scores[3][r]));
        let highest = simd.highest(highest);
        let new_max = if highest > *max { highest } else { *max };
        factors[r] = exp2(simd, simd.splat(*max - new_max));
        let mut sums = simd.splat(0.0);
        for b in 0..BLOCKS {
            let weight = exp2(simd, simd.add(scores[b][r], simd.splat(-new_max)));
            sums = simd.add(sums, weight);
            weights[r][b] = simd.to_bf16(weight);
        }
        *max = new_max;
        *sum = *sum * simd.lanes(factors[r])[0] + simd.sum(sums);
    }

    let values = &mut state.values[0][row * width..(row + R) * width];
    let mut d = 0;
    while d + 2 * LANES <= width {
        add_values::<S, R, 2>(simd, args, &weights, &factors, values, d);
        d += 2 * LANES;
    }
    if d < width {
        add_values::<S, R, 1>(simd, args, &weights, &factors, values, d);
    }
}

/// Scores of two pages' positions for `R` queries of `pairs` pairs.
#[inline(always)]
fn score<S: Simd, const R: usize>(
    simd: S,
    pages: [Page<'_>; 2],
    queries: &[u32],
    pairs: usize,
) -> [[S::F32; R]; 2] {
    let mut scores = [[simd.splat(0.0); R]; 2];
    let keys: [&[[u8; 64]]; 2] = [pages[0].keys.as_chunks().0, pages[1].keys.as_chunks().0];
    for (i, (first, second)) in keys[0][..pairs].iter().zip(&keys[1][..pairs]).enumerate() {
        for r in 0..R {
            let q = queries[r * pairs + i];
            scores[0][r] = simd.dot_bf16(scores[0][r], first, q);
            scores[1][r] = simd.dot_bf16(scores[1][r], second, q);
        }
    }
    scores
}

/// `values[r, d..] = factor[r] * values[r, d..] + sum_p weight[r, p] * v[p, d..]` for `V` vectors.
#[inline(always)]
fn add_values<S: Simd, const R: usize, const V: usize>(
    simd: S,
    args: StepArgs<'_>,
    weights: &[[[u32; LANES / 2]; BLOCKS]; R],
    factors: &[S::F32; R],
    values: &mut [f32],
    d: usize,
) {
    let width = args.all.width();
    let mut sums = [[simd.splat(0.0); V]; R];
    for r in 0..R {
        for v in 0..V {
            let from = values[r * width + d + v * LANES..][..LANES].as_array().expect("16 values");
            sums[r][v] = simd.mul(simd.load(from), factors[r]);
        }
    }
    for (b, block) in args.blocks.iter().enumerate() {
        let page = args.all.cache.page(*block, args.all.layer, args.task.kv_head);
        let vectors: &[[u8; 64]] = page.values.as_chunks().0;
        for pair in 0..LANES / 2 {
            let vectors = &vectors[(pair * width + d) / LANES..][..V];
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = simd.dot_bf16(sums[r][v], &vectors[v], weights[r][b][pair]);
                }
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            let to = values[r * width + d + v * LANES..][..LANES].as_mut_array().expect("16 values");
            simd.store(sums[r][v], to);
        }
    }
}
