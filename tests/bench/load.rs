//! A closed-loop load generator: each connection sends its next request when it has read the answer.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::figures::percentile;

const CONFLICT: u16 = 409;

/// What a load came to.
pub(crate) struct Load {
    pub(crate) requests_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) path: &'a str,
    pub(crate) body: &'a str,
    /// Lines of further headers, each with its end.
    pub(crate) headers: &'a str,
}

/// Sends `body` to `path` at `address` over this many connections, for `warm_up` and then for `time`,
/// which is what counts. A caller who is told 409 asks again; any other answer but a success is an error.
pub(crate) fn run(
    address: &str,
    path: &str,
    body: &str,
    connections: usize,
    warm_up: Duration,
    time: Duration,
) -> Result<Load> {
    ask(address, Ask { path, body, ..Ask::default() }, connections, warm_up, time)
}

/// The same with further headers.
pub(crate) fn ask(
    address: &str,
    Ask { path, body, headers }: Ask<'_>,
    connections: usize,
    warm_up: Duration,
    time: Duration,
) -> Result<Load> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let start = Instant::now() + warm_up;
    let end = start + time;
    let latencies: Result<Vec<Vec<Duration>>> = thread::scope(|scope| {
        let callers: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| call(address, request.as_bytes(), start, end))).collect();
        callers.into_iter().map(|caller| caller.join().expect("callers don't panic")).collect()
    });
    let mut latencies = latencies?.concat();
    latencies.sort();
    ensure!(!latencies.is_empty(), "no request was answered within {time:?}");
    Ok(Load {
        requests_per_second: latencies.len() as f64 / time.as_secs_f64(),
        p50: percentile(&latencies, 0.5),
        p99: percentile(&latencies, 0.99),
    })
}

/// One connection's latencies, of requests sent between `start` and `end`.
fn call(address: &str, request: &[u8], start: Instant, end: Instant) -> Result<Vec<Duration>> {
    let mut connection = Connection::open(address)?;
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latencies);
        }
        // Cog refuses a caller whose turn comes before it has cleared the last one's away: its time goes on.
        while connection.ask(request)? == CONFLICT {}
        if sent >= start {
            latencies.push(sent.elapsed());
        }
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request, reads the whole answer and returns its status: a success or 409.
    fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read()?;
        };
        let text = std::str::from_utf8(&self.buffer[..head])?.to_ascii_lowercase();
        let line = text.lines().next().unwrap_or_default();
        let status = match line.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            Some(status @ (200..=202 | CONFLICT)) => status,
            _ => bail!("answered with {line}"),
        };
        match text.lines().find_map(|line| line.strip_prefix("content-length:")) {
            Some(length) => {
                let end = head + length.trim().parse::<usize>()?;
                while self.buffer.len() < end {
                    self.read()?;
                }
            }
            None => {
                // Chunked: the body ends with an empty chunk.
                while !self.buffer.ends_with(b"0\r\n\r\n") {
                    self.read()?;
                }
            }
        }
        Ok(status)
    }

    fn read(&mut self) -> Result<()> {
        let mut piece = [0; 16 << 10];
        let count = self.stream.read(&mut piece)?;
        ensure!(count > 0, "the connection was closed");
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
