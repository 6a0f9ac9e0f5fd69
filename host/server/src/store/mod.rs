//! What lasts on this node: functions, revisions and aliases in SQLite, components as blobs.
//!
//! One thread owns the database; changes go to it over a bounded channel and come back when they are
//! on disk (write-ahead log, `synchronous=FULL`). What a change answers survives `kill -9`. Writes of
//! predictions that come together share a commit, and so one sync of the disk. Readers of functions
//! look into the [`Registry`], which holds the same in memory; readers of predictions have connections
//! of their own.

mod blobs;
mod changes;
mod documents;
mod files;
mod migrations;
mod predictions;
mod reads;
mod registry;
mod rows;
mod writes;

use std::{
    collections::HashSet,
    fs::{self, File},
    path::Path,
    sync::Arc,
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Config, Error,
    config::Deploy,
    function::{Alias, Digest, FunctionName, Unresolved},
};

use reads::Readers;
use writes::Write;

pub(crate) use blobs::{Blobs, Pin};
pub(crate) use documents::{Documents, Expect, Kind, Versioned};
pub(crate) use files::{Files, add_line};
pub(crate) use predictions::{Filter, Page, Predictions};
pub(crate) use registry::Registry;

/// What the store's thread is asked to do.
enum Job {
    Change(Box<dyn FnOnce(&mut Writer) + Send>),
    /// Done in one transaction with those that come right after it.
    Write(Write),
    /// Finish what waits, close the database and say so.
    Close(oneshot::Sender<()>),
}

/// A handle on the store; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    readers: Readers,
    pub(crate) blobs: Blobs,
    pub(crate) files: Files,
    pub(crate) registry: Arc<Registry>,
}

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("no function \"{0}\"")]
    NoFunction(FunctionName),
    #[error("function \"{function}\" has no alias \"{alias}\"")]
    NoAlias { function: FunctionName, alias: Alias },
    #[error(transparent)]
    Unresolved(Unresolved),
    /// It is at odds with how things stand; says how they do.
    #[error("{0}")]
    Conflict(String),
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("database: can't commit: {0}")]
    Commit(String),
    #[error("the store is closed")]
    Closed,
}

/// The thread's state.
struct Writer {
    connection: Connection,
    blobs: Blobs,
    registry: Arc<Registry>,
    bounds: Deploy,
    /// Held for as long as the store is in use.
    _lock: File,
}

impl Store {
    /// Opens the store of a node: makes or updates its tables, sweeps blobs that nothing refers to and
    /// reads what is there. Blocks.
    pub(crate) fn open(config: Arc<Config>) -> Result<Self, Error> {
        let dir = config.data_dir.as_path();
        let data = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Data { path, source }
        };
        fs::create_dir_all(dir).map_err(data(dir))?;
        let lock_path = dir.join("dormouse.lock");
        let lock = File::create(&lock_path).map_err(data(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::DataInUse(dir.to_owned()),
            fs::TryLockError::Error(source) => Error::Data { path: lock_path, source },
        })?;
        let path = dir.join("dormouse.db");
        let connection = connect(&path)?;
        let contents = rows::load(&connection)?;
        let blobs_dir = dir.join("blobs");
        let blobs = Blobs::open(&blobs_dir).map_err(data(&blobs_dir))?;
        let images = contents.functions.iter().flat_map(|function| &function.revisions);
        let images = images.filter_map(|revision| revision.start.image());
        let keep: HashSet<_> = contents.manifests.keys().chain(images).cloned().collect();
        let swept = blobs.sweep(&keep).map_err(data(&blobs_dir))?;
        if swept > 0 {
            tracing::info!(swept, "removed blobs of deploys that were never acknowledged");
        }
        let files_dir = dir.join("files");
        let files = Files::open(&files_dir).map_err(data(&files_dir))?;
        let (jobs, inbox) = mpsc::channel(config.deploy.writes_max.max(1));
        let bounds = config.deploy.clone();
        let registry = Arc::new(Registry::new(config.clone(), contents));
        let writer =
            Writer { connection, blobs: blobs.clone(), registry: registry.clone(), bounds, _lock: lock };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(inbox))
            .map_err(|source| Error::Data { path: dir.to_owned(), source })?;
        let readers = Readers::new(&path, config.queue.readers_max);
        Ok(Self { jobs, readers, blobs, files, registry })
    }

    /// Waits for the changes under way and closes the database; later changes are refused.
    pub(crate) async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        // An error says that it is closed already.
        let _ = self.jobs.send(Job::Close(answer)).await;
        let _ = answered.await;
    }

    /// Runs a change on the store's thread. The change happens even when the caller leaves meanwhile.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Writer) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let job = Job::Change(Box::new(move |writer| {
            // The caller may have left; the change stands.
            let _ = answer.send(change(writer));
        }));
        self.jobs.send(job).await.map_err(|_| ChangeError::Closed)?;
        answered.await.map_err(|_| ChangeError::Closed)?
    }
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut closers = Vec::new();
        let mut next = None;
        while let Some(job) = next.take().or_else(|| inbox.blocking_recv()) {
            match job {
                Job::Change(change) => change(&mut self),
                Job::Write(first) => next = writes::commit_together(&mut self.connection, first, &mut inbox),
                Job::Close(answer) => {
                    closers.push(answer);
                    inbox.close();
                }
            }
        }
        drop(self);
        // Dropping the answers would do; sending says that it is meant.
        closers.into_iter().for_each(|answer| _ = answer.send(()));
    }

    /// Removes the blobs of components that are no longer in the database.
    fn remove_blobs(&self, freed: &[Digest]) {
        for digest in freed {
            if let Err(error) = self.blobs.remove(digest) {
                tracing::warn!(%digest, %error, "can't remove a blob; the next start will");
            }
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrations::migrate(&mut connection)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::UNIX_EPOCH};

    use super::{changes::Deployed, *};
    use crate::function::{Function, Manifest, Predictor, Reference, Settings, Start, minimal_manifest};

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn open(dir: &Path) -> Result<Store, Error> {
        let mut config = Config::new(dir);
        config.deploy.revisions_max = 2;
        config.deploy.aliases_max = 2;
        config.deploy.functions_max = 2;
        Store::open(Arc::new(config))
    }

    /// Deploys as the service does: pin, blob, change.
    async fn try_deploy(store: &Store, function: &str, component: &[u8]) -> Result<Deployed, ChangeError> {
        let digest = Digest::of(component);
        let pin = store.blobs.pin(&digest);
        let mut upload = store.blobs.upload().unwrap();
        upload.write_all(component).unwrap();
        pin.keep(upload).unwrap();
        let manifest = Manifest::read(minimal_manifest(), &Deploy::default()).unwrap();
        let predictor = Arc::new(Predictor { digest, manifest });
        let start = Arc::new(Start::default());
        store.deploy(name(function), predictor, Settings::default(), start, UNIX_EPOCH, vec![pin]).await
    }

    async fn deploy(store: &Store, function: &str, component: &[u8]) -> Arc<Function> {
        try_deploy(store, function, component).await.unwrap().function
    }

    fn components(function: &Function) -> Vec<Digest> {
        function.revisions.iter().map(|revision| revision.predictor.digest.clone()).collect()
    }

    #[tokio::test]
    async fn what_a_change_answered_is_there_when_the_store_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        deploy(&store, "f", b"one").await;
        let function = deploy(&store, "f", b"two").await;
        let to = reference(function.revisions[1].id.as_str());
        let function = store.set_alias(name("f"), Alias::parse("beta").unwrap(), to).await.unwrap();
        store.close().await;
        let store = open(dir.path()).unwrap();
        assert_eq!(format!("{:?}", store.registry.all()), format!("{:?}", [function]));
        assert!(store.blobs.read(&Digest::of(b"one")).is_ok());
    }

    #[tokio::test]
    async fn the_same_component_with_the_same_settings_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let first = try_deploy(&store, "f", b"one").await.unwrap();
        assert!(first.is_new);
        let again = try_deploy(&store, "f", b"one").await.unwrap();
        assert!(!again.is_new && Arc::ptr_eq(&first.function, &again.function));
    }

    #[tokio::test]
    async fn rolling_back_twice_is_where_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let one = deploy(&store, "f", b"one").await;
        let error = store.roll_back(name("f"), None).await.unwrap_err().to_string();
        assert_eq!(error, "function \"f\" has no revision to go back to");
        let two = deploy(&store, "f", b"two").await;
        let back = store.roll_back(name("f"), None).await.unwrap();
        assert_eq!((&back.live().id, &back.latest().id), (&one.live().id, &two.live().id));
        let forth = store.roll_back(name("f"), None).await.unwrap();
        assert_eq!(forth.live().id, two.live().id);
    }

    #[tokio::test]
    async fn deploying_an_old_revision_again_makes_it_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        deploy(&store, "f", b"one").await;
        deploy(&store, "f", b"two").await;
        let function = deploy(&store, "f", b"one").await;
        assert_eq!(components(&function), [Digest::of(b"one"), Digest::of(b"two")]);
        assert_eq!(function.live().id, function.latest().id);
    }

    #[tokio::test]
    async fn the_oldest_revisions_that_no_alias_names_go_with_their_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        deploy(&store, "f", b"one").await;
        store.set_alias(name("f"), Alias::parse("beta").unwrap(), reference("live")).await.unwrap();
        deploy(&store, "f", b"two").await;
        deploy(&store, "f", b"three").await;
        let function = deploy(&store, "f", b"four").await;
        let [one, two, three, four] = [&b"one"[..], b"two", b"three", b"four"].map(Digest::of);
        assert_eq!(components(&function), [four, three, one.clone()]);
        assert!(store.blobs.read(&one).is_ok() && store.blobs.read(&two).is_err());
    }

    #[tokio::test]
    async fn an_image_lasts_as_long_as_a_revision_that_begins_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let deploy = async |store: &Store, function: &str, component: &[u8]| {
            let [digest, image] = [component, b"image"].map(Digest::of);
            let pins = vec![store.blobs.pin(&digest), store.blobs.pin(&image)];
            for (pin, bytes) in pins.iter().zip([component, b"image"]) {
                let mut upload = store.blobs.upload().unwrap();
                upload.write_all(bytes).unwrap();
                pin.keep(upload).unwrap();
            }
            let manifest = Manifest::read(minimal_manifest(), &Deploy::default()).unwrap();
            let predictor = Arc::new(Predictor { digest, manifest });
            let start = Arc::new(Start::Image(image));
            let settings = Settings::default();
            store.deploy(name(function), predictor, settings, start, UNIX_EPOCH, pins).await.unwrap().function
        };
        let f = deploy(&store, "f", b"one").await;
        deploy(&store, "g", b"two").await;
        assert!(store.registry.start(&Start::key(&Digest::of(b"one"), &f.live().effective)).is_some());
        store.close().await;
        let store = open(dir.path()).unwrap();
        assert_eq!(store.registry.find("f").unwrap().live().start, f.live().start);
        store.remove_function(name("f")).await.unwrap();
        assert!(store.blobs.read(&Digest::of(b"image")).is_ok(), "the other one has it too");
        let freed = store.remove_function(name("g")).await.unwrap();
        assert_eq!(freed, [Digest::of(b"two"), Digest::of(b"image")]);
        assert!(store.blobs.read(&Digest::of(b"image")).is_err());
    }

    #[tokio::test]
    async fn removing_a_function_leaves_blobs_that_another_uses() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        deploy(&store, "f", b"shared").await;
        deploy(&store, "f", b"own").await;
        deploy(&store, "g", b"shared").await;
        store.remove_function(name("f")).await.unwrap();
        assert!(store.registry.find("f").is_none());
        assert!(store.blobs.read(&Digest::of(b"shared")).is_ok());
        assert!(store.blobs.read(&Digest::of(b"own")).is_err());
        assert_eq!(deploy(&store, "f", b"own").await.previous, None);
    }

    #[tokio::test]
    async fn a_change_beyond_a_bound_or_of_what_is_not_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        deploy(&store, "f", b"one").await;
        deploy(&store, "g", b"one").await;
        let third = try_deploy(&store, "h", b"one").await.unwrap_err().to_string();
        assert_eq!(third, "this node has 2 functions, its bound");
        let alias = |text| Alias::parse(text).unwrap();
        store.set_alias(name("f"), alias("beta"), reference("live")).await.unwrap();
        let third = store.set_alias(name("f"), alias("gamma"), reference("live")).await.unwrap_err();
        assert_eq!(third.to_string(), "function \"f\" has 2 aliases, the bound");
        let absent = store.set_alias(name("f"), alias("beta"), reference("00000000")).await.unwrap_err();
        assert_eq!(absent.to_string(), "function \"f\" has no revision or alias \"00000000\"");
        let absent = store.remove_function(name("h")).await.unwrap_err().to_string();
        assert_eq!(absent, "no function \"h\"");
        let live = store.remove_alias(name("f"), Alias::live()).await.unwrap_err().to_string();
        assert_eq!(live, "alias \"live\" can't be removed");
    }

    #[tokio::test]
    async fn a_data_directory_serves_one_store_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let _store = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::DataInUse(_)), "{error}");
    }

    #[tokio::test]
    async fn a_closed_store_refuses_changes() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        store.close().await;
        store.close().await;
        assert!(matches!(try_deploy(&store, "f", b"one").await, Err(ChangeError::Closed)));
    }
}
