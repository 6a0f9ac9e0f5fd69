//! Blocks to f32, one weight at a time: the definition that kernels are tested against.

use half::{bf16, f16};

use super::DType;

/// Writes the weights of whole blocks to `out`, whose length is a multiple of the block's; `bytes`
/// holds exactly those blocks. Panics on another length.
pub(crate) fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), dtype.bytes(out.len()), "bytes of {} weights of {dtype}", out.len());
    let decode: fn(&[u8], &mut [f32]) = match dtype {
        DType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => |b, out| out[0] = half_at(b, 0),
        DType::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q5_0 => q5_0,
        DType::Q5_1 => q5_1,
        DType::Q8_0 => q8_0,
        DType::Q4_K => q4_k,
        DType::Q5_K => q5_k,
        DType::Q6_K => q6_k,
    };
    let blocks = bytes.chunks_exact(dtype.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(dtype.block_len())) {
        decode(block, out);
    }
}

/// The weights of whole blocks as an F32 tensor has them.
pub(crate) fn to_f32_bytes(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut values = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    dequantize(dtype, bytes, &mut values);
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The f16 at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `d: f16, qs: [u8; 16]`; weight `j` is the low nibble of `qs[j]`, weight `j + 16` the high.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, q) in block[2..].iter().enumerate() {
        out[j] = d * (f32::from(q & 15) - 8.0);
        out[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// `d: f16, m: f16, qs: [u8; 16]`, nibbles as in Q4_0.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, q) in block[4..].iter().enumerate() {
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// `d: f16, qh: u32, qs: [u8; 16]`; bit `j` of `qh` is the fifth bit of weight `j`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    five_bits(&block[2..], |j, q| out[j] = d * (f32::from(q) - 16.0));
}

/// `d: f16, m: f16, qh: u32, qs: [u8; 16]`, bits as in Q5_0.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..], |j, q| out[j] = d * f32::from(q) + m);
}

/// Calls `each` with the index and the value of 32 numbers stored as `qh: u32, qs: [u8; 16]`.
fn five_bits(bits: &[u8], mut each: impl FnMut(usize, u8)) {
    let high = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    for (j, q) in bits[4..].iter().enumerate() {
        each(j, q & 15 | ((high >> j & 1) as u8) << 4);
        each(j + 16, q >> 4 | ((high >> (j + 16) & 1) as u8) << 4);
    }
}

/// `d: f16, qs: [i8; 32]`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(*q as i8);
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128]`. Weights `64g..64g + 32` are the low
/// nibbles of `qs[32g..32g + 32]`, the next 32 their high nibbles.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for group in 0..8 {
        let (scale, min) = scale_and_min(scales, group);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
        for j in 0..32 {
            let q = qs[group / 2 * 32 + j] >> (group % 2 * 4) & 15;
            out[group * 32 + j] = d * f32::from(q) - m;
        }
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]`: as Q4_K, with bit `g` of
/// `qh[j]` the fifth bit of weight `j` of group `g`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, qh, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for group in 0..8 {
        let (scale, min) = scale_and_min(scales, group);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
        for j in 0..32 {
            let low = qs[group / 2 * 32 + j] >> (group % 2 * 4) & 15;
            let q = low | (qh[j] >> group & 1) << 4;
            out[group * 32 + j] = d * f32::from(q) - m;
        }
    }
}

/// The 6-bit scale and minimum of one of the 8 groups of Q4_K and Q5_K. Groups 0..4 have theirs in
/// the low six bits of bytes 0..4 and 4..8; groups 4..8 have four bits in a nibble of bytes 8..12
/// and two in the top of the byte of group `g - 4`.
pub(crate) fn scale_and_min(scales: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (scales[group] & 63, scales[group + 4] & 63);
    }
    let scale = scales[group + 4] & 15 | scales[group - 4] >> 6 << 4;
    let min = scales[group + 4] >> 4 | scales[group] >> 6 << 4;
    (scale, min)
}

/// `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`. In each half of 128 weights, weight
/// `32g + j` has its low bits in a nibble of `ql[32 * (g % 2) + j]` and its high bits in bits
/// `2g..2g + 2` of `qh[j]`; every 16 weights share a scale.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, group, j) = (i / 128, i % 128 / 32, i % 32);
        let low = ql[half * 64 + group % 2 * 32 + j] >> (group / 2 * 4) & 15;
        let high = qh[half * 32 + j] >> (group * 2) & 3;
        let q = f32::from(low | high << 4) - 32.0;
        *out = d * f32::from(scales[i / 16] as i8) * q;
    }
}
