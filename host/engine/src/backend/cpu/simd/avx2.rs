//! AVX2 and FMA: a vector is two registers. AVX-VNNI multiplies bytes in one instruction where there
//! is; otherwise `vpmaddubsw` does, whose 16-bit sums of two products can't saturate for weights
//! below 128 (2 * 127 * 127 < 2^15).
#![expect(unsafe_code, reason = "the vendor's intrinsics")]

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that the machine has AVX2, FMA and F16C, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl Avx2<false> {
    /// The proof, if it holds.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }

    /// The proof for `VNNI`, if it holds.
    pub(crate) fn detect_vnni() -> Option<Avx2<true>> {
        let Self(()) = Self::detect()?;
        is_x86_feature_detected!("avxvnni").then_some(Avx2(()))
    }
}

/// The same intrinsics on both halves, whose features `self` proves; memory they read is named at the
/// call. Spelled out twice, as a closure would be compiled without the features.
macro_rules! halves {
    (|$($v:ident),+| $call:expr) => {{
        let low = {
            $(let $v = $v[0];)+
            // SAFETY: `self` exists only where `detect` found the intrinsics' features.
            unsafe { $call }
        };
        let high = {
            $(let $v = $v[1];)+
            // SAFETY: as above.
            unsafe { $call }
        };
        [low, high]
    }};
}

impl<const VNNI: bool> Avx2<VNNI> {
    /// `sum_i w[4l + i] * x[i]` added to lane `l`: `w` unsigned, `x` signed, pairs of products
    /// within 16 bits.
    #[inline(always)]
    fn dot_half(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2, and AVX-VNNI if `VNNI`.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(acc, w, x);
            }
            let pairs = _mm256_maddubs_epi16(w, x);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F32 = [__m256; 2];
    type I32 = [__m256i; 2];
    type Bytes = [__m256i; 2];

    const FEW_REGISTERS: bool = true;
    const WIDE_ZERO: i32 = if VNNI { 128 } else { 0 };

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn plain<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn with_vnni<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` proves the features of the function that `VNNI` picks.
        unsafe { if VNNI { with_vnni(self, kernel) } else { plain(self, kernel) } }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        let x = [x; 2];
        halves!(|x| _mm256_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F32 {
        let from = [&from[..8], &from[8..]];
        // Each half is 32 readable bytes.
        halves!(|from| _mm256_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, v: Self::F32, to: &mut [f32; 16]) {
        // SAFETY: the array is 64 writable bytes; `self` proves AVX.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|a, b| _mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|a, b| _mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|a, b| _mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|a, b| _mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        halves!(|a, b| _mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        halves!(|a, b, c| _mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn within(self, v: Self::F32, from: i32, to: i32, other: f32) -> Self::F32 {
        let first = [0, 8];
        halves!(|v, first| {
            let lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
            let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(to), lane);
            let keep = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane), below);
            _mm256_blendv_ps(_mm256_set1_ps(other), v, _mm256_castsi256_ps(keep))
        })
    }

    #[inline(always)]
    fn f16(self, from: &[u8; 32]) -> Self::F32 {
        let from = [&from[..16], &from[16..]];
        // Each half is 16 readable bytes.
        halves!(|from| _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn bf16(self, from: &[u8; 32]) -> Self::F32 {
        let from = [&from[..16], &from[16..]];
        // Each half is 16 readable bytes.
        halves!(|from| {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    fn to_bf16(self, v: Self::F32) -> [u8; 32] {
        let mut bytes = [0; 32];
        // The upper half of each lane's bits, rounded; a NaN must not be rounded to infinity.
        let [low, high] = halves!(|v| {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
        });
        // SAFETY: the array is 32 writable bytes; `self` proves AVX2.
        unsafe {
            // Packing interleaves the 128-bit lanes of both halves.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), packed);
        }
        bytes
    }

    #[inline(always)]
    fn bf16_pairs(self, from: &[u8; 64]) -> [Self::F32; 2] {
        let words = self.bytes(from);
        let low = halves!(|words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)));
        let high = halves!(|words| {
            _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(0xFFFF_0000u32 as i32)))
        });
        [low, high]
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        let x = [x; 2];
        halves!(|x| _mm256_set1_epi32(x))
    }

    #[inline(always)]
    fn u8s(self, from: &[u8; 16]) -> Self::I32 {
        let from = [&from[..8], &from[8..]];
        // Each half is 8 readable bytes.
        halves!(|from| _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn i8s(self, from: &[u8; 16]) -> Self::I32 {
        let from = [&from[..8], &from[8..]];
        // Each half is 8 readable bytes.
        halves!(|from| _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        halves!(|a, b| _mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::I32 {
        halves!(|a| {
            _mm256_cvtps_epi32(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
        })
    }

    #[inline(always)]
    fn to_f32(self, a: Self::I32) -> Self::F32 {
        halves!(|a| _mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn pow2(self, n: Self::I32) -> Self::F32 {
        halves!(|n| {
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
        })
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I32) -> [u8; 16] {
        let mut lanes = [0i32; 16];
        // SAFETY: the array is 64 writable bytes; `self` proves AVX.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(8).cast(), a[1]);
        }
        lanes.map(|lane| lane as u8)
    }

    #[inline(always)]
    fn to_array(self, a: Self::Bytes) -> [u8; 64] {
        let mut bytes = [0; 64];
        // SAFETY: the array is 64 writable bytes; `self` proves AVX.
        unsafe {
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), a[1]);
        }
        bytes
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; 64]) -> Self::Bytes {
        let from = [&from[..32], &from[32..]];
        // Each half is 32 readable bytes.
        halves!(|from| _mm256_loadu_si256(from.as_ptr().cast()))
    }

    #[inline(always)]
    fn mask(self, a: Self::Bytes, mask: u8) -> Self::Bytes {
        halves!(|a| _mm256_and_si256(a, _mm256_set1_epi8(mask as i8)))
    }

    #[inline(always)]
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        halves!(|a, b| _mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn shr<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        halves!(|a| _mm256_srl_epi16(a, _mm_cvtsi32_si128(BITS as i32)))
    }

    #[inline(always)]
    fn shl<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes {
        halves!(|a| _mm256_sll_epi16(a, _mm_cvtsi32_si128(BITS as i32)))
    }

    #[inline(always)]
    fn dot(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        let x = self.splat_i32(x);
        [self.dot_half(acc[0], w[0], x[0]), self.dot_half(acc[1], w[1], x[1])]
    }

    #[inline(always)]
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32 {
        if VNNI {
            return self.dot(acc, w, x);
        }
        // |w| * (x with w's sign): at most 128 * 127 * 2 < 2^15.
        let x = self.splat_i32(x);
        let signed = halves!(|w| _mm256_xor_si256(w, _mm256_set1_epi8(-128)));
        let size = halves!(|signed| _mm256_abs_epi8(signed));
        let x = halves!(|x, signed| _mm256_sign_epi8(x, signed));
        [self.dot_half(acc[0], size[0], x[0]), self.dot_half(acc[1], size[1], x[1])]
    }

    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        // SAFETY: `self` proves AVX.
        unsafe { sum(_mm256_add_ps(v[0], v[1])) }
    }

    #[inline(always)]
    fn highest(self, v: Self::F32) -> f32 {
        // SAFETY: `self` proves AVX.
        unsafe { highest(_mm256_max_ps(v[0], v[1])) }
    }
}

/// Defines a function that folds the 8 lanes of a vector, halves first.
macro_rules! fold {
    ($(#[$doc:meta])* $name:ident, $four:ident, $one:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The machine has AVX.
        #[inline(always)]
        pub(super) unsafe fn $name(v: __m256) -> f32 {
            // SAFETY: the caller's.
            unsafe {
                let v = $four(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = $four(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32($one(v, _mm_movehdup_ps(v)))
            }
        }
    };
}

fold! {
    /// Lane `l` with `l + 4`, `l + 2`, `l + 1`.
    sum, _mm_add_ps, _mm_add_ss
}
fold! {
    /// The largest lane.
    highest, _mm_max_ps, _mm_max_ss
}
