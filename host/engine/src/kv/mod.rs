//! Who owns which KV block, and which blocks hold a prefix that may be used again.
//!
//! ```text
//!          allocate                 release, never sealed
//!  free ─────────────► in use ──────────────────────────► free
//!   ▲                  ▲    │ release of the last owner, sealed
//!   │ evict (oldest)   │    ▼
//!   └───────────────── idle (content kept)
//!                 share by hash
//! ```
//! A block is sealed when all its positions are computed; its hash covers every token up to its
//! last, so an equal hash means equal keys and values. Plain data: the scheduler drives it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest, Sha256};

use crate::backend::{BLOCK_TOKENS, BlockId};

/// Names a block's content: a chain over the tokens of this block and all before it. SHA-256, so
/// that one tenant can't craft tokens that hit another's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockHash([u8; 32]);

impl BlockHash {
    /// Where a chain starts: what besides tokens decides the content (weights, adapter, cache type).
    pub(crate) fn root(seed: &str) -> Self {
        Self(Sha256::digest(seed).into())
    }

    /// The hash of the block that follows this one and holds `tokens`.
    pub(crate) fn next(&self, tokens: &[u32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The hashes of the full blocks of some tokens, from this one on.
    pub(crate) fn chain(self, tokens: &[u32]) -> impl Iterator<Item = Self> {
        tokens.chunks_exact(BLOCK_TOKENS).scan(self, |last, block| {
            *last = last.next(block);
            Some(*last)
        })
    }
}

/// As hex digits.
impl Serialize for BlockHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(crate::catalog::Digest::from_bytes(&self.0).hex())
    }
}

impl<'de> Deserialize<'de> for BlockHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(from)?;
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| D::Error::custom(format_args!("\"{hex}\" is no hash of a block")))
    }
}

/// One block's state.
#[derive(Debug, Clone, Default)]
struct Block {
    /// Sequences that hold it.
    owners: u32,
    /// Set when sealed.
    hash: Option<BlockHash>,
    /// Its key in `idle` while no one owns it.
    idle_since: u64,
}

/// The blocks of one model's cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<BlockId>,
    /// Unowned blocks with content, oldest first.
    idle: BTreeMap<u64, BlockId>,
    /// Sealed blocks, owned or idle.
    sealed: HashMap<BlockHash, BlockId>,
    /// Counts releases; orders `idle`.
    clock: u64,
}

impl BlockPool {
    /// `count` free blocks.
    pub(crate) fn new(count: usize) -> Self {
        let last = u32::try_from(count).expect("a cache has fewer than 2^32 blocks");
        Self {
            blocks: vec![Block::default(); count],
            free: (0..last).rev().map(BlockId).collect(),
            idle: BTreeMap::new(),
            sealed: HashMap::new(),
            clock: 0,
        }
    }

    /// Blocks in all.
    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that [`BlockPool::allocate`] can still give.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that sequences own.
    pub(crate) fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// A block of undefined content with one owner; evicts the idle block that was released first
    /// when none is free. `None` when every block is owned.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.evict()?,
        };
        let block = self.block(id);
        debug_assert!(block.owners == 0 && block.hash.is_none(), "block {id:?} was not free: {block:?}");
        block.owners = 1;
        Some(id)
    }

    /// The sealed block of this content, with one more owner.
    pub(crate) fn share(&mut self, hash: &BlockHash) -> Option<BlockId> {
        let id = *self.sealed.get(hash)?;
        let block = self.block(id);
        block.owners += 1;
        if block.owners == 1 {
            let since = block.idle_since;
            self.idle.remove(&since).expect("an unowned sealed block is idle");
        }
        Some(id)
    }

    /// The sealed block of this content.
    pub(crate) fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.sealed.get(hash).copied()
    }

    /// Records that all positions of an owned block are computed. When another block of the same
    /// content is sealed already, this one stays private.
    pub(crate) fn seal(&mut self, id: BlockId, hash: BlockHash) {
        debug_assert!(self.block(id).owners > 0, "sealing block {id:?} that no one owns");
        if self.block(id).hash.is_none() && !self.sealed.contains_key(&hash) {
            self.block(id).hash = Some(hash);
            self.sealed.insert(hash, id);
        }
    }

    /// Gives up one ownership. Release a sequence's last block first: idle blocks are evicted in
    /// order of release, and a prefix is useless without its beginning.
    ///
    /// # Panics
    /// If no one owns the block.
    pub(crate) fn release(&mut self, id: BlockId) {
        self.clock += 1;
        let clock = self.clock;
        let block = self.block(id);
        block.owners = block.owners.checked_sub(1).expect("a released block has an owner");
        if block.owners > 0 {
            return;
        }
        if block.hash.is_some() {
            block.idle_since = clock;
            self.idle.insert(clock, id);
        } else {
            self.free.push(id);
        }
    }

    /// Unowned blocks with content, those released last first.
    pub(crate) fn idle(&self) -> impl Iterator<Item = (BlockHash, BlockId)> {
        self.idle.values().rev().filter_map(|id| Some((self.blocks[id.0 as usize].hash?, *id)))
    }

    fn evict(&mut self) -> Option<BlockId> {
        let (_, id) = self.idle.pop_first()?;
        let hash = self.block(id).hash.take().expect("an idle block is sealed");
        self.sealed.remove(&hash);
        Some(id)
    }

    fn block(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }
}

#[cfg(test)]
impl BlockPool {
    /// Asserts that every block is in exactly one state and that `owned` (with repetitions) are the
    /// ownerships.
    pub(crate) fn check(&self, owned: &[BlockId]) {
        let mut owners = vec![0; self.total()];
        owned.iter().for_each(|id| owners[id.0 as usize] += 1);
        for (index, block) in self.blocks.iter().enumerate() {
            let id = BlockId(index as u32);
            assert_eq!(block.owners, owners[index], "owners of {id:?}");
            let is_free = self.free.contains(&id);
            let is_idle = self.idle.get(&block.idle_since) == Some(&id) && block.owners == 0;
            assert_eq!(is_free, block.owners == 0 && block.hash.is_none(), "{id:?} free");
            assert_eq!(is_idle, block.owners == 0 && block.hash.is_some(), "{id:?} idle");
            if let Some(hash) = block.hash {
                assert_eq!(self.sealed.get(&hash), Some(&id), "{id:?} is found by its hash");
            }
        }
        assert_eq!(self.free.len() + self.idle.len(), self.blocks.iter().filter(|b| b.owners == 0).count());
        assert_eq!(self.sealed.len(), self.blocks.iter().filter(|b| b.hash.is_some()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(tokens: &[u32]) -> BlockHash {
        BlockHash::root("test").next(tokens)
    }

    #[test]
    fn a_block_that_was_never_sealed_is_free_again_after_its_release() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        assert_eq!(pool.allocate(), None);
        pool.release(block);
        pool.check(&[]);
        assert_eq!(pool.allocate(), Some(block));
    }

    #[test]
    fn a_sealed_block_is_shared_while_owned_and_while_idle() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate().unwrap();
        pool.seal(block, hash(&[1]));
        assert_eq!(pool.share(&hash(&[1])), Some(block));
        pool.check(&[block, block]);
        pool.release(block);
        pool.release(block);
        assert_eq!((pool.used(), pool.available()), (0, 2));
        assert_eq!(pool.share(&hash(&[1])), Some(block));
        assert_eq!(pool.share(&hash(&[2])), None);
        pool.check(&[block]);
    }

    #[test]
    fn idle_blocks_are_evicted_in_the_order_of_their_release() {
        let mut pool = BlockPool::new(2);
        let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.seal(first, hash(&[1]));
        pool.seal(second, hash(&[2]));
        pool.release(second);
        pool.release(first);
        assert_eq!(pool.allocate(), Some(second));
        assert_eq!(pool.share(&hash(&[2])), None);
        assert_eq!(pool.share(&hash(&[1])), Some(first));
        pool.check(&[first, second]);
    }

    #[test]
    fn the_second_block_of_one_content_stays_private() {
        let mut pool = BlockPool::new(2);
        let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.seal(first, hash(&[1]));
        pool.seal(second, hash(&[1]));
        pool.release(second);
        pool.check(&[first]);
        assert_eq!(pool.share(&hash(&[1])), Some(first));
    }

    #[test]
    fn a_hash_is_written_as_hex_and_read_back() {
        let hash = hash(&[1]);
        let text = serde_json::to_string(&hash).unwrap();
        assert_eq!(text.len(), 66);
        assert_eq!(serde_json::from_str::<BlockHash>(&text).unwrap(), hash);
        for wrong in ["", "00", &"0g".repeat(32), &"00".repeat(33)] {
            assert!(serde_json::from_value::<BlockHash>(wrong.into()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_chain_has_a_hash_for_each_full_block() {
        let root = BlockHash::root("a");
        let tokens: Vec<u32> = (0..40).collect();
        let (first, second) = (root.next(&tokens[..16]), root.next(&tokens[..16]).next(&tokens[16..32]));
        assert_eq!(root.chain(&tokens).collect::<Vec<_>>(), [first, second]);
    }

    #[test]
    fn a_hash_depends_on_every_token_before_it() {
        let root = BlockHash::root("a");
        assert_ne!(root.next(&[1]).next(&[3]), root.next(&[2]).next(&[3]));
        assert_ne!(root.next(&[1]), BlockHash::root("b").next(&[1]));
        assert_eq!(root.next(&[1]).next(&[3]), root.next(&[1]).next(&[3]));
    }
}
