//! The inner loop: 32 rows of weights times a tile of activations, for every format.

use super::{
    format::{BLOCK, Block, Format},
    rows::{RECORD_WORDS, Rows, Tile},
    simd::{LANES, Simd},
    wide::Unpacked,
};

/// A format of panels: how to multiply with them and how to read a row of them.
pub(super) trait Weights: Send + Sync + 'static {
    /// Whether rows are wanted quantised; otherwise as floats.
    const QUANTIZED: bool;

    /// Bytes of a panel of rows of `columns` weights.
    fn panel_bytes(columns: usize) -> usize;

    /// `sum_k w[16p + lane, k] * x[t, k]` of two panels `p` and the `T` rows `t` of a tile.
    ///
    /// Batch invariance rests here: for every `T` a sum takes the blocks from first to last, each
    /// contributing one exact integer (two with `HALVES`) that is scaled and added by one fused
    /// multiply-add, then its minimum by another.
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        panels: [&[u8]; 2],
        rows: &Rows,
        tile: Tile,
    ) -> [[S::F32; T]; 2];

    /// Unpacks a panel for a matrix unit. Only for quantised formats, as are wide tiles.
    fn unpack<S: Simd>(simd: S, panel: &[u8], unpacked: &mut Unpacked);

    /// The weights of row `lane` of a panel, as many as `out` takes.
    fn row<S: Simd>(simd: S, panel: &[u8], lane: usize, out: &mut [f32]);

    /// Writes a row of the file as row `lane` of a panel that is zero there.
    fn pack(row: &[u8], lane: usize, panel: &mut [u8]);
}

/// Evaluates an expression with `$W` the [`Weights`] of a [`DType`](crate::quant::DType).
macro_rules! with_weights {
    (@arm $W:ident = $weights:ty, $body:expr) => {{
        type $W = $weights;
        $body
    }};
    ($dtype:expr, $W:ident => $body:expr) => {{
        use $crate::backend::cpu::{format, weights};
        use $crate::quant::DType;
        match $dtype {
            DType::F32 => with_weights!(@arm $W = weights::Float<weights::F32>, $body),
            DType::F16 => with_weights!(@arm $W = weights::Float<weights::F16>, $body),
            DType::BF16 => with_weights!(@arm $W = weights::Float<weights::Bf16>, $body),
            DType::Q4_0 => with_weights!(@arm $W = format::Q4_0, $body),
            DType::Q4_1 => with_weights!(@arm $W = format::Q4_1, $body),
            DType::Q5_0 => with_weights!(@arm $W = format::Q5_0, $body),
            DType::Q5_1 => with_weights!(@arm $W = format::Q5_1, $body),
            DType::Q8_0 => with_weights!(@arm $W = format::Q8_0, $body),
            DType::Q4_K => with_weights!(@arm $W = format::Q4K, $body),
            DType::Q5_K => with_weights!(@arm $W = format::Q5K, $body),
            DType::Q6_K => with_weights!(@arm $W = format::Q6K, $body),
        }
    }};
}
pub(super) use with_weights;

impl<F: Format> Weights for F {
    const QUANTIZED: bool = true;

    fn panel_bytes(columns: usize) -> usize {
        columns / (BLOCK * F::BLOCKS) * F::GROUP_BYTES
    }

    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        panels: [&[u8]; 2],
        rows: &Rows,
        tile: Tile,
    ) -> [[S::F32; T]; 2] {
        let records = rows.records(tile);
        if T <= 2 {
            // Two streams read faster than one.
            return sum_panels::<F, S, 2, T>(simd, panels, records);
        }
        // One after the other: sums of both and the codes of one are more than the registers hold.
        let [first] = sum_panels::<F, S, 1, T>(simd, [panels[0]], records);
        let [second] = sum_panels::<F, S, 1, T>(simd, [panels[1]], records);
        [first, second]
    }

    #[inline(always)]
    fn unpack<S: Simd>(simd: S, panel: &[u8], unpacked: &mut Unpacked) {
        unpacked.fill::<F, S>(simd, panel);
    }

    #[inline(always)]
    fn row<S: Simd>(simd: S, panel: &[u8], lane: usize, out: &mut [f32]) {
        let groups = panel.chunks_exact(F::GROUP_BYTES);
        for (group, out) in groups.zip(out.chunks_exact_mut(BLOCK * F::BLOCKS)) {
            let header = F::header(simd, &group[..F::HEADER_BYTES]);
            let blocks = group[F::HEADER_BYTES..].chunks_exact(F::BLOCK_BYTES);
            for (block, out) in blocks.zip(out.chunks_exact_mut(BLOCK)) {
                let block = F::block(simd, header, block);
                let scales = [simd.lanes(block.scales[0])[lane], simd.lanes(block.scales[1])[lane]];
                let min = if F::HAS_MIN { simd.lanes(block.min)[lane] } else { 0.0 };
                for j in 0..8 {
                    let codes = simd.to_array(block.codes[j]);
                    for i in 0..4 {
                        let code = i32::from(codes[4 * lane + i]) - F::ZERO;
                        out[4 * j + i] = scales[j / 4] * code as f32 + min;
                    }
                }
            }
        }
    }

    fn pack(row: &[u8], lane: usize, panel: &mut [u8]) {
        let blocks = row.chunks_exact(F::SOURCE_BYTES);
        for (block, group) in blocks.zip(panel.chunks_exact_mut(F::GROUP_BYTES)) {
            F::pack(block, lane, group);
        }
    }
}

/// Sums of `P` panels and the rows of a tile's records.
#[inline(always)]
fn sum_panels<F: Format, S: Simd, const P: usize, const T: usize>(
    simd: S,
    panels: [&[u8]; P],
    records: &[i32],
) -> [[S::F32; T]; P] {
    let mut sums = [[simd.splat(0.0); T]; P];
    for (g, records) in records.chunks_exact(RECORD_WORDS * T * F::BLOCKS).enumerate() {
        for p in 0..P {
            let (header, blocks) =
                panels[p][g * F::GROUP_BYTES..][..F::GROUP_BYTES].split_at(F::HEADER_BYTES);
            let header = F::header(simd, header);
            for b in 0..F::BLOCKS {
                let block = F::block(simd, header, &blocks[b * F::BLOCK_BYTES..][..F::BLOCK_BYTES]);
                let record = &records[b * RECORD_WORDS * T..][..RECORD_WORDS * T];
                accumulate::<F, S, T>(simd, &block, record, &mut sums[p]);
            }
        }
    }
    sums
}

/// Adds a block's part to the sums of `T` rows: 1, 2, 4 or 8. Rows are taken by fours (by twos where
/// registers are few), whose sums are independent and so hide each other's latency.
#[inline(always)]
fn accumulate<F: Format, S: Simd, const T: usize>(
    simd: S,
    block: &Block<S>,
    record: &[i32],
    sums: &mut [S::F32; T],
) {
    // Spelled out, because the compiler keeps sums in registers only if it unrolls all of it.
    if T == 1 {
        add_rows::<F, S, T, 1>(simd, block, record, 0, sums);
    } else if T == 2 || S::FEW_REGISTERS {
        add_rows::<F, S, T, 2>(simd, block, record, 0, sums);
        if T > 2 {
            add_rows::<F, S, T, 2>(simd, block, record, 2, sums);
        }
        if T > 4 {
            add_rows::<F, S, T, 2>(simd, block, record, 4, sums);
            add_rows::<F, S, T, 2>(simd, block, record, 6, sums);
        }
    } else {
        add_rows::<F, S, T, 4>(simd, block, record, 0, sums);
        if T > 4 {
            add_rows::<F, S, T, 4>(simd, block, record, 4, sums);
        }
    }
}

/// [`accumulate`] of rows `first..first + R`.
#[inline(always)]
fn add_rows<F: Format, S: Simd, const T: usize, const R: usize>(
    simd: S,
    block: &Block<S>,
    record: &[i32],
    first: usize,
    sums: &mut [S::F32; T],
) {
    let low = dot::<F, S, T, R>(simd, block, record, first, [simd.splat_i32(0); R], 0);
    if F::HALVES {
        add_scaled(simd, low, block.scales[0], record, first, sums);
        let high = dot::<F, S, T, R>(simd, block, record, first, [simd.splat_i32(0); R], 1);
        add_scaled(simd, high, block.scales[1], record, first, sums);
    } else {
        let both = dot::<F, S, T, R>(simd, block, record, first, low, 1);
        add_scaled(simd, both, block.scales[0], record, first, sums);
    }
    if F::HAS_MIN {
        for t in first..first + R {
            let offset = simd.splat(f32::from_bits(record[9 * T + t] as u32));
            sums[t] = simd.fma(block.min, offset, sums[t]);
        }
    }
}

/// Adds the dot products of some rows with the columns of one half of a block.
#[inline(always)]
fn dot<F: Format, S: Simd, const T: usize, const R: usize>(
    simd: S,
    block: &Block<S>,
    record: &[i32],
    first: usize,
    mut dots: [S::I32; R],
    half: usize,
) -> [S::I32; R] {
    let zero = if F::WIDE { S::WIDE_ZERO } else { F::ZERO };
    if zero != 0 {
        for r in 0..R {
            let sum_of_codes = record[(10 + half) * T + first + r];
            dots[r] = simd.add_i32(dots[r], simd.splat_i32(-zero * sum_of_codes));
        }
    }
    for j in 4 * half..4 * half + 4 {
        for r in 0..R {
            let (weights, codes) = (block.codes[j], record[8 * (first + r) + j]);
            dots[r] = if F::WIDE {
                simd.dot_wide(dots[r], weights, codes)
            } else {
                simd.dot(dots[r], weights, codes)
            };
        }
    }
    dots
}

/// `sums[first + r] += dots[r] * scale * the row's scale`.
#[inline(always)]
fn add_scaled<S: Simd, const T: usize, const R: usize>(
    simd: S,
    dots: [S::I32; R],
    scale: S::F32,
    record: &[i32],
    first: usize,
    sums: &mut [S::F32; T],
) {
    for (t, dot) in (first..).zip(dots) {
        let scale = simd.mul(scale, simd.splat(f32::from_bits(record[8 * T + t] as u32)));
        sums[t] = simd.fma(simd.to_f32(dot), scale, sums[t]);
    }
}

/// A format without scales. A panel is column by column, 16 rows each.
pub(super) trait FloatFormat: Send + Sync + 'static {
    /// Bytes of a weight.
    const BYTES: usize;
    /// Reads 16 of them.
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F32;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl FloatFormat for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F32 {
        let mut lanes = [0.0; LANES];
        for (lane, bytes) in lanes.iter_mut().zip(bytes.as_chunks().0) {
            *lane = f32::from_le_bytes(*bytes);
        }
        simd.load(&lanes)
    }
}

impl FloatFormat for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F32 {
        simd.f16(bytes.as_array().expect("16 weights"))
    }
}

impl FloatFormat for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F32 {
        simd.bf16(bytes.as_array().expect("16 weights"))
    }
}

/// A float format's panels.
pub(super) struct Float<F>(std::marker::PhantomData<F>);

impl<F: FloatFormat> Weights for Float<F> {
    const QUANTIZED: bool = false;

    fn panel_bytes(columns: usize) -> usize {
        columns * LANES * F::BYTES
    }

    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(
        simd: S,
        panels: [&[u8]; 2],
        rows: &Rows,
        tile: Tile,
    ) -> [[S::F32; T]; 2] {
        let mut sums = [[simd.splat(0.0); T]; 2];
        let columns = panels[0].chunks_exact(LANES * F::BYTES).zip(panels[1].chunks_exact(LANES * F::BYTES));
        for (w, x) in columns.zip(rows.floats(tile).chunks_exact(T)) {
            let w = [F::load(simd, w.0), F::load(simd, w.1)];
            for t in 0..T {
                let x = simd.splat(x[t]);
                sums[0][t] = simd.fma(w[0], x, sums[0][t]);
                sums[1][t] = simd.fma(w[1], x, sums[1][t]);
            }
        }
        sums
    }

    fn unpack<S: Simd>(_: S, _: &[u8], _: &mut Unpacked) {
        unreachable!("wide tiles are quantised");
    }

    #[inline(always)]
    fn row<S: Simd>(simd: S, panel: &[u8], lane: usize, out: &mut [f32]) {
        for (column, out) in panel.chunks_exact(LANES * F::BYTES).zip(out) {
            *out = simd.lanes(F::load(simd, column))[lane];
        }
    }

    fn pack(row: &[u8], lane: usize, panel: &mut [u8]) {
        let columns = panel.chunks_exact_mut(LANES * F::BYTES);
        for (weight, column) in row.chunks_exact(F::BYTES).zip(columns) {
            column[lane * F::BYTES..][..F::BYTES].copy_from_slice(weight);
        }
    }
}
