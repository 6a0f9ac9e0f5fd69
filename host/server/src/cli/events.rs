//! Server-sent events, read from a body (WHATWG HTML, "Event stream interpretation").

use std::io::{self, BufRead};

/// Bytes of one event; beyond it the stream is refused.
const EVENT_BYTES_MAX: u64 = 64 << 20;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its `event:` line.
    pub(super) kind: String,
    /// Its `data:` lines.
    pub(super) data: String,
}

/// The events of a body, in order. Ends where the body does; an event that is cut off is dropped.
#[derive(Debug)]
pub(super) struct Events<R>(pub(super) R);

impl<R: BufRead> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_event().transpose()
    }
}

impl<R: BufRead> Events<R> {
    fn read_event(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        let mut data: Option<String> = None;
        let mut budget = EVENT_BYTES_MAX;
        loop {
            let mut line = String::new();
            let read = io::Read::take(&mut self.0, budget).read_line(&mut line)?;
            budget -= read as u64;
            if !line.ends_with('\n') {
                if budget == 0 {
                    let text = format!("an event has more than {EVENT_BYTES_MAX} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                return Ok(None);
            }
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let Some(data) = data.take() else { continue };
                return Ok(Some(Event { data, ..event }));
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event.kind = value.to_owned(),
                "data" => match &mut data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    None => data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        Events(text.as_bytes()).map(|event| event.map(|event| (event.kind, event.data)).unwrap()).collect()
    }

    #[test]
    fn events_are_read_whatever_the_line_ends_and_comments() {
        let text =
            ": keep-alive\n\nid: 1\nevent: output\ndata: \"a\"\n\r\nevent:log\r\ndata:x\r\ndata: y\r\n\r\n";
        let expected = [("output", "\"a\""), ("log", "x\ny")].map(|(kind, data)| (kind.into(), data.into()));
        assert_eq!(read(text), expected);
    }

    #[test]
    fn an_event_that_is_cut_off_is_dropped() {
        assert_eq!(read("data: whole\n\nevent: done\ndata: {"), [(String::new(), "whole".to_owned())]);
    }
}
