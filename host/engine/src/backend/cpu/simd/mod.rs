//! Vectors of 16 lanes, whatever the machine calls them.
//!
//! A kernel is written once, as safe code over [`Simd`], and compiled once for each instruction set.
//! A value of an instruction set's type is the proof that the machine has it: the only ways to get
//! one are its `detect` and [`Isa`]. [`Simd::run`] enters a function compiled for the set; everything
//! a kernel calls is `#[inline(always)]`, so that it is compiled there too.
//!
//! 16 lanes are one register of AVX-512, two of AVX2, four of NEON. The operations are exact (integer)
//! or correctly rounded (IEEE, fused multiply-add included) and sums have one order, so a kernel gives
//! the same bits on every path.

#[cfg_attr(not(target_arch = "x86_64"), path = "no_amx.rs")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::fmt;

pub(super) use amx::{Amx, AttentionTiles, MatrixTiles};

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 64]);

    /// Its first and its last 32 bytes.
    pub(super) fn halves(&mut self) -> &mut [[u8; 32]; 2] {
        self.0.as_chunks_mut().0.as_mut_array().expect("64 bytes are two halves")
    }
}

/// Sums of up to 16 rows with 16 columns.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [[f32; 16]; 16]);

impl Sums {
    pub(super) const ZERO: Self = Self([[0.0; 16]; 16]);
}

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// One instruction set.
pub(super) trait Simd: Copy + Send + Sync {
    /// 16 f32.
    type F32: Copy;
    /// 16 i32.
    type I32: Copy;
    /// 64 bytes: 4 for each lane.
    type Bytes: Copy;

    /// What [`Simd::dot_wide`] takes a weight byte `b` for is `b - WIDE_ZERO`, 128 apart from `b`'s
    /// meaning on the sets where that is 0.
    const WIDE_ZERO: i32;

    /// Whether there are only 16 registers of less than 16 lanes.
    const FEW_REGISTERS: bool;
    /// Whether machines with this set may have a matrix unit beside it.
    const MAY_HAVE_UNIT: bool = false;

    /// Runs a kernel in a function compiled for this set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32;
    /// Reads 16 lanes.
    fn load(self, from: &[f32; 16]) -> Self::F32;
    /// Writes 16 lanes.
    fn store(self, v: Self::F32, to: &mut [f32; 16]);
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger; which one is unspecified if either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller; which one is unspecified if either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// All lanes, written to memory.
    #[inline(always)]
    fn lanes(self, v: Self::F32) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        lanes
    }
    /// `v` in lanes `from..to`, `other` elsewhere; bounds may lie outside `0..16`.
    fn within(self, v: Self::F32, from: i32, to: i32, other: f32) -> Self::F32;
    /// 16 f16 as f32.
    fn f16(self, from: &[u8; 32]) -> Self::F32;
    /// 16 bf16 as f32.
    fn bf16(self, from: &[u8; 32]) -> Self::F32;
    /// 16 lanes rounded to bf16 (nearest even).
    fn to_bf16(self, v: Self::F32) -> [u8; 32];
    /// 32 bf16 as f32: those in the low halves of 16 words, and those in the high halves.
    fn bf16_pairs(self, from: &[u8; 64]) -> [Self::F32; 2];

    /// `x` in every lane.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// 16 unsigned bytes.
    fn u8s(self, from: &[u8; 16]) -> Self::I32;
    /// 16 signed bytes.
    fn i8s(self, from: &[u8; 16]) -> Self::I32;
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// The nearest i32, ties to even; unspecified for NaN and values out of range.
    fn round(self, a: Self::F32) -> Self::I32;
    /// As f32, rounded to nearest.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// `2^n` for `n` in `-126..=127`, 0 for -127.
    fn pow2(self, n: Self::I32) -> Self::F32;
    /// The low bytes of 16 lanes.
    fn low_bytes(self, a: Self::I32) -> [u8; 16];

    /// All bytes.
    fn to_array(self, a: Self::Bytes) -> [u8; 64];
    /// Reads 64 bytes.
    fn bytes(self, from: &[u8; 64]) -> Self::Bytes;
    /// `a & mask` in every byte.
    fn mask(self, a: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Byte `I`, unsigned, of each 4.
    #[inline(always)]
    fn byte<const I: usize>(self, a: Self::Bytes) -> Self::F32 {
        let mut lanes = [0.0; LANES];
        for (lane, bytes) in lanes.iter_mut().zip(self.to_array(a).as_chunks::<4>().0) {
            *lane = f32::from(bytes[I]);
        }
        self.load(&lanes)
    }
    /// Lanes of both in turn, rounded to the nearest bf16, of two as near to the larger. Finite.
    #[inline(always)]
    fn pair_bf16(self, a: Self::F32, b: Self::F32) -> Line {
        let mut line = Line::ZERO;
        let lanes = self.lanes(a).into_iter().zip(self.lanes(b));
        for (to, (a, b)) in line.0.as_chunks_mut().0.iter_mut().zip(lanes) {
            let [a, b] = [a, b].map(|x| (x.to_bits() + 0x8000) >> 16);
            *to = (a | b << 16).to_le_bytes();
        }
        line
    }
    /// `a | b`.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// 16-bit words shifted right; bits of the upper byte enter the lower.
    fn shr<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes;
    /// 16-bit words shifted left; bits of the lower byte enter the upper.
    fn shl<const BITS: u32>(self, a: Self::Bytes) -> Self::Bytes;
    /// `acc + sum_i w[4l + i] * x[i]` in lane `l`: `w` unsigned below 128, `x` the four signed bytes
    /// of a little-endian word, none of them -128.
    fn dot(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32;
    /// `acc + sum_i (w[4l + i] - 128 + WIDE_ZERO) * x[i]`: `dot` for weights of 8 bits, stored with
    /// 128 added.
    fn dot_wide(self, acc: Self::I32, w: Self::Bytes, x: i32) -> Self::I32;

    /// The sum of all lanes, halves first: lane `l` with `l + 8`, then `l + 4`, `l + 2`, `l + 1`.
    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        fold(self.lanes(v), |a, b| a + b)
    }
    /// The largest lane.
    #[inline(always)]
    fn highest(self, v: Self::F32) -> f32 {
        fold(self.lanes(v), |a, b| if a > b { a } else { b })
    }
}

#[inline(always)]
fn fold(mut v: [f32; 16], join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            v[lane] = join(v[lane], v[lane + half]);
        }
    }
    v[0]
}

/// A computation over some [`Simd`].
pub(super) trait Kernel {
    /// What it returns.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`, as is everything they call.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set of this machine.
#[derive(Clone, Copy)]
#[allow(clippy::enum_variant_names, reason = "the sets' names")]
pub(crate) enum Isa {
    /// Plain loops.
    Portable(portable::Portable),
    /// AVX2 and FMA, 2013.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    /// AVX2 with dot products of bytes, 2021.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    /// AVX-512 with dot products of bytes, 2019.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// AVX-512 with that and a unit for matrices of bytes, 2023.
    #[cfg(target_arch = "x86_64")]
    Avx512Amx(avx512::Avx512, Amx),
    /// Advanced SIMD.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    /// Advanced SIMD with dot products of bytes, 2017.
    #[cfg(target_arch = "aarch64")]
    NeonDot(neon::Neon<true>),
}

impl Isa {
    /// The sets that this machine has, fastest first.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "not every architecture has more")]
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = avx512::Avx512::detect();
            sets.extend(avx512.zip(Amx::detect()).map(|(simd, amx)| Self::Avx512Amx(simd, amx)));
            sets.extend(avx512.map(Self::Avx512));
            sets.extend(avx2::Avx2::detect_vnni().map(Self::AvxVnni));
            sets.extend(avx2::Avx2::detect().map(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            sets.extend(neon::Neon::detect_dot().map(Self::NeonDot));
            sets.extend(neon::Neon::detect().map(Self::Neon));
        }
        sets.push(Self::Portable(portable::Portable));
        sets
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(_) => "avx2+vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512+vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(..) => "avx512+vnni+amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(_) => "neon+dot",
        }
    }

    /// The matrix unit, if the set has one.
    pub(super) const fn amx(self) -> Option<Amx> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Amx(_, amx) => Some(amx),
            _ => None,
        }
    }

    /// Runs a kernel.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Portable(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) | Self::Avx512Amx(simd, _) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(simd) => simd.run(kernel),
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
