//! The predictions that ended lately, with their logs. In memory: a restart forgets them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    function::{FunctionName, RevisionId},
    http::Code,
};

/// How a prediction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Succeeded,
    Failed,
    /// Its caller went away, or the node stopped.
    Canceled,
}

/// A prediction that ended.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) revision: RevisionId,
    pub(crate) status: Status,
    pub(crate) started_at: SystemTime,
    pub(crate) took: Duration,
    pub(crate) error: Option<(Code, String)>,
    pub(crate) logs: String,
}

impl Record {
    /// Bytes that it holds.
    fn bytes(&self) -> usize {
        let error = self.error.as_ref().map_or(0, |(_, message)| message.len());
        size_of::<Self>() + self.id.len() + self.logs.len() + error
    }
}

/// The last predictions of every function.
#[derive(Debug)]
pub(crate) struct History {
    /// Records of one function.
    records_max: usize,
    /// Bytes of all records.
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    bytes: usize,
    /// By age, oldest first.
    records: BTreeMap<u64, (FunctionName, Record)>,
    /// Keys into `records`, oldest first.
    functions: HashMap<FunctionName, VecDeque<u64>>,
}

impl History {
    pub(crate) fn new(records_max: usize, bytes_max: usize) -> Self {
        Self { records_max, bytes_max, inner: Mutex::default() }
    }

    /// Remembers a prediction; the function's oldest goes when it has too many, then the oldest of all
    /// while they have too many bytes.
    pub(crate) fn add(&self, function: &FunctionName, record: Record) {
        let mut inner = self.lock();
        let key = inner.next;
        inner.next += 1;
        inner.bytes += record.bytes();
        inner.records.insert(key, (function.clone(), record));
        let keys = inner.functions.entry(function.clone()).or_default();
        keys.push_back(key);
        if keys.len() > self.records_max {
            let oldest = *keys.front().expect("a key was just added");
            inner.remove(oldest);
        }
        while inner.bytes > self.bytes_max
            && let Some((&oldest, _)) = inner.records.first_key_value()
        {
            inner.remove(oldest);
        }
    }

    /// The last `limit` predictions of a function, newest first.
    pub(crate) fn last(&self, function: &FunctionName, limit: usize) -> Vec<Record> {
        let inner = self.lock();
        let keys = inner.functions.get(function).into_iter().flatten().rev().take(limit);
        keys.map(|key| inner.records[key].1.clone()).collect()
    }

    /// Forgets a function's predictions.
    pub(crate) fn forget(&self, function: &FunctionName) {
        let mut inner = self.lock();
        for key in inner.functions.remove(function).unwrap_or_default() {
            inner.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }
}

impl Inner {
    /// Removes a record; it is its function's oldest, or the function is gone.
    fn remove(&mut self, key: u64) {
        let Some((function, record)) = self.records.remove(&key) else { return };
        self.bytes -= record.bytes();
        if let Some(keys) = self.functions.get_mut(&function) {
            let oldest = keys.pop_front();
            assert_eq!(oldest, Some(key), "records go oldest first");
            if keys.is_empty() {
                self.functions.remove(&function);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::{Digest, Settings};

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    fn record(id: &str, log_bytes: usize) -> Record {
        Record {
            id: id.to_owned(),
            revision: RevisionId::of(&Digest::of(b""), &Settings::default()),
            status: Status::Succeeded,
            started_at: SystemTime::UNIX_EPOCH,
            took: Duration::ZERO,
            error: None,
            logs: "x".repeat(log_bytes),
        }
    }

    fn ids(history: &History, function: &str) -> Vec<String> {
        history.last(&name(function), 100).into_iter().map(|record| record.id).collect()
    }

    #[test]
    fn a_functions_newest_come_first_and_its_oldest_go() {
        let history = History::new(3, usize::MAX);
        for id in ["1", "2", "3", "4"] {
            history.add(&name("f"), record(id, 0));
        }
        history.add(&name("g"), record("5", 0));
        assert_eq!(ids(&history, "f"), ["4", "3", "2"]);
        assert_eq!(ids(&history, "g"), ["5"]);
        assert_eq!(history.last(&name("f"), 1)[0].id, "4");
    }

    #[test]
    fn the_oldest_of_all_go_when_they_hold_too_many_bytes() {
        let history = History::new(100, 3 * record("1", 1000).bytes());
        for (function, id) in [("f", "1"), ("g", "2"), ("f", "3"), ("f", "4")] {
            history.add(&name(function), record(id, 1000));
        }
        assert_eq!(ids(&history, "f"), ["4", "3"]);
        assert_eq!(ids(&history, "g"), ["2"]);
        history.add(&name("f"), record("5", 3000));
        assert_eq!(ids(&history, "f"), ["5"]);
        assert_eq!(ids(&history, "g"), [""; 0]);
    }

    #[test]
    fn a_forgotten_function_gives_its_bytes_back() {
        let history = History::new(100, usize::MAX);
        history.add(&name("f"), record("1", 10));
        history.add(&name("g"), record("2", 20));
        history.forget(&name("f"));
        assert_eq!(ids(&history, "f"), [""; 0]);
        assert_eq!(history.lock().bytes, record("2", 20).bytes());
    }
}
