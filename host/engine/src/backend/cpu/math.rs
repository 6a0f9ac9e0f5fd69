//! Exponentials and what is made of them.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

use super::simd::Simd;
use crate::backend::Activation;

/// `2^x` within 2 units in the last place for `x` in `-126.5..=127`; 0 below, and at most `2^127`.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // Terms ln(2)^n / n! of the series; |fraction| <= 1/2 leaves an error of 1.2e-7.
    const SERIES: [f32; 7] =
        [1.540_353_1e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];
    let x = simd.min(simd.max(x, simd.splat(-127.0)), simd.splat(127.0));
    let whole = simd.round(x);
    let fraction = simd.fma(simd.to_f32(whole), simd.splat(-1.0), x);
    let mut sum = simd.splat(SERIES[0]);
    sum = simd.fma(sum, fraction, simd.splat(SERIES[1]));
    sum = simd.fma(sum, fraction, simd.splat(SERIES[2]));
    sum = simd.fma(sum, fraction, simd.splat(SERIES[3]));
    sum = simd.fma(sum, fraction, simd.splat(SERIES[4]));
    sum = simd.fma(sum, fraction, simd.splat(SERIES[5]));
    sum = simd.fma(sum, fraction, simd.splat(SERIES[6]));
    simd.mul(sum, simd.pow2(whole))
}

/// `x / (1 + 2^exponent)`: `x * sigmoid(u)` for an exponent of `-u / ln(2)`.
#[inline(always)]
fn gate<S: Simd>(simd: S, x: S::F32, exponent: S::F32) -> S::F32 {
    simd.div(x, simd.add(simd.splat(1.0), exp2(simd, exponent)))
}

/// `erf(x)` within 2e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
fn erf<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const SERIES: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let magnitude = simd.max(x, simd.mul(x, simd.splat(-1.0)));
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.fma(magnitude, simd.splat(0.327_591_1), one));
    let mut sum = simd.splat(SERIES[0]);
    sum = simd.fma(sum, t, simd.splat(SERIES[1]));
    sum = simd.fma(sum, t, simd.splat(SERIES[2]));
    sum = simd.fma(sum, t, simd.splat(SERIES[3]));
    sum = simd.fma(sum, t, simd.splat(SERIES[4]));
    let rest = exp2(simd, simd.mul(simd.mul(x, x), simd.splat(-LOG2_E)));
    let positive = simd.fma(simd.mul(sum, t), simd.mul(rest, simd.splat(-1.0)), one);
    // The sign of x: erf is odd.
    let sign = simd.max(simd.min(simd.mul(x, simd.splat(1e30)), one), simd.splat(-1.0));
    simd.mul(positive, sign)
}

/// The activation of a feed-forward layer.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, activation: Activation, x: S::F32) -> S::F32 {
    match activation {
        Activation::Silu => gate(simd, x, simd.mul(x, simd.splat(-LOG2_E))),
        // x/2 * (1 + tanh(u)) is x * sigmoid(2u), u = sqrt(2/pi) * (x + 0.044715 x^3).
        Activation::Gelu => {
            const FACTOR: f32 = -2.0 * LOG2_E * FRAC_2_SQRT_PI / SQRT_2;
            let cubic = simd.fma(simd.mul(x, x), simd.splat(0.044715), simd.splat(1.0));
            gate(simd, x, simd.mul(simd.mul(x, cubic), simd.splat(FACTOR)))
        }
        Activation::GeluErf => {
            let half = simd.mul(x, simd.splat(0.5));
            simd.fma(half, erf(simd, simd.mul(x, simd.splat(FRAC_1_SQRT_2))), half)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, Kernel};

    struct Apply<F>(F, [f32; 16]);
    struct Exp2;
    struct Act(Activation);

    impl Kernel for Apply<Exp2> {
        type Output = [f32; 16];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; 16] {
            simd.lanes(exp2(simd, simd.load(&self.1)))
        }
    }

    impl Kernel for Apply<Act> {
        type Output = [f32; 16];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; 16] {
            simd.lanes(activate(simd, self.0.0, simd.load(&self.1)))
        }
    }

    /// -`bound`..`bound` in steps of an odd size, by vectors.
    fn sweep(bound: f32) -> impl Iterator<Item = [f32; 16]> {
        (0..400).map(move |i| std::array::from_fn(|lane| bound * ((i * 16 + lane) as f32 / 3200.0 - 1.0)))
    }

    #[test]
    fn exp2_is_within_two_units_in_the_last_place() {
        for isa in Isa::available() {
            for x in sweep(126.0) {
                for (found, x) in isa.run(Apply(Exp2, x)).into_iter().zip(x) {
                    let exact = f64::from(x).exp2();
                    assert!((f64::from(found) / exact - 1.0).abs() < 2.4e-7, "2^{x} is {found} on {isa:?}");
                }
            }
            let edges = isa.run(Apply(Exp2, [f32::NEG_INFINITY; 16]));
            assert_eq!(edges, [0.0; 16], "{isa:?}");
        }
    }

    #[test]
    fn activations_follow_their_definition() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        };
        for isa in Isa::available() {
            for x in sweep(30.0) {
                for (i, x) in x.into_iter().enumerate() {
                    let found = isa.run(Apply(Act(Activation::Silu), [x; 16]))[i];
                    assert!((f64::from(found) - silu(f64::from(x))).abs() < 1e-5, "silu({x}) on {isa:?}");
                    let found = isa.run(Apply(Act(Activation::Gelu), [x; 16]))[i];
                    assert!((f64::from(found) - gelu(f64::from(x))).abs() < 1e-5, "gelu({x}) on {isa:?}");
                }
            }
        }
    }
}
