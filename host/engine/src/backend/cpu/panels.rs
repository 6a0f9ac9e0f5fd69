//! A matrix in the kernels' layout.

use std::marker::PhantomData;

use super::{
    memory::Memory,
    rows::Forms,
    simd::{Isa, Kernel, LANES, Simd},
    weights::{Weights, with_weights},
};
use crate::{
    Error,
    backend::{DType, Tensor},
    ready::{Bytes, Part},
};

/// Rows `[N, K]` of one format, 16 to a panel; the last panel is filled up with zeros.
pub(crate) struct Panels {
    dtype: DType,
    rows: usize,
    columns: usize,
    panel_bytes: usize,
    bytes: Bytes,
}

/// Names how panels of every format lie in memory. Must change whenever [`Panels::pack`] gives other
/// bytes: images of another version are made again.
pub(super) const LAYOUT: &str = "panels-1";

impl Panels {
    /// Packs tensors of one format and width, stacked.
    pub(super) fn pack(parts: &[Tensor<'_>]) -> Result<Self, Error> {
        let Tensor { dtype, columns, .. } = parts[0];
        let rows = parts.iter().map(|part| part.rows).sum();
        let panel_bytes = with_weights!(dtype, W => W::panel_bytes(columns));
        let mut memory = Memory::zeroed(usize::div_ceil(rows, LANES) * panel_bytes)?;
        let row_bytes = dtype.bytes(columns);
        let source = parts.iter().flat_map(|part| part.bytes.chunks_exact(row_bytes));
        for (n, row) in source.enumerate() {
            let panel = &mut memory.bytes_mut()[n / LANES * panel_bytes..][..panel_bytes];
            with_weights!(dtype, W => W::pack(row, n % LANES, panel));
        }
        Ok(Self { dtype, rows, columns, panel_bytes, bytes: memory.freeze() })
    }

    /// Panels that [`Panels::pack`] made.
    pub(super) fn of_part(part: Part) -> Result<Self, Error> {
        let Part { dtype, rows, columns, bytes } = part;
        let is_whole = rows > 0 && columns > 0 && columns.is_multiple_of(dtype.block_len());
        let panel_bytes = if is_whole { with_weights!(dtype, W => W::panel_bytes(columns)) } else { 0 };
        match panel_bytes.checked_mul(rows.div_ceil(LANES)) {
            Some(expected) if is_whole && bytes.len() == expected => {
                Ok(Self { dtype, rows, columns, panel_bytes, bytes })
            }
            _ => {
                let len = bytes.len();
                Err(Error::Invalid(format!("{len} bytes are no panels of [{rows}, {columns}] {dtype}")))
            }
        }
    }

    /// What [`Panels::of_part`] takes.
    pub(super) fn part(&self) -> Part {
        Part { dtype: self.dtype, rows: self.rows, columns: self.columns, bytes: self.bytes.clone() }
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Panels, the last possibly partly filled.
    pub(super) fn count(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// Rows `16 * index..` of the matrix.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// The form of activations that these weights are multiplied with.
    pub(super) fn forms(&self) -> Forms {
        let quantized = with_weights!(self.dtype, W => W::QUANTIZED);
        Forms { quantized, float: !quantized }
    }

    /// Writes the weights of a row as f32.
    pub(super) fn row(&self, isa: Isa, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "row {row} of {}", self.rows);
        let panel = self.panel(row / LANES);
        with_weights!(self.dtype, W => isa.run(Row::<W> { panel, lane: row % LANES, out, weights: PhantomData }));
    }
}

/// Reads a row of a panel.
struct Row<'a, W> {
    panel: &'a [u8],
    lane: usize,
    out: &'a mut [f32],
    weights: PhantomData<W>,
}

impl<W: Weights> Kernel for Row<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        W::row(simd, self.panel, self.lane, self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{dequantize, quantize::quantize};

    #[test]
    fn the_layout_of_panels_is_what_its_name_says() {
        let mut hash = crc32fast::Hasher::new();
        for dtype in DType::ALL {
            let (rows, columns) = (19, 2 * dtype.block_len().max(16));
            let weights: Vec<f32> = (0..rows * columns).map(|i| (i % 29) as f32 * 0.25 - 3.0).collect();
            let bytes = quantize(dtype, &weights);
            let tensor = Tensor { name: "w", dtype, rows, columns, bytes: &bytes };
            hash.update(&Panels::pack(&[tensor]).unwrap().bytes);
        }
        // Another number here takes another name in `LAYOUT`: images on disk are of the old layout.
        assert_eq!((LAYOUT, hash.finalize()), ("panels-1", 1_175_971_430));
    }

    #[test]
    fn parts_make_the_same_panels_and_others_are_refused() {
        let bytes = quantize(DType::Q4_1, &[0.5; 17 * 64]);
        let tensor = Tensor { name: "w", dtype: DType::Q4_1, rows: 17, columns: 64, bytes: &bytes };
        let part = Panels::pack(&[tensor]).unwrap().part();
        let mut row = [0.0; 64];
        Panels::of_part(part.clone()).unwrap().row(Isa::available()[0], 16, &mut row);
        assert_eq!(row, [0.5; 64]);
        for wrong in [
            Part { rows: 33, ..part.clone() },
            Part { columns: 96, ..part.clone() },
            Part { columns: 65, ..part.clone() },
            Part { rows: 0, ..part.clone() },
            Part { rows: usize::MAX, ..part.clone() },
            Part { dtype: DType::Q8_0, ..part.clone() },
            Part { bytes: part.bytes.slice(0..640), ..part },
        ] {
            assert!(Panels::of_part(wrong).is_err());
        }
    }

    #[test]
    fn every_packed_row_reads_back_as_the_files_weights_on_every_instruction_set() {
        for dtype in DType::ALL {
            let (rows, columns) = (37, 3 * dtype.block_len().max(11));
            let weights: Vec<f32> =
                (0..rows * columns).map(|i| (i as f32 * 0.7).sin() + (i % 13) as f32 * 0.1).collect();
            let bytes = quantize(dtype, &weights);
            let (first, second) = bytes.split_at(dtype.bytes(columns) * 5);
            let tensor = |rows, bytes| Tensor { name: "w", dtype, rows, columns, bytes };
            let panels = Panels::pack(&[tensor(5, first), tensor(rows - 5, second)]).unwrap();
            let mut expected = vec![0.0; rows * columns];
            dequantize(dtype, &bytes, &mut expected);
            for isa in Isa::available() {
                let mut found = vec![0.0; columns];
                for (n, expected) in expected.chunks_exact(columns).enumerate() {
                    panels.row(isa, n, &mut found);
                    let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
                    assert!(found.iter().zip(expected).all(is_near), "{dtype} row {n} on {isa:?}");
                }
            }
        }
    }
}
