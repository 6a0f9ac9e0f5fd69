//! One sequence's tokens and blocks.

use crate::backend::{BLOCK_TOKENS, BlockId};
use crate::kv::{BlockHash, BlockPool};

/// Identifies a sequence of one model. Ids are never used again, and a lower one arrived earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// A token stream: prompt and what was generated since. `computed` of its tokens have keys and
/// values in `blocks`; while it runs, `blocks` has room for all that were known when it was planned.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(super) id: SequenceId,
    tokens: Vec<u32>,
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
    pub(super) fn new(id: SequenceId, tokens: Vec<u32>, root: BlockHash, reuse: bool) -> Self {
        let mut sequence = Self {
            id,
            tokens,
            computed: 0,
            blocks: Vec::new(),
            hashes: Vec::new(),
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

    /// Position `p` lives in entry `p / BLOCK_TOKENS`.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens of the prompt that came from the prefix cache; 0 before it was admitted.
    pub(crate) fn cached(&self) -> usize {
        self.cached.unwrap_or(0)
    }

    /// Tokens without keys and values yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    /// Blocks it lacks to compute all of its tokens.
    pub(super) fn missing_blocks(&self) -> usize {
        blocks_for(self.tokens.len()).saturating_sub(self.blocks.len())
    }

    pub(super) fn push(&mut self, token: u32) {
        debug_assert_eq!(self.pending(), 0, "a token follows a computed one");
        self.tokens.push(token);
        self.extend_hashes();
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
        if pool.available() < self.missing_blocks() + reserve {
            self.release_blocks(pool);
            return false;
        }
        self.computed = self.blocks.len() * BLOCK_TOKENS;
        self.cached.get_or_insert(self.computed);
        while self.missing_blocks() > 0 {
            self.blocks.push(pool.allocate().expect("availability was checked"));
        }
        true
    }

    /// Takes one more block if its next token needs one; false when none is available.
    pub(super) fn grow(&mut self, pool: &mut BlockPool) -> bool {
        debug_assert!(self.missing_blocks() <= 1, "tokens come one by one");
        if self.missing_blocks() == 0 {
            return true;
        }
        let block = pool.allocate();
        self.blocks.extend(block);
        block.is_some()
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
        for index in full_before..self.computed / BLOCK_TOKENS {
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
