//! Whom webhooks go to in tests.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;

/// Longest wait for a message: a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes messages on a port of its own, for as long as the test runs.
pub(crate) struct Receiver {
    address: SocketAddr,
    messages: mpsc::Receiver<Message>,
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Message {
    headers: Vec<(String, String)>,
    pub(crate) text: Vec<u8>,
    pub(crate) body: Value,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

impl Receiver {
    /// One that takes everything.
    pub(crate) fn start() -> Self {
        Self::answering([])
    }

    /// One that answers the first messages with these statuses, and takes the rest.
    pub(crate) fn answering(statuses: impl IntoIterator<Item = u16>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), statuses)
    }

    /// The same, on a port that is taken already.
    pub(crate) fn on(listener: TcpListener, statuses: impl IntoIterator<Item = u16>) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, messages) = mpsc::channel();
        let mut statuses: std::collections::VecDeque<u16> = statuses.into_iter().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let Some(message) = read(&mut stream) else { continue };
                let status = statuses.pop_front().unwrap_or(204);
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Self { address, messages }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Waits for the next message.
    pub(crate) fn next(&self) -> Message {
        self.messages.recv_timeout(PATIENCE).expect("a message comes")
    }
}

fn read(stream: &mut impl BufRead) -> Option<Message> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut text = vec![0; length];
    stream.read_exact(&mut text).ok()?;
    let body = serde_json::from_slice(&text).ok()?;
    Some(Message { headers, text, body })
}
