//! The K-quants: 256 weights share f16 factors, every 32 (or 16) have small integers of their own.

use super::{Block, Format, array, five_bits, nibbles, put_codes, put_half, six_bits};
use crate::{backend::cpu::simd::Simd, quant::DType};

/// `d` and `-dmin` of 16 rows.
#[inline(always)]
fn factors<S: Simd>(simd: S, header: &[u8]) -> [S::F32; 2] {
    let dmin = simd.f16(array(header, 32));
    [simd.f16(array(header, 0)), simd.mul(dmin, simd.splat(-1.0))]
}

/// Scales and minimums of a block that has theirs, 16 bytes each, at `at`.
#[inline(always)]
fn scales<S: Simd>(simd: S, [d, dmin]: [S::F32; 2], block: &[u8], at: usize) -> [S::F32; 2] {
    [
        simd.mul(d, simd.to_f32(simd.u8s(array(block, at)))),
        simd.mul(dmin, simd.to_f32(simd.u8s(array(block, at + 16)))),
    ]
}

/// The 6-bit scale and minimum of group `g` in the file's 12 bytes.
fn scale_and_min(packed: &[u8], g: usize) -> [u8; 2] {
    match g {
        0..4 => [packed[g] & 63, packed[g + 4] & 63],
        _ => [packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4],
    }
}

/// `d * scale * q - dmin * min`. Header: `d`, `dmin`; block: nibbles, scales, minimums.
pub(crate) struct Q4K;

impl Format for Q4K {
    const SOURCE_BYTES: usize = DType::Q4_K.block_bytes();
    const BLOCKS: usize = 8;
    const HEADER_BYTES: usize = 64;
    const BLOCK_BYTES: usize = 256 + 16 + 16;
    const HAS_MIN: bool = true;
    type Header<S: Simd> = [S::F32; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, bytes: &[u8]) -> [S::F32; 2] {
        factors(simd, bytes)
    }

    #[inline(always)]
    fn block<S: Simd>(simd: S, header: [S::F32; 2], bytes: &[u8]) -> Block<S> {
        let [scale, min] = scales(simd, header, bytes, 256);
        Block { codes: nibbles(simd, bytes), scales: [scale; 2], min }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        let (packed, qs) = (&source[4..16], &source[16..]);
        put_half(source, 0, row, group);
        put_half(&source[2..], 32, row, group);
        for (g, block) in group[64..].chunks_exact_mut(Self::BLOCK_BYTES).enumerate() {
            let codes = std::array::from_fn(|i| qs[g / 2 * 32 + i] >> (g % 2 * 4) & 15);
            put_codes::<0>(&codes, row, block);
            [block[256 + row], block[272 + row]] = scale_and_min(packed, g);
        }
    }
}

/// `d * scale * q - dmin * min`. Header: `d`, `dmin`; block: nibbles, fifth bits, scales, minimums.
pub(crate) struct Q5K;

impl Format for Q5K {
    const SOURCE_BYTES: usize = DType::Q5_K.block_bytes();
    const BLOCKS: usize = 8;
    const HEADER_BYTES: usize = 64;
    const BLOCK_BYTES: usize = 256 + 64 + 16 + 16;
    const HAS_MIN: bool = true;
    type Header<S: Simd> = [S::F32; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, bytes: &[u8]) -> [S::F32; 2] {
        factors(simd, bytes)
    }

    #[inline(always)]
    fn block<S: Simd>(simd: S, header: [S::F32; 2], bytes: &[u8]) -> Block<S> {
        let [scale, min] = scales(simd, header, bytes, 320);
        Block { codes: five_bits(simd, bytes), scales: [scale; 2], min }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        let (packed, qh, qs) = (&source[4..16], &source[16..48], &source[48..]);
        put_half(source, 0, row, group);
        put_half(&source[2..], 32, row, group);
        for (g, block) in group[64..].chunks_exact_mut(Self::BLOCK_BYTES).enumerate() {
            let codes =
                std::array::from_fn(|i| qs[g / 2 * 32 + i] >> (g % 2 * 4) & 15 | (qh[i] >> g & 1) << 4);
            put_codes::<1>(&codes, row, block);
            [block[320 + row], block[336 + row]] = scale_and_min(packed, g);
        }
    }
}

/// `d * scale * (q - 32)`. Header: `d`; block: nibbles, fifth and sixth bits, scales of columns
/// `0..16`, scales of columns `16..32`.
pub(crate) struct Q6K;

impl Format for Q6K {
    const SOURCE_BYTES: usize = DType::Q6_K.block_bytes();
    const BLOCKS: usize = 8;
    const HEADER_BYTES: usize = 32;
    const BLOCK_BYTES: usize = 256 + 128 + 16 + 16;
    const ZERO: i32 = 32;
    const HALVES: bool = true;
    type Header<S: Simd> = S::F32;

    #[inline(always)]
    fn header<S: Simd>(simd: S, bytes: &[u8]) -> S::F32 {
        simd.f16(array(bytes, 0))
    }

    #[inline(always)]
    fn block<S: Simd>(simd: S, d: S::F32, bytes: &[u8]) -> Block<S> {
        let first = simd.mul(d, simd.to_f32(simd.i8s(array(bytes, 384))));
        let second = simd.mul(d, simd.to_f32(simd.i8s(array(bytes, 400))));
        Block { codes: six_bits(simd, bytes), scales: [first, second], min: d }
    }

    fn pack(source: &[u8], row: usize, group: &mut [u8]) {
        let (ql, qh, scales, d) = (&source[..128], &source[128..192], &source[192..208], &source[208..]);
        put_half(d, 0, row, group);
        for (g, block) in group[32..].chunks_exact_mut(Self::BLOCK_BYTES).enumerate() {
            let (half, g4) = (g / 4, g % 4);
            let codes = std::array::from_fn(|i| {
                let low = ql[half * 64 + g4 % 2 * 32 + i] >> (g4 / 2 * 4) & 15;
                low | (qh[half * 32 + i] >> (2 * g4) & 3) << 4
            });
            put_codes::<2>(&codes, row, block);
            [block[384 + row], block[400 + row]] = [scales[2 * g], scales[2 * g + 1]];
        }
    }
}
