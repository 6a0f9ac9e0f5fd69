//! AVX-512: a vector is one register. VNNI multiplies 64 bytes at once. (BF16 would multiply 32 bf16, but
//! takes twice as long as widening them and two multiply-adds, as measured on Sapphire Rapids.)
#![expect(unsafe_code, reason = "the vendor's intrinsics")]

use std::arch::x86_64::*;

use super::{Kernel, Line, Simd, avx2};

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, and AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, if it holds.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }
}

/// An intrinsic whose features `self` proves and that touches no memory.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: `self` exists only where `detect` found the intrinsic's features.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type F32 = __m512;
    type I32 = __m512i;
    type Bytes = __m512i;

    const FEW_REGISTERS: bool = false;
    const WIDE_ZERO: i32 = 128;
    const MAY_HAVE_UNIT: bool = true;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn run<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        proven!(run(self, kernel))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        proven!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F32 {
        // SAFETY: the array is 64 readable bytes; `self` proves AVX-512F.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: Self::F32, to: &mut [f32; 16]) {
        // SAFETY: the array is 64 writable bytes; `self` proves AVX-512F.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn within(self, v: Self::F32, from: i32, to: i32, other: f32) -> Self::F32 {
        let below = |lane: i32| (1u32 << lane.clamp(0, 16)) - 1;
        let keep = below(to) & !below(from);
        proven!(_mm512_mask_mov_ps(_mm512_set1_ps(other), keep as __mmask16, v))
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> Self::F32 {
        // SAFETY: the array is 32 readable bytes; `self` proves AVX-512F.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> Self::F32 {
        // SAFETY: the array is 32 readable bytes; `self` proves AVX-512F.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32(words, 16))
        }
    }

    #[inline(always)]
    fn to_bf16(self, v: Self::F32) -> [u8; 32] {
        let mut bytes = [0; 32];
        // SAFETY: the array is 32 writable bytes; `self` proves AVX-512F.
        unsafe {
            // The upper half of each lane's bits, rounded; a NaN must not be rounded to infinity.
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let halves = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, is_nan, quiet));
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(halves));
        }
        bytes
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> [Self::F32; 2] {
        let words = self.bytes(from);
        [
            proven!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))),
            proven!(_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000u32 as i32)))),
        ]
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        proven!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn u8s(self, from: &[u8; 16]) -> Self::I32 {
        // SAFETY: the array is 16 readable bytes; `self` proves AVX-512F.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn i8s(self, from: &[u8; 16]) -> Self::I32 {
        // SAFETY: the array is 16 readable bytes; `self` proves AVX-512F.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        proven!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::I32 {
        proven!(_mm512_cvt_roundps_epi32(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        proven!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn pow2(self, n: Self::I32) -> Self::F32 {
        proven!(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)))
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I32) -> [u8; 16] {
        let mut bytes = [0; 16];
        // SAFETY: the array is 16 writable bytes; `self` proves AVX-512F.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)) };
        bytes
    }

    #[inline(always)]
    fn to_array(self, a: Self::Bytes) -> [u8; 64] {
        let mut bytes = [0; 64];
        // SAFETY: the array is 64 writable bytes; `self` proves AVX-512F.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), a) };
        bytes
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::Bytes {
        // SAFETY: the array is 64 readable bytes; `self` proves AVX-512F.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn mask(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
        proven!(_mm512_and_si512(a, _mm512_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn byte<const I: usize>(self, a: Self::Bytes) -> Self::F32 {
        let bytes = match I {
            0 => a,
            1 => proven!(_mm512_srli_epi32::<8>(a)),
            2 => proven!(_mm512_srli_epi32::<16>(a)),
            _ => return proven!(_mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(a))),
        };
        proven!(_mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(0xFF))))
    }

    #[inline(always)]
    fn pair_bf16(self, a: Self::F32, b: Self::F32) -> Line {
        let mut line = Line::ZERO;
        // SAFETY: a line is 64 writable, aligned bytes; `self` proves AVX-512F.
        unsafe {
            let half = _mm512_set1_epi32(0x8000);
            let low = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(a), half));
            let high = _mm512_add_epi32(_mm512_castps_si512(b), half);
            // (high & mask) | low
            let mask = _mm512_set1_epi32(0xFFFF_0000u32 as i32);
            let pairs = _mm512_ternarylogic_epi32::<0b1111_1000>(low, high, mask);
            _mm512_store_si512(line.0.as_mut_ptr().cast(), pairs);
        }
        line
    }

    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        proven!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        proven!(_mm512_srli_epi16::<BITS>(a))
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        proven!(_mm512_slli_epi16::<BITS>(a))
    }

    #[inline(always)]
    fn dot(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        proven!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)))
    }

    #[inline(always)]
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        proven!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)))
    }

    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        // SAFETY: `self` proves AVX-512DQ.
        unsafe { avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }

    #[inline(always)]
    fn highest(self, v: Self::F32) -> f32 {
        // SAFETY: `self` proves AVX-512DQ.
        unsafe { avx2::highest(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))) }
    }
}
