//! Blocks of a prefix cache that outlive it, by what they were computed from.

use std::{collections::HashMap, fs::File, io, path::Path, sync::atomic::AtomicBool, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    Bytes,
    container::{self, Container},
};
use crate::{catalog::seconds_since_1970, kv::BlockHash};

/// A block to keep.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Of its tokens and all before them, the weights, and the layout of its bytes.
    pub(crate) hash: BlockHash,
    /// Keys and values as they lie in the cache.
    pub(crate) bytes: Bytes,
    /// When it was last of use, in seconds since 1970.
    pub(crate) used_at: u64,
}

/// The kept blocks of a model, mapped.
#[derive(Debug)]
pub(crate) struct Prefixes {
    file: Container<About>,
    /// Section of each block.
    sections: HashMap<BlockHash, usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    /// Where the chains of hashes start.
    root: BlockHash,
    /// One for each section.
    blocks: Vec<BlockOf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BlockOf {
    hash: BlockHash,
    used_at: u64,
}

impl Prefixes {
    /// Maps a file of blocks, each of `block_bytes`; a block is checked when it is read. The text says
    /// what is wrong.
    pub(super) fn open(path: &Path, root: BlockHash, block_bytes: usize) -> io::Result<Result<Self, String>> {
        let check = |file: Container<About>| {
            let About { root: found, blocks } = &file.about;
            if *found != root {
                return Err("it is of another model or layout".into());
            }
            let is_even = (0..file.sections()).all(|index| file.section(index).len() == block_bytes);
            if blocks.len() != file.sections() || !is_even {
                return Err(format!("its blocks don't have {block_bytes} bytes"));
            }
            let sections = blocks.iter().zip(0..).map(|(block, index)| (block.hash, index)).collect();
            Ok(Self { file, sections })
        };
        Ok(Container::open(path)?.and_then(check))
    }

    /// A block's bytes, if it is here and as it was written.
    pub(crate) fn get(&self, hash: &BlockHash) -> Option<Bytes> {
        let index = *self.sections.get(hash)?;
        self.file.is_whole(index).then(|| self.file.section(index))
    }

    /// Every block with when it was last of use, the most worth keeping first.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (BlockHash, u64)> {
        self.file.about.blocks.iter().map(|block| (block.hash, block.used_at))
    }
}

/// Writes blocks to a file and syncs it.
pub(super) fn write(file: &mut File, root: BlockHash, blocks: &[Block]) -> io::Result<()> {
    let of = |block: &Block| BlockOf { hash: block.hash, used_at: block.used_at };
    let about = About { root, blocks: blocks.iter().map(of).collect() };
    let sections: Vec<&[u8]> = blocks.iter().map(|block| &*block.bytes).collect();
    container::write(file, about, &sections, &AtomicBool::new(false))
}

/// Now, as blocks count time.
pub(crate) fn now() -> u64 {
    seconds_since_1970(SystemTime::now())
}
