//! Durable creates: predictions that are acknowledged when they are on disk, beside SQLite by itself in
//! the same run on the same disk.

use std::{
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dormouse_tests::Process;
use rusqlite::{Connection, params};
use serde_json::json;

use crate::{
    figures, guests,
    load::{self, Ask},
};

const CALLERS: usize = 64;
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(5);
/// Rows of a commit at most, as the service has it.
const GROUP_MAX: usize = 256;
/// The rows that wait must find room.
const ROOM: &str = "queue.function_waiting_max=1000000";

pub(crate) fn run() -> Result<()> {
    figures::table(
        &format!("Durable creates, {CALLERS} callers, synchronous=FULL"),
        &["what", "creates/s", "p50 ms", "p99 ms"],
    );
    let input = json!({"function": "sleeper", "input": {"ms": 1000}}).to_string();
    let folder = tempfile::tempdir()?;
    sqlite(folder.path(), &input, 1, "SQLite, one caller, a commit for each row")?;
    sqlite(folder.path(), &input, CALLERS, "SQLite, one writer, commits shared")?;
    service(&input, "sleeper", guests::SLEEPER, "?concurrency=1", "POST /v1/predictions, nothing else runs")?;
    let hello = json!({"function": "hello", "input": {"name": "dormouse"}}).to_string();
    service(&hello, "hello", guests::HELLO, "", "POST /v1/predictions, workers run them meanwhile")
}

fn service(body: &str, function: &str, wasm: &str, query: &str, title: &str) -> Result<()> {
    let data = tempfile::tempdir()?;
    let process = Process::with_args(data.path(), &["--set", ROOM]);
    process.client().deploy(function, query, wasm).expect(201);
    let address = process.client().base().trim_start_matches("http://");
    let ask = Ask { path: "/v1/predictions", body, headers: "" };
    let load = load::ask(address, ask, CALLERS, WARM_UP, TIME)?;
    row(title, load.requests_per_second, load.p50, load.p99);
    Ok(())
}

fn row(title: &str, per_second: f64, p50: Duration, p99: Duration) {
    let millis = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    figures::row(&[title.to_owned(), format!("{per_second:.0}"), millis(p50), millis(p99)]);
}

/// Rows of about the same size as a prediction's, with the index that a queue needs.
fn open(folder: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(folder.join("raw.db"))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "DROP TABLE IF EXISTS rows;
         CREATE TABLE rows (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, function TEXT NOT NULL,
             status TEXT NOT NULL, priority INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
         CREATE INDEX queued ON rows (function, priority DESC, seq) WHERE status = 'queued';",
    )?;
    Ok(connection)
}

/// Callers hand their rows to one writer, which commits those that have come.
fn sqlite(folder: &Path, body: &str, callers: usize, title: &str) -> Result<()> {
    let mut connection = open(folder)?;
    let (rows, inbox) = mpsc::sync_channel::<(String, mpsc::Sender<()>)>(callers);
    let end = Instant::now() + TIME;
    let mut times: Vec<Duration> = thread::scope(|scope| -> Result<_> {
        let callers: Vec<_> = (0..callers)
            .map(|caller| {
                let rows = rows.clone();
                scope.spawn(move || {
                    let (written, heard) = mpsc::channel();
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let start = Instant::now();
                        let id = format!("{caller:04}-{:020}", times.len());
                        if rows.send((id, written.clone())).is_err() || heard.recv().is_err() {
                            break;
                        }
                        times.push(start.elapsed());
                    }
                    times
                })
            })
            .collect();
        drop(rows);
        while let Ok(first) = inbox.recv() {
            let group: Vec<_> = std::iter::once(first).chain(inbox.try_iter()).take(GROUP_MAX).collect();
            let transaction = connection.transaction()?;
            for (id, _) in &group {
                transaction
                    .prepare_cached(
                        "INSERT INTO rows (id, function, status, priority, body) VALUES (?, 'f', 'queued', 0, ?)",
                    )?
                    .execute(params![id, body])?;
            }
            transaction.commit()?;
            group.into_iter().for_each(|(_, written)| _ = written.send(()));
        }
        Ok(callers.into_iter().flat_map(|caller| caller.join().expect("callers don't panic")).collect())
    })?;
    ensure!(!times.is_empty(), "nothing was written within {TIME:?}");
    let per_second = times.len() as f64 / TIME.as_secs_f64();
    times.sort();
    row(title, per_second, figures::percentile(&times, 0.5), figures::percentile(&times, 0.99));
    Ok(())
}
