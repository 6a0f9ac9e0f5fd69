//! Activations as the kernels multiply them: normalised, quantised, tiled.
//!
//! Generated rows are cut into tiles of 8, 4, 2 or 1 rows. For quantised weights, a tile is one record for
//! each 32 columns, of 12 words for each of its `T` rows:
//!
//! ```text
//! codes   [T][8]  4 signed bytes each: x ~ scale * code, code in -127..=127
//! scale   [T]     f32: largest magnitude / 127
//! offset  [T]     f32: scale * sum of the codes, what a weight's minimum is multiplied with
//! sums    [2][T]  i32: sums of the codes of columns 0..16 and 16..32
//! ```
//!
//! For float weights it is the values, `[K][T]` f32. A row's values don't depend on its tile. Rows of
//! prompts are the same, except for a matrix unit and quantised weights: then they are wide tiles,
//! `[K/32][16 rows][32]` bf16.

use std::ops::Range;

use super::{
    format::BLOCK,
    pool::Pool,
    simd::{Isa, Kernel, Line, Simd},
    split::Split,
};
use crate::backend::StepRows;

/// Words that a row takes in a record.
pub(super) const RECORD_WORDS: usize = 12;

/// Values below which one thread is faster than two.
const SERIAL_VALUES: usize = 8192;

/// Rows of a wide tile.
pub(super) const WIDE_ROWS: usize = 16;

/// Rows that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Its first row.
    pub(super) first: usize,
    /// How many there are.
    pub(super) rows: usize,
}

/// Writes the tiles of `rows` rows, largest first.
fn cut(rows: usize, tiles: &mut Vec<Tile>) {
    tiles.clear();
    let mut first = 0;
    while first < rows {
        let width = match rows - first {
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        tiles.push(Tile { first, rows: width });
        first += width;
    }
}

/// Which forms of the rows the weights want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) quantized: bool,
    pub(super) float: bool,
}

/// Where rows come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// `[rows, columns]`.
    pub(super) x: &'a [f32],
    /// A multiple of 32 if the quantised form is wanted.
    pub(super) columns: usize,
    /// Gain and epsilon of an RMSNorm to apply.
    pub(super) norm: Option<(&'a [f32], f32)>,
    /// Row `t` is row `gather[t]` of `x`.
    pub(super) gather: Option<&'a [u32]>,
}

/// Prepared rows; the memory is kept for the next.
#[derive(Default)]
pub(super) struct Rows {
    counts: StepRows,
    columns: usize,
    /// Rows that are in wide tiles, the last of all.
    wide_count: usize,
    quantized: Tiled<i32>,
    float: Tiled<f32>,
    /// `[tile][K/32][16 rows][32]` bf16; rows that a last tile lacks are whatever was there.
    wide: Vec<Line>,
}

/// One form of the rows.
#[derive(Default)]
struct Tiled<T> {
    tiles: Vec<Tile>,
    values: Vec<T>,
}

impl Rows {
    /// Makes room for `rows` rows of at most so many values in each form.
    pub(super) fn reserve(&mut self, rows: usize, quantized_columns: usize, float_columns: usize) {
        self.quantized.reserve(rows, quantized_columns / BLOCK * RECORD_WORDS);
        self.float.reserve(rows, float_columns);
    }

    /// Normalises, quantises and tiles rows.
    pub(super) fn prepare(
        &mut self,
        isa: Isa,
        pool: &Pool,
        counts: StepRows,
        source: Source<'_>,
        forms: Forms,
    ) {
        (self.counts, self.columns) = (counts, source.columns);
        let is_small = counts.total() * source.columns <= SERIAL_VALUES;
        self.wide_count = if forms.quantized && isa.amx().is_some() { counts.prompt } else { 0 };
        if forms.quantized {
            cut(counts.total() - self.wide_count, &mut self.quantized.tiles);
            let per_row = source.columns / BLOCK * RECORD_WORDS;
            self.quantized.fill(pool, is_small, per_row, &|tile, to| isa.run(Quantize { source, tile, to }));
            self.fill_wide(isa, pool, source);
        }
        if forms.float {
            cut(counts.total(), &mut self.float.tiles);
            self.float.fill(pool, is_small, source.columns, &|tile, to| isa.run(Copy { source, tile, to }));
        }
    }

    /// How many rows are prepared.
    pub(super) fn count(&self) -> usize {
        self.counts.total()
    }

    /// Values of a row.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The tiles of the quantised form, or of the other.
    #[inline(always)]
    pub(super) fn tiles(&self, quantized: bool) -> &[Tile] {
        if quantized { &self.quantized.tiles } else { &self.float.tiles }
    }

    /// The records of a tile of the quantised form, one after the other.
    #[inline(always)]
    pub(super) fn records(&self, tile: Tile) -> &[i32] {
        let per_row = self.columns / BLOCK * RECORD_WORDS;
        &self.quantized.values[tile.first * per_row..][..tile.rows * per_row]
    }

    /// The values of a tile of the float form, column by column.
    #[inline(always)]
    pub(super) fn floats(&self, tile: Tile) -> &[f32] {
        &self.float.values[tile.first * self.columns..][..tile.rows * self.columns]
    }

    /// Rows in wide tiles, which are the last.
    pub(super) fn wide(&self) -> Range<usize> {
        self.count() - self.wide_count..self.count()
    }

    /// A wide tile, 32 columns after the other.
    #[inline(always)]
    pub(super) fn wide_tile(&self, index: usize) -> &[Line] {
        let lines = self.wide_tile_lines();
        &self.wide[index * lines..(index + 1) * lines]
    }

    fn wide_tile_lines(&self) -> usize {
        self.columns / BLOCK * WIDE_ROWS
    }

    fn fill_wide(&mut self, isa: Isa, pool: &Pool, source: Source<'_>) {
        let (rows, lines) = (self.wide(), self.wide_tile_lines());
        let tiles = rows.len().div_ceil(WIDE_ROWS);
        if self.wide.len() < tiles * lines {
            self.wide.resize(tiles * lines, Line::ZERO);
        }
        let split = Split::new(&mut self.wide);
        pool.run(tiles, &|index| {
            let first = rows.start + index * WIDE_ROWS;
            let tile = Tile { first, rows: WIDE_ROWS.min(rows.end - first) };
            #[expect(unsafe_code, reason = "threads share the memory")]
            // SAFETY: every tile has lines of its own and is filled once.
            let to = unsafe { split.part(index * lines..(index + 1) * lines) };
            isa.run(Widen { source, tile, to });
        });
    }
}

impl<T: Send + Clone + Default> Tiled<T> {
    fn reserve(&mut self, rows: usize, per_row: usize) {
        self.tiles.reserve(rows.saturating_sub(self.tiles.len()));
        self.values.reserve((rows * per_row).saturating_sub(self.values.len()));
    }

    /// Calls `one` with every tile and its values, `per_row` for each row.
    fn fill(&mut self, pool: &Pool, is_small: bool, per_row: usize, one: &(dyn Fn(Tile, &mut [T]) + Sync)) {
        let rows = self.tiles.last().map_or(0, |tile| tile.first + tile.rows);
        self.values.resize(rows * per_row, T::default());
        let (tiles, values) = (&self.tiles, Split::new(&mut self.values));
        let fill = |index: usize| {
            let tile = tiles[index];
            let place = tile.first * per_row..(tile.first + tile.rows) * per_row;
            #[expect(unsafe_code, reason = "threads share the memory")]
            // SAFETY: tiles have rows of their own, and each is filled once.
            one(tile, unsafe { values.part(place) });
        };
        if is_small {
            (0..tiles.len()).for_each(fill);
        } else {
            pool.run(tiles.len(), &fill);
        }
    }
}

impl<'a> Source<'a> {
    /// Row `row`, and the factor and gain of its norm.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, row: usize) -> (&'a [f32], Option<(f32, &'a [f32])>) {
        let row = match self.gather {
            Some(gather) => gather[row] as usize,
            None => row,
        };
        let x = &self.x[row * self.columns..][..self.columns];
        // No closure: it would be compiled without the instruction set.
        match self.norm {
            Some((gain, epsilon)) => (x, Some((inverse_rms(simd, x, epsilon), gain))),
            None => (x, None),
        }
    }
}

/// Fills the records of a tile.
struct Quantize<'a> {
    source: Source<'a>,
    tile: Tile,
    to: &'a mut [i32],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { source, tile, to } = self;
        for t in 0..tile.rows {
            let (x, norm) = source.row(simd, tile.first + t);
            quantize_row(simd, x, norm, to, t, tile.rows);
        }
    }
}

/// Fills a tile of the float form.
struct Copy<'a> {
    source: Source<'a>,
    tile: Tile,
    to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { source, tile, to } = self;
        for t in 0..tile.rows {
            let (x, norm) = source.row(simd, tile.first + t);
            for (k, (x, to)) in x.iter().zip(to.chunks_exact_mut(tile.rows)).enumerate() {
                to[t] = match norm {
                    Some((factor, gain)) => x * factor * gain[k],
                    None => *x,
                };
            }
        }
    }
}

/// Fills a wide tile.
struct Widen<'a> {
    source: Source<'a>,
    tile: Tile,
    to: &'a mut [Line],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { source, tile, to } = self;
        for t in 0..tile.rows {
            let (x, norm) = source.row(simd, tile.first + t);
            let units = x.as_chunks::<BLOCK>().0.iter().zip(to.chunks_exact_mut(WIDE_ROWS));
            for (k, (x, lines)) in units.enumerate() {
                let [low, high] = normalized(simd, x, norm, k);
                let [to_low, to_high] = lines[t].halves();
                *to_low = simd.to_bf16(low);
                *to_high = simd.to_bf16(high);
            }
        }
    }
}

/// 32 columns of a row, normalised.
#[inline(always)]
fn normalized<S: Simd>(simd: S, x: &[f32; BLOCK], norm: Option<(f32, &[f32])>, k: usize) -> [S::F32; 2] {
    let x: &[[f32; 16]] = x.as_chunks().0;
    let (low, high) = (simd.load(&x[0]), simd.load(&x[1]));
    match norm {
        Some((scale, gain)) => {
            let gain: &[[f32; 16]] = gain[k * BLOCK..(k + 1) * BLOCK].as_chunks().0;
            let scale = simd.splat(scale);
            [
                simd.mul(simd.mul(low, scale), simd.load(&gain[0])),
                simd.mul(simd.mul(high, scale), simd.load(&gain[1])),
            ]
        }
        None => [low, high],
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)`.
#[inline(always)]
pub(super) fn inverse_rms<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> f32 {
    let (chunks, tail) = x.as_chunks();
    let mut squares = simd.splat(0.0);
    for chunk in chunks {
        let v = simd.load(chunk);
        squares = simd.fma(v, v, squares);
    }
    let sum = simd.sum(squares) + tail.iter().map(|x| x * x).sum::<f32>();
    1.0 / (sum / x.len() as f32 + epsilon).sqrt()
}

/// Writes a row as row `t` of the records of a tile of `rows`.
#[inline(always)]
fn quantize_row<S: Simd>(
    simd: S,
    x: &[f32],
    norm: Option<(f32, &[f32])>,
    records: &mut [i32],
    t: usize,
    rows: usize,
) {
    let records = records.chunks_exact_mut(RECORD_WORDS * rows);
    for (k, (x, record)) in x.as_chunks::<BLOCK>().0.iter().zip(records).enumerate() {
        let [low, high] = normalized(simd, x, norm, k);
        let largest = simd.max(magnitude(simd, low), magnitude(simd, high));
        let largest = simd.highest(largest);
        // Below the least normal f32 times 127 the factor would overflow; such rows are zero.
        let (scale, factor) = if largest > 1e-35 { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
        let low = simd.round(simd.mul(low, simd.splat(factor)));
        let high = simd.round(simd.mul(high, simd.splat(factor)));
        let sums = [simd.sum(simd.to_f32(low)), simd.sum(simd.to_f32(high))];

        let codes = record[8 * t..][..8].iter_mut();
        let bytes = [simd.low_bytes(low), simd.low_bytes(high)];
        for (code, bytes) in codes.zip(bytes.as_flattened().as_chunks().0) {
            *code = i32::from_le_bytes(*bytes);
        }
        record[8 * rows + t] = scale.to_bits() as i32;
        record[9 * rows + t] = (scale * (sums[0] + sums[1])).to_bits() as i32;
        record[10 * rows + t] = sums[0] as i32;
        record[11 * rows + t] = sums[1] as i32;
    }
}

#[inline(always)]
fn magnitude<S: Simd>(simd: S, v: S::F32) -> S::F32 {
    simd.max(v, simd.mul(v, simd.splat(-1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_rows_in_order() {
        for rows in 0..40 {
            let mut tiles = Vec::new();
            cut(rows, &mut tiles);
            let covered: Vec<usize> =
                tiles.iter().flat_map(|tile| tile.first..tile.first + tile.rows).collect();
            assert_eq!(covered, (0..rows).collect::<Vec<_>>());
        }
    }

    #[test]
    fn tiles_are_few() {
        let mut tiles = Vec::new();
        cut(23, &mut tiles);
        assert_eq!(tiles.iter().map(|tile| tile.rows).collect::<Vec<_>>(), [8, 8, 4, 2, 1]);
    }
}
