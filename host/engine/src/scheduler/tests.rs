//! Random events against the invariants of the scheduler and its block pool.

use std::collections::{HashMap, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

use proptest::prelude::*;

use super::*;
use crate::{
    Priority,
    backend::{BLOCK_TOKENS, BlockId},
    testing::check_cases,
};

#[test]
fn blocks_that_come_back_are_cached_as_if_they_had_been_computed() {
    let limits = Limits { sequences_max: 2, batch_tokens_max: 64, blocks: 4, ..ROOMY };
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
    let id = add(&mut scheduler, prompt, true);
    assert_eq!(step(&mut scheduler)[0].1, 32);
    assert_eq!(scheduler.running(id).unwrap().cached(), 32);
}

/// What happens to a scheduler.
#[derive(Debug, Clone)]
enum Event {
    /// A prompt of `prompt` tokens, alike in all but the last `own`, that then generates.
    Arrive { prompt: usize, own: usize, generate: usize, reuse: bool, function: u8, priority: Priority },
    /// The sequence of this number, if it is still there, is dropped.
    Cancel(usize),
    /// A step is planned and computed.
    Step,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let priority =
        prop_oneof![1 => Just(Priority::High), 3 => Just(Priority::Normal), 1 => Just(Priority::Low)];
    let arrive = (1..90usize, 0..40usize, 1..40usize, any::<bool>(), 0..3u8, priority).prop_map(
        |(prompt, own, generate, reuse, function, priority)| Event::Arrive {
            prompt,
            own,
            generate,
            reuse,
            function,
            priority,
        },
    );
    let event = prop_oneof![
        3 => arrive,
        1 => (0..60usize).prop_map(Event::Cancel),
        8 => Just(Event::Step),
    ];
    prop::collection::vec(event, 1..150)
}

fn limits() -> impl Strategy<Value = Limits> {
    // 90 + 40 tokens fit 9 blocks: the least that lets the longest sequence run.
    (1..6usize, 0..40usize, 9..40usize, 0..12usize, any::<bool>()).prop_map(
        |(sequences_max, extra, blocks, guess_rows_max, share_generated)| Limits {
            sequences_max,
            batch_tokens_max: sequences_max + extra,
            blocks,
            guess_rows_max,
            share_generated,
            whole_prompts: false,
        },
    )
}

/// A scheduler with a make-believe device, whose cache remembers what each position was computed
/// from.
struct World {
    scheduler: Scheduler,
    limits: Limits,
    cache: HashMap<(BlockId, usize), u64>,
    /// In order of arrival.
    live: Vec<Live>,
    steps: usize,
}

/// A sequence that is neither finished nor cancelled.
#[derive(Debug)]
struct Live {
    id: SequenceId,
    /// Tokens still to generate.
    left: usize,
    /// Sequences that were there before it.
    older: usize,
    /// Later ones that were admitted while it waited.
    overtaken: usize,
}

impl World {
    fn new(limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits, "test");
        Self { scheduler, limits, cache: HashMap::new(), live: Vec::new(), steps: 0 }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrive { prompt, own, generate, reuse, function, priority } => {
                let own = own.min(prompt);
                let mark = 1 + self.live.len() as u32;
                let mut tokens = vec![0; prompt - own];
                tokens.extend(vec![mark; own]);
                let caller = Caller { name: function.to_string().into(), priority, guess_tokens: None };
                let new = NewSequence { prompt: tokens, tokens_max: generate, caller, reuse };
                let id = self.scheduler.add(new);
                self.live.push(Live { id, left: generate, older: self.live.len(), overtaken: 0 });
            }
            Event::Cancel(index) => {
                if index < self.live.len() {
                    self.scheduler.remove(self.live.remove(index).id);
                }
            }
            Event::Step => self.step(),
        }
        self.check();
    }

    fn step(&mut self) {
        self.steps += 1;
        let waiting: Vec<_> = self.scheduler.waiting.iter().map(|sequence| sequence.id).collect();
        let mut plan = Plan::default();
        self.scheduler.plan(&mut plan);
        self.check();
        self.check_plan(&plan);
        self.check_overtaking(&waiting, &plan);
        for entry in &plan.entries {
            self.compute(entry);
        }
        self.scheduler.commit(&plan);
        for entry in plan.entries.iter().filter(|entry| entry.is_last) {
            self.generate(entry);
        }
    }

    /// Draws tokens as long as they were guessed. What is drawn depends on the position only, and every
    /// third guess is wrong.
    fn generate(&mut self, entry: &Entry) {
        let index = self.live.iter().position(|live| live.id == entry.id).unwrap();
        let mut right = 0;
        loop {
            self.live[index].left -= 1;
            if self.live[index].left == 0 {
                self.live.remove(index);
                self.scheduler.remove(entry.id);
                return;
            }
            let position = self.scheduler.running(entry.id).unwrap().tokens().len();
            self.scheduler.push(entry.id, drawn_at(position));
            let guesses = self.scheduler.running(entry.id).unwrap().guesses();
            if right == entry.guesses || guesses[right] != drawn_at(position) {
                break;
            }
            self.scheduler.accept(entry.id);
            right += 1;
        }
        let end = self.scheduler.running(entry.id).unwrap().tokens().len();
        let guess = |position| if position % 3 == 0 { 9 } else { drawn_at(position) };
        self.scheduler.guess(entry.id, (end..end + self.steps % 5).map(guess));
    }

    fn check_plan(&self, plan: &Plan) {
        assert_eq!(plan.tokens, plan.entries.iter().map(|entry| entry.tokens).sum::<usize>());
        assert!(plan.tokens <= self.limits.batch_tokens_max, "{plan:?} exceeds {:?}", self.limits);
        assert!(plan.entries.is_sorted_by_key(|entry| entry.is_prompt), "{plan:?}");
        let generated = plan.entries.iter().filter(|entry| !entry.is_prompt);
        assert_eq!(plan.generated, generated.map(|entry| entry.tokens).sum::<usize>());
        let first = self.scheduler.running.first().map(|sequence| sequence.id);
        let advances = |id| plan.entries.iter().any(|entry| entry.id == id && entry.tokens > 0);
        assert!(first.is_none_or(advances), "the first in rank {first:?} waits in {plan:?}");
        assert!(self.live.is_empty() || !plan.entries.is_empty(), "nothing advances");
        let guesses: usize = plan.entries.iter().map(|entry| entry.guesses).sum();
        assert!(guesses == 0 || plan.tokens <= self.limits.guess_rows_max, "{plan:?} guesses too much");
    }

    /// Counts who of those that waited was overtaken, and checks that it doesn't happen too often.
    fn check_overtaking(&mut self, waited: &[SequenceId], plan: &Plan) {
        let runs = |id: &SequenceId| plan.entries.iter().any(|entry| entry.id == *id);
        let admitted: Vec<_> = waited.iter().filter(|id| runs(id)).collect();
        for live in self.live.iter_mut().filter(|live| waited.contains(&live.id) && !runs(&live.id)) {
            live.overtaken += admitted.iter().filter(|id| ***id > live.id).count();
            // Each that was there before it, and itself, is the oldest for a while.
            let bound = OVERTAKEN_MAX as usize * (live.older + 1);
            assert!(live.overtaken <= bound, "{:?} was overtaken {} times", live.id, live.overtaken);
        }
    }

    /// Writes the entry's positions and reads all before, as attention does.
    fn compute(&mut self, entry: &Entry) {
        let sequence = self.scheduler.running(entry.id).unwrap();
        let end = entry.start + entry.tokens;
        assert_eq!(entry.start, sequence.computed());
        assert_eq!(entry.is_last, end - entry.guesses == sequence.tokens().len());
        let tokens = [sequence.tokens(), sequence.guesses()].concat();
        for position in 0..end {
            let block = sequence.blocks()[position / BLOCK_TOKENS];
            let place = (block, position % BLOCK_TOKENS);
            let content = prefix_hash(&tokens[..=position]);
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
        assert!(scheduler.waiting.is_sorted_by_key(|sequence| sequence.id));
        assert!(scheduler.running.is_sorted_by_key(|sequence| sequence.rank()));
    }

    /// A bound on the steps left: each of the sequences may have to compute all its tokens again for each
    /// that gets blocks before it.
    fn steps_left(&self) -> usize {
        let sequences = self.scheduler.running.iter().chain(&self.scheduler.waiting);
        let known: usize = sequences.map(|sequence| sequence.tokens().len()).sum();
        let tokens = known + self.live.iter().map(|live| live.left).sum::<usize>();
        tokens * self.live.len()
    }
}

fn drawn_at(position: usize) -> u32 {
    7 + position as u32 % 2
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
        for _ in 0..world.steps_left() {
            if world.live.is_empty() {
                break;
            }
            world.apply(&Event::Step);
        }
        assert!(world.live.is_empty(), "unfinished: {:?}", world.live);
        assert_eq!(world.scheduler.blocks().0, 0, "blocks leaked");
        let mut plan = Plan::default();
        world.scheduler.plan(&mut plan);
        assert_eq!(plan, Plan::default());
    });
}

const ROOMY: Limits = Limits {
    sequences_max: 4,
    batch_tokens_max: 32,
    blocks: 100,
    guess_rows_max: 8,
    share_generated: true,
    whole_prompts: false,
};

fn add(scheduler: &mut Scheduler, prompt: Vec<u32>, reuse: bool) -> SequenceId {
    scheduler.add(NewSequence { prompt, tokens_max: 8, caller: Caller::default(), reuse })
}

fn add_for(scheduler: &mut Scheduler, name: &str, priority: Priority, tokens: usize) -> SequenceId {
    let caller = Caller { name: name.into(), priority, guess_tokens: None };
    scheduler.add(NewSequence { prompt: vec![1; tokens], tokens_max: 8, caller, reuse: false })
}

fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    scheduler.commit(&plan);
    for entry in plan.entries.iter().filter(|entry| entry.is_last) {
        scheduler.push(entry.id, 7);
    }
    plan.entries.iter().map(|entry| (entry.id.0, entry.start, entry.tokens, entry.is_last)).collect()
}

#[test]
fn a_long_prompt_is_cut_into_chunks_beside_a_running_decode() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    add(&mut scheduler, vec![1; 3], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 3, true)]);
    add(&mut scheduler, vec![2; 70], true);
    assert_eq!(step(&mut scheduler), [(0, 3, 1, true), (1, 0, 31, false)]);
    assert_eq!(step(&mut scheduler), [(0, 4, 1, true), (1, 31, 31, false)]);
    assert_eq!(step(&mut scheduler), [(0, 5, 1, true), (1, 62, 8, true)]);
    assert_eq!(step(&mut scheduler), [(0, 6, 1, true), (1, 70, 1, true)]);
}

#[test]
fn a_known_prefix_is_not_computed_again_but_the_last_token_is() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    let first = add(&mut scheduler, vec![1; 32], true);
    step(&mut scheduler);
    scheduler.remove(first);
    let second = add(&mut scheduler, vec![1; 32], true);
    assert_eq!(step(&mut scheduler), [(1, 16, 16, true)]);
    assert_eq!(scheduler.running(second).unwrap().cached(), 16);
    add(&mut scheduler, vec![1; 33], true);
    assert_eq!(step(&mut scheduler), [(1, 32, 1, true), (2, 32, 1, true)]);
    let whole = add(&mut scheduler, vec![1; 33], false);
    assert_eq!(step(&mut scheduler)[2], (3, 0, 30, false));
    assert_eq!(scheduler.running(whole).unwrap().cached(), 0);
}

#[test]
fn the_newest_sequence_gives_up_its_blocks_when_none_is_left() {
    let limits = Limits { sequences_max: 2, batch_tokens_max: 64, blocks: 4, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    add(&mut scheduler, vec![1; 31], true);
    add(&mut scheduler, vec![2; 15], true);
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
    let limits = Limits { sequences_max: 3, batch_tokens_max: 64, blocks: 4, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    let first = add(&mut scheduler, vec![1; 20], true);
    add(&mut scheduler, vec![2; 60], true);
    add(&mut scheduler, vec![3; 1], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 20, true)]);
    assert_eq!(step(&mut scheduler), [(0, 20, 1, true)]);
    scheduler.remove(first);
    assert_eq!(step(&mut scheduler), [(1, 0, 60, true)]);
}

#[test]
fn functions_share_prompts_evenly_however_many_each_sends() {
    let limits = Limits { sequences_max: 2, batch_tokens_max: 32, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    let mut functions = HashMap::new();
    for _ in 0..12 {
        functions.insert(add_for(&mut scheduler, "flood", Priority::Normal, 40), "flood");
    }
    for _ in 0..4 {
        functions.insert(add_for(&mut scheduler, "trickle", Priority::Normal, 40), "trickle");
    }
    let mut served = HashMap::from([("flood", 0), ("trickle", 0)]);
    while served["trickle"] < 160 {
        let mut plan = Plan::default();
        scheduler.plan(&mut plan);
        scheduler.commit(&plan);
        for entry in &plan.entries {
            *served.get_mut(functions[&entry.id]).unwrap() += entry.tokens;
            if entry.is_last {
                scheduler.remove(entry.id);
            }
        }
        // As long as both want something, neither is ahead by more than a prompt and a step.
        let ahead = served["flood"].abs_diff(served["trickle"]);
        assert!(ahead <= 40 + 32, "{served:?}");
    }
}

#[test]
fn a_higher_priority_takes_the_place_of_a_lower() {
    let limits = Limits { sequences_max: 1, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    let low = add_for(&mut scheduler, "a", Priority::Low, 8);
    assert_eq!(step(&mut scheduler), [(low.0, 0, 8, true)]);
    let normal = add_for(&mut scheduler, "a", Priority::Normal, 4);
    assert_eq!(step(&mut scheduler), [(normal.0, 0, 4, true)]);
    let same = add_for(&mut scheduler, "b", Priority::Normal, 4);
    assert_eq!(step(&mut scheduler), [(normal.0, 4, 1, true)]);
    scheduler.remove(normal);
    assert_eq!(step(&mut scheduler), [(same.0, 0, 4, true)]);
    scheduler.remove(same);
    // Its prompt again, then what it had generated.
    assert_eq!(step(&mut scheduler), [(low.0, 0, 8, false)]);
    assert_eq!(step(&mut scheduler), [(low.0, 8, 1, true)]);
}

#[test]
fn the_oldest_is_overtaken_only_so_often() {
    let limits = Limits { sequences_max: 1, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    let low = add_for(&mut scheduler, "a", Priority::Low, 8);
    for _ in 0..OVERTAKEN_MAX {
        let high = add_for(&mut scheduler, "b", Priority::High, 8);
        assert_eq!(step(&mut scheduler)[0].0, high.0);
        scheduler.remove(high);
    }
    add_for(&mut scheduler, "b", Priority::High, 8);
    assert_eq!(step(&mut scheduler)[0].0, low.0);
}

#[test]
fn guesses_are_checked_with_the_token_before_them() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    let id = add(&mut scheduler, vec![1; 15], true);
    assert_eq!(step(&mut scheduler), [(0, 0, 15, true)]);
    scheduler.guess(id, [7, 8, 9]);
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    assert_eq!(
        plan.entries,
        [Entry { id, start: 15, tokens: 4, guesses: 3, is_prompt: false, is_last: true }]
    );
    scheduler.commit(&plan);
    scheduler.push(id, 7);
    scheduler.accept(id);
    scheduler.push(id, 5);
    scheduler.guess(id, []);
    // Its first block, 15 tokens of the prompt and one, is whole and shared from now on.
    let again = add(&mut scheduler, [vec![1; 15], vec![7, 7, 7]].concat(), true);
    assert_eq!(step(&mut scheduler), [(0, 17, 1, true), (again.0, 16, 2, true)]);
}

#[test]
fn no_guesses_are_checked_beside_a_long_prompt() {
    let mut scheduler = Scheduler::new(ROOMY, "test");
    let id = add(&mut scheduler, vec![1; 3], true);
    step(&mut scheduler);
    scheduler.guess(id, [7; 4]);
    add(&mut scheduler, vec![2; 20], true);
    assert_eq!(step(&mut scheduler), [(0, 3, 1, true), (1, 0, 20, true)]);
}

#[test]
fn whole_prompts_wait_for_a_step_that_has_room_for_them() {
    let mut scheduler = Scheduler::new(Limits { whole_prompts: true, ..ROOMY }, "test");
    let lengths = [20, 20, 8, 32];
    let ids = lengths.map(|tokens| add(&mut scheduler, vec![1; tokens], false));
    let mut steps = Vec::new();
    while scheduler.waiting_count() > 0 {
        let mut plan = Plan::default();
        scheduler.plan(&mut plan);
        scheduler.commit(&plan);
        assert!(plan.entries.iter().all(|entry| entry.is_last && entry.start == 0), "{plan:?}");
        plan.entries.iter().for_each(|entry| scheduler.remove(entry.id));
        steps.push(plan.entries.iter().map(|entry| entry.id).collect::<Vec<_>>());
    }
    assert_eq!(steps, [vec![ids[0]], vec![ids[1], ids[2]], vec![ids[3]]]);
}

#[test]
fn generated_tokens_are_shared_only_where_that_is_allowed() {
    for share_generated in [true, false] {
        let mut scheduler = Scheduler::new(Limits { share_generated, ..ROOMY }, "test");
        let id = add(&mut scheduler, vec![1; 20], true);
        (0..20).for_each(|_| drop(step(&mut scheduler)));
        scheduler.remove(id);
        let again = add(&mut scheduler, [vec![1; 20], vec![7; 20]].concat(), true);
        step(&mut scheduler);
        let cached = scheduler.running(again).unwrap().cached();
        assert_eq!(cached, if share_generated { 32 } else { 16 });
    }
}

#[test]
fn what_was_generated_is_computed_again_as_such() {
    let limits = Limits { sequences_max: 1, share_generated: false, ..ROOMY };
    let mut scheduler = Scheduler::new(limits, "test");
    let low = add_for(&mut scheduler, "a", Priority::Low, 20);
    (0..6).for_each(|_| drop(step(&mut scheduler)));
    let high = add_for(&mut scheduler, "a", Priority::High, 4);
    step(&mut scheduler);
    scheduler.remove(high);
    let mut plan = Plan::default();
    scheduler.plan(&mut plan);
    let entry = Entry { id: low, start: 0, tokens: 20, guesses: 0, is_prompt: true, is_last: false };
    assert_eq!(plan.entries, [entry]);
    scheduler.commit(&plan);
    scheduler.plan(&mut plan);
    let entry = Entry { start: 20, tokens: 6, is_prompt: false, is_last: true, ..entry };
    assert_eq!((plan.entries.as_slice(), plan.generated), ([entry].as_slice(), 6));
}
