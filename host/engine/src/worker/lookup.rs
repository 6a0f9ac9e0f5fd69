//! Guesses what comes next from what came before: the tokens that followed the last occurrence of the
//! sequence's last few (prompt look-up decoding). Summaries, code and answers that quote repeat much.

/// Lengths of the runs that are looked up, longest first: of a longer one, more is likely to follow.
const RUNS: std::ops::RangeInclusive<usize> = 2..=4;

/// A sequence's guesser.
#[derive(Debug)]
pub(super) struct Lookup {
    /// The most tokens of a guess.
    tokens_max: usize,
    /// How many it guesses now: twice as many after each guess that was all right, as many as were
    /// right otherwise.
    tokens: usize,
}

impl Lookup {
    /// Guesses of up to `tokens_max` tokens, at least 1.
    pub(super) fn new(tokens_max: usize) -> Self {
        Self { tokens_max, tokens: tokens_max.min(*RUNS.end()) }
    }

    /// What may follow `tokens`; empty when their end is new.
    pub(super) fn guess<'a>(&self, tokens: &'a [u32]) -> &'a [u32] {
        let following = RUNS.rev().find_map(|run| last_occurrence(tokens, run));
        let following = following.map_or(&[][..], |end| &tokens[end..]);
        &following[..self.tokens.min(following.len())]
    }

    /// Takes note of how many of the guessed tokens were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if guessed > 0 {
            let next = if right == guessed { 2 * guessed } else { right };
            self.tokens = next.clamp(1, self.tokens_max);
        }
    }
}

/// The end of the last occurrence before the end of `tokens`' last `run` tokens.
fn last_occurrence(tokens: &[u32], run: usize) -> Option<usize> {
    let (_, before) = tokens.split_last()?;
    let last = tokens.get(tokens.len().checked_sub(run)?..)?;
    before.windows(run).rposition(|window| window == last).map(|start| start + run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], expected: &[u32]) {
        assert_eq!(Lookup::new(3).guess(tokens), expected);
    }

    #[test]
    fn what_followed_last_time_is_guessed() {
        check(&[1, 2, 3, 4, 5, 6, 1, 2], &[3, 4, 5]);
        check(&[1, 2, 3, 1, 2, 4, 1, 2], &[4, 1, 2]);
        check(&[1, 2, 1, 2], &[1, 2]);
    }

    #[test]
    fn a_longer_match_is_preferred_to_a_later_one() {
        check(&[9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], &[3, 8, 1]);
    }

    #[test]
    fn nothing_is_guessed_after_something_new() {
        check(&[], &[]);
        check(&[1], &[]);
        check(&[1, 1], &[]);
        check(&[1, 2, 3, 1], &[]);
        check(&[7, 7, 7], &[7]);
    }

    #[test]
    fn guesses_grow_while_they_are_right_and_shrink_when_not() {
        let mut lookup = Lookup::new(16);
        let tokens: Vec<u32> = (0..50).chain(0..4).collect();
        let mut lengths = vec![];
        for right in [4, 8, 16, 16, 5, 0, 0, 1] {
            let guessed = lookup.guess(&tokens).len();
            lengths.push(guessed);
            lookup.learn(guessed, right);
        }
        assert_eq!(lengths, [4, 8, 16, 16, 16, 5, 1, 1]);
    }
}
