//! Advanced SIMD of 64-bit Arm: a vector is four registers. `sdot` multiplies bytes where there is
//! (its intrinsic is not stable, so it is spelled in assembly); otherwise they are multiplied to 16
//! bits, of which two products fit for weights below 128 (2 * 127 * 127 < 2^15).
#![expect(unsafe_code, reason = "the vendor's intrinsics")]

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// Proof that the machine has NEON, and `sdot` if `DOT`.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl Neon<false> {
    /// The proof, if it holds.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// The proof for `DOT`, if it holds.
    pub(crate) fn detect_dot() -> Option<Neon<true>> {
        let Self(()) = Self::detect()?;
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(Neon(()))
    }
}

/// The same intrinsics on all quarters; memory they read is named at the call. Spelled out, as a
/// closure would be compiled without the features.
macro_rules! quarters {
    (|$($v:ident),+| $call:expr) => {
        [
            quarters!(@one 0, |$($v),+| $call),
            quarters!(@one 1, |$($v),+| $call),
            quarters!(@one 2, |$($v),+| $call),
            quarters!(@one 3, |$($v),+| $call),
        ]
    };
    (@one $i:literal, |$($v:ident),+| $call:expr) => {{
        $(let $v = $v[$i];)+
        // SAFETY: `self` exists only where `detect` found the intrinsics' features.
        #[allow(unused_unsafe, reason = "NEON is part of the target")]
        unsafe { $call }
    }};
}

/// Sixteen elements as four times four.
#[inline(always)]
fn cut<T>(all: &[T; 16]) -> [&[T]; 4] {
    [&all[..4], &all[4..8], &all[8..12], &all[12..]]
}

impl<const DOT: bool> Neon<DOT> {
    /// `acc + sum_i w[4l + i] * x[4l + i]` in lane `l`, all signed.
    #[inline(always)]
    fn dot_quarter(self, mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        if DOT {
            // SAFETY: `self` proves `sdot` if `DOT`; it touches nothing but these registers.
            unsafe {
                std::arch::asm!(
                    ".arch_extension dotprod",
                    "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
                    acc = inout(vreg) acc,
                    w = in(vreg) w,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            return acc;
        }
        // SAFETY: `self` proves NEON.
        #[allow(unused_unsafe, reason = "NEON is part of the target")]
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            let high = vmull_high_s8(w, x);
            vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
        }
    }
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F32 = [float32x4_t; 4];
    type I32 = [int32x4_t; 4];
    type Bytes = [uint8x16_t; 4];

    const FEW_REGISTERS: bool = false;
    const WIDE_ZERO: i32 = 0;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        let x = [x; 4];
        quarters!(|x| vdupq_n_f32(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F32 {
        let from = cut(from);
        // Each quarter is 16 readable bytes.
        quarters!(|from| vld1q_f32(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: Self::F32, to: &mut [f32; 16]) {
        for (to, v) in to.as_chunks_mut::<4>().0.iter_mut().zip(v) {
            // SAFETY: the array is 16 writable bytes; `self` proves NEON.
            unsafe { vst1q_f32(to.as_mut_ptr(), v) };
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|a, b| vaddq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|a, b| vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|a, b| vdivq_f32(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|a, b| vmaxnmq_f32(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        quarters!(|a, b| vminnmq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        quarters!(|a, b, c| vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn within(self, v: Self::F32, from: i32, to: i32, other: f32) -> Self::F32 {
        let lanes: [[i32; 4]; 4] = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]];
        quarters!(|v, lanes| {
            let lane = vld1q_s32(lanes.as_ptr());
            let keep = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(from)), vcltq_s32(lane, vdupq_n_s32(to)));
            vbslq_f32(keep, v, vdupq_n_f32(other))
        })
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> Self::F32 {
        let from = [&from[..8], &from[8..16], &from[16..24], &from[24..]];
        // Each quarter is 8 readable bytes.
        quarters!(|from| vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from.as_ptr()))))
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> Self::F32 {
        let from = [&from[..8], &from[8..16], &from[16..24], &from[24..]];
        // Each quarter is 8 readable bytes.
        quarters!(|from| {
            let words = vreinterpret_u16_u8(vld1_u8(from.as_ptr()));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(words))
        })
    }

    #[inline(always)]
    fn to_bf16(self, v: Self::F32) -> [u8; 32] {
        // The upper half of each lane's bits, rounded; a NaN must not be rounded to infinity.
        let halves = quarters!(|v| {
            let bits = vreinterpretq_u32_f32(v);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), rounded, quiet))
        });
        let mut bytes = [0; 32];
        for (to, half) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
            // SAFETY: the array is 8 writable bytes; `self` proves NEON.
            unsafe { vst1_u8(to.as_mut_ptr(), vreinterpret_u8_u16(half)) };
        }
        bytes
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> [Self::F32; 2] {
        let words = self.bytes(from);
        let low = quarters!(|words| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(words))));
        let high = quarters!(|words| {
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(words), vdupq_n_u32(0xFFFF_0000)))
        });
        [low, high]
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        let x = [x; 4];
        quarters!(|x| vdupq_n_s32(x))
    }

    #[inline(always)]
    fn u8s(self, from: &[u8; 16]) -> Self::I32 {
        let lanes = from.map(i32::from);
        let lanes = cut(&lanes);
        // Each quarter is 16 readable bytes.
        quarters!(|lanes| vld1q_s32(lanes.as_ptr()))
    }

    #[inline(always)]
    fn i8s(self, from: &[u8; 16]) -> Self::I32 {
        let lanes = from.map(|byte| i32::from(byte as i8));
        let lanes = cut(&lanes);
        // Each quarter is 16 readable bytes.
        quarters!(|lanes| vld1q_s32(lanes.as_ptr()))
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        quarters!(|a, b| vaddq_s32(a, b))
    }

    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::I32 {
        quarters!(|a| vcvtnq_s32_f32(a))
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        quarters!(|a| vcvtq_f32_s32(a))
    }

    #[inline(always)]
    fn pow2(self, n: Self::I32) -> Self::F32 {
        quarters!(|n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))))
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I32) -> [u8; 16] {
        let mut lanes = [0i32; 16];
        for (to, a) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(a) {
            // SAFETY: the array is 16 writable bytes; `self` proves NEON.
            unsafe { vst1q_s32(to.as_mut_ptr(), a) };
        }
        lanes.map(|lane| lane as u8)
    }

    #[inline(always)]
    fn to_array(self, a: Self::Bytes) -> [u8; 64] {
        let mut bytes = [0; 64];
        for (to, a) in bytes.as_chunks_mut::<16>().0.iter_mut().zip(a) {
            // SAFETY: the array is 16 writable bytes; `self` proves NEON.
            unsafe { vst1q_u8(to.as_mut_ptr(), a) };
        }
        bytes
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::Bytes {
        let from = [&from[..16], &from[16..32], &from[32..48], &from[48..]];
        // Each quarter is 16 readable bytes.
        quarters!(|from| vld1q_u8(from.as_ptr()))
    }

    #[inline(always)]
    fn mask(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
        quarters!(|a| vandq_u8(a, vdupq_n_u8(mask)))
    }

    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        quarters!(|a, b| vorrq_u8(a, b))
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        quarters!(|a| {
            let words = vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(-(BITS as i16)));
            vreinterpretq_u8_u16(words)
        })
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        quarters!(|a| {
            let words = vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(BITS as i16));
            vreinterpretq_u8_u16(words)
        })
    }

    #[inline(always)]
    fn dot(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        let x = self.splat_i32(x);
        quarters!(|acc, w, x| self.dot_quarter(acc, vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(x)))
    }

    #[inline(always)]
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        let signed = quarters!(|w| veorq_u8(w, vdupq_n_u8(0x80)));
        self.dot(acc, signed, x)
    }
}
