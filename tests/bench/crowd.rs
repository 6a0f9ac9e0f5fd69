//! Those who hold a connection and do little with it: whether the service keeps its memory, and serves
//! others meanwhile.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dormouse_tests::Process;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::{figures, guests};

const IDLE: usize = 10_000;
const SLOW: usize = 1000;
const READERS: usize = 100;
/// Calls of `hello` by which the others are measured.
const CALLS: usize = 200;
const BODY_BYTES: usize = 100 << 20;

pub(crate) fn run() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raising the limit of open files")?;
    let data = tempfile::tempdir()?;
    let process = Process::start(data.path());
    process.client().deploy("hello", "", guests::HELLO).expect(201);
    process.client().deploy("flood", "", guests::FLOOD).expect(201);
    others(&process)?;
    figures::table(
        "Callers who hold a connection, and hello for the others meanwhile",
        &["callers", "memory before", "with them", "for each", "hello p50 µs", "p99 µs"],
    );
    let address = process.client().base().trim_start_matches("http://").to_owned();
    let connect = || TcpStream::connect(&address).context("connecting");
    measure(&process, &format!("{IDLE} idle connections"), IDLE, connect)?;
    measure(&process, &format!("{SLOW} heads that come byte by byte"), SLOW, || {
        let mut stream = connect()?;
        stream.write_all(b"POST /fn/hello HTTP/1.1\r\nhost: x\r\nx-slow: ")?;
        Ok(stream)
    })?;
    measure(&process, &format!("{SLOW} bodies that come byte by byte"), SLOW, || {
        let mut stream = connect()?;
        stream.write_all(b"POST /fn/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")?;
        Ok(stream)
    })?;
    measure(&process, &format!("{READERS} who ask for megabytes and read nothing"), READERS, || {
        let mut stream = connect()?;
        let (head, body) =
            ("POST /fn/flood HTTP/1.1\r\nhost: x\r\naccept: text/event-stream", r#"{"into":"output"}"#);
        stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        Ok(stream)
    })?;
    large_body(&process, &address)
}

/// Times of `hello` for those who wait for their answers.
fn others(process: &Process) -> Result<[f64; 4]> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        ensure!(process.client().output("hello", &json!({"name": "you"})) == "Hello, you!", "hello is gone");
        times.push(start.elapsed());
    }
    Ok(figures::spread(times))
}

fn measure(process: &Process, who: &str, count: usize, begin: impl Fn() -> Result<TcpStream>) -> Result<()> {
    let before = process.resident_bytes();
    let held = (0..count).map(|_| begin()).collect::<Result<Vec<_>>>()?;
    let [p50, _, p99, _] = others(process)?;
    let with = process.resident_bytes();
    figures::row(&[
        who.to_owned(),
        figures::kib(before as f64),
        figures::kib(with as f64),
        figures::kib(with.saturating_sub(before) as f64 / count as f64),
        format!("{p50:.0}"),
        format!("{p99:.0}"),
    ]);
    drop(held);
    Ok(())
}

/// A body beyond the bound is refused without being held.
fn large_body(process: &Process, address: &str) -> Result<()> {
    let before = process.resident_bytes();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let head = format!("POST /fn/hello HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let piece = vec![b'x'; 1 << 20];
    // It may answer and close before it has all.
    let sent = (0..BODY_BYTES / piece.len()).take_while(|_| stream.write_all(&piece).is_ok()).count();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    ensure!(answer.starts_with(b"HTTP/1.1 413"), "a body of 100 MiB was answered with {answer:?}");
    let [p50, _, p99, _] = others(process)?;
    let with = process.resident_bytes();
    figures::row(&[
        format!("a body of 100 MiB: 413 after {sent} MiB"),
        figures::kib(before as f64),
        figures::kib(with as f64),
        figures::kib(with.saturating_sub(before) as f64),
        format!("{p50:.0}"),
        format!("{p99:.0}"),
    ]);
    Ok(())
}
