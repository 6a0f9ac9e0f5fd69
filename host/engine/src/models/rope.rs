//! How fast each pair of a head turns, and how that is stretched for longer contexts.

use std::f32::consts::TAU;

use crate::{
    Error,
    backend::{DType, Rope, RopePairs},
    quant::dequantize,
};

use super::hyperparameters::Keys;

/// Rotation of heads of `size` elements as a file describes it: `rope.*` keys, and the factors of
/// `rope_freqs.weight` by which Llama 3.1 files give their scaling.
pub(super) fn read(keys: &Keys<'_>, pairs: RopePairs, size: usize) -> Result<Rope, Error> {
    let rotated = keys.optional("rope.dimension_count")?.unwrap_or(size);
    if rotated > size || rotated % 2 != 0 {
        return Err(keys.gguf.bad(format!("{rotated} elements of a head of {size} can't rotate in pairs")));
    }
    let base = keys.optional("rope.freq_base")?.unwrap_or(10_000.0);
    let mut frequencies = frequencies(rotated, base);
    Scaling::read(keys)?.apply(&mut frequencies);
    if let Some(factors) = keys.gguf.find_tensor("rope_freqs.weight") {
        if factors.dtype != DType::F32 || factors.rows * factors.columns != rotated / 2 {
            let (found, wanted) = (factors.rows * factors.columns, rotated / 2);
            return Err(keys
                .gguf
                .bad(format!("rope_freqs.weight has {found} factors, expected {wanted} F32")));
        }
        let mut divisors = vec![0.0; rotated / 2];
        dequantize(factors.dtype, factors.bytes, &mut divisors);
        frequencies.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= divisor);
    }
    Ok(Rope { pairs, frequencies })
}

/// Rotation of whole heads whose context wasn't stretched.
pub(super) fn unscaled(pairs: RopePairs, size: usize, base: f32) -> Rope {
    Rope { pairs, frequencies: frequencies(size, base) }
}

/// `base^(-2i/rotated)` radians per position.
fn frequencies(rotated: usize, base: f32) -> Vec<f32> {
    (0..rotated / 2).map(|i| base.powf(-2.0 * i as f32 / rotated as f32)).collect()
}

/// How a model's context was extended beyond that of its pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaling {
    None,
    /// Every position counts `1/factor` (arXiv 2306.15595).
    Linear {
        factor: f32,
    },
    /// Llama 3.1: slow pairs turn `factor` times slower, fast ones stay, in between is
    /// interpolated.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
}

impl Scaling {
    fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        let factor = keys.optional("rope.scaling.factor")?.or(keys.optional("rope.scale_linear")?);
        let kind = keys.text("rope.scaling.type")?;
        match (kind.as_deref(), factor) {
            (Some("none"), _) | (None, None) => Ok(Self::None),
            (Some("linear") | None, factor) => Ok(Self::Linear { factor: factor.unwrap_or(1.0) }),
            (Some("llama3"), factor) => Ok(Self::Llama3 {
                factor: factor.unwrap_or(8.0),
                low_freq_factor: keys.optional("rope.scaling.low_freq_factor")?.unwrap_or(1.0),
                high_freq_factor: keys.optional("rope.scaling.high_freq_factor")?.unwrap_or(4.0),
                original_context: keys.require::<u32>("rope.scaling.original_context_length")? as f32,
            }),
            (Some(other), _) => Err(keys.gguf.bad(format!("rope scaling \"{other}\" is not supported"))),
        }
    }

    fn apply(self, frequencies: &mut [f32]) {
        let scale = |frequency: f32| match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                // Turns within the original context.
                let turns = original_context * frequency / TAU;
                let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let share = share.clamp(0.0, 1.0);
                (1.0 - share) * frequency / factor + share * frequency
            }
        };
        frequencies.iter_mut().for_each(|frequency| *frequency = scale(*frequency));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_slows_every_pair() {
        let mut found = frequencies(4, 10_000.0);
        assert_eq!(found, [1.0, 0.01]);
        Scaling::Linear { factor: 4.0 }.apply(&mut found);
        assert_eq!(found, [0.25, 0.0025]);
    }

    /// The factors that Llama 3.1 files store in `rope_freqs.weight`: 1 for the fast pairs, 8 for
    /// the slow ones.
    #[test]
    fn llama3_scaling_slows_only_the_slow_pairs() {
        let plain = frequencies(128, 500_000.0);
        let mut scaled = plain.clone();
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        scaling.apply(&mut scaled);
        let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
        assert_eq!(factors[0], 1.0);
        assert!((factors[63] - 8.0).abs() < 1e-4, "{factors:?}");
        assert!(factors.is_sorted(), "{factors:?}");
        let between = factors.iter().filter(|factor| (1.001..7.999).contains(*factor)).count();
        // Wavelengths TAU * 500000^(i/64) between 8192/4 and 8192/1: i in 29..=34.
        assert_eq!(between, 6, "{factors:?}");
    }
}
