//! Activations as the kernels multiply them: normalised, quantised, tiled.
//!
//! A step's rows are cut into tiles of 8, 4, 2 or 1 rows. For quantised weights, a tile is one record
//! for each 32 columns, of 12 words for each of its `T` rows:
//!
//! ```text
//! codes   [T][8]  4 signed bytes each: x ~ scale * code, code in -127..=127
//! scale   [T]     f32: largest magnitude / 127
//! offset  [T]     f32: scale * sum of the codes, what a weight's minimum is multiplied with
//! sums    [2][T]  i32: sums of the codes of columns 0..16 and 16..32
//! ```
//!
//! For float weights it is the values, `[K][T]` f32. A row's values don't depend on its tile.

use super::{
    format::BLOCK,
    pool::Pool,
    simd::{Isa, Kernel, Simd},
    split::Split,
};

/// The most rows of a tile.
pub(super) const TILE_ROWS: usize = 8;

/// Words that a row takes in a record.
pub(super) const RECORD_WORDS: usize = 12;

/// Values below which one thread is faster than two.
const SERIAL_VALUES: usize = 8192;

/// Rows that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Its first row.
    pub(super) first: usize,
    /// How many: 1, 2, 4 or 8.
    pub(super) rows: usize,
}

/// The tiles of `rows` rows: as few as there can be, largest first.
pub(super) fn tiles(rows: usize) -> impl Iterator<Item = Tile> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = rows - first;
        let rows = [TILE_ROWS, 4, 2, 1].into_iter().find(|&rows| rows <= left)?;
        first += rows;
        Some(Tile { first: first - rows, rows })
    })
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
    count: usize,
    columns: usize,
    words: Vec<i32>,
    floats: Vec<f32>,
}

impl Rows {
    /// Makes room for `rows` rows of at most so many values in each form.
    pub(super) fn reserve(&mut self, rows: usize, quantized_columns: usize, float_columns: usize) {
        let words = rows * quantized_columns / BLOCK * RECORD_WORDS;
        self.words.reserve(words.saturating_sub(self.words.len()));
        self.floats.reserve((rows * float_columns).saturating_sub(self.floats.len()));
    }

    /// Normalises, quantises and tiles `count` rows.
    pub(super) fn prepare(&mut self, isa: Isa, pool: &Pool, count: usize, source: Source<'_>, forms: Forms) {
        let columns = source.columns;
        (self.count, self.columns) = (count, columns);
        let words_per_row = if forms.quantized { columns / BLOCK * RECORD_WORDS } else { 0 };
        let floats_per_row = if forms.float { columns } else { 0 };
        self.words.resize(count * words_per_row, 0);
        self.floats.resize(count * floats_per_row, 0.0);
        let (words, floats) = (Split::new(&mut self.words), Split::new(&mut self.floats));
        let one = |tile: Tile| {
            let end = tile.first + tile.rows;
            #[expect(unsafe_code, reason = "threads share the memory")]
            // SAFETY: tiles don't share rows, and each is prepared once.
            let (words, floats) = unsafe {
                (
                    words.part(tile.first * words_per_row..end * words_per_row),
                    floats.part(tile.first * floats_per_row..end * floats_per_row),
                )
            };
            isa.run(Prepare { source, tile, words, floats });
        };
        if count * columns <= SERIAL_VALUES {
            tiles(count).for_each(one);
        } else {
            let whole = count / TILE_ROWS;
            pool.run(whole + 1, &|chunk| {
                if chunk < whole {
                    return one(Tile { first: chunk * TILE_ROWS, rows: TILE_ROWS });
                }
                tiles(count).skip(whole).for_each(one);
            });
        }
    }

    /// How many rows are prepared.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Values of a row.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The records of a tile, one after the other.
    #[inline(always)]
    pub(super) fn records(&self, tile: Tile) -> &[i32] {
        let words = self.columns / BLOCK * RECORD_WORDS;
        &self.words[tile.first * words..(tile.first + tile.rows) * words]
    }

    /// The values of a tile, column by column.
    #[inline(always)]
    pub(super) fn floats(&self, tile: Tile) -> &[f32] {
        &self.floats[tile.first * self.columns..(tile.first + tile.rows) * self.columns]
    }
}

/// Fills a tile.
struct Prepare<'a> {
    source: Source<'a>,
    tile: Tile,
    /// Empty if the form isn't wanted, as is `floats`.
    words: &'a mut [i32],
    floats: &'a mut [f32],
}

impl Kernel for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { source, tile, words, floats } = self;
        for t in 0..tile.rows {
            let row = tile.first + t;
            let row = source.gather.map_or(row, |gather| gather[row] as usize);
            let x = &source.x[row * source.columns..][..source.columns];
            let scale = source.norm.map(|(gain, epsilon)| (inverse_rms(simd, x, epsilon), gain));
            if !words.is_empty() {
                quantize_row(simd, x, scale, words, t, tile.rows);
            }
            if !floats.is_empty() {
                for (k, (x, to)) in x.iter().zip(floats.chunks_exact_mut(tile.rows)).enumerate() {
                    to[t] = scale.map_or(*x, |(scale, gain)| x * scale * gain[k]);
                }
            }
        }
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
        let x: &[[f32; 16]] = x.as_chunks().0;
        let mut low = simd.load(&x[0]);
        let mut high = simd.load(&x[1]);
        if let Some((scale, gain)) = norm {
            let gain: &[[f32; 16]] = gain[k * BLOCK..(k + 1) * BLOCK].as_chunks().0;
            low = simd.mul(simd.mul(low, simd.splat(scale)), simd.load(&gain[0]));
            high = simd.mul(simd.mul(high, simd.splat(scale)), simd.load(&gain[1]));
        }
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
            let mut next = 0;
            for tile in tiles(rows) {
                assert_eq!(tile.first, next);
                next += tile.rows;
            }
            assert_eq!(next, rows);
        }
        assert_eq!(tiles(23).map(|tile| tile.rows).collect::<Vec<_>>(), [8, 8, 4, 2, 1]);
    }
}
