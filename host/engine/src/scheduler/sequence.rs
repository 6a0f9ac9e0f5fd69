//! One sequence's tokens and blocks.

use crate::{
    Priority,
    backend::{BLOCK_TOKENS, BlockId},
    kv::{BlockHash, BlockPool},
};

use super::{NewSequence, turns::AccountId};

/// Identifies a sequence of one model. Ids are never used again, and a lower one arrived earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// Who comes before whom, whatever they were served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Was overtaken too often.
    Favoured,
    Of(Priority),
}

/// A token stream: prompt and what was generated since. `computed` of its tokens have keys and
/// values in `blocks`; while it runs, `blocks` has room for all that were known when it was planned.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(super) id: SequenceId,
    /// Of the function that it is for.
    pub(super) account: AccountId,
    priority: Priority,
    /// Admissions of later ones while it was the oldest that waits.
    overtaken: u32,
    /// Whether it was overtaken too often.
    is_favoured: bool,
    tokens: Vec<u32>,
    /// Tokens that were not generated.
    prompt_tokens: usize,
    /// Tokens whose blocks are shared once they are full.
    shared_tokens: usize,
    /// What may follow.
    guesses: Vec<u32>,
    computed: usize,
    blocks: Vec<BlockId>,
    /// Of each full block of `tokens`.
    hashes: Vec<BlockHash>,
    root: BlockHash,
    /// Whether it may start from blocks that others computed.
    reuse: bool,
    /// Tokens found in the prefix cache when it was first admitted.
    cached: Option<usize>,
}

/// Blocks that hold `tokens` positions.
pub(crate) fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

impl Sequence {
    pub(super) fn new(
        id: SequenceId,
        new: NewSequence,
        account: AccountId,
        root: BlockHash,
        share_generated: bool,
    ) -> Self {
        let NewSequence { prompt: mut tokens, tokens_max, caller, reuse } = new;
        let prompt_tokens = tokens.len();
        tokens.reserve(tokens_max);
        let blocks = blocks_for(tokens.len() + tokens_max);
        let mut sequence = Self {
            id,
            account,
            priority: caller.priority,
            overtaken: 0,
            is_favoured: false,
            tokens,
            prompt_tokens,
            shared_tokens: if share_generated { usize::MAX } else { prompt_tokens },
            guesses: Vec::new(),
            computed: 0,
            blocks: Vec::with_capacity(blocks),
            hashes: Vec::with_capacity(blocks),
            root,
            reuse,
            cached: None,
        };
        sequence.extend_hashes();
        sequence
    }

    /// Prompt and generated tokens.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What may follow them.
    pub(crate) fn guesses(&self) -> &[u32] {
        &self.guesses
    }

    /// Position `p` lives in entry `p / BLOCK_TOKENS`.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens of the prompt that came from the prefix cache; 0 before it was admitted.
    pub(crate) fn cached(&self) -> usize {
        self.cached.unwrap_or(0)
    }

    pub(super) fn class(&self) -> Class {
        if self.is_favoured { Class::Favoured } else { Class::Of(self.priority) }
    }

    /// Whether it goes back to the queue when another finds no place. A favoured one waits for a place, but
    /// then keeps it.
    pub(super) fn yields_to(&self, other: &Self) -> bool {
        !self.is_favoured && self.priority > other.priority
    }

    /// Its place among the running: the last gives up its blocks first.
    pub(super) fn rank(&self) -> (Class, SequenceId) {
        (self.class(), self.id)
    }

    /// Counts an admission of a later one; it is favoured from the `max`th on.
    pub(super) fn be_overtaken(&mut self, max: u32) {
        self.overtaken += 1;
        self.is_favoured |= self.overtaken >= max;
    }

    /// Tokens without keys and values yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    /// Whether the next token to compute is the prompt's.
    pub(super) fn is_in_prompt(&self) -> bool {
        self.computed < self.prompt_tokens
    }

    /// Tokens without keys and values of the kind that is next.
    pub(super) fn pending_of_a_kind(&self) -> usize {
        match self.is_in_prompt() {
            true => self.prompt_tokens - self.computed,
            false => self.pending(),
        }
    }

    /// Blocks it lacks to compute all of its tokens and some of its guesses.
    pub(super) fn missing_blocks(&self, guesses: usize) -> usize {
        blocks_for(self.tokens.len() + guesses).saturating_sub(self.blocks.len())
    }

    pub(super) fn push(&mut self, token: u32) {
        debug_assert_eq!(self.pending(), 0, "a token follows a computed one");
        self.tokens.push(token);
        self.extend_hashes();
    }

    pub(super) fn guess(&mut self, guesses: impl IntoIterator<Item = u32>) {
        self.guesses.clear();
        self.guesses.extend(guesses);
    }

    /// Takes every block it lacks, those of a known prefix from the cache, if `reserve` blocks stay
    /// available; otherwise takes none.
    pub(super) fn take_blocks(&mut self, pool: &mut BlockPool, reserve: usize) -> bool {
        debug_assert!(self.blocks.is_empty(), "admitted once");
        if self.reuse {
            // The last token is always computed: its logits are wanted.
            let reusable = (self.tokens.len() - 1) / BLOCK_TOKENS;
            self.blocks.extend(self.hashes[..reusable].iter().map_while(|hash| pool.share(hash)));
        }
        if pool.available() < self.missing_blocks(0) + reserve {
            self.release_blocks(pool);
            return false;
        }
        self.computed = self.blocks.len() * BLOCK_TOKENS;
        self.cached.get_or_insert(self.computed);
        assert!(self.grow(0, pool), "availability was checked");
        true
    }

    /// Takes the blocks it lacks; false when they don't suffice.
    pub(super) fn grow(&mut self, guesses: usize, pool: &mut BlockPool) -> bool {
        while self.missing_blocks(guesses) > 0 {
            let Some(block) = pool.allocate() else { return false };
            self.blocks.push(block);
        }
        true
    }

    /// Gives up all blocks; what was computed is to be computed again.
    pub(super) fn release_blocks(&mut self, pool: &mut BlockPool) {
        self.computed = 0;
        while let Some(block) = self.blocks.pop() {
            pool.release(block);
        }
    }

    /// Records that the next `tokens` tokens are computed, and seals the blocks that they fill.
    pub(super) fn advance(&mut self, tokens: usize, pool: &mut BlockPool) {
        debug_assert!(tokens <= self.pending());
        let full_before = self.computed / BLOCK_TOKENS;
        self.computed += tokens;
        let full = self.computed.min(self.shared_tokens) / BLOCK_TOKENS;
        for index in full_before..full {
            pool.seal(self.blocks[index], self.hashes[index]);
        }
    }

    fn extend_hashes(&mut self) {
        let full = self.tokens.chunks_exact(BLOCK_TOKENS).skip(self.hashes.len());
        let mut last = *self.hashes.last().unwrap_or(&self.root);
        for block in full {
            last = last.next(block);
            self.hashes.push(last);
        }
    }
}
