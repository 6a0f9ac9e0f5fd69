//! Panels as a matrix unit takes them: bf16, for the rows of prompts.
//!
//! A panel is unpacked once for all rows of a step's prompts, which must be many to make up for it:
//! generated rows are multiplied with the panel as it is (`weights`).

use std::cell::RefCell;

use super::{
    format::{BLOCK, Format},
    simd::{Line, Simd},
};

/// A panel: for each 32 columns a line for each pair of them, of 16 rows.
#[derive(Default)]
pub(super) struct Unpacked(Vec<Line>);

thread_local! {
    static PANELS: RefCell<[Unpacked; 2]> = RefCell::default();
}

/// Runs `body` with this thread's memory for two panels.
pub(super) fn with_memory<R>(body: impl FnOnce(&mut [Unpacked; 2]) -> R) -> R {
    PANELS.with_borrow_mut(body)
}

impl Unpacked {
    /// Unpacks a panel.
    #[inline(always)]
    pub(super) fn fill<F: Format, S: Simd>(&mut self, simd: S, panel: &[u8]) {
        let groups = panel.chunks_exact(F::GROUP_BYTES);
        self.0.resize(groups.len() * F::BLOCKS * (BLOCK / 2), Line::ZERO);
        let mut blocks = self.0.chunks_exact_mut(BLOCK / 2);
        for group in groups {
            let header = F::header(simd, &group[..F::HEADER_BYTES]);
            for bytes in group[F::HEADER_BYTES..].chunks_exact(F::BLOCK_BYTES) {
                let block = F::block(simd, header, bytes);
                let lines = blocks.next().expect("there are lines for all blocks");
                for (j, (lines, codes)) in lines.chunks_exact_mut(2).zip(block.codes).enumerate() {
                    let scale = block.scales[j / 4];
                    let offset = match F::HAS_MIN {
                        true => block.min,
                        false => simd.mul(scale, simd.splat(-F::ZERO as f32)),
                    };
                    let first = simd.fma(simd.byte::<0>(codes), scale, offset);
                    let second = simd.fma(simd.byte::<1>(codes), scale, offset);
                    lines[0] = simd.pair_bf16(first, second);
                    let first = simd.fma(simd.byte::<2>(codes), scale, offset);
                    let second = simd.fma(simd.byte::<3>(codes), scale, offset);
                    lines[1] = simd.pair_bf16(first, second);
                }
            }
        }
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.0
    }
}
