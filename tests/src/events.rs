//! Server-sent events, as the invocation URL streams them.

use std::io::{BufRead, BufReader, Lines};

use serde_json::Value;
use ureq::{Body, BodyReader, http::HeaderMap, http::Response};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// What it is: `output`, `log`, `progress`, `done` or `error`.
    pub kind: String,
    /// What it says.
    pub data: Value,
}

/// Events as they come. Panics on what is no event.
pub struct Events {
    headers: HeaderMap,
    lines: Lines<BufReader<BodyReader<'static>>>,
}

impl Events {
    pub(crate) fn new(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let kind = head.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert_eq!(kind.map(|kind| kind.split(';').next()), Some(Some("text/event-stream")));
        Self { headers: head.headers, lines: BufReader::new(body.into_reader()).lines() }
    }

    /// Headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Waits for the next event of a kind, passing over others.
    pub fn wait_for(&mut self, kind: &str) -> Event {
        self.find(|event| event.kind == kind).unwrap_or_else(|| panic!("the stream ended without {kind}"))
    }
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: 0, kind: String::new(), data: Value::Null };
        loop {
            let line = self.lines.next()?.expect("the stream is whole");
            match line.split_once(':') {
                // An empty line ends an event; after a comment there is none to end.
                None if line.is_empty() && event.kind.is_empty() => {}
                None if line.is_empty() => return Some(event),
                Some(("", _comment)) => {}
                Some(("id", id)) => event.id = id.trim().parse().expect("ids are numbers"),
                Some(("event", kind)) => event.kind = kind.trim().to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("data is JSON"),
                _ => panic!("no line of an event: {line:?}"),
            }
        }
    }
}
