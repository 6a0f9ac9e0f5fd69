//! The matrix kernel of machines with AMX, for 8 or 16 rows at a time.
//!
//! A panel is unpacked once into signed bytes and multiplied with every wide tile of the step. The
//! integers that come back are the ones a vector kernel computes and they are scaled and added in the
//! same order, so a row's bits don't depend on which of the two took it (see `weights`).

use std::cell::RefCell;

use super::{
    format::{BLOCK, Format},
    rows::{RECORD_WORDS, Rows, Tile},
    simd::{LANES, Simd, Sums, Tiles},
};

/// Blocks that are unpacked side by side: as many as units are multiplied at a time, or two times as
/// many as blocks of two units.
const SIDE_BY_SIDE: usize = 4;

/// A panel as the unit takes it.
#[derive(Default)]
pub(super) struct Unpacked {
    /// Zero behind the last block.
    codes: Vec<Codes>,
    /// Of each block.
    scales: Vec<Scales>,
}

/// Code minus zero, as signed bytes: 4 columns of 16 rows in each 64.
#[derive(Clone)]
#[repr(align(64))]
struct Codes([[u8; LANES * BLOCK]; SIDE_BY_SIDE]);

#[derive(Clone, Default)]
struct Scales {
    scales: [[f32; LANES]; 2],
    min: [f32; LANES],
}

thread_local! {
    static PANELS: RefCell<[Unpacked; 2]> = RefCell::default();
}

/// Runs `body` with this thread's memory for two panels.
pub(super) fn with_memory<R>(body: impl FnOnce(&mut [Unpacked; 2]) -> R) -> R {
    PANELS.with_borrow_mut(body)
}

/// Columns of a unit: those that share a scale.
pub(super) const fn unit_columns<F: Format>() -> usize {
    if F::HALVES { BLOCK / 2 } else { BLOCK }
}

impl Unpacked {
    /// Unpacks a panel.
    #[inline(always)]
    pub(super) fn fill<F: Format, S: Simd>(&mut self, simd: S, panel: &[u8]) {
        let groups = panel.chunks_exact(F::GROUP_BYTES);
        let blocks = groups.len() * F::BLOCKS;
        self.scales.resize(blocks, Scales::default());
        self.codes.resize(blocks.div_ceil(SIDE_BY_SIDE), Codes([[0; LANES * BLOCK]; SIDE_BY_SIDE]));
        if let Some(last) = self.codes.last_mut() {
            last.0[(blocks - 1) % SIDE_BY_SIDE + 1..].as_flattened_mut().fill(0);
        }
        for (g, group) in groups.enumerate() {
            let header = F::header(simd, &group[..F::HEADER_BYTES]);
            for (b, block) in group[F::HEADER_BYTES..].chunks_exact(F::BLOCK_BYTES).enumerate() {
                let block = F::block(simd, header, block);
                let at = g * F::BLOCKS + b;
                let codes = &mut self.codes[at / SIDE_BY_SIDE].0[at % SIDE_BY_SIDE];
                let codes: &mut [[u8; 64]] = codes.as_chunks_mut().0;
                for (to, codes) in codes.iter_mut().zip(block.codes) {
                    *to = simd.to_array(simd.subtract(codes, F::ZERO as u8));
                }
                let Scales { scales, min } = &mut self.scales[at];
                simd.store(block.scales[0], &mut scales[0]);
                if F::HALVES {
                    simd.store(block.scales[1], &mut scales[1]);
                }
                if F::HAS_MIN {
                    simd.store(block.min, min);
                }
            }
        }
    }

    /// `sum_k w[lane, k] * x[t, k]` for the `T` rows `t` of a tile.
    #[inline(always)]
    pub(super) fn multiply<F: Format, S: Simd, const T: usize>(
        &self,
        simd: S,
        unit: &Tiles<T>,
        rows: &Rows,
        tile: Tile,
    ) -> [S::F32; T] {
        let mut sums = [simd.splat(0.0); T];
        // The unit works on the next units while the sums of the last are scaled: what it stores can't
        // be loaded at once.
        let mut dots = [[Sums([[0; LANES]; T]); 4]; 2];
        let records = rows.records_from(tile);
        let per_step = if F::HALVES { SIDE_BY_SIDE / 2 } else { SIDE_BY_SIDE };
        let steps = self.scales.len().div_ceil(per_step);
        for step in 0..=steps {
            if step < steps {
                let records = &records[step * per_step * RECORD_WORDS * T..];
                if F::HALVES {
                    let codes = &self.codes[step / 2].0[step % 2 * 2..][..2];
                    unit.multiply::<{ BLOCK / 2 }>(records, codes.as_flattened(), &mut dots[step % 2]);
                } else {
                    unit.multiply::<BLOCK>(records, self.codes[step].0.as_flattened(), &mut dots[step % 2]);
                }
            }
            let Some(last) = step.checked_sub(1) else { continue };
            let scales = self.scales.chunks(per_step).nth(last).expect("a step has blocks");
            let records = records[last * per_step * RECORD_WORDS * T..].chunks_exact(RECORD_WORDS * T);
            let dots = dots[last % 2].chunks_exact(if F::HALVES { 2 } else { 1 });
            for ((scales, record), dots) in scales.iter().zip(records).zip(dots) {
                add::<F, S, T>(simd, scales, record, dots, &mut sums);
            }
        }
        sums
    }
}

/// Scales a block's integers and adds them, as `weights` does.
#[inline(always)]
fn add<F: Format, S: Simd, const T: usize>(
    simd: S,
    Scales { scales, min }: &Scales,
    record: &[i32],
    dots: &[Sums<T>],
    sums: &mut [S::F32; T],
) {
    let record = &record[..RECORD_WORDS * T];
    let scales = [simd.load(&scales[0]), simd.load(&scales[1])];
    let min = simd.load(min);
    for t in 0..T {
        let scale = simd.splat(f32::from_bits(record[8 * T + t] as u32));
        let dot = simd.to_f32(simd.load_i32(&dots[0].0[t]));
        sums[t] = simd.fma(dot, simd.mul(scales[0], scale), sums[t]);
        if F::HALVES {
            let dot = simd.to_f32(simd.load_i32(&dots[1].0[t]));
            sums[t] = simd.fma(dot, simd.mul(scales[1], scale), sums[t]);
        }
        if F::HAS_MIN {
            let offset = simd.splat(f32::from_bits(record[9 * T + t] as u32));
            sums[t] = simd.fma(min, offset, sums[t]);
        }
    }
}
