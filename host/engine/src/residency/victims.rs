//! Which models make room for another: the cheapest, by what waking them again is expected to cost.
//!
//! A model's cost is its wakes per second if it sleeps (how often it is wanted) times the time of a
//! wake; divided by its bytes, it orders models as GreedyDual-Size does (Cao and Irani, USENIX 1997).

use std::time::Duration;

use super::machine::{ModelKey, Tier, Time};

/// Time in which what was counted loses half its weight.
const HALF_LIFE: Duration = Duration::from_secs(600);

/// How often a model is wanted: a count that fades.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    weight: f64,
    at: Time,
}

impl Rate {
    /// It was wanted.
    pub(super) fn count(&mut self, now: Time) {
        *self = Self { weight: self.faded(now) + 1.0, at: now };
    }

    /// Times that it was wanted per second.
    pub(super) fn per_second(&self, now: Time) -> f64 {
        self.faded(now) * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64()
    }

    fn faded(&self, now: Time) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.weight * (-age).exp2()
    }
}

/// A model that may make room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) key: ModelKey,
    /// Bytes it has in memory.
    pub(super) memory_bytes: u64,
    /// Of these, what it gives back in [`Tier::Memory`].
    pub(super) working_bytes: u64,
    /// Seconds of waking, per second, that its sleep is expected to cost.
    pub(super) cost: f64,
}

impl Candidate {
    /// What a byte of it is worth.
    pub(super) fn value(&self) -> f64 {
        self.cost / self.memory_bytes.max(1) as f64
    }
}

/// Models that give back at least `bytes` together, and the tier each goes to: the last only as deep as
/// it must. `None` when all of them are too little.
pub(super) fn choose(bytes: u64, candidates: &[Candidate]) -> Option<Vec<(ModelKey, Tier)>> {
    let mut candidates = candidates.to_vec();
    candidates.sort_by(|a, b| a.value().total_cmp(&b.value()).then(a.key.cmp(&b.key)));
    let mut chosen = Vec::new();
    let mut short = bytes;
    for candidate in candidates {
        if candidate.working_bytes >= short {
            chosen.push((candidate.key, Tier::Memory));
            return Some(chosen);
        }
        chosen.push((candidate.key, Tier::Disk));
        short = short.saturating_sub(candidate.memory_bytes);
        if short == 0 {
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: usize, memory_bytes: u64, working_bytes: u64, cost: f64) -> Candidate {
        Candidate { key: ModelKey(key), memory_bytes, working_bytes, cost }
    }

    #[test]
    fn the_cheapest_byte_goes_first_and_no_deeper_than_it_must() {
        let all = [candidate(0, 100, 40, 1.0), candidate(1, 100, 40, 5.0), candidate(2, 1000, 40, 5.0)];
        assert_eq!(choose(30, &all), Some(vec![(ModelKey(2), Tier::Memory)]));
        assert_eq!(choose(900, &all), Some(vec![(ModelKey(2), Tier::Disk)]));
        let both = vec![(ModelKey(2), Tier::Disk), (ModelKey(0), Tier::Memory)];
        assert_eq!(choose(1040, &all), Some(both));
        let all_three = [2, 0, 1].map(|key| (ModelKey(key), Tier::Disk)).to_vec();
        assert_eq!(choose(1200, &all), Some(all_three));
        assert_eq!(choose(1201, &all), None);
    }

    #[test]
    fn what_was_wanted_long_ago_counts_less() {
        let mut rate = Rate::default();
        (0..8).for_each(|_| rate.count(Time::ZERO));
        let before = rate.per_second(Time::ZERO);
        assert!((rate.per_second(HALF_LIFE) / before - 0.5).abs() < 1e-9);
        rate.count(HALF_LIFE);
        assert!((rate.per_second(HALF_LIFE) / before - 5.0 / 8.0).abs() < 1e-9);
    }
}
