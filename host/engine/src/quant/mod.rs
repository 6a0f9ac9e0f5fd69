//! Block formats: how many weights share a scale, and what a block's bytes mean.
//!
//! The formats are ggml's (`ggml/src/ggml-common.h`). A row is a whole number of blocks; a block is
//! little-endian and has no padding, so a tensor's size follows from its shape and format alone.

mod dequantize;
#[cfg(test)]
pub(crate) mod quantize;

use std::fmt;

#[cfg(feature = "gpu")]
pub(crate) use dequantize::scale_and_min;
pub(crate) use dequantize::{dequantize, to_f32_bytes};

/// Block format of a tensor, as GGUF stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field's names")]
pub(crate) enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    BF16,
    /// 32 weights `d * (q - 8)`, 4 bits each.
    Q4_0,
    /// 32 weights `d * q + m`, 4 bits each.
    Q4_1,
    /// 32 weights `d * (q - 16)`, 5 bits each.
    Q5_0,
    /// 32 weights `d * q + m`, 5 bits each.
    Q5_1,
    /// 32 weights `d * q`, 8 bits each.
    Q8_0,
    /// 256 weights in 8 groups `d * scale * q - dmin * min`, 4 bits each, scales of 6 bits.
    Q4_K,
    /// 256 weights in 8 groups `d * scale * q - dmin * min`, 5 bits each, scales of 6 bits.
    Q5_K,
    /// 256 weights in 16 groups `d * scale * (q - 32)`, 6 bits each, scales of 8 bits.
    Q6_K,
}

impl DType {
    /// Every format.
    pub(crate) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The format of a `ggml_type` number; `None` if this engine doesn't read it.
    pub(crate) fn from_ggml_type(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.ggml_type() == id)
    }

    /// Its number in `enum ggml_type`.
    pub(crate) const fn ggml_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Its name, such as `Q4_1`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Weights of a block; 1 for the float formats.
    pub(crate) const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4_K => 2 + 2 + 12 + 128,
            Self::Q5_K => 2 + 2 + 12 + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `columns` weights, which must be a whole number of blocks.
    pub(crate) const fn bytes(self, columns: usize) -> usize {
        assert!(columns.is_multiple_of(self.block_len()), "a row is a whole number of blocks");
        columns / self.block_len() * self.block_bytes()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
