//! The `residency` thread: from a model's name to what is wanted of it, and whatever is due by time.
//!
//! It alone reads the catalogue and the headers of model files, so that no caller waits for a disk, and
//! no load holds up a deadline.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::SystemTime,
};

use super::{
    Keeper, ModelKey, Order, Policy, Tier,
    keeper::{Found, too_large},
};
use crate::{
    Catalog, Config, Error, backend::Backend, catalog::Digest, gguf::Gguf, loader::Source, models,
    ready::Store,
};

/// The thread's state.
pub(crate) struct Resolver<B> {
    orders: Receiver<Order>,
    keeper: Weak<Keeper>,
    catalog: Catalog,
    store: Store,
    backend: B,
    config: Config,
    /// Digests of files outside the catalogue, as long as they stay the same.
    digests: HashMap<PathBuf, (Stamp, Digest)>,
}

/// Tells whether a file was written to.
type Stamp = (u64, SystemTime);

impl<B: Backend> Resolver<B> {
    pub(crate) fn new(
        orders: Receiver<Order>,
        keeper: Weak<Keeper>,
        catalog: Catalog,
        store: Store,
        backend: B,
        config: Config,
    ) -> Self {
        Self { orders, keeper, catalog, store, backend, config, digests: HashMap::new() }
    }

    /// The thread's body; ends when told to, or when no one can send orders any more.
    pub(crate) fn run(mut self) {
        while let Some(keeper) = self.keeper.upgrade() {
            let wait = keeper.time_to_look();
            drop(keeper);
            let order = self.orders.recv_timeout(wait);
            let Some(keeper) = self.keeper.upgrade() else { return };
            match order {
                Ok(Order::Open { source, wish, reply }) => match self.find(&keeper, &source) {
                    Ok(key) => keeper.want(key, wish, reply),
                    // Whoever is gone doesn't miss the error.
                    Err(error) => drop(reply.send(Err(error))),
                },
                Ok(Order::Ask { source, ask, reply }) => {
                    let found = self.find(&keeper, &source);
                    drop(reply.send(found.and_then(|key| keeper.answer(key, ask))));
                }
                Ok(Order::Look) | Err(RecvTimeoutError::Timeout) => keeper.tick(),
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The model that a source means now. It takes its place among the models when it is first seen.
    fn find(&mut self, keeper: &Arc<Keeper>, source: &Source) -> Result<ModelKey, Error> {
        let (path, digest) = self.resolve(source)?;
        let key = match keeper.find(&digest) {
            Some(key) => key,
            None => self.add(keeper, source, &path, &digest)?,
        };
        keeper.bind(source, key, path);
        Ok(key)
    }

    fn add(
        &self,
        keeper: &Arc<Keeper>,
        source: &Source,
        path: &Path,
        digest: &Digest,
    ) -> Result<ModelKey, Error> {
        let gguf = Gguf::open(path)?;
        let footprint = models::footprint(&self.backend, &gguf, &self.config)?;
        let is_ready = self.backend.layout().is_some_and(|layout| self.store.has_image(digest, &layout));
        let tier = if is_ready { Tier::Disk } else { Tier::Cold };
        let found = Found { digest: digest.clone(), footprint, policy: self.policy(), tier };
        keeper.add(found).map_err(|refusal| too_large(&source.to_string(), footprint, &refusal))
    }

    fn policy(&self) -> Policy {
        let residency = &self.config.residency;
        Policy { idle: [residency.awake_idle, residency.memory_idle, residency.disk_idle] }
    }

    fn resolve(&mut self, source: &Source) -> Result<(PathBuf, Digest), Error> {
        match source {
            Source::Name(name) => {
                let entry = self.catalog.resolve(name)?;
                Ok((entry.path, entry.record.digest))
            }
            Source::File(path) => {
                let digest = self
                    .digest_of(path)
                    .map_err(|error| Error::BadModel { path: path.clone(), reason: error.to_string() })?;
                Ok((path.clone(), digest))
            }
        }
    }

    /// Hashes a file, unless it is as it was when it was hashed last.
    fn digest_of(&mut self, path: &Path) -> io::Result<Digest> {
        let metadata = std::fs::metadata(path)?;
        let stamp = (metadata.len(), metadata.modified()?);
        if let Some((_, digest)) = self.digests.get(path).filter(|(known, _)| *known == stamp) {
            return Ok(digest.clone());
        }
        let digest = Digest::of_file(path)?;
        self.digests.insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }
}
