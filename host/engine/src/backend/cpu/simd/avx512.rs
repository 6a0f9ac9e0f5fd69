//! AVX-512: a vector is one register. VNNI multiplies 64 bytes at once; BF16, where there is,
//! multiplies 32 bf16.
#![expect(unsafe_code, reason = "the vendor's intrinsics")]

use std::arch::x86_64::*;

use super::{Kernel, Simd, avx2};

/// Proof that the machine has AVX-512 F, BW, DQ, VL and VNNI, and BF16 if `BF16`.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

impl Avx512<false> {
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

    /// The proof for `BF16`, if it holds.
    pub(crate) fn detect_bf16() -> Option<Avx512<true>> {
        let Self(()) = Self::detect()?;
        is_x86_feature_detected!("avx512bf16").then_some(Avx512(()))
    }
}

impl Avx512<true> {
    /// The same without BF16.
    pub(crate) fn without_bf16(self) -> Avx512<false> {
        Avx512(())
    }
}

/// An intrinsic whose features `self` proves and that touches no memory.
macro_rules! proven {
    ($call:expr) => {
        // SAFETY: `self` exists only where `detect` found the intrinsic's features.
        unsafe { $call }
    };
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F32 = __m512;
    type I32 = __m512i;
    type Bytes = __m512i;

    const WIDE_ZERO: i32 = 128;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn plain<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn with_bf16<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        if BF16 { proven!(with_bf16(self, kernel)) } else { proven!(plain(self, kernel)) }
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
    fn to_bf16(self, v: Self::F32) -> [u32; 8] {
        let mut words = [0; 8];
        // SAFETY: the array is 32 writable bytes; `self` proves AVX-512F, and BF16 if `BF16`.
        unsafe {
            let halves = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))
            } else {
                let bits = _mm512_castps_si512(v);
                let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
                // A NaN must not be rounded to infinity.
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
                let nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
                let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
                _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16))
            };
            _mm256_storeu_si256(words.as_mut_ptr().cast(), halves);
        }
        words
    }

    #[inline(always)]
    fn dot_bf16(self, acc: Self::F32, a: &[u8; 64], b: u32) -> Self::F32 {
        // SAFETY: the array is 64 readable bytes; `self` proves AVX-512F, and BF16 if `BF16`.
        unsafe {
            let a = _mm512_loadu_si512(a.as_ptr().cast());
            if BF16 {
                let b = _mm512_set1_epi32(b as i32);
                let (a, b) = (
                    std::mem::transmute::<__m512i, __m512bh>(a),
                    std::mem::transmute::<__m512i, __m512bh>(b),
                );
                return _mm512_dpbf16_ps(acc, a, b);
            }
            let (low, high) = (f32::from_bits(b << 16), f32::from_bits(b & 0xFFFF_0000));
            let a_low = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
            let a_high = _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(0xFFFF_0000u32 as i32)));
            let acc = _mm512_fmadd_ps(a_low, _mm512_set1_ps(low), acc);
            _mm512_fmadd_ps(a_high, _mm512_set1_ps(high), acc)
        }
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
