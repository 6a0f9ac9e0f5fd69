//! Which blocks of a prefix cache are kept when its model goes to sleep.

use std::collections::HashSet;

use crate::{backend::BlockId, kv::BlockHash};

/// What bounds the blocks that are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) blocks_max: usize,
    /// Blocks that were used before this, in seconds since 1970, are too old.
    pub(super) used_since: u64,
    pub(super) now: u64,
}

/// A block to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) hash: BlockHash,
    /// Where it is in the cache; `None` for one that is in the file only.
    pub(super) block: Option<BlockId>,
    pub(super) used_at: u64,
}

/// The blocks to keep, those most worth it first: declared prefixes, then what is in the cache (those
/// used last first, so that no prefix is kept without its beginning), then what was kept before and not
/// used since, with the time of its last use.
pub(super) fn choose(
    declared: &[BlockHash],
    cached: &[(BlockHash, BlockId)],
    kept: &[(BlockHash, u64)],
    bounds: Bounds,
) -> Vec<Choice> {
    let in_cache = |hash: &BlockHash| cached.iter().find(|(other, _)| other == hash).map(|(_, block)| *block);
    let in_file = |hash: &BlockHash| kept.iter().any(|(other, _)| other == hash);
    let declared = declared.iter().filter_map(|hash| {
        let block = in_cache(hash);
        (block.is_some() || in_file(hash)).then_some(Choice { hash: *hash, block, used_at: bounds.now })
    });
    let cached =
        cached.iter().map(|(hash, block)| Choice { hash: *hash, block: Some(*block), used_at: bounds.now });
    let kept = kept.iter().filter(|(_, used_at)| *used_at >= bounds.used_since);
    let kept = kept.map(|(hash, used_at)| Choice { hash: *hash, block: None, used_at: *used_at });
    let mut seen = HashSet::new();
    let first = |choice: &Choice| seen.insert(choice.hash);
    declared.chain(cached).chain(kept).filter(first).take(bounds.blocks_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { blocks_max: 10, used_since: 50, now: 100 };

    fn hash(of: u32) -> BlockHash {
        BlockHash::root("test").next(&[of])
    }

    /// The chosen blocks by number, with where they are and when they were used.
    fn chosen(
        declared: &[u32],
        cached: &[u32],
        kept: &[(u32, u64)],
        bounds: Bounds,
    ) -> Vec<(u32, bool, u64)> {
        let declared: Vec<_> = declared.iter().map(|of| hash(*of)).collect();
        let cached: Vec<_> = cached.iter().map(|of| (hash(*of), BlockId(*of))).collect();
        let kept: Vec<_> = kept.iter().map(|(of, used_at)| (hash(*of), *used_at)).collect();
        let number = |found: BlockHash| (0..100).find(|of| hash(*of) == found).unwrap();
        choose(&declared, &cached, &kept, bounds)
            .into_iter()
            .map(|choice| (number(choice.hash), choice.block.is_some(), choice.used_at))
            .collect()
    }

    #[test]
    fn what_is_declared_goes_first_then_what_was_used_last() {
        let found = chosen(&[7, 8, 9], &[1, 2, 8], &[(3, 60), (7, 20), (2, 70), (4, 90)], BOUNDS);
        let declared = [(7, false, 100), (8, true, 100)];
        let used = [(1, true, 100), (2, true, 100), (3, false, 60), (4, false, 90)];
        assert_eq!(found, [&declared[..], &used[..]].concat());
    }

    #[test]
    fn what_is_old_or_beyond_the_bound_is_lost() {
        assert_eq!(chosen(&[], &[], &[(1, 49), (2, 50)], BOUNDS), [(2, false, 50)]);
        let bounds = Bounds { blocks_max: 2, ..BOUNDS };
        assert_eq!(chosen(&[5], &[1, 2], &[(5, 1)], bounds), [(5, false, 100), (1, true, 100)]);
    }
}
