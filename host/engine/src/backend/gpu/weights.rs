//! Weights as kernels read them: words of 32 bits, because WGSL loads nothing smaller.
//!
//! A row is a whole number of blocks. A block has a header with its scales, then groups of 32 weights
//! each in the order of their columns:
//!
//! ```text
//! format       header                                          a group
//! F32          -                                               32 words
//! F16, BF16    -                                               16 words, two weights each
//! Q4_0         d as f32                                        4 words of 8 nibbles
//! Q4_1         d, m as f16                                     4 words of 8 nibbles
//! Q5_0         d as f32                                        the same, then a word of fifth bits
//! Q5_1         d, m as f16                                     the same
//! Q8_0         d as f32                                        8 words of 4 bytes
//! Q4_K, Q5_K   d, dmin as f16; 8 scales and 8 minima as bytes  8 groups as above
//! Q6_K         d as f32; 16 scales as bytes                    8 groups: nibbles, then 2 words of 2 bits
//! ```
//!
//! It is the bytes of the file (`crate::quant`) in another order, and at most 6 % more of them.

use cubecl_core::{self as cubecl, prelude::*};
use half::f16;

use crate::quant::DType;

/// Another whenever the words of a row are.
pub(super) const LAYOUT: u32 = 1;
/// Weights of a group.
pub(super) const GROUP: usize = 32;
/// Weights that a kernel decodes at once.
pub(super) const OCTET: usize = 8;
/// 2^112: what an f16's bits, shifted to an f32's place, fall short by.
const HALF_BIAS: f32 = 5.192_297e33;

/// Where the parts of a block lie, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    pub(super) groups: usize,
    pub(super) header: usize,
    pub(super) group: usize,
}

impl Layout {
    pub(super) fn of(dtype: DType) -> Self {
        let (groups, header, group) = match dtype {
            DType::F32 => (1, 0, 32),
            DType::F16 | DType::BF16 => (1, 0, 16),
            DType::Q4_0 | DType::Q4_1 => (1, 1, 4),
            DType::Q5_0 | DType::Q5_1 => (1, 1, 5),
            DType::Q8_0 => (1, 1, 8),
            DType::Q4_K => (8, 5, 4),
            DType::Q5_K => (8, 5, 5),
            DType::Q6_K => (8, 5, 6),
        };
        Self { groups, header, group }
    }

    pub(super) fn block(self) -> usize {
        self.header + self.groups * self.group
    }

    /// Words of a row.
    pub(super) fn row(self, columns: usize) -> usize {
        columns.div_ceil(self.groups * GROUP) * self.block()
    }
}

/// Appends a row; columns beyond the row's are zeros.
pub(super) fn pack_row(dtype: DType, bytes: &[u8], out: &mut Vec<u32>) {
    let (len, size) = match dtype.block_len() {
        1 => (GROUP, GROUP * dtype.block_bytes()),
        len => (len, dtype.block_bytes()),
    };
    let layout = Layout::of(dtype);
    debug_assert_eq!(len, layout.groups * GROUP);
    for block in bytes.chunks(size) {
        let start = out.len();
        out.resize(start + layout.block(), 0);
        pack_block(dtype, block, &mut out[start..]);
    }
}

fn pack_block(dtype: DType, b: &[u8], out: &mut [u32]) {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => words(b, out),
        DType::Q4_0 => {
            out[0] = float(b, 0);
            nibbles(&b[2..], &mut out[1..]);
        }
        DType::Q4_1 => {
            words(&b[..4], out);
            nibbles(&b[4..], &mut out[1..]);
        }
        DType::Q5_0 => {
            out[0] = float(b, 0);
            nibbles(&b[6..], &mut out[1..]);
            words(&b[2..6], &mut out[5..]);
        }
        DType::Q5_1 => {
            words(&b[..4], out);
            nibbles(&b[8..], &mut out[1..]);
            words(&b[4..8], &mut out[5..]);
        }
        DType::Q8_0 => {
            out[0] = float(b, 0);
            words(&b[2..], &mut out[1..]);
        }
        DType::Q4_K => {
            words(&b[..4], out);
            scales_and_minima(&b[4..16], &mut out[1..5]);
            for (pair, q) in b[16..].chunks_exact(32).enumerate() {
                for half in 0..2 {
                    pack_nibbles(|j| q[j] >> (4 * half), &mut out[5 + 4 * (2 * pair + half)..]);
                }
            }
        }
        DType::Q5_K => {
            words(&b[..4], out);
            scales_and_minima(&b[4..16], &mut out[1..5]);
            let (high, low) = b[16..].split_at(32);
            for group in 0..8 {
                let (q, out) = (&low[32 * (group / 2)..], &mut out[5 + 5 * group..]);
                pack_nibbles(|j| q[j] >> (4 * (group % 2)), out);
                out[4] = (0..32).map(|j| u32::from(high[j] >> group & 1) << j).sum();
            }
        }
        DType::Q6_K => {
            out[0] = float(b, 208);
            words(&b[192..208], &mut out[1..]);
            for group in 0..8 {
                let (half, quarter) = (group / 4, group % 4);
                let low = &b[64 * half + 32 * (quarter % 2)..];
                let high = &b[128 + 32 * half..];
                let out = &mut out[5 + 6 * group..];
                pack_nibbles(|j| low[j] >> (4 * (quarter / 2)), out);
                let bits = |j: usize| u32::from(high[j] >> (2 * quarter) & 3);
                out[4] = (0..16).map(|j| bits(j) << (2 * j)).sum();
                out[5] = (0..16).map(|j| bits(16 + j) << (2 * j)).sum();
            }
        }
    }
}

/// Bytes as words, the last filled up with zeros.
fn words(bytes: &[u8], out: &mut [u32]) {
    for (bytes, out) in bytes.chunks(4).zip(out) {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        *out = u32::from_le_bytes(word);
    }
}

/// An f16 as the bits of an f32.
fn float(block: &[u8], at: usize) -> u32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32().to_bits()
}

/// 16 bytes whose low nibbles are the first 16 weights and whose high nibbles the others.
fn nibbles(q: &[u8], out: &mut [u32]) {
    pack_nibbles(|j| q[j % 16] >> (4 * (j / 16)), out);
}

/// Four words of the low nibbles of 32 numbers.
fn pack_nibbles(number: impl Fn(usize) -> u8, out: &mut [u32]) {
    for (octet, out) in out.iter_mut().enumerate().take(4) {
        *out = (0..OCTET).map(|j| u32::from(number(OCTET * octet + j) & 15) << (4 * j)).sum();
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K, a byte each.
fn scales_and_minima(packed: &[u8], out: &mut [u32]) {
    let mut bytes = [0; 16];
    for group in 0..8 {
        let (scale, minimum) = crate::quant::scale_and_min(packed, group);
        (bytes[group], bytes[8 + group]) = (scale, minimum);
    }
    words(&bytes, out);
}

/// What turns a group's numbers into weights: `a * q + b`, or `a * q` in its first and `b * q` in its
/// second half (Q6_K).
#[derive(CubeType)]
pub(super) struct Scales {
    pub(super) a: f32,
    pub(super) b: f32,
}

/// The scales of a group of a block that starts at word `block`.
#[cube]
pub(super) fn scales(w: &[u32], block: usize, group: usize, #[comptime] dtype: DType) -> Scales {
    if comptime!(matches!(dtype, DType::Q4_0 | DType::Q5_0 | DType::Q8_0)) {
        let d = f32::reinterpret(w[block]);
        Scales { a: d, b: 0.0 }
    } else if comptime!(matches!(dtype, DType::Q4_1 | DType::Q5_1)) {
        let word = w[block];
        Scales { a: half_of(word & 0xffff), b: half_of(word >> 16) }
    } else if comptime!(matches!(dtype, DType::Q4_K | DType::Q5_K)) {
        let word = w[block];
        let shift = (group as u32 % 4) * 8;
        let scale = (w[block + 1 + group / 4] >> shift) & 255;
        let minimum = (w[block + 3 + group / 4] >> shift) & 255;
        let d = half_of(word & 0xffff) * f32::cast_from(scale);
        let m = half_of(word >> 16) * f32::cast_from(minimum);
        Scales { a: d, b: -m }
    } else if comptime!(matches!(dtype, DType::Q6_K)) {
        let d = f32::reinterpret(w[block]);
        let word = w[block + 1 + group / 2];
        let shift = (group as u32 % 2) * 16;
        let a = f32::cast_from(signed_byte(word >> shift));
        let b = f32::cast_from(signed_byte(word >> (shift + 8)));
        Scales { a: d * a, b: d * b }
    } else {
        Scales { a: 1.0, b: 0.0 }
    }
}

/// Decodes weights `8 * octet ..` of a group that starts at word `at`, to `out[first..]`.
#[cube]
pub(super) fn decode(
    w: &[u32],
    at: usize,
    octet: usize,
    scales: &Scales,
    out: &mut Array<f32>,
    #[comptime] first: usize,
    #[comptime] dtype: DType,
) {
    if comptime!(dtype == DType::F32) {
        #[unroll]
        for j in 0..8usize {
            out[first + j] = f32::reinterpret(w[at + 8 * octet + j]);
        }
    } else if comptime!(matches!(dtype, DType::F16 | DType::BF16)) {
        #[unroll]
        for j in 0..4usize {
            let word = w[at + 4 * octet + j];
            if comptime!(dtype == DType::F16) {
                out[first + 2 * j] = half_of(word & 0xffff);
                out[first + 2 * j + 1] = half_of(word >> 16);
            } else {
                out[first + 2 * j] = f32::reinterpret(word << 16);
                out[first + 2 * j + 1] = f32::reinterpret(word & 0xffff_0000);
            }
        }
    } else if comptime!(dtype == DType::Q8_0) {
        #[unroll]
        for j in 0..8usize {
            let word = w[at + 2 * octet + comptime!(j / 4)];
            let q = signed_byte(word >> comptime!(8 * (j as u32 % 4)));
            out[first + j] = scales.a * f32::cast_from(q);
        }
    } else {
        let low = w[at + octet];
        #[unroll]
        for j in 0..8usize {
            let q = (low >> comptime!(4 * j as u32)) & 15;
            out[first + j] = f32::cast_from(q);
        }
        if comptime!(matches!(dtype, DType::Q5_0 | DType::Q5_1 | DType::Q5_K)) {
            let high = w[at + 4] >> (8 * octet as u32);
            #[unroll]
            for j in 0..8usize {
                out[first + j] += f32::cast_from(((high >> comptime!(j as u32)) & 1) * 16);
            }
        }
        if comptime!(dtype == DType::Q6_K) {
            let high = w[at + 4 + octet / 2] >> (16 * (octet as u32 % 2));
            #[unroll]
            for j in 0..8usize {
                out[first + j] += f32::cast_from(((high >> comptime!(2 * j as u32)) & 3) * 16);
            }
            let scale = select(octet < 2, scales.a, scales.b);
            #[unroll]
            for j in 0..8usize {
                out[first + j] = scale * (out[first + j] - 32.0);
            }
        } else {
            let zero = comptime!(match dtype {
                DType::Q4_0 => 8.0f32,
                DType::Q5_0 => 16.0,
                _ => 0.0,
            });
            #[unroll]
            for j in 0..8usize {
                out[first + j] = scales.a * (out[first + j] - zero) + scales.b;
            }
        }
    }
}

/// The low 16 bits as an f16; infinities and NaN come out as numbers.
#[cube]
fn half_of(bits: u32) -> f32 {
    let size = f32::reinterpret((bits & 0x7fff) << 13) * HALF_BIAS;
    let sign = (bits & 0x8000) << 16;
    f32::reinterpret(u32::reinterpret(size) | sign)
}

/// The low byte, with its sign.
#[cube]
fn signed_byte(word: u32) -> i32 {
    i32::reinterpret(word << 24) >> 24
}
