//! What lasts on this node: functions, revisions and aliases in SQLite, components as blobs.
//!
//! One thread owns the database; changes go to it over a bounded channel and come back when they are
//! on disk (write-ahead log, `synchronous=FULL`). What a change answers survives `kill -9`. Reads come
//! from the registry in memory, which is loaded once at start.

mod blobs;
mod functions;
mod migrations;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    path::Path,
    thread,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, function::Digest};

pub(crate) use blobs::{Blobs, Pin};
pub(crate) use functions::{Deployed, FunctionRow, RevisionRow};

/// What the store's thread is asked to do.
enum Job {
    Change(Box<dyn FnOnce(&mut Writer) + Send>),
    /// Finish what waits, close the database and say so.
    Close(oneshot::Sender<()>),
}

/// A handle on the store; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    pub(crate) blobs: Blobs,
}

/// What a store held when it was opened.
pub(crate) struct Contents {
    pub(crate) functions: Vec<FunctionRow>,
    /// Manifests of the components that they name.
    pub(crate) manifests: HashMap<Digest, String>,
}

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("database thread has ended")]
    Closed,
}

/// The thread's state.
struct Writer {
    connection: Connection,
    blobs: Blobs,
    /// Held for as long as the store is in use.
    _lock: File,
}

impl Store {
    /// Opens the store under `dir`, makes or updates its tables, sweeps blobs that nothing refers to
    /// and reads what is there. Blocks. At most `writes_max` changes wait.
    pub(crate) fn open(dir: &Path, writes_max: usize) -> Result<(Self, Contents), Error> {
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
        let connection = connect(&dir.join("dormouse.db"))?;
        let contents = functions::load(&connection)?;
        let blobs_dir = dir.join("blobs");
        let blobs = Blobs::open(&blobs_dir).map_err(data(&blobs_dir))?;
        let keep: HashSet<_> = contents.manifests.keys().cloned().collect();
        let swept = blobs.sweep(&keep).map_err(data(&blobs_dir))?;
        if swept > 0 {
            tracing::info!(swept, "removed blobs of deploys that were never acknowledged");
        }
        let (jobs, inbox) = mpsc::channel(writes_max.max(1));
        let writer = Writer { connection, blobs: blobs.clone(), _lock: lock };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(inbox))
            .map_err(|source| Error::Data { path: dir.to_owned(), source })?;
        Ok((Self { jobs, blobs }, contents))
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
        change: impl FnOnce(&mut Writer) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Job::Change(Box::new(move |writer| {
            // The caller may have left; the change stands.
            let _ = answer.send(change(writer));
        }));
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(answered.await.map_err(|_| StoreError::Closed)??)
    }
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut closers = Vec::new();
        while let Some(job) = inbox.blocking_recv() {
            match job {
                Job::Change(change) => change(&mut self),
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
    fn remove_blobs(&self, freed: Vec<Digest>) {
        for digest in freed {
            if let Err(error) = self.blobs.remove(&digest) {
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
