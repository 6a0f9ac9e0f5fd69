//! Which sequences compute how many tokens in the next step. Plain data: no clock, no device, no
//! tasks. The engine thread tells it what happened and asks for a [`Plan`].
//!
//! ```text
//!  add ──► waiting ──its turn: blocks for all its tokens──► running ──remove──► gone
//!             ▲                                                │
//!             └──────── preempted: out of blocks, or ──────────┘
//!                       a place for a higher priority
//! ```
//! A plan serves decodes first (one token each), so that a long prompt, cut into chunks, never stalls
//! them. What is left of the step's tokens goes to prompts, running or waiting, in turn: higher priority
//! first, then the function that was served least, then who came first (`turns`). What is left after
//! that checks guesses of tokens to come.
//!
//! No one starves: of those that wait the oldest is overtaken by at most [`OVERTAKEN_MAX`] others, and
//! from then on precedes everyone else. Among the running, a rank that doesn't change decides who gives
//! up blocks, so the first of them always advances.

mod sequence;
#[cfg(test)]
mod tests;
mod turns;

use crate::{
    Caller,
    backend::BlockId,
    kv::{BlockHash, BlockPool},
};

pub(crate) use sequence::{Sequence, SequenceId, blocks_for};
use turns::Turns;

/// Admissions by which the oldest waiting sequence is overtaken before it precedes all others.
const OVERTAKEN_MAX: u32 = 16;

/// What bounds a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sequences that run together, at least 1.
    pub(crate) sequences_max: usize,
    /// Tokens of a step, at least `sequences_max`: then decodes leave a token for a prompt.
    pub(crate) batch_tokens_max: usize,
    /// KV blocks.
    pub(crate) blocks: usize,
    /// Tokens of a step beyond which guesses are not checked: rows are nearly free only as long as a
    /// step is bound by reading weights.
    pub(crate) guess_rows_max: usize,
    /// Whether blocks with generated tokens are found by prompts that repeat them.
    pub(crate) share_generated: bool,
    /// Whether a prompt is computed in one step, for which `batch_tokens_max` must suffice.
    pub(crate) whole_prompts: bool,
}

/// The next step: entries in order of their rows, those of generated tokens first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// One for each sequence of the step.
    pub(crate) entries: Vec<Entry>,
    /// Tokens of all entries, at most `batch_tokens_max`.
    pub(crate) tokens: usize,
    /// Of these, generated ones and guesses.
    pub(crate) generated: usize,
}

/// What one sequence computes in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whose tokens.
    pub(crate) id: SequenceId,
    /// Position of the first.
    pub(crate) start: usize,
    /// How many, at least 1; the last `guesses` of them are the sequence's guesses.
    pub(crate) tokens: usize,
    pub(crate) guesses: usize,
    /// Whether they are a prompt's. An entry has tokens of one kind.
    pub(crate) is_prompt: bool,
    /// Whether this reaches the sequence's last token, whose logits name the next one.
    pub(crate) is_last: bool,
}

/// A sequence to add.
#[derive(Debug)]
pub(crate) struct NewSequence {
    /// At least one token; the caller has checked that it can fit.
    pub(crate) prompt: Vec<u32>,
    /// Tokens that may follow: room for so many is made at once.
    pub(crate) tokens_max: usize,
    /// Whom it is for.
    pub(crate) caller: Caller,
    /// Whether it may start from cached blocks; otherwise every token passes through a step.
    pub(crate) reuse: bool,
}

/// The sequences of one model, and its KV blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    root: BlockHash,
    turns: Turns,
    /// In order of arrival.
    waiting: Vec<Sequence>,
    /// In order of rank.
    running: Vec<Sequence>,
    next_id: u64,
}

impl Scheduler {
    /// No sequences; `content` names what besides tokens decides the cache's content.
    pub(crate) fn new(limits: Limits, content: &str) -> Self {
        assert!(limits.sequences_max > 0, "{limits:?} let nothing run");
        assert!(limits.batch_tokens_max >= limits.sequences_max, "{limits:?} starve prompts");
        Self {
            limits,
            pool: BlockPool::new(limits.blocks),
            root: BlockHash::root(content),
            turns: Turns::default(),
            waiting: Vec::new(),
            running: Vec::with_capacity(limits.sequences_max),
            next_id: 0,
        }
    }

    /// Queues a sequence.
    ///
    /// # Panics
    /// If the prompt is empty or could never fit: the caller has checked the context length.
    pub(crate) fn add(&mut self, new: NewSequence) -> SequenceId {
        assert!(!new.prompt.is_empty(), "a sequence starts with a token");
        assert!(blocks_for(new.prompt.len()) <= self.pool.total(), "the prompt fits the cache");
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let account = self.turns.enter(&new.caller.name);
        self.waiting.push(Sequence::new(id, new, account, self.root, self.limits.share_generated));
        id
    }

    /// Brings back what it can of a prompt's full blocks, so that a sequence with this prompt starts from
    /// them: `restore` fills a block of this content, or says that it can't, which ends it.
    pub(crate) fn restore(&mut self, prompt: &[u32], mut restore: impl FnMut(&BlockHash, BlockId) -> bool) {
        let Self { pool, root, .. } = self;
        let mut owned = Vec::new();
        for hash in root.chain(prompt) {
            if let Some(block) = pool.share(&hash) {
                owned.push(block);
                continue;
            }
            let Some(block) = pool.allocate() else { break };
            owned.push(block);
            if !restore(&hash, block) {
                break;
            }
            pool.seal(block, hash);
        }
        owned.into_iter().rev().for_each(|block| pool.release(block));
    }

    /// Cached blocks that no sequence owns, those used last first.
    pub(crate) fn cached(&self) -> impl Iterator<Item = (BlockHash, BlockId)> {
        self.pool.idle()
    }

    /// The cached blocks among those of a prompt, whoever owns them.
    pub(crate) fn cached_of(&self, prompt: &[u32]) -> impl Iterator<Item = (BlockId, BlockHash)> {
        self.root.chain(prompt).filter_map(|hash| Some((self.pool.find(&hash)?, hash)))
    }

    /// Forgets a sequence, finished or cancelled, and frees its blocks. Unknown ids are ignored.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        let removed = if let Some(index) = self.waiting.iter().position(|sequence| sequence.id == id) {
            self.waiting.remove(index)
        } else if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            sequence.release_blocks(&mut self.pool);
            sequence
        } else {
            return;
        };
        self.turns.leave(removed.account);
    }

    /// Decides the next step; empty when there is nothing to do. [`Scheduler::commit`] it before
    /// anything else changes.
    pub(crate) fn plan(&mut self, plan: &mut Plan) {
        plan.entries.clear();
        (plan.tokens, plan.generated) = (0, 0);
        self.plan_decodes(plan);
        self.plan_prompts(plan);
        self.plan_guesses(plan);
    }

    /// Records that a plan was computed. Guesses still have to be [accepted](Scheduler::accept).
    pub(crate) fn commit(&mut self, plan: &Plan) {
        for entry in &plan.entries {
            let tokens = entry.tokens - entry.guesses;
            let is_decode = !entry.is_prompt && tokens == 1;
            let sequence = Self::find(&mut self.running, entry.id);
            sequence.advance(tokens, &mut self.pool);
            self.turns.charge(sequence.account, tokens, is_decode);
        }
    }

    /// Appends the token that a running sequence goes on with.
    ///
    /// # Panics
    /// If it doesn't run, or outgrows the cache.
    pub(crate) fn push(&mut self, id: SequenceId, token: u32) {
        let sequence = Self::find(&mut self.running, id);
        sequence.push(token);
        assert!(blocks_for(sequence.tokens().len()) <= self.pool.total(), "a sequence fits the cache");
    }

    /// Records that the token just pushed is the next guess, so that it is computed already.
    pub(crate) fn accept(&mut self, id: SequenceId) {
        let sequence = Self::find(&mut self.running, id);
        sequence.advance(1, &mut self.pool);
        self.turns.charge(sequence.account, 1, true);
    }

    /// What may follow a running sequence's tokens; replaces the guesses before.
    pub(crate) fn guess(&mut self, id: SequenceId, guesses: impl IntoIterator<Item = u32>) {
        Self::find(&mut self.running, id).guess(guesses);
    }

    /// A running sequence.
    pub(crate) fn running(&self, id: SequenceId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// Sequences in the batch.
    pub(crate) fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for a place.
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Blocks that sequences own, and blocks in all.
    pub(crate) fn blocks(&self) -> (usize, usize) {
        (self.pool.used(), self.pool.total())
    }

    /// One token of each sequence whose prompt is done, in order of rank. Who finds no block takes
    /// those of the last in rank, or is the last and goes back to the queue.
    fn plan_decodes(&mut self, plan: &mut Plan) {
        let mut index = 0;
        while index < self.running.len() && plan.tokens < self.limits.batch_tokens_max {
            let sequence = &mut self.running[index];
            if sequence.pending() != 1 {
                index += 1;
            } else if sequence.grow(0, &mut self.pool) {
                plan.push(sequence, 1);
                index += 1;
            } else {
                self.preempt_last();
            }
        }
    }

    /// Chunks of prompts in turn, of running sequences and of those that are admitted for it. Whose
    /// turn it is but for whom there are no blocks is waited for: a short sequence never overtakes a
    /// long one.
    fn plan_prompts(&mut self, plan: &mut Plan) {
        let mut may_admit = true;
        while plan.tokens < self.limits.batch_tokens_max {
            let running = self.running.iter().enumerate();
            let due = running.filter(|(_, sequence)| sequence.pending() > 1 && !plan.has(sequence.id));
            // The first in rank always advances.
            let turn = |(rank, sequence)| self.turns.of(sequence, rank == 0);
            let running = due.map(turn).min();
            let waiting = self.waiting.iter().filter(|_| may_admit);
            let waiting = waiting.map(|sequence| self.turns.of(sequence, false));
            match (running, waiting.min()) {
                (None, None) => return,
                (running, Some(next)) if running.is_none_or(|running| next < running) => {
                    may_admit = self.has_tokens_for(next.id, plan) && self.admit(next.id, plan);
                }
                (running, _) => self.plan_chunk(running.expect("or no one waits").id, plan),
            }
        }
    }

    /// Guesses of decodes, while they are nearly free.
    fn plan_guesses(&mut self, plan: &mut Plan) {
        let rows_max = self.limits.guess_rows_max.min(self.limits.batch_tokens_max);
        let reserve = self.running.len();
        for entry in
            plan.entries.iter_mut().filter(|entry| !entry.is_prompt && entry.is_last && entry.tokens == 1)
        {
            let sequence = Self::find(&mut self.running, entry.id);
            let guesses = sequence.guesses().len().min(rows_max.saturating_sub(plan.tokens));
            // No one is preempted for a guess.
            let blocks = sequence.missing_blocks(guesses);
            if guesses > 0 && self.pool.available() >= blocks + reserve {
                assert!(sequence.grow(guesses, &mut self.pool), "availability was checked");
                entry.guesses = guesses;
                entry.tokens += guesses;
                plan.tokens += guesses;
                plan.generated += guesses;
            }
        }
    }

    fn plan_chunk(&mut self, id: SequenceId, plan: &mut Plan) {
        let sequence = self.running(id).expect("it runs");
        let tokens = sequence.pending_of_a_kind().min(self.limits.batch_tokens_max - plan.tokens);
        plan.push(sequence, tokens);
    }

    /// Whether what a step has left suffices for a waiting sequence.
    fn has_tokens_for(&self, id: SequenceId, plan: &Plan) -> bool {
        let is_it = |sequence: &&Sequence| sequence.id == id;
        let prompt = self.waiting.iter().find(is_it).expect("it waits").tokens().len();
        !self.limits.whole_prompts || prompt <= self.limits.batch_tokens_max - plan.tokens
    }

    /// Admits a waiting sequence, if need be in the place of others of a lower priority, and plans its
    /// first chunk; false when there is no room for it.
    fn admit(&mut self, id: SequenceId, plan: &mut Plan) -> bool {
        let index = self.waiting.iter().position(|sequence| sequence.id == id).expect("it waits");
        let mut sequence = self.waiting.remove(index);
        while !self.has_room_for(&mut sequence) {
            let last = self.running.last().filter(|last| last.yields_to(&sequence));
            let Some(last) = last.map(|last| last.id) else {
                self.wait(sequence);
                return false;
            };
            plan.cancel(last);
            self.preempt_last();
        }
        if let Some(oldest) = self.waiting.first_mut().filter(|oldest| oldest.id < id) {
            oldest.be_overtaken(OVERTAKEN_MAX);
        }
        let place = self.running.partition_point(|other| other.rank() < sequence.rank());
        self.running.insert(place, sequence);
        self.plan_chunk(id, plan);
        true
    }

    /// Whether a sequence finds a place and blocks, which it then has. A block is left for each running
    /// sequence to grow into.
    fn has_room_for(&mut self, sequence: &mut Sequence) -> bool {
        let reserve = self.running.len();
        reserve < self.limits.sequences_max && sequence.take_blocks(&mut self.pool, reserve)
    }

    fn preempt_last(&mut self) {
        let mut last = self.running.pop().expect("someone owns the blocks");
        last.release_blocks(&mut self.pool);
        self.wait(last);
    }

    fn wait(&mut self, sequence: Sequence) {
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
    }

    fn find(sequences: &mut [Sequence], id: SequenceId) -> &mut Sequence {
        sequences.iter_mut().find(|sequence| sequence.id == id).expect("the sequence is there")
    }
}

impl Plan {
    fn push(&mut self, sequence: &Sequence, tokens: usize) {
        let is_prompt = sequence.is_in_prompt();
        let (id, start, is_last) = (sequence.id, sequence.computed(), tokens == sequence.pending());
        let entry = Entry { id, start, tokens, guesses: 0, is_prompt, is_last };
        let place = if is_prompt { self.entries.len() } else { self.first_prompt() };
        self.entries.insert(place, entry);
        self.count();
    }

    /// Index of the first entry of a prompt.
    fn first_prompt(&self) -> usize {
        self.entries.partition_point(|entry| !entry.is_prompt)
    }

    fn count(&mut self) {
        let tokens = |entries: &[Entry]| entries.iter().map(|entry| entry.tokens).sum();
        self.tokens = tokens(&self.entries);
        self.generated = tokens(&self.entries[..self.first_prompt()]);
    }

    fn has(&self, id: SequenceId) -> bool {
        self.entries.iter().any(|entry| entry.id == id)
    }

    /// Takes out what was planned for a sequence.
    fn cancel(&mut self, id: SequenceId) {
        self.entries.retain(|entry| entry.id != id);
        self.count();
    }
}
