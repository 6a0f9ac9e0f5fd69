//! Reading beside the writer: in write-ahead mode readers neither wait for it nor hold it up.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use rusqlite::{Connection, OpenFlags};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{ChangeError, Store};

/// Connections that only read; cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    path: Arc<Path>,
    /// Those that nobody uses right now.
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Readers {
    /// At most `max` reads run at once; more wait.
    pub(super) fn new(path: &Path, max: usize) -> Self {
        Self { path: path.into(), idle: Arc::default(), places: Arc::new(Semaphore::new(max.max(1))) }
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().expect("no panic holds this lock").pop();
        match idle {
            Some(connection) => Ok(connection),
            None => Connection::open_with_flags(
                &self.path,
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            ),
        }
    }
}

impl Store {
    /// Runs a read on a blocking thread; it sees all that was answered before.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let readers = self.readers.clone();
        let place = readers.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let read = spawn_blocking(move || {
            let _place = place;
            let connection = readers.connection()?;
            let result = read(&connection)?;
            // One that failed is not used again.
            readers.idle.lock().expect("no panic holds this lock").push(connection);
            Ok(result)
        });
        read.await.map_err(|_| ChangeError::Closed)?
    }
}
