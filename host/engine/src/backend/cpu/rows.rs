//! Activations as the kernels multiply them: normalised, quantised, tiled.
//!
//! A step's rows are cut into tiles of 8, 4, 2 or 1 rows, and of 16 or 8 where a matrix unit takes
//! them. For quantised weights, a tile is one record for each 32 columns, of 12 words for each of its
//! `T` rows:
//!
//! ```text
//! codes   [T][8]  4 signed bytes each: x ~ scale * code, code in -127..=127
//! scale   [T]     f32: largest magnitude / 127
//! offset  [T]     f32: scale * sum of the codes, what a weight's minimum is multiplied with
//! sums    [2][T]  i32: sums of the codes of columns 0..16 and 16..32
//! ```
//!
//! For float weights it is the values, `[K][T]` f32. A row's values don't depend on its tile. A tile of
//! the matrix unit may be wider than it has rows; the others are zero.

use super::{
    format::BLOCK,
    pool::Pool,
    simd::{Isa, Kernel, Simd},
    split::Split,
};

/// Words that a row takes in a record.
pub(super) const RECORD_WORDS: usize = 12;

/// Values below which one thread is faster than two.
const SERIAL_VALUES: usize = 8192;

/// Values behind the last: a matrix unit reads four records of 16 rows at a time, of which three may
/// not be there (their weights are zero).
const SPARE_VALUES: usize = 3 * 16 * RECORD_WORDS;

/// Rows that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Its first row.
    pub(super) first: usize,
    /// How many there are.
    pub(super) rows: usize,
    /// How many it has room for, `T` of its layout.
    pub(super) width: usize,
    /// Room that tiles before it take, in rows.
    place: usize,
    /// Whether the matrix unit takes it.
    pub(super) is_wide: bool,
}

impl Tile {
    fn end(self) -> usize {
        self.place + self.width
    }
}

/// Writes the tiles of `rows` rows: as few as there can be, largest first.
fn cut(rows: usize, has_matrix_unit: bool, tiles: &mut Vec<Tile>) {
    tiles.clear();
    let (mut first, mut place) = (0, 0);
    while first < rows {
        let left = rows - first;
        // The unit takes as long for a tile with few rows as for a full one: as long as a vector
        // kernel for some five rows, or some eleven of a tile of 16.
        let (width, is_wide) = match left {
            12.. if has_matrix_unit => (16, true),
            6.. if has_matrix_unit => (8, true),
            8.. => (8, false),
            4.. => (4, false),
            2.. => (2, false),
            _ => (1, false),
        };
        let rows = left.min(width);
        tiles.push(Tile { first, rows, width, place, is_wide });
        first += rows;
        place += width;
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
    count: usize,
    columns: usize,
    quantized: Tiled<i32>,
    float: Tiled<f32>,
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
        // A last tile may have room for four rows more than there are.
        self.quantized.reserve(rows + 4, quantized_columns / BLOCK * RECORD_WORDS);
        self.float.reserve(rows, float_columns);
    }

    /// Normalises, quantises and tiles `count` rows.
    pub(super) fn prepare(&mut self, isa: Isa, pool: &Pool, count: usize, source: Source<'_>, forms: Forms) {
        (self.count, self.columns) = (count, source.columns);
        let is_small = count * source.columns <= SERIAL_VALUES;
        if forms.quantized {
            cut(count, isa.amx().is_some(), &mut self.quantized.tiles);
            let per_row = source.columns / BLOCK * RECORD_WORDS;
            self.quantized.fill(pool, is_small, per_row, &|tile, to| isa.run(Quantize { source, tile, to }));
        }
        if forms.float {
            cut(count, false, &mut self.float.tiles);
            self.float.fill(pool, is_small, source.columns, &|tile, to| isa.run(Copy { source, tile, to }));
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

    /// The tiles of the quantised form, or of the other.
    #[inline(always)]
    pub(super) fn tiles(&self, quantized: bool) -> &[Tile] {
        if quantized { &self.quantized.tiles } else { &self.float.tiles }
    }

    /// The records of a tile of the quantised form, one after the other.
    #[inline(always)]
    pub(super) fn records(&self, tile: Tile) -> &[i32] {
        let per_row = self.columns / BLOCK * RECORD_WORDS;
        &self.quantized.values[tile.place * per_row..tile.end() * per_row]
    }

    /// The records of a tile and of whatever follows, at least three more.
    #[inline(always)]
    pub(super) fn records_from(&self, tile: Tile) -> &[i32] {
        &self.quantized.values[tile.place * (self.columns / BLOCK * RECORD_WORDS)..]
    }

    /// The values of a tile of the float form, column by column.
    #[inline(always)]
    pub(super) fn floats(&self, tile: Tile) -> &[f32] {
        &self.float.values[tile.place * self.columns..tile.end() * self.columns]
    }
}

impl<T: Send + Clone + Default> Tiled<T> {
    fn reserve(&mut self, rows: usize, per_row: usize) {
        self.tiles.reserve(rows.saturating_sub(self.tiles.len()));
        self.values.reserve((rows * per_row + SPARE_VALUES).saturating_sub(self.values.len()));
    }

    /// Calls `one` with every tile and its values, of which a row of room has `per_row`.
    fn fill(&mut self, pool: &Pool, is_small: bool, per_row: usize, one: &(dyn Fn(Tile, &mut [T]) + Sync)) {
        let room = self.tiles.last().map_or(0, |tile| tile.end());
        self.values.resize(room * per_row + SPARE_VALUES, T::default());
        let (tiles, values) = (&self.tiles, Split::new(&mut self.values));
        let fill = |index: usize| {
            let tile = tiles[index];
            #[expect(unsafe_code, reason = "threads share the memory")]
            // SAFETY: tiles have places of their own, and each is filled once.
            one(tile, unsafe { values.part(tile.place * per_row..tile.end() * per_row) });
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
        if tile.rows < tile.width {
            to.fill(0);
        }
        for t in 0..tile.rows {
            let (x, norm) = source.row(simd, tile.first + t);
            quantize_row(simd, x, norm, to, t, tile.width);
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
            for (k, (x, to)) in x.iter().zip(to.chunks_exact_mut(tile.width)).enumerate() {
                to[t] = norm.map_or(*x, |(factor, gain)| x * factor * gain[k]);
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

    fn tiles(rows: usize, has_matrix_unit: bool) -> Vec<Tile> {
        let mut tiles = Vec::new();
        cut(rows, has_matrix_unit, &mut tiles);
        tiles
    }

    #[test]
    fn tiles_cover_all_rows_in_order_and_do_not_share_room() {
        for (rows, has_matrix_unit) in (0..60).flat_map(|rows| [(rows, false), (rows, true)]) {
            let (mut row, mut place) = (0, 0);
            for tile in tiles(rows, has_matrix_unit) {
                assert_eq!((tile.first, tile.place), (row, place));
                assert!(tile.rows <= tile.width && (tile.is_wide || tile.rows == tile.width), "{tile:?}");
                row += tile.rows;
                place += tile.width;
            }
            assert_eq!(row, rows);
            assert!(place <= rows + 4, "{rows} rows take room for {place}");
        }
    }

    #[test]
    fn tiles_are_few() {
        let widths = |rows, unit| tiles(rows, unit).iter().map(|tile| tile.width).collect::<Vec<_>>();
        assert_eq!(widths(23, false), [8, 8, 4, 2, 1]);
        assert_eq!(widths(23, true), [16, 8]);
        assert_eq!(widths(33, true), [16, 16, 1]);
        assert_eq!(widths(11, true), [8, 2, 1]);
    }
}
