//! A node under test, and a client of it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use dormouse::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Longest wait for anything: a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that serves until it is dropped.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    dir: Option<TempDir>,
}

impl Node {
    /// A node with the default settings.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A node with some settings changed.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self::on(dir.path(), change);
        node.dir = Some(dir);
        node
    }

    /// A node on a data directory that outlives it.
    pub(crate) fn on(dir: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(dir);
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.engine.threads = 1;
        config.engine.device = "cpu".parse().unwrap();
        change(&mut config);
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let shutdown = async { _ = stopped.await };
            let on_listening = move |address| listening.send(address).unwrap();
            runtime.block_on(dormouse::serve(config, shutdown, on_listening)).unwrap();
        });
        let address = address.recv_timeout(PATIENCE).expect("the node listens");
        Self { address, stop: Some(stop), thread: Some(thread), dir: None }
    }

    /// Asks the node to stop, without waiting for it.
    pub(crate) fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
        }
    }

    /// Where its data lies.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub(crate) fn client(&self) -> Client {
        Client { address: self.address }
    }

    /// Deploys a component with a query of settings; answers the document.
    #[track_caller]
    pub(crate) fn deploy(&self, name: &str, component: &[u8], query: &str) -> Value {
        let answer = self.client().send("PUT", &format!("/v1/functions/{name}?{query}"), &[], component);
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        answer.json()
    }

    /// Invokes a function with an input.
    pub(crate) fn invoke(&self, target: &str, input: &Value) -> Answer {
        self.client().send("POST", &format!("/fn/{target}"), &[], input.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.client().send("GET", path, &[], b"")
    }

    /// Invokes a function and reads its events as they come.
    pub(crate) fn stream(&self, target: &str, input: &Value) -> Events {
        let accept = [("accept", "text/event-stream")];
        let body = input.to_string();
        let reader = self.client().try_open("POST", &format!("/fn/{target}"), &accept, body.as_bytes());
        Events::of(reader.unwrap())
    }

    /// Follows a prediction's events from the beginning.
    pub(crate) fn follow(&self, id: &str) -> Events {
        self.follow_after(id, 0)
    }

    /// Follows a prediction's events from after one of them.
    pub(crate) fn follow_after(&self, id: &str, last: u64) -> Events {
        let path = format!("/v1/predictions/{id}/events");
        Events::of(
            self.client().try_open("GET", &path, &[("last-event-id", &last.to_string())], b"").unwrap(),
        )
    }

    /// Returns when so many predictions of a function run.
    pub(crate) fn wait_until_running(&self, name: &str, count: u64) {
        while self.get(&format!("/v1/functions/{name}")).json()["running"] != count {
            std::thread::yield_now();
        }
    }

    /// Invokes a function that emits at its start, and returns when it has.
    #[track_caller]
    pub(crate) fn start_running(&self, target: &str, input: &Value) -> Events {
        let mut events = self.stream(target, input);
        let first = events.next().unwrap();
        assert_eq!((&*first.name, &first.data), ("output", &json!({"started": true})));
        events
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ask_to_stop();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the node ends well");
        }
    }
}

/// Sends requests, each on a connection of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Status and code of an error.
    #[track_caller]
    pub(crate) fn error(&self) -> (u16, String) {
        let json = self.json();
        let code = json["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {json}"));
        (self.status, code.to_owned())
    }
}

impl Client {
    /// Sends a request and reads the whole answer.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).unwrap()
    }

    /// Sends a request and reads the whole answer; an error when the node goes away before.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        self.try_open(method, path, headers, body)?.whole()
    }

    /// Posts a body from a thread of its own.
    pub(crate) fn send_in_thread(&self, path: &'static str, body: &'static [u8]) -> JoinHandle<Answer> {
        let client = *self;
        std::thread::spawn(move || client.send("POST", path, &[], body))
    }

    /// Sends a request and reads the answer's head.
    pub(crate) fn try_open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reader> {
        let mut stream = self.try_connect()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes())?;
        // A node that refuses a body may close before it has all.
        let _ = stream.write_all(body);
        Reader::of(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// An answer's head, and the rest of it as it comes.
pub(crate) struct Reader {
    status: u16,
    headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
    is_chunked: bool,
}

impl Reader {
    pub(crate) fn of(stream: TcpStream) -> io::Result<Self> {
        let mut stream = BufReader::new(stream);
        let status = loop {
            let status = line(&mut stream)?;
            let status: u16 = status.split(' ').nth(1).unwrap().parse().unwrap();
            if status >= 200 {
                break status;
            }
            assert_eq!(line(&mut stream)?, "");
        };
        let mut headers = Vec::new();
        loop {
            let line = line(&mut stream)?;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => break,
            }
        }
        let is_chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        Ok(Self { status, headers, stream, is_chunked })
    }

    pub(crate) fn whole(mut self) -> io::Result<Answer> {
        let mut body = Vec::new();
        match self.is_chunked {
            true => {
                while let Some(chunk) = self.chunk()? {
                    body.extend_from_slice(&chunk);
                }
            }
            false => _ = self.stream.read_to_end(&mut body)?,
        }
        Ok(Answer { status: self.status, headers: self.headers, body })
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = line(&mut self.stream)?;
        let mut chunk = vec![0; usize::from_str_radix(&size, 16).unwrap()];
        self.stream.read_exact(&mut chunk)?;
        assert_eq!(line(&mut self.stream)?, "");
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

/// A line without its end; an error when there is none.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// An event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// The events of an answer. Dropping them closes the connection.
pub(crate) struct Events {
    reader: Reader,
    text: String,
}

impl Events {
    #[track_caller]
    pub(crate) fn of(reader: Reader) -> Self {
        let is_stream = reader.headers.contains(&("content-type".to_owned(), "text/event-stream".to_owned()));
        assert!(is_stream, "{} {:?}", reader.status, reader.headers);
        Self { reader, text: String::new() }
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let [name, id, data] = ["event", "id", "data"].map(field);
                self.text = rest.to_owned();
                if data.is_empty() {
                    continue;
                }
                return Some(Event { name, id, data: serde_json::from_str(&data).unwrap() });
            }
            let chunk = self.reader.chunk().unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
