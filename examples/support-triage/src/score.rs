//! From log-probabilities of labels to a verdict.

use std::fmt;

use dormouse_guest::prelude::*;

/// Who deals with a ticket
#[derive(Output, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Category {
    Billing,
    Bug,
    Account,
    Shipping,
}

impl Category {
    pub(crate) const ALL: [Self; 4] = [Self::Billing, Self::Bug, Self::Account, Self::Shipping];
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Billing => "billing",
            Self::Bug => "bug",
            Self::Account => "account",
            Self::Shipping => "shipping",
        })
    }
}

/// A logarithm for each category, in the order of [`Category::ALL`].
pub(crate) type Scores = [f64; Category::ALL.len()];

/// What the votes come to.
pub(crate) struct Verdict {
    /// The two likeliest categories with their probabilities, likeliest first.
    pub(crate) ranking: [(Category, f64); 2],
    /// The first choice of each ballot.
    pub(crate) winners: Vec<Category>,
}

/// The labels' log-probabilities among the likeliest tokens. A label that is not among them counts as
/// much as the last that is.
pub(crate) fn of_labels(labels: &[u32; Category::ALL.len()], top: &[(u32, f32)]) -> Scores {
    let last = top.last().map_or(f32::NEG_INFINITY, |(_, logprob)| *logprob);
    labels.map(|label| {
        let found = top.iter().find(|(token, _)| *token == label);
        found.map_or(last, |(_, logprob)| *logprob).into()
    })
}

/// Takes each blank's scores off its ballot's and averages over the ballots.
pub(crate) fn decide(ballots: &[Scores], blanks: &[Scores]) -> Verdict {
    let calibrated: Vec<Scores> = ballots
        .iter()
        .zip(blanks)
        .map(|(ballot, blank)| std::array::from_fn(|i| ballot[i] - blank[i]))
        .collect();
    let mean = |i: usize| calibrated.iter().map(|scores| scores[i]).sum::<f64>() / calibrated.len() as f64;
    let ranked = rank(&softmax(std::array::from_fn(mean)));
    Verdict {
        ranking: [ranked[0], ranked[1]],
        winners: calibrated.iter().map(|scores| rank(scores)[0].0).collect(),
    }
}

fn rank(scores: &Scores) -> [(Category, f64); Category::ALL.len()] {
    let mut ranked = std::array::from_fn(|i| (Category::ALL[i], scores[i]));
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
}

fn softmax(logits: Scores) -> Scores {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = logits.map(|logit| (logit - max).exp());
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaning_that_the_blank_shares_decides_nothing() {
        let blank = [-1.0, -5.0, -5.0, -5.0];
        let verdict = decide(&[[-1.0, -5.0, -3.0, -5.0]], &[blank]);
        assert_eq!(verdict.ranking[0].0, Category::Account);
        assert_eq!(verdict.winners, [Category::Account]);
    }

    #[test]
    fn probabilities_are_those_of_the_mean_ballot() {
        let zero = [0.0; 4];
        let verdict = decide(&[[3.0, 1.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]], &[zero, zero]);
        let e = std::f64::consts::E;
        let [(first, p), (second, q)] = verdict.ranking;
        assert_eq!((first, second), (Category::Billing, Category::Bug));
        assert!((p - e / (2.0 * e + 2.0)).abs() < 1e-12 && (p - q).abs() < 1e-12, "{p} {q}");
        assert_eq!(verdict.winners, [Category::Billing, Category::Bug]);
    }

    #[test]
    fn labels_out_of_sight_count_as_the_least_likely_in_sight() {
        let top = [(7, -0.5), (1, -2.0), (9, -4.0)];
        assert_eq!(of_labels(&[1, 2, 7, 3], &top), [-2.0, -4.0, -0.5, -4.0]);
    }
}
