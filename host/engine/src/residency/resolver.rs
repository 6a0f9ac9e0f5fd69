//! The `residency` thread: from a model's name to what is wanted of it, and whatever is due by time.
//!
//! It alone reads the catalogue and the headers of model files, so that no caller waits for a disk, and
//! no load holds up a deadline.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::SystemTime,
};

use super::{Ask, Footprint, Keeper, ModelKey, Order, Policy, Tier, keeper::Found};
use crate::{
    Catalog, Config, Error, catalog::Digest, gguf::Gguf, loader::Source, models::Maker, ready::Store,
    worker::panic_text,
};

/// The thread's state.
pub(crate) struct Resolver {
    orders: Receiver<Order>,
    keeper: Weak<Keeper>,
    catalog: Catalog,
    store: Store,
    /// One for each device.
    makers: Vec<Box<dyn Maker>>,
    config: Config,
    /// Digests of files outside the catalogue, as long as they stay the same.
    digests: HashMap<PathBuf, (Stamp, Digest)>,
}

/// Tells whether a file was written to.
type Stamp = (u64, SystemTime);

impl Resolver {
    pub(crate) fn new(
        orders: Receiver<Order>,
        keeper: Weak<Keeper>,
        catalog: Catalog,
        store: Store,
        makers: Vec<Box<dyn Maker>>,
        config: Config,
    ) -> Self {
        Self { orders, keeper, catalog, store, makers, config, digests: HashMap::new() }
    }

    /// The thread's body; ends when told to, or when no one can send orders any more.
    pub(crate) fn run(mut self) {
        while let Some(keeper) = self.keeper.upgrade() {
            if keeper.is_closed() {
                return;
            }
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
                Ok(Order::Ask { source, ask: Ask::Fit, reply }) => {
                    drop(reply.send(guarded(|| self.check_fit(&keeper, &source))));
                }
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
        guarded(|| {
            let (path, digest) = self.resolve(source)?;
            let key = match keeper.find(&digest) {
                Some(key) => key,
                None => self.add(keeper, source, &path, &digest)?,
            };
            keeper.bind(source, key, path);
            Ok(key)
        })
    }

    /// Whether a model could ever be awake. One that nobody wanted yet stays unknown.
    fn check_fit(&mut self, keeper: &Arc<Keeper>, source: &Source) -> Result<(), Error> {
        let (path, digest) = self.resolve(source)?;
        if let Some(key) = keeper.find(&digest) {
            return keeper.answer(key, Ask::Fit);
        }
        keeper.check_size(source, &self.footprints(&path)?)
    }

    /// What a file's model takes on each device.
    fn footprints(&self, path: &Path) -> Result<Vec<Footprint>, Error> {
        let gguf = Gguf::open(path)?;
        self.makers.iter().map(|maker| maker.footprint(&gguf, &self.config)).collect()
    }

    fn add(
        &self,
        keeper: &Arc<Keeper>,
        source: &Source,
        path: &Path,
        digest: &Digest,
    ) -> Result<ModelKey, Error> {
        let footprints = self.footprints(path)?;
        let mut layouts = self.makers.iter().filter_map(|maker| maker.layout());
        let is_ready = layouts.any(|layout| self.store.has_image(digest, &layout));
        let tier = if is_ready { Tier::Disk } else { Tier::Cold };
        let (policy, digest) = (self.policy(source), digest.clone());
        keeper.add(Found { source: source.clone(), path: path.to_owned(), digest, footprints, policy, tier })
    }

    /// When a model sleeps that is first opened by this name.
    fn policy(&self, source: &Source) -> Policy {
        let residency = &self.config.residency;
        match residency.models.get(&source.to_string()) {
            Some(own) => Policy { idle: [own.awake, own.memory, own.disk] },
            None => Policy { idle: [residency.awake_idle, residency.memory_idle, residency.disk_idle] },
        }
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

/// Reads a file that may be anything. A panic costs who asked for it, not the thread.
fn guarded<T>(read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|panic| Err(Error::Failed(panic_text(&*panic))))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{channel, sync_channel},
        time::Duration,
    };

    use super::*;
    use crate::{
        backend::reference::Reference,
        residency::{Bounds, Budget},
    };

    #[test]
    fn a_full_queue_does_not_keep_it_from_ending() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path());
        let (catalog, store) = (Catalog::open(folder.path()), Store::open(&config.residency.ready_dir, 0));
        let (orders, orders_in) = sync_channel(1);
        let bounds = Bounds {
            devices: vec![Budget { memory_bytes_max: 0, is_fallback: false }],
            waiters_max: 1,
            residence_min: Duration::ZERO,
            backoff: (Duration::ZERO, Duration::ZERO),
        };
        let keeper = Keeper::new(bounds, ["cpu".to_owned()].into(), orders.clone(), channel().0);
        orders.send(Order::Look).unwrap();
        keeper.close();
        let (catalog, store) = (catalog.unwrap(), store.unwrap());
        let makers: Vec<Box<dyn Maker>> = vec![Box::new(Reference)];
        Resolver::new(orders_in, Arc::downgrade(&keeper), catalog, store, makers, config).run();
    }
}
