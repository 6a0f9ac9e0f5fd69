//! Draws the next token from a row of logits.
//!
//! Order: repeat penalty, mask, temperature, top-k, top-p, min-p. Each filter keeps a prefix of the
//! candidates in order of probability, so only the prefix that survives is ever sorted.

use std::hash::{BuildHasher, RandomState};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};

use crate::{Sampling, TokenLogprob, backend::TOP_MAX};

/// Tokens that the repeat penalty looks back on.
pub(crate) const REPEAT_WINDOW: usize = 64;

/// Candidates that are sorted first for top-p; four times as many each time they don't suffice.
const SORTED_FIRST: usize = 128;

/// One sequence's sampler: the same seed, logits and sampling give the same tokens.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: Pcg64Mcg,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token that may be drawn, and its logit; once the temperature is applied, its probability
/// relative to the likeliest token's.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    weight: f32,
}

impl Sampler {
    /// A sampler; `sampling` is within the bounds that its fields document.
    pub(crate) fn new(sampling: Sampling) -> Self {
        let seed = sampling.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        Self { sampling, rng: Pcg64Mcg::seed_from_u64(seed), logits: Vec::new(), candidates: Vec::new() }
    }

    /// The next token. `recent` are the sequence's last [`REPEAT_WINDOW`] tokens. `mask` may make
    /// tokens impossible by setting their logits to negative infinity. A NaN counts as impossible;
    /// `None` if nothing is possible.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        recent: &[u32],
        mask: impl FnOnce(&mut [f32]),
    ) -> Option<u32> {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        penalize(&mut self.logits, recent, self.sampling.repeat_penalty);
        mask(&mut self.logits);
        let (best, max) = largest(&self.logits)?;
        if self.sampling.temperature == 0.0 || max == f32::INFINITY {
            return Some(best);
        }
        self.find_candidates(max);
        Some(self.draw())
    }

    /// How many of the largest logits decide, if so few do that a device may look for them: nothing else of a row is
    /// wanted then. Whoever masks tokens wants them all.
    pub(crate) fn decisive(&self) -> Option<usize> {
        let Sampling { temperature, top_k, repeat_penalty, .. } = self.sampling;
        match top_k as usize {
            _ if repeat_penalty != 1.0 => None,
            _ if temperature == 0.0 => Some(1),
            0 => None,
            top_k => Some(top_k).filter(|top_k| *top_k <= TOP_MAX),
        }
    }

    /// [`Sampler::sample`] from no fewer than the decisive logits, largest first, of equals the lower token first.
    pub(crate) fn sample_top(&mut self, top: &[(u32, f32)]) -> Option<u32> {
        let (best, max) = *top.first()?;
        if self.sampling.temperature == 0.0 || max == f32::INFINITY {
            return Some(best);
        }
        let decisive = self.decisive().expect("the decisive ones are few");
        let candidates =
            top.iter().take(decisive).map(|(token, weight)| Candidate { token: *token, weight: *weight });
        self.candidates.clear();
        self.candidates.extend(candidates);
        self.filter_candidates(max);
        Some(self.draw())
    }

    /// Fills `candidates` with what the filters leave, at least the likeliest token.
    fn find_candidates(&mut self, max: f32) {
        let top_k = self.sampling.top_k as usize;
        let candidates = &mut self.candidates;
        let possible = (0..).zip(&self.logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        candidates.clear();
        candidates.extend(possible.map(|(token, logit)| Candidate { token, weight: *logit }));
        if top_k > 0 {
            if top_k < candidates.len() {
                candidates.select_nth_unstable_by(top_k, Candidate::heavier);
                candidates.truncate(top_k);
            }
            // The order in which they are drawn from is that of `sample_top`.
            candidates.sort_unstable_by(Candidate::heavier);
        }
        self.filter_candidates(max);
    }

    fn filter_candidates(&mut self, max: f32) {
        let Sampling { temperature, top_p, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        for candidate in candidates.iter_mut() {
            candidate.weight = ((candidate.weight - max) / temperature).exp();
        }
        if top_p < 1.0 {
            keep_nucleus(candidates, top_p);
        }
        candidates.retain(|candidate| candidate.weight >= min_p);
    }

    fn draw(&mut self) -> u32 {
        let total: f32 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        // 24 random bits: every f32 of this spacing in [0, 1).
        let mut left = (self.rng.next_u32() >> 8) as f32 / (1 << 24) as f32 * total;
        for candidate in &self.candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding may leave a little over.
        self.candidates.last().expect("the likeliest token is a candidate").token
    }
}

impl Candidate {
    /// Heavier first, of equals the lower id.
    fn heavier(&self, other: &Self) -> std::cmp::Ordering {
        other.weight.total_cmp(&self.weight).then(self.token.cmp(&other.token))
    }
}

/// The token and the `top` likeliest ones with the natural logarithm of their probabilities.
pub(crate) fn logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprob {
    let max = largest(logits).map_or(0.0, |(_, max)| max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).filter(|p| !p.is_nan()).sum();
    let norm = max + sum.ln() as f32;
    let top = top_logits(logits, top).into_iter().map(|(token, logit)| (token, logit - norm)).collect();
    TokenLogprob { token, logprob: logits[token as usize] - norm, top }
}

/// The `count` largest logits, largest first, of equals the lower id first; NaN is left out.
pub(crate) fn top_logits(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let known = (0..).zip(logits).filter(|(_, logit)| !logit.is_nan());
    let mut candidates: Vec<_> = known.map(|(token, &weight)| Candidate { token, weight }).collect();
    let count = count.min(candidates.len());
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, Candidate::heavier);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(Candidate::heavier);
    candidates.iter().map(|candidate| (candidate.token, candidate.weight)).collect()
}

/// The first of the largest logits; `None` if each is NaN or negative infinity.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        // False for NaN.
        if logit > best.1 {
            best = (token, logit);
        }
    }
    (best.1 > f32::NEG_INFINITY).then_some(best)
}

/// Makes each of the recent tokens less likely, once (arXiv 1909.05858, section 4.1).
fn penalize(logits: &mut [f32], recent: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for (index, &token) in recent.iter().enumerate() {
        if recent[..index].contains(&token) {
            continue;
        }
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
    }
}

/// Keeps the heaviest candidates that together hold `share` of the weight, at least one
/// (arXiv 1904.09751).
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f32) {
    let mass = share * candidates.iter().map(|candidate| candidate.weight).sum::<f32>();
    let mut sorted = SORTED_FIRST.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, Candidate::heavier);
        }
        candidates[..sorted].sort_unstable_by(Candidate::heavier);
        let mut sum = 0.0;
        let is_enough = |candidate: &Candidate| {
            sum += candidate.weight;
            sum >= mass
        };
        if let Some(last) = candidates[..sorted].iter().position(is_enough) {
            return candidates.truncate(last + 1);
        }
        if sorted == candidates.len() {
            return;
        }
        sorted = candidates.len().min(4 * sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, f32::NAN, 2.0, -1.0];

    fn hot() -> Sampling {
        Sampling { temperature: 1.0, seed: Some(7), ..Sampling::default() }
    }

    /// How often each of five tokens is drawn in a thousand.
    fn frequencies(sampling: Sampling) -> [usize; 5] {
        let mut sampler = Sampler::new(sampling);
        let mut counts = [0; 5];
        for _ in 0..1000 {
            counts[sampler.sample(&LOGITS, &[], |_| ()).unwrap() as usize] += 1;
        }
        counts
    }

    fn drawn(sampling: Sampling) -> Vec<usize> {
        let counts = frequencies(sampling);
        (0..5).filter(|&token| counts[token] > 0).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_logits() {
        let mut sampler = Sampler::new(Sampling::default());
        assert_eq!(sampler.sample(&LOGITS, &[], |_| ()), Some(1));
        assert_eq!(sampler.sample(&[f32::NAN, 2.0, 2.0], &[], |_| ()), Some(1));
    }

    #[test]
    fn a_row_without_a_possible_token_draws_none() {
        for sampling in [Sampling::default(), hot()] {
            let mut sampler = Sampler::new(sampling);
            assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY], &[], |_| ()), None);
            assert_eq!(sampler.sample(&[f32::NAN, f32::INFINITY], &[], |_| ()), Some(1));
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let weights = [1f32, 3.0, f32::NEG_INFINITY, 2.0, -1.0].map(f32::exp);
        let total: f32 = weights.iter().sum();
        for (count, weight) in frequencies(hot()).into_iter().zip(weights) {
            let expected = 1000.0 * weight / total;
            // Four standard deviations of a binomial count.
            let tolerance = 4.0 * (expected * (1.0 - weight / total)).sqrt();
            assert!((count as f32 - expected).abs() <= tolerance, "{count} draws, expected {expected}");
        }
    }

    #[test]
    fn filters_keep_the_likeliest_tokens() {
        assert_eq!(drawn(Sampling { top_k: 2, ..hot() }), [1, 3]);
        // Shares are 0.087, 0.644, -, 0.237, 0.012 of the mass.
        assert_eq!(drawn(Sampling { top_p: 0.6, ..hot() }), [1]);
        assert_eq!(drawn(Sampling { top_p: 0.7, ..hot() }), [1, 3]);
        assert_eq!(drawn(Sampling { top_p: 0.95, ..hot() }), [0, 1, 3]);
        assert_eq!(drawn(Sampling { min_p: 0.3, ..hot() }), [1, 3]);
        assert_eq!(drawn(Sampling { min_p: 1.0, ..hot() }), [1]);
        assert_eq!(drawn(Sampling { top_k: 1, top_p: 0.1, min_p: 0.5, ..hot() }), [1]);
    }

    #[test]
    fn a_nucleus_wider_than_the_first_sort_is_found() {
        let mut candidates: Vec<_> = (0..10_000).map(|token| Candidate { token, weight: 1.0 }).collect();
        keep_nucleus(&mut candidates, 0.5);
        assert_eq!(candidates.len(), 5000);
        assert!(candidates.iter().map(|candidate| candidate.token).eq(0..5000));
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens_and_another_seed_others() {
        let logits = vec![0.0; 1000];
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..hot() });
            (0..20).map(|_| sampler.sample(&logits, &[], |_| ()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)), draw(Some(2)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn the_repeat_penalty_counts_a_token_once_whatever_its_sign() {
        let mut logits = [2.0, -2.0, 2.0];
        penalize(&mut logits, &[0, 1, 0], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0]);
    }

    #[test]
    fn the_largest_logits_draw_what_all_of_them_draw() {
        let mut draws = Sampler::new(Sampling { seed: Some(1), ..hot() });
        let logits: Vec<f32> =
            (0..5000).map(|_| draws.rng.next_u32() as f32 / u32::MAX as f32 * 8.0).collect();
        let top = top_logits(&logits, TOP_MAX);
        for sampling in [
            Sampling::default(),
            Sampling { top_k: 1, ..hot() },
            Sampling { top_k: 40, ..hot() },
            Sampling { top_k: TOP_MAX as u32, top_p: 0.8, min_p: 0.1, ..hot() },
        ] {
            let [mut all, mut few] = [(); 2].map(|()| Sampler::new(sampling.clone()));
            for _ in 0..200 {
                assert_eq!(all.sample(&logits, &[], |_| ()), few.sample_top(&top), "{sampling:?}");
            }
        }
        assert_eq!(Sampler::new(Sampling::default()).decisive(), Some(1));
        let wide = [hot(), Sampling { top_k: 65, ..hot() }, Sampling { repeat_penalty: 1.1, ..hot() }];
        assert!(wide.into_iter().all(|sampling| Sampler::new(sampling).decisive().is_none()));
    }

    #[test]
    fn a_mask_makes_tokens_impossible() {
        let mut sampler = Sampler::new(Sampling::default());
        assert_eq!(sampler.sample(&LOGITS, &[], |logits| logits[1] = f32::NEG_INFINITY), Some(3));
    }

    #[test]
    fn log_probabilities_are_normalised_and_sorted() {
        let found = logprobs(&LOGITS, 3, 2);
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(found.logprob, found.top[1].1);
        let all = logprobs(&LOGITS, 3, 20).top;
        assert_eq!(all.len(), 4);
        let mass: f32 = all.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((mass - 1.0).abs() < 1e-6, "probabilities sum to {mass}");
    }
}
