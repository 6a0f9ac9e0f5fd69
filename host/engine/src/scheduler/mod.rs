//! Which sequences compute how many tokens in the next step. Plain data: no clock, no device, no
//! tasks. The engine thread tells it what happened and asks for a [`Plan`].
//!
//! ```text
//!  add ──► waiting ──plan: blocks for all its tokens──► running ──remove──► gone
//!             ▲                                           │
//!             └────── preempted: out of blocks, ──────────┘
//!                     newest first, computed again
//! ```
//! A plan serves decodes first (one token each), then unfinished prompts in order of arrival, then
//! admits from the queue while tokens, places and blocks last. A long prompt is cut into chunks, so
//! that it never stalls the decodes. A running sequence holds blocks for all its tokens; only a
//! decode asks for one more, and the oldest sequence can always have it. So whoever arrived first
//! always advances, and everything finishes.

mod sequence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::{
    backend::BlockId,
    kv::{BlockHash, BlockPool},
};

use sequence::Sequence;
pub(crate) use sequence::{SequenceId, blocks_for};

/// What bounds a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sequences that run together, at least 1.
    pub(crate) sequences_max: usize,
    /// Tokens of a step, at least `sequences_max`: then decodes leave a token for a prompt.
    pub(crate) batch_tokens_max: usize,
    /// KV blocks.
    pub(crate) blocks: usize,
}

/// The next step: entries in order of their rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// One for each sequence of the step.
    pub(crate) entries: Vec<Entry>,
    /// Tokens of all entries, at most `batch_tokens_max`.
    pub(crate) tokens: usize,
}

/// What one sequence computes in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Whose tokens.
    pub(crate) id: SequenceId,
    /// Position of the first.
    pub(crate) start: usize,
    /// How many, at least 1.
    pub(crate) tokens: usize,
    /// Whether this reaches the sequence's last token, whose logits name the next one.
    pub(crate) is_last: bool,
}

/// The sequences of one model, and its KV blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    root: BlockHash,
    /// In order of arrival. Fairness between functions is a matter of what this yields next.
    waiting: VecDeque<Sequence>,
    /// In order of arrival.
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
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
        }
    }

    /// Queues a sequence. With `reuse` it may start from cached blocks; without, every token passes
    /// through a step.
    ///
    /// # Panics
    /// If the prompt is empty or could never fit: the caller has checked the context length.
    pub(crate) fn add(&mut self, prompt: Vec<u32>, reuse: bool) -> SequenceId {
        assert!(!prompt.is_empty(), "a sequence starts with a token");
        assert!(blocks_for(prompt.len()) <= self.pool.total(), "the prompt fits the cache");
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Sequence::new(id, prompt, self.root, reuse));
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

    /// Forgets a sequence, finished or cancelled, and frees its blocks. Unknown ids are ignored.
    pub(crate) fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            self.running.remove(index).release_blocks(&mut self.pool);
        }
    }

    /// Decides the next step; empty when there is nothing to do. [`Scheduler::commit`] it before
    /// anything else changes.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        self.plan_decodes(&mut plan);
        self.plan_prompts(&mut plan);
        self.admit(&mut plan);
        plan
    }

    /// Records that a plan was computed.
    pub(crate) fn commit(&mut self, plan: &Plan) {
        for entry in &plan.entries {
            let sequence = self.running.iter_mut().find(|sequence| sequence.id == entry.id);
            let sequence = sequence.expect("a planned sequence runs until its plan is committed");
            sequence.advance(entry.tokens, &mut self.pool);
        }
    }

    /// Appends the token that a running sequence goes on with.
    ///
    /// # Panics
    /// If it doesn't run, or outgrows the cache.
    pub(crate) fn push(&mut self, id: SequenceId, token: u32) {
        let sequence = self.running.iter_mut().find(|sequence| sequence.id == id);
        let sequence = sequence.expect("only a running sequence grows");
        sequence.push(token);
        assert!(blocks_for(sequence.tokens().len()) <= self.pool.total(), "a sequence fits the cache");
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

    /// One token of each sequence whose prompt is done, oldest first. Who finds no block takes the
    /// newest sequence's, or is the newest and goes back to the queue.
    fn plan_decodes(&mut self, plan: &mut Plan) {
        let mut index = 0;
        while index < self.running.len() && plan.tokens < self.limits.batch_tokens_max {
            let sequence = &mut self.running[index];
            if sequence.pending() != 1 {
                index += 1;
            } else if sequence.grow(&mut self.pool) {
                plan.push(sequence, 1);
                index += 1;
            } else {
                self.preempt_newest();
            }
        }
    }

    fn plan_prompts(&mut self, plan: &mut Plan) {
        for sequence in self.running.iter().filter(|sequence| sequence.pending() > 1) {
            let tokens = sequence.pending().min(self.limits.batch_tokens_max - plan.tokens);
            if tokens > 0 {
                plan.push(sequence, tokens);
            }
        }
    }

    /// Admits in order of arrival only: a short sequence never overtakes a long one for which
    /// blocks are short. A block is left for each running sequence to grow into.
    fn admit(&mut self, plan: &mut Plan) {
        while plan.tokens < self.limits.batch_tokens_max && self.running.len() < self.limits.sequences_max {
            let Some(next) = self.waiting.front_mut() else { return };
            if !next.take_blocks(&mut self.pool, self.running.len()) {
                return;
            }
            let next = self.waiting.pop_front().expect("it was seen above");
            plan.push(&next, next.pending().min(self.limits.batch_tokens_max - plan.tokens));
            let place = self.running.partition_point(|sequence| sequence.id < next.id);
            self.running.insert(place, next);
        }
    }

    fn preempt_newest(&mut self) {
        let mut newest = self.running.pop().expect("someone owns the blocks");
        newest.release_blocks(&mut self.pool);
        let place = self.waiting.partition_point(|sequence| sequence.id < newest.id);
        self.waiting.insert(place, newest);
    }
}

impl Plan {
    fn push(&mut self, sequence: &Sequence, tokens: usize) {
        self.entries.push(Entry {
            id: sequence.id,
            start: sequence.computed(),
            tokens,
            is_last: tokens == sequence.pending(),
        });
        self.tokens += tokens;
    }
}
