//! The inner loop: 32 rows of weights times a tile of activations, for every format.

use super::{
    format::{BLOCK, Block, Format},
    rows::{RECORD_WORDS, Rows, Tile},
    simd::{LANES, Simd},
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
        let mut sums = [[simd.splat(0.0); T]; 2];
        let records = rows.records(tile).chunks_exact(RECORD_WORDS * T * F::BLOCKS);
        let groups = panels[0].chunks_exact(F::GROUP_BYTES).zip(panels[1].chunks_exact(F::GROUP_BYTES));
        for (groups, records) in groups.zip(records) {
            let headers = [
                F::header(simd, &groups.0[..F::HEADER_BYTES]),
                F::header(simd, &groups.1[..F::HEADER_BYTES]),
            ];
            for b in 0..F::BLOCKS {
                let record = &records[RECORD_WORDS * T * b..][..RECORD_WORDS * T];
                let at = F::HEADER_BYTES + b * F::BLOCK_BYTES;
                let block = F::block(simd, headers[0], &groups.0[at..at + F::BLOCK_BYTES]);
                accumulate::<F, S, T>(simd, &block, record, &mut sums[0]);
                let block = F::block(simd, headers[1], &groups.1[at..at + F::BLOCK_BYTES]);
                accumulate::<F, S, T>(simd, &block, record, &mut sums[1]);
            }
        }
        sums
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

/// Adds a block's part to the sums of `T` rows.
#[inline(always)]
fn accumulate<F: Format, S: Simd, const T: usize>(
    simd: S,
    block: &Block<S>,
    record: &[i32],
    sums: &mut [S::F32; T],
) {
    let zero = if F::WIDE { S::WIDE_ZERO } else { F::ZERO };
    for t in 0..T {
        let codes = &record[8 * t..8 * t + 8];
        let scale = simd.splat(f32::from_bits(record[8 * T + t] as u32));
        let below = [record[10 * T + t], record[11 * T + t]];
        let mut sum = sums[t];
        if F::HALVES {
            let dot = dot_four::<F, S>(simd, simd.splat_i32(-zero * below[0]), &block.codes, codes, 0);
            sum = simd.fma(simd.to_f32(dot), simd.mul(block.scales[0], scale), sum);
            let dot = dot_four::<F, S>(simd, simd.splat_i32(-zero * below[1]), &block.codes, codes, 4);
            sum = simd.fma(simd.to_f32(dot), simd.mul(block.scales[1], scale), sum);
        } else {
            let start = if zero == 0 { 0 } else { -zero * (below[0] + below[1]) };
            let dot = dot_four::<F, S>(simd, simd.splat_i32(start), &block.codes, codes, 0);
            let dot = dot_four::<F, S>(simd, dot, &block.codes, codes, 4);
            sum = simd.fma(simd.to_f32(dot), simd.mul(block.scales[0], scale), sum);
        }
        if F::HAS_MIN {
            let offset = simd.splat(f32::from_bits(record[9 * T + t] as u32));
            sum = simd.fma(block.min, offset, sum);
        }
        sums[t] = sum;
    }
}

/// Adds the products of columns `4j..4j + 16`.
#[inline(always)]
fn dot_four<F: Format, S: Simd>(
    simd: S,
    mut sum: S::I32,
    weights: &[S::Bytes; 8],
    codes: &[i32],
    j: usize,
) -> S::I32 {
    for j in j..j + 4 {
        sum = if F::WIDE {
            simd.dot_wide(sum, weights[j], codes[j])
        } else {
            simd.dot(sum, weights[j], codes[j])
        };
    }
    sum
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
