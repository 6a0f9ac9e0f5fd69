//! Operations on single rows. They are short beside a step's matrices and run on one thread.

use super::{
    math,
    rows::inverse_rms,
    simd::{Kernel, LANES, Simd},
};
use crate::backend::Activation;

/// RMSNorm of a row in place.
pub(super) struct Normalize<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) gain: &'a [f32],
    pub(super) epsilon: f32,
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        normalize(simd, self.row, self.gain, self.epsilon);
    }
}

#[inline(always)]
pub(super) fn normalize<S: Simd>(simd: S, row: &mut [f32], gain: &[f32], epsilon: f32) {
    let scale = inverse_rms(simd, row, epsilon);
    for (x, gain) in row.iter_mut().zip(gain) {
        *x = *x * scale * gain;
    }
}

/// `x += norm(y)`, RMSNorm.
pub(super) struct NormAdd<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) y: &'a [f32],
    pub(super) gain: &'a [f32],
    pub(super) epsilon: f32,
}

impl Kernel for NormAdd<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = inverse_rms(simd, self.y, self.epsilon);
        for ((x, y), gain) in self.x.iter_mut().zip(self.y).zip(self.gain) {
            *x += y * scale * gain;
        }
    }
}

/// `x = norm(x + y)`, LayerNorm.
pub(super) struct AddLayerNorm<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) y: Option<&'a [f32]>,
    pub(super) gain: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
}

impl Kernel for AddLayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, y, gain, bias, epsilon } = self;
        if let Some(y) = y {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        }
        let mean = sum(simd, x) / x.len() as f32;
        for x in x.iter_mut() {
            *x -= mean;
        }
        let factor = inverse_rms(simd, x, epsilon);
        for ((x, gain), bias) in x.iter_mut().zip(gain).zip(bias) {
            *x = *x * factor * gain + bias;
        }
    }
}

#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks();
    let mut sums = simd.splat(0.0);
    for chunk in chunks {
        sums = simd.add(sums, simd.load(chunk));
    }
    simd.sum(sums) + tail.iter().sum::<f32>()
}

/// An activation of each value in place.
pub(super) struct Activate<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) activation: Activation,
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (chunks, tail) = self.values.as_chunks_mut();
        for chunk in chunks {
            let values = math::activate(simd, self.activation, simd.load(chunk));
            simd.store(values, chunk);
        }
        let mut lanes = [0.0; LANES];
        lanes[..tail.len()].copy_from_slice(tail);
        let lanes = simd.lanes(math::activate(simd, self.activation, simd.load(&lanes)));
        tail.copy_from_slice(&lanes[..tail.len()]);
    }
}
