//! Random events against the invariants of the scheduler and its block pool.

use std::collections::{HashMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

use proptest::prelude::*;

use super::*;
use crate::{
    backend::{BLOCK_TOKENS, BlockId},
    testing::check_cases,
};

#[test]
fn blocks_that_come_back_are_cached_as_if_they_had_been_computed() {
    let limits = Limits { sequences_max: 2, batch_tokens_max: 64, blocks: 4 };
    let mut scheduler = Scheduler::new(limits, "test");
    let prompt: Vec<u32> = (0..50).collect();
    let kept: Vec<BlockHash> = BlockHash::root("test").chain(&prompt).take(2).collect();
    let mut filled = Vec::new();
    scheduler.restore(&prompt, |hash, block| {
        filled.push((*hash, block));
        kept.contains(hash)
    });
    assert_eq!(filled.iter().map(|(hash, _)| *hash).collect::<Vec<_>>()[..2], kept);
    assert_eq!((filled.len(), scheduler.blocks()), (3, (0, 4)));
    assert_eq!(scheduler.cached().collect::<Vec<_>>(), filled[..2]);
    // What is there already isn't restored again.
    scheduler.restore(&prompt[..40], |hash, _| panic!("{hash:?} is cached"));
    let id = scheduler.add(prompt, true);
    assert_eq!(scheduler.plan().entries[0].start, 32);
    assert_eq!(scheduler.running(id).unwrap().cached(), 32);
}

/// What happens to a scheduler.
#[derive(Debug, Clone)]
enum Event {
    /// A prompt of `prompt` tokens, alike in all but the last `own`, that then generates.
    Arrive { prompt: usize, own: usize, generate: usize, reuse: bool },
    /// The sequence of this number, if it is still there, is dropped.
    Cancel(usize),
    /// A step is planned and computed.
    Step,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let arrive = (1..90usize, 0..40usize, 1..40usize, any::<bool>())
        .prop_map(|(prompt, own, generate, reuse)| Event::Arrive { prompt, own, generate, reuse });
    let event = prop_oneof![
        3 => arrive,
        1 => (0..60usize).prop_map(Event::Cancel),
        8 => Just(Event::Step),
    ];
    prop::collection::vec(event, 1..150)
}

fn limits() -> impl Strategy<Value = Limits> {
    // 90 + 40 tokens fit 9 blocks: the least that lets the longest sequence run.
    (1..6usize, 0..40usize, 9..40usize).prop_map(|(sequences_max, extra, blocks)| Limits {
        sequences_max,
        batch_tokens_max: sequences_max + extra,
        blocks,
    })
}

/// A scheduler with a make-believe device, whose cache remembers what each position was computed
/// from.
struct World {
    scheduler: Scheduler,
    limits: Limits,
    cache: HashMap<(BlockId, usize), u64>,
    /// Tokens still to generate of each live sequence.
    live: Vec<(SequenceId, usize)>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits, "test");
        Self { scheduler, limits, cache: HashMap::new(), live: Vec::new() }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrive { prompt, own, generate, reuse } => {
                let own = own.min(prompt);
                let mark = 1 + self.live.len() as u32;
                let mut tokens = vec![0; prompt - own];
                tokens.extend(vec![mark; own]);
                let id = self.scheduler.add(tokens, reuse);
                self.live.push((id, generate));
            }
            Event::Cancel(index) => {
                if index < self.live.len() {
                    let (id, _) = self.live.remove(index);
                    self.scheduler.remove(id);
                }
            }
            Event::Step => self.step(),
        }
        self.check();
    }

    fn step(&mut self) {
        let plan = self.scheduler.plan();
        self.check();
        self.check_plan(&plan);
        for entry in &plan.entries {
            self.compute(entry);
        }
        self.scheduler.commit(&plan);
        for entry in plan.entries.iter().filter(|entry| entry.is_last) {
            let index = self.live.iter().position(|(id, _)| *id == entry.id).unwrap();
            self.live[index].1 -= 1;
            if self.live[index].1 == 0 {
                self.live.remove(index);
                self.scheduler.remove(entry.id);
            } else {
                self.scheduler.push(entry.id, 7);
            }
        }
    }

    fn check_plan(&self, plan: &Plan) {
        assert_eq!(plan.tokens, plan.entries.iter().map(|entry| entry.tokens).sum::<usize>());
        assert!(plan.tokens <= self.limits.batch_tokens_max, "{plan:?} exceeds {:?}", self.limits);
        let oldest = self.live.iter().map(|(id, _)| *id).min();
        let advances = |id| plan.entries.iter().any(|entry| entry.id == id && entry.tokens > 0);
        assert!(oldest.is_none_or(advances), "the oldest sequence {oldest:?} waits in {plan:?}");
    }

    /// Writes the entry's positions and reads all before, as attention does.
    fn compute(&mut self, entry: &Entry) {
        let sequence = self.scheduler.running(entry.id).unwrap();
        let end = entry.start + entry.tokens;
        assert_eq!(entry.start, sequence.computed());
        assert_eq!(entry.is_last, end == sequence.tokens().len());
        for position in 0..end {
            let block = sequence.blocks()[position / BLOCK_TOKENS];
            let place = (block, position % BLOCK_TOKENS);
            let content = prefix_hash(&sequence.tokens()[..=position]);
            if position >= entry.start {
                let others = self.scheduler.running.iter().filter(|other| other.id != entry.id);
                let is_shared = others.flat_map(Sequence::blocks).any(|other| *other == block);
                assert!(!is_shared, "{:?} writes block {block:?} of another sequence", entry.id);
                self.cache.insert(place, content);
            } else {
                assert_eq!(self.cache[&place], content, "{:?} at position {position}", entry.id);
            }
        }
    }

    fn check(&self) {
        let scheduler = &self.scheduler;
        let owned: Vec<_> = scheduler.running.iter().flat_map(Sequence::blocks).copied().collect();
        scheduler.pool.check(&owned);
        assert!(scheduler.waiting.iter().all(|sequence| sequence.blocks().is_empty()));
        assert!(scheduler.running.len() <= self.limits.sequences_max);
        assert_eq!(scheduler.running.len() + scheduler.waiting.len(), self.live.len());
        let in_order: Vec<_> = scheduler.running.iter().chain(&scheduler.waiting).map(|s| s.id).collect();
        assert!(in_order.is_sorted(), "a later sequence overtook: {in_order:?}");
    }

    /// Tokens that the live sequences may still have to compute: a bound on the steps left, because
    /// the oldest advances in each.
    fn tokens_left(&self) -> usize {
        let sequences = self.scheduler.running.iter().chain(&self.scheduler.waiting);
        let known: usize = sequences.map(|sequence| sequence.tokens().len()).sum();
        known + self.live.iter().map(|(_, generate)| generate).sum::<usize>()
    }
}

fn prefix_hash(tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tokens.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn any_mix_of_arrivals_cancels_and_steps_keeps_the_invariants_and_finishes() {
    check_cases(1000, &(limits(), events()), |(limits, events)| {
        let mut world = World::new(limits);
        for event in &events {
            world.apply(event);
        }
        for _ in 0..world.tokens_left() {
            world.apply(&Event::Step);
        }
        assert!(world.live.is_empty(), "unfinished: {:?}", world.live);
        assert_eq!(world.scheduler.blocks().0, 0, "blocks leaked");
        assert_eq!(world.scheduler.plan(), Plan::default());
    });
}

const ROOMY: Limits = Limits { sequences_max: 4, batch_tokens_max: 32, blocks: 100 };

fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
    let plan = scheduler.plan();
    scheduler.commit(&plan);
    for entry in plan.entries.iter().filter(|entry| entry.is_last) {
        scheduler.push(entry.id, 7);
    }
    plan.entries.iter().map(|entry| (entry.id.0, entry.start, entry.tokens, entry.is_last)).collect()
}

#[test]
fn a_long_prompt_is_cut_into_chunks_beside_a_running_decode() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    scheduler.add(vec![1; 3], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 3, true)]);
    scheduler.add(vec![2; 70], true);
    assert_eq!(step(&mut scheduler), [(0, 3, 1, true), (1, 0, 31, false)]);
    assert_eq!(step(&mut scheduler), [(0, 4, 1, true), (1, 31, 31, false)]);
    assert_eq!(step(&mut scheduler), [(0, 5, 1, true), (1, 62, 8, true)]);
    assert_eq!(step(&mut scheduler), [(0, 6, 1, true), (1, 70, 1, true)]);
}

#[test]
fn a_known_prefix_is_not_computed_again_but_the_last_token_is() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    let first = scheduler.add(vec![1; 32], true);
    step(&mut scheduler);
    scheduler.remove(first);
    let second = scheduler.add(vec![1; 32], true);
    assert_eq!(step(&mut scheduler), [(1, 16, 16, true)]);
    assert_eq!(scheduler.running(second).unwrap().cached(), 16);
    scheduler.add(vec![1; 33], true);
    assert_eq!(step(&mut scheduler), [(1, 32, 1, true), (2, 32, 1, true)]);
    let whole = scheduler.add(vec![1; 33], false);
    assert_eq!(step(&mut scheduler)[2], (3, 0, 30, false));
    assert_eq!(scheduler.running(whole).unwrap().cached(), 0);
}

#[test]
fn the_newest_sequence_gives_up_its_blocks_when_none_is_left() {
    let limits = Limits { sequences_max: 2, batch_tokens_max: 64, blocks: 4 };
    let mut scheduler = Scheduler::new(limits, "test");
    scheduler.add(vec![1; 31], true);
    scheduler.add(vec![2; 15], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 31, true), (1, 0, 15, true)]);
    assert_eq!(step(&mut scheduler), [(0, 31, 1, true), (1, 15, 1, true)]);
    // The first takes the last free block; the second, in need of one as well, goes back.
    assert_eq!(step(&mut scheduler), [(0, 32, 1, true)]);
    assert_eq!((scheduler.running_count(), scheduler.waiting_count()), (1, 1));
    scheduler.remove(SequenceId(0));
    // Its full block was sealed, so only the rest is computed again.
    assert_eq!(step(&mut scheduler), [(1, 16, 1, true)]);
}

#[test]
fn a_short_prompt_does_not_overtake_a_long_one_that_lacks_blocks() {
    let limits = Limits { sequences_max: 3, batch_tokens_max: 64, blocks: 4 };
    let mut scheduler = Scheduler::new(limits, "test");
    let first = scheduler.add(vec![1; 20], true);
    scheduler.add(vec![2; 60], true);
    scheduler.add(vec![3; 1], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 20, true)]);
    assert_eq!(step(&mut scheduler), [(0, 20, 1, true)]);
    scheduler.remove(first);
    assert_eq!(step(&mut scheduler), [(1, 0, 60, true)]);
}
