//! How weights lie in memory for the kernels, and how a kernel unpacks them.
//!
//! Sixteen rows of a matrix are one *panel*, read from front to back. A panel is a run of *groups*,
//! one for each of the file's blocks (32 or 256 columns), and a group is an optional header (what the
//! whole group shares) and one *block* for each 32 columns:
//!
//! ```text
//! block   codes        64-byte vectors: lane r holds 4 consecutive columns of row r
//!         more bits    the fifth and sixth bit of the codes, if there are such
//!         scales       16 of them, one for each row; then 16 minimums, if there are such
//!
//! nibbles       vector j, j < 4: columns 4j..4j + 4 in the low nibbles, 16 + 4j.. in the high
//! fifth bits    one vector; bit j of each byte belongs to code vector j
//! sixth bits    two vectors; bits 2j..2j + 2 belong to code vector j, or 4 + j in the second
//! ```
//!
//! Code vector `j`, unpacked, is columns `4j..4j + 4` of 16 rows: what an instruction multiplies with
//! the same four columns of the activations. The nibbles are ggml's own order, so packing a row of
//! Q4_1 copies words. A panel has its file's size; K-quants grow by 3 % since their scales of 6 bits
//! take a byte.

mod blocks_of_32;
mod k_quants;

pub(super) use blocks_of_32::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(super) use k_quants::{Q4K, Q5K, Q6K};

use super::simd::Simd;

/// Columns of a block.
pub(super) const BLOCK: usize = 32;

/// A quantised format: weight = `scale * (code - ZERO) + min`.
pub(super) trait Format: Send + Sync + 'static {
    /// Blocks of a group.
    const BLOCKS: usize = 1;
    /// Bytes of a group's header.
    const HEADER_BYTES: usize = 0;
    /// Bytes of a block.
    const BLOCK_BYTES: usize;
    /// The code of a weight of zero, if there are no minimums.
    const ZERO: i32 = 0;
    /// Whether a block has minimums.
    const HAS_MIN: bool = false;
    /// Whether columns `0..16` and `16..32` of a block have scales of their own.
    const HALVES: bool = false;
    /// Whether codes have 8 bits (and `ZERO` is 128).
    const WIDE: bool = false;

    /// Bytes of the file's block that a group's row comes from.
    const SOURCE_BYTES: usize;
    /// Bytes of a group.
    const GROUP_BYTES: usize = Self::HEADER_BYTES + Self::BLOCKS * Self::BLOCK_BYTES;

    /// What a group's blocks share.
    type Header<S: Simd>: Copy;

    /// Reads a header of `HEADER_BYTES`.
    fn header<S: Simd>(simd: S, bytes: &[u8]) -> Self::Header<S>;
    /// Unpacks a block of `BLOCK_BYTES`.
    fn block<S: Simd>(simd: S, header: Self::Header<S>, bytes: &[u8]) -> Block<S>;
    /// Writes one of the file's blocks as row `row` of a group of `GROUP_BYTES`.
    fn pack(source: &[u8], row: usize, group: &mut [u8]);
}

/// 16 rows of 32 columns, unpacked.
pub(super) struct Block<S: Simd> {
    /// Columns `4j..4j + 4`.
    pub(super) codes: [S::Bytes; 8],
    /// Of columns `0..16` and `16..32`.
    pub(super) scales: [S::F32; 2],
    /// Unused without `HAS_MIN`.
    pub(super) min: S::F32,
}

/// The `N` bytes at `at`.
#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..at + N].as_array().expect("the range has the array's length")
}

// Hot code below and in the formats has no closures: one that isn't inlined would be compiled without
// the instruction set.

/// 4-bit codes of a block that starts with them.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, block: &[u8]) -> [S::Bytes; 8] {
    let v0 = simd.bytes(array(block, 0));
    let v1 = simd.bytes(array(block, 64));
    let v2 = simd.bytes(array(block, 128));
    let v3 = simd.bytes(array(block, 192));
    [
        simd.mask(v0, 15),
        simd.mask(v1, 15),
        simd.mask(v2, 15),
        simd.mask(v3, 15),
        simd.mask(simd.shr::<4>(v0), 15),
        simd.mask(simd.shr::<4>(v1), 15),
        simd.mask(simd.shr::<4>(v2), 15),
        simd.mask(simd.shr::<4>(v3), 15),
    ]
}

/// `low`, and the bits of `high` that `MASK` names.
#[inline(always)]
fn join<S: Simd, const MASK: u8>(simd: S, low: S::Bytes, high: S::Bytes) -> S::Bytes {
    simd.or(low, simd.mask(high, MASK))
}

/// 5-bit codes of a block that starts with nibbles and fifth bits.
#[inline(always)]
fn five_bits<S: Simd>(simd: S, block: &[u8]) -> [S::Bytes; 8] {
    let low = nibbles(simd, block);
    let high = simd.bytes(array(block, 256));
    [
        join::<S, 16>(simd, low[0], simd.shl::<4>(high)),
        join::<S, 16>(simd, low[1], simd.shl::<3>(high)),
        join::<S, 16>(simd, low[2], simd.shl::<2>(high)),
        join::<S, 16>(simd, low[3], simd.shl::<1>(high)),
        join::<S, 16>(simd, low[4], high),
        join::<S, 16>(simd, low[5], simd.shr::<1>(high)),
        join::<S, 16>(simd, low[6], simd.shr::<2>(high)),
        join::<S, 16>(simd, low[7], simd.shr::<3>(high)),
    ]
}

/// 6-bit codes of a block that starts with nibbles and the bits above.
#[inline(always)]
fn six_bits<S: Simd>(simd: S, block: &[u8]) -> [S::Bytes; 8] {
    let low = nibbles(simd, block);
    let first = simd.bytes(array(block, 256));
    let second = simd.bytes(array(block, 320));
    [
        join::<S, 48>(simd, low[0], simd.shl::<4>(first)),
        join::<S, 48>(simd, low[1], simd.shl::<2>(first)),
        join::<S, 48>(simd, low[2], first),
        join::<S, 48>(simd, low[3], simd.shr::<2>(first)),
        join::<S, 48>(simd, low[4], simd.shl::<4>(second)),
        join::<S, 48>(simd, low[5], simd.shl::<2>(second)),
        join::<S, 48>(simd, low[6], second),
        join::<S, 48>(simd, low[7], simd.shr::<2>(second)),
    ]
}

/// Writes a row's nibbles, in ggml's order: `qs[i]` holds column `i` and column `16 + i`.
fn put_nibbles(qs: &[u8], row: usize, block: &mut [u8]) {
    for (j, word) in qs.chunks_exact(4).enumerate() {
        block[64 * j + 4 * row..][..4].copy_from_slice(word);
    }
}

/// Writes the 4 low bits of a row's codes and, `BITS` at a time from the lowest, those above.
fn put_codes<const BITS: usize>(codes: &[u8; 32], row: usize, block: &mut [u8]) {
    let qs: [u8; 16] = std::array::from_fn(|i| codes[i] & 15 | codes[i + 16] << 4);
    put_nibbles(&qs, row, block);
    put_high_bits::<BITS>(codes.map(|code| code >> 4), row, block);
}

/// Writes the bits of a row's codes above the nibbles, `BITS` for each.
fn put_high_bits<const BITS: usize>(high: [u8; 32], row: usize, block: &mut [u8]) {
    if BITS == 0 {
        return;
    }
    let per_byte = 8 / BITS;
    for (column, bits) in high.into_iter().enumerate() {
        let vector = column / 4;
        let byte = &mut block[256 + 64 * (vector / per_byte) + 4 * row + column % 4];
        *byte |= bits << (vector % per_byte * BITS);
    }
}

/// Writes a 2-byte scale of a row into the array at `at`.
fn put_half(half: &[u8], at: usize, row: usize, bytes: &mut [u8]) {
    bytes[at + 2 * row..][..2].copy_from_slice(&half[..2]);
}
