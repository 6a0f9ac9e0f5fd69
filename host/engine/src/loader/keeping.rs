//! What of a model's prefix cache is kept on disk: when it goes to sleep, and when somebody asks for it.

use std::{collections::HashMap, io, sync::mpsc::sync_channel, time::Instant};

use memmap2::MmapMut;

use super::{
    Loaded, Loader,
    prefixes::{self, Choice},
};
use crate::{
    Error,
    backend::{BLOCK_TOKENS, BlockId},
    catalog::Digest,
    kv::BlockHash,
    models::Network,
    ready::{self, Block, Bytes, Prefixes},
    residency::{Keeper, ModelKey, Origin},
    worker::{Cached, Command, Copied, Parts},
};

impl Loader {
    /// What a model's cache is of, and what was kept of it.
    pub(super) fn cached(&self, origin: &Origin, network: &dyn Network) -> Cached {
        let digest = &origin.digest;
        let Some(layout) = network.cache_layout() else {
            return Cached { content: digest.to_string(), prefixes: None };
        };
        let content = content(digest, &layout);
        let root = BlockHash::root(&content);
        let prefixes = match self.store.prefixes(digest, &layout, root, network.block_bytes()) {
            Some(Err(reason)) => {
                tracing::warn!(model = %origin.source, reason, "kept prefixes can't be used");
                None
            }
            found => found.and_then(Result::ok),
        };
        Cached { content, prefixes }
    }

    /// Writes the blocks of a model that goes to sleep that are worth it to disk, where they aren't yet.
    /// Without them a prompt is computed from its beginning.
    pub(super) fn keep_prefixes(&self, keeper: &Keeper, key: ModelKey, loaded: &Loaded, parts: &mut Parts) {
        let Parts { network, cached, prefixes, .. } = parts;
        let Some(layout) = network.cache_layout() else { return };
        let Origin { source, digest, .. } = keeper.origin(key);
        let root = BlockHash::root(&content(&digest, &layout));
        let bounds = self.bounds(network.block_bytes());
        let declared = declared(keeper, key, loaded);
        let declared: Vec<_> = declared.iter().flat_map(|tokens| root.chain(tokens)).collect();
        let kept: Vec<_> = prefixes.iter().flat_map(Prefixes::blocks).collect();
        let chosen = prefixes::choose(&declared, cached, &kept, bounds);
        // One that is used is noted anew before it would be too old, and one that broke is written again.
        let stale = bounds.now.saturating_sub(self.config.residency.prefix_age_max.as_secs() / 2);
        let is_noted = |choice: &Choice| {
            let found = kept.iter().find(|(hash, _)| *hash == choice.hash);
            let is_fresh = found.is_some_and(|(_, used_at)| *used_at >= choice.used_at.min(stale));
            let is_whole = || prefixes.as_ref().is_some_and(|kept| kept.get(&choice.hash).is_some());
            is_fresh && (choice.block.is_none() || is_whole())
        };
        if chosen.iter().all(is_noted) {
            return;
        }
        let began = Instant::now();
        let written = collect(&mut **network, prefixes.as_ref(), &chosen)
            .and_then(|blocks| self.store.write_prefixes(&digest, &layout, root, &blocks).map_err(unkept));
        match written {
            Ok(()) => {
                tracing::debug!(model = %source, blocks = chosen.len(), took = ?began.elapsed(), "kept prefixes");
            }
            Err(error) => tracing::warn!(model = %source, %error, "can't keep prefixes"),
        }
    }

    /// Writes the declared prefixes of a model that stays awake to disk, as far as they are in its cache.
    /// Gives the number of their blocks that aren't on disk then.
    pub(super) fn keep_declared(&self, keeper: &Keeper, loaded: &Loaded) -> Result<usize, Error> {
        let lost = || Error::Failed(format!("model \"{}\" is gone", loaded.info.name));
        let key = keeper.key_of(loaded.id).ok_or_else(lost)?;
        let declared = declared(keeper, key, loaded);
        let (reply, copied) = sync_channel(1);
        let copy = Command::Copy { model: loaded.id, prompts: declared.clone(), reply };
        self.workers.send(loaded.device, copy)?;
        let copied = copied.recv().map_err(|_| Error::Cancelled)?;
        let Copied { layout, block_bytes, blocks: new } = copied.ok_or_else(lost)??;
        let Some(layout) = layout else {
            return Ok(declared.iter().map(|tokens| tokens.len() / BLOCK_TOKENS).sum());
        };
        let Origin { digest, .. } = keeper.origin(key);
        let root = BlockHash::root(&content(&digest, &layout));
        let declared: Vec<_> = declared.iter().flat_map(|tokens| root.chain(tokens)).collect();
        let open = || self.store.prefixes(&digest, &layout, root, block_bytes).and_then(Result::ok);
        let old = open();
        if !new.is_empty() {
            let bounds = self.bounds(block_bytes);
            let known: Vec<_> = new.iter().map(|(hash, _)| (*hash, bounds.now)).collect();
            let known = [known, old.iter().flat_map(Prefixes::blocks).collect()].concat();
            let new: HashMap<_, _> = new.into_iter().collect();
            let block = |Choice { hash, used_at, .. }: Choice| {
                let bytes = new.get(&hash).cloned().or_else(|| old.as_ref()?.get(&hash))?;
                Some(Block { hash, bytes, used_at })
            };
            let chosen = prefixes::choose(&declared, &[], &known, bounds);
            let blocks: Vec<_> = chosen.into_iter().filter_map(block).collect();
            self.store.write_prefixes(&digest, &layout, root, &blocks).map_err(unkept)?;
        }
        let kept = open();
        let is_kept = |hash: &&BlockHash| kept.as_ref().is_some_and(|kept| kept.get(hash).is_some());
        let missing = declared.iter().filter(|hash| !is_kept(hash)).count();
        if let Some(prefixes) = kept {
            // An error means that the engine was shut down.
            drop(self.workers.send(loaded.device, Command::Adopt { model: loaded.id, prefixes }));
        }
        Ok(missing)
    }

    fn bounds(&self, block_bytes: usize) -> prefixes::Bounds {
        let residency = &self.config.residency;
        let now = ready::now();
        prefixes::Bounds {
            blocks_max: (residency.prefix_bytes_max / block_bytes.max(1) as u64) as usize,
            used_since: now.saturating_sub(residency.prefix_age_max.as_secs()),
            now,
        }
    }
}

/// The tokens of a model's declared prefixes; of one that can't be, there are none.
fn declared(keeper: &Keeper, key: ModelKey, loaded: &Loaded) -> Vec<Vec<u32>> {
    let declared = keeper.prefixes(key);
    declared.iter().filter_map(|prefix| loaded.prefix_tokens(prefix).ok()).collect()
}

fn unkept(error: io::Error) -> Error {
    Error::Failed(format!("prefixes can't be written: {error}"))
}

/// Names what besides tokens decides the content of a block.
fn content(digest: &Digest, layout: &str) -> String {
    format!("{digest} {layout}")
}

/// The bytes of blocks, from the cache or else from where they were kept before.
fn collect(
    network: &mut dyn Network,
    kept: Option<&Prefixes>,
    chosen: &[Choice],
) -> Result<Vec<Block>, Error> {
    let in_cache: Vec<_> = chosen.iter().filter_map(|choice| choice.block).collect();
    let mut copies = copy_blocks(network, &in_cache)?.into_iter();
    let block = |choice: &Choice| {
        let bytes = match choice.block {
            Some(_) => copies.next(),
            // One that isn't as it was written any more is lost.
            None => kept.and_then(|kept| kept.get(&choice.hash)),
        };
        Some(Block { hash: choice.hash, bytes: bytes?, used_at: choice.used_at })
    };
    Ok(chosen.iter().filter_map(block).collect())
}

/// Copies of blocks of a cache.
pub(crate) fn copy_blocks(network: &mut dyn Network, blocks: &[BlockId]) -> Result<Vec<Bytes>, Error> {
    let block_bytes = network.block_bytes();
    let pages = MmapMut::map_anon((blocks.len() * block_bytes).max(1));
    let mut pages = pages.map_err(|error| Error::Failed(format!("no memory for a copy: {error}")))?;
    for (block, into) in blocks.iter().zip(pages.chunks_exact_mut(block_bytes.max(1))) {
        network.read_block(*block, into)?;
    }
    let copies = Bytes::of_memory(Some(pages));
    let starts = (0..blocks.len()).map(|index| index * block_bytes);
    Ok(starts.map(|start| copies.slice(start..start + block_bytes)).collect())
}
