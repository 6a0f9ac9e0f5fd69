//! Plain loops over arrays: the meaning of every operation, and the path of machines without another.

use half::{bf16, f16};

use super::{Kernel, Simd};

/// No instruction set in particular.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; 16], b: [B; 16], f: impl Fn(A, B) -> C) -> [C; 16] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

#[inline(always)]
fn words(bytes: [u8; 64], f: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0; 64];
    for (out, word) in out.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
        *out = f(u16::from_le_bytes(*word)).to_le_bytes();
    }
    out
}

impl Simd for Portable {
    type F32 = [f32; 16];
    type I32 = [i32; 16];
    type Bytes = [u8; 64];

    const FEW_REGISTERS: bool = true;
    const WIDE_ZERO: i32 = 0;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; 16]
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F32 {
        *from
    }

    #[inline(always)]
    fn store(self, v: Self::F32, to: &mut [f32; 16]) {
        *to = v;
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn within(self, v: Self::F32, from: i32, to: i32, other: f32) -> Self::F32 {
        std::array::from_fn(|lane| if (from..to).contains(&(lane as i32)) { v[lane] } else { other })
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> Self::F32 {
        let halves = from.as_chunks().0;
        std::array::from_fn(|lane| f16::from_le_bytes(halves[lane]).to_f32())
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> Self::F32 {
        let halves = from.as_chunks().0;
        std::array::from_fn(|lane| bf16::from_le_bytes(halves[lane]).to_f32())
    }

    #[inline(always)]
    fn to_bf16(self, v: Self::F32) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, x) in bytes.as_chunks_mut().0.iter_mut().zip(v) {
            *to = bf16::from_f32(x).to_le_bytes();
        }
        bytes
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> [Self::F32; 2] {
        let words: &[[u8; 4]] = from.as_chunks().0;
        let word = |lane: usize| u32::from_le_bytes(words[lane]);
        [
            std::array::from_fn(|lane| f32::from_bits(word(lane) << 16)),
            std::array::from_fn(|lane| f32::from_bits(word(lane) & 0xFFFF_0000)),
        ]
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        [x; 16]
    }

    #[inline(always)]
    fn u8s(self, from: &[u8; 16]) -> Self::I32 {
        from.map(i32::from)
    }

    #[inline(always)]
    fn i8s(self, from: &[u8; 16]) -> Self::I32 {
        from.map(|byte| i32::from(byte as i8))
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        zip(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::I32 {
        a.map(|a| a.round_ties_even() as i32)
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn pow2(self, n: Self::I32) -> Self::F32 {
        n.map(|n| f32::from_bits((n.wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I32) -> [u8; 16] {
        a.map(|a| a as u8)
    }

    #[inline(always)]
    fn to_array(self, a: Self::Bytes) -> [u8; 64] {
        a
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::Bytes {
        *from
    }

    #[inline(always)]
    fn mask(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
        a.map(|a| a & mask)
    }

    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        words(a, |word| word >> BITS)
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        words(a, |word| word << BITS)
    }

    // Not inlined: a kernel calls it dozens of times, and it is long where there are no vectors.
    #[inline(never)]
    fn dot(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        let w = w.as_chunks::<4>().0;
        let product = |w: [u8; 4], i: usize| i32::from(w[i]) * x[i];
        std::array::from_fn(|lane| {
            let w = w[lane];
            acc[lane] + product(w, 0) + product(w, 1) + product(w, 2) + product(w, 3)
        })
    }

    // Not inlined: a kernel calls it dozens of times, and it is long where there are no vectors.
    #[inline(never)]
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        let w = w.as_chunks::<4>().0;
        let product = |w: [u8; 4], i: usize| (i32::from(w[i]) - 128) * x[i];
        std::array::from_fn(|lane| {
            let w = w[lane];
            acc[lane] + product(w, 0) + product(w, 1) + product(w, 2) + product(w, 3)
        })
    }
}
