//! Plain quantisers for tests and tiny models: exact in format, simple in their choice of scales.

use half::{bf16, f16};

use super::DType;

/// The blocks of `weights`, whose length is a multiple of the block's.
pub(crate) fn quantize(dtype: DType, weights: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(dtype.bytes(weights.len()));
    for block in weights.chunks_exact(dtype.block_len()) {
        match dtype {
            DType::F32 => bytes.extend(block[0].to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(block[0]).to_le_bytes()),
            DType::BF16 => bytes.extend(bf16::from_f32(block[0]).to_le_bytes()),
            DType::Q4_0 => symmetric(block, 8.0, &mut bytes, nibbles),
            DType::Q4_1 => affine(block, 15.0, &mut bytes, nibbles),
            DType::Q5_0 => symmetric(block, 16.0, &mut bytes, nibbles_and_fifth_bits),
            DType::Q5_1 => affine(block, 31.0, &mut bytes, nibbles_and_fifth_bits),
            DType::Q8_0 => q8_0(block, &mut bytes),
            DType::Q4_K => q4_k_or_q5_k(block, 15.0, &mut bytes),
            DType::Q5_K => q4_k_or_q5_k(block, 31.0, &mut bytes),
            DType::Q6_K => q6_k(block, &mut bytes),
        }
    }
    assert_eq!(bytes.len(), dtype.bytes(weights.len()), "blocks of {dtype}");
    bytes
}

/// `d * (q - middle)` with the weight of largest magnitude at `q = 0`.
fn symmetric(block: &[f32], middle: f32, bytes: &mut Vec<u8>, pack: fn(&[u8], &mut Vec<u8>)) {
    let largest = block.iter().copied().fold(0.0f32, |a, b| if b.abs() > a.abs() { b } else { a });
    let d = put_half(largest / -middle, bytes);
    let q: Vec<u8> = block.iter().map(|w| level(*w, d, 2.0 * middle - 1.0, middle)).collect();
    pack(&q, bytes);
}

/// `d * q + m` with `q` in `0..=top`.
fn affine(block: &[f32], top: f32, bytes: &mut Vec<u8>, pack: fn(&[u8], &mut Vec<u8>)) {
    let (min, max) = range(block);
    let d = put_half((max - min) / top, bytes);
    let m = put_half(min, bytes);
    let q: Vec<u8> = block.iter().map(|w| level(*w - m, d, top, 0.0)).collect();
    pack(&q, bytes);
}

fn q8_0(block: &[f32], bytes: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let d = put_half(largest / 127.0, bytes);
    let scaled = block.iter().map(|w| if d == 0.0 { 0.0 } else { w / d });
    bytes.extend(scaled.map(|q| q.round().clamp(-127.0, 127.0) as i8 as u8));
}

fn q4_k_or_q5_k(block: &[f32], top: f32, bytes: &mut Vec<u8>) {
    // A group is `scale * q - min` with both at least 0.
    let groups: Vec<(f32, f32)> = block
        .chunks_exact(32)
        .map(|group| {
            let (low, high) = range(group);
            let (low, high) = (low.min(0.0), high.max(0.0));
            ((high - low) / top, -low)
        })
        .collect();
    let d = put_half(groups.iter().fold(0.0f32, |a, g| a.max(g.0)) / 63.0, bytes);
    let dmin = put_half(groups.iter().fold(0.0f32, |a, g| a.max(g.1)) / 63.0, bytes);
    let scales: Vec<u8> = groups.iter().map(|g| level(g.0, d, 63.0, 0.0)).collect();
    let mins: Vec<u8> = groups.iter().map(|g| level(g.1, dmin, 63.0, 0.0)).collect();
    for g in 0..4 {
        bytes.push(scales[g] | scales[g + 4] >> 4 << 6);
    }
    for g in 0..4 {
        bytes.push(mins[g] | mins[g + 4] >> 4 << 6);
    }
    for g in 4..8 {
        bytes.push(scales[g] & 15 | mins[g] << 4);
    }

    let q: Vec<u8> = (0..256)
        .map(|i| {
            let (scale, min) = (d * f32::from(scales[i / 32]), dmin * f32::from(mins[i / 32]));
            level(block[i] + min, scale, top, 0.0)
        })
        .collect();
    if top > 15.0 {
        bytes.extend((0..32).map(|j| (0..8).fold(0, |bits, g| bits | (q[g * 32 + j] >> 4) << g)));
    }
    for pair in q.chunks_exact(64) {
        bytes.extend((0..32).map(|j| pair[j] & 15 | pair[j + 32] << 4));
    }
}

fn q6_k(block: &[f32], bytes: &mut Vec<u8>) {
    let wanted: Vec<f32> =
        block.chunks_exact(16).map(|group| group.iter().fold(0.0f32, |a, w| a.max(w.abs())) / 31.0).collect();
    let d = f16::from_f32(wanted.iter().fold(0.0f32, |a, s| a.max(*s)) / 127.0);
    let scales: Vec<u8> = wanted.iter().map(|s| level(*s, d.to_f32(), 127.0, 0.0)).collect();
    let q: Vec<u8> =
        (0..256).map(|i| level(block[i], d.to_f32() * f32::from(scales[i / 16]), 63.0, 32.0)).collect();
    for half in q.chunks_exact(128) {
        bytes.extend((0..64).map(|j| half[j] & 15 | half[j + 64] << 4));
    }
    for half in q.chunks_exact(128) {
        bytes.extend((0..32).map(|j| (0..4).fold(0, |bits, g| bits | (half[g * 32 + j] >> 4) << (2 * g))));
    }
    bytes.extend(scales);
    bytes.extend(d.to_le_bytes());
}

/// The level in `0..=top` nearest to `w / d + zero`.
fn level(w: f32, d: f32, top: f32, zero: f32) -> u8 {
    let scaled = if d == 0.0 { 0.0 } else { w / d };
    (scaled + zero).round().clamp(0.0, top) as u8
}

/// Appends `x` as f16 and returns what a reader will see.
fn put_half(x: f32, bytes: &mut Vec<u8>) -> f32 {
    let x = f16::from_f32(x);
    bytes.extend(x.to_le_bytes());
    x.to_f32()
}

fn range(block: &[f32]) -> (f32, f32) {
    block.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), w| (low.min(*w), high.max(*w)))
}

fn nibbles(q: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend((0..16).map(|j| q[j] & 15 | q[j + 16] << 4));
}

fn nibbles_and_fifth_bits(q: &[u8], bytes: &mut Vec<u8>) {
    let high = q.iter().enumerate().fold(0u32, |bits, (j, q)| bits | u32::from(q >> 4) << j);
    bytes.extend(high.to_le_bytes());
    nibbles(q, bytes);
}
