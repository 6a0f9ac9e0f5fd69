//! The formats whose every 32 weights have f16 scales of their own.

use super::{Block, Format, array, five_bits, nibbles, put_half, put_high_bits, put_nibbles};
use crate::{backend::cpu::simd::Simd, quant::DType};

/// `d * (q - 8)`: nibbles, `d`.
pub(crate) struct Q4_0;

impl Format for Q4_0 {
    const SOURCE_BYTES: usize = DType::Q4_0.block_bytes();
    const BLOCK_BYTES: usize = 256 + 32;
    const ZERO: i32 = 8;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn block<S: Simd>(simd: S, (): (), bytes: &[u8]) -> Block<S> {
        let d = simd.f16(array(bytes, 256));
        Block { codes: nibbles(simd, bytes), scales: [d; 2], min: d }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        put_half(source, 256, row, group);
        put_nibbles(&source[2..], row, group);
    }
}

/// `d * q + m`: nibbles, `d`, `m`.
pub(crate) struct Q4_1;

impl Format for Q4_1 {
    const SOURCE_BYTES: usize = DType::Q4_1.block_bytes();
    const BLOCK_BYTES: usize = 256 + 32 + 32;
    const HAS_MIN: bool = true;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn block<S: Simd>(simd: S, (): (), bytes: &[u8]) -> Block<S> {
        let (d, min) = (simd.f16(array(bytes, 256)), simd.f16(array(bytes, 288)));
        Block { codes: nibbles(simd, bytes), scales: [d; 2], min }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        put_half(source, 256, row, group);
        put_half(&source[2..], 288, row, group);
        put_nibbles(&source[4..], row, group);
    }
}

/// The fifth bits of a block, which starts with them.
fn fifth_bits(qh: &[u8]) -> [u8; 32] {
    std::array::from_fn(|column| qh[column / 8] >> (column % 8) & 1)
}

/// `d * (q - 16)`: nibbles, fifth bits, `d`.
pub(crate) struct Q5_0;

impl Format for Q5_0 {
    const SOURCE_BYTES: usize = DType::Q5_0.block_bytes();
    const BLOCK_BYTES: usize = 256 + 64 + 32;
    const ZERO: i32 = 16;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn block<S: Simd>(simd: S, (): (), bytes: &[u8]) -> Block<S> {
        let d = simd.f16(array(bytes, 320));
        Block { codes: five_bits(simd, bytes), scales: [d; 2], min: d }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        put_half(source, 320, row, group);
        put_high_bits::<1>(fifth_bits(&source[2..]), row, group);
        put_nibbles(&source[6..], row, group);
    }
}

/// `d * q + m`: nibbles, fifth bits, `d`, `m`.
pub(crate) struct Q5_1;

impl Format for Q5_1 {
    const SOURCE_BYTES: usize = DType::Q5_1.block_bytes();
    const BLOCK_BYTES: usize = 256 + 64 + 32 + 32;
    const HAS_MIN: bool = true;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn block<S: Simd>(simd: S, (): (), bytes: &[u8]) -> Block<S> {
        let (d, min) = (simd.f16(array(bytes, 320)), simd.f16(array(bytes, 352)));
        Block { codes: five_bits(simd, bytes), scales: [d; 2], min }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        put_half(source, 320, row, group);
        put_half(&source[2..], 352, row, group);
        put_high_bits::<1>(fifth_bits(&source[4..]), row, group);
        put_nibbles(&source[8..], row, group);
    }
}

/// `d * (q - 128)` with `q` the file's signed byte plus 128: 8 code vectors, `d`.
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const SOURCE_BYTES: usize = DType::Q8_0.block_bytes();
    const BLOCK_BYTES: usize = 512 + 32;
    const ZERO: i32 = 128;
    const WIDE: bool = true;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn block<S: Simd>(simd: S, (): (), bytes: &[u8]) -> Block<S> {
        let d = simd.f16(array(bytes, 512));
        Block {
            codes: [
                simd.bytes(array(bytes, 0)),
                simd.bytes(array(bytes, 64)),
                simd.bytes(array(bytes, 128)),
                simd.bytes(array(bytes, 192)),
                simd.bytes(array(bytes, 256)),
                simd.bytes(array(bytes, 320)),
                simd.bytes(array(bytes, 384)),
                simd.bytes(array(bytes, 448)),
            ],
            scales: [d; 2],
            min: d,
        }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        put_half(source, 512, row, group);
        for (j, word) in source[2..].chunks_exact(4).enumerate() {
            for (to, from) in group[64 * j + 4 * row..][..4].iter_mut().zip(word) {
                *to = from ^ 0x80;
            }
        }
    }
}
