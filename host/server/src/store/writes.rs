//! Writes that share a commit: a sync of the disk takes longer than many small writes.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{ChangeError, Job, Store};

/// Writes of one transaction; later ones wait for the next.
const GROUP_MAX: usize = 256;

/// A write: tells whether what it did is to be kept, and gives its answer when that is known.
pub(super) type Write = Box<dyn FnOnce(&Connection) -> (bool, Answer) + Send>;
/// Told whether the transaction was committed.
type Answer = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;

impl Store {
    /// Runs a write on the store's thread; it is on disk when this answers. It happens even when the
    /// caller leaves meanwhile. One that fails leaves no trace.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let result = write(connection);
            let is_kept = result.is_ok();
            let tell = move |committed: Result<(), &rusqlite::Error>| {
                let result = match committed {
                    Ok(()) => result.map_err(ChangeError::from),
                    Err(error) => Err(ChangeError::Commit(error.to_string())),
                };
                // The caller may have left; the write stands.
                let _ = answer.send(result);
            };
            (is_kept, Box::new(tell))
        });
        self.jobs.send(Job::Write(write)).await.map_err(|_| ChangeError::Closed)?;
        answered.await.map_err(|_| ChangeError::Closed)?
    }
}

/// Commits a write together with those that wait behind it. Answers the first job that is none.
pub(super) fn commit_together(
    connection: &mut Connection,
    first: Write,
    inbox: &mut mpsc::Receiver<Job>,
) -> Option<Job> {
    let mut answers = Vec::new();
    let mut other = None;
    let run = || -> rusqlite::Result<()> {
        let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut next = Some(first);
        while let Some(write) = next.take() {
            let savepoint = transaction.savepoint()?;
            let (is_kept, answer) = write(&savepoint);
            answers.push(answer);
            // Without a commit the savepoint rolls back what a failed write did.
            if is_kept {
                savepoint.commit()?;
            }
            if answers.len() < GROUP_MAX {
                match inbox.try_recv() {
                    Ok(Job::Write(write)) => next = Some(write),
                    Ok(job) => other = Some(job),
                    Err(_) => {}
                }
            }
        }
        transaction.commit()
    };
    let committed = run();
    if let Err(error) = &committed {
        tracing::error!(%error, writes = answers.len(), "a commit failed");
    }
    answers.into_iter().for_each(|answer| answer(committed.as_ref().copied()));
    other
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Config;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(Arc::new(Config::new(dir))).unwrap()
    }

    fn insert(name: &'static str) -> impl FnOnce(&Connection) -> rusqlite::Result<()> + Send {
        move |connection| {
            connection.execute("INSERT INTO functions VALUES (?, 0)", [name])?;
            connection.execute("INSERT INTO functions VALUES (? || '2', 0)", [name]).map(drop)
        }
    }

    #[tokio::test]
    async fn a_write_that_fails_leaves_no_trace_and_its_neighbours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        // `a2` is there before the second statement of the second write comes to it.
        let writes = [insert("a"), insert("b")].map(|write| store.write(write));
        let clash = store.write(|connection| {
            connection.execute("INSERT INTO functions VALUES ('c', 0)", [])?;
            connection.execute("INSERT INTO functions VALUES ('a2', 0)", []).map(drop)
        });
        let [a, b] = writes;
        let (a, clash, b) = tokio::join!(a, clash, b);
        assert!(a.is_ok() && b.is_ok());
        assert!(matches!(clash, Err(ChangeError::Database(_))), "{clash:?}");
        let names = store
            .write(|connection| {
                let mut statement = connection.prepare("SELECT name FROM functions ORDER BY name")?;
                statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
            })
            .await;
        assert_eq!(names.unwrap(), ["a", "a2", "b", "b2"]);
    }

    #[tokio::test]
    async fn writes_and_changes_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let tasks: Vec<_> = (0..100)
            .map(|index| {
                let store = store.clone();
                tokio::spawn(async move {
                    match index % 10 {
                        0 => store.change(move |_| Ok(index)).await.unwrap(),
                        _ => store.write(move |_| Ok(index)).await.unwrap(),
                    }
                })
            })
            .collect();
        for (index, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), index);
        }
        store.close().await;
        assert!(matches!(store.write(|_| Ok(())).await, Err(ChangeError::Closed)));
    }
}
