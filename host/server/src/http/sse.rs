//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use dormouse_runtime::Event;
use futures_util::stream;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

/// One event on its way to a caller; its number is given when it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    event: &'static str,
    /// JSON on one line.
    data: String,
}

impl Frame {
    /// What a predictor told.
    pub(crate) fn event(event: &Event) -> Self {
        #[derive(Serialize)]
        struct Progress<'a> {
            fraction: f32,
            note: &'a str,
        }
        match event {
            Event::Output(json) => Self { event: "output", data: one_line(json) },
            Event::Log(line) => Self::json("log", line),
            Event::Progress { fraction, note } => {
                Self::json("progress", &Progress { fraction: *fraction, note })
            }
        }
    }

    /// The last event: how the prediction ended.
    pub(super) fn last(event: &'static str, ended: &impl Serialize) -> Self {
        Self::json(event, ended)
    }

    fn json(event: &'static str, value: &impl Serialize) -> Self {
        let json = serde_json::to_string(value).expect("strings and numbers are JSON");
        Self { event, data: one_line(&json) }
    }

    fn write(&self, id: u64) -> Bytes {
        format!("event: {}\nid: {id}\ndata: {}\n\n", self.event, self.data).into()
    }
}

/// A response that writes frames as they come, and a comment whenever none came for `keep_alive`.
pub(super) fn response(frames: mpsc::Receiver<Frame>, keep_alive: Duration) -> Response {
    let chunks = stream::unfold((frames, 1), move |(mut frames, id)| async move {
        match timeout(keep_alive, frames.recv()).await {
            Ok(frame) => frame.map(|frame| (Ok::<_, Infallible>(frame.write(id)), (frames, id + 1))),
            Err(_) => Some((Ok(Bytes::from_static(b": keep-alive\n\n")), (frames, id))),
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// JSON without the characters that some readers take for the end of a line. In JSON, line ends stand
/// only between tokens, and the others only in strings.
fn one_line(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '\n' | '\r' => line.push(' '),
            '\u{85}' => line.push_str("\\u0085"),
            '\u{2028}' => line.push_str("\\u2028"),
            '\u{2029}' => line.push_str("\\u2029"),
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use dormouse_runtime::{Level, LogLine, LogSource};
    use futures_util::StreamExt;

    use super::*;

    #[track_caller]
    fn check(event: Event, expected: &str) {
        assert_eq!(Frame::event(&event).write(7), expected);
    }

    #[test]
    fn events_are_written_with_name_number_and_json() {
        check(Event::Output("\"a\"".to_owned()), "event: output\nid: 7\ndata: \"a\"\n\n");
        let line = LogLine { source: LogSource::Log, level: Level::Info, message: "m".to_owned() };
        let data = r#"{"source":"log","level":"info","message":"m"}"#;
        check(Event::Log(line), &format!("event: log\nid: 7\ndata: {data}\n\n"));
        let progress = Event::Progress { fraction: 0.5, note: "half".to_owned() };
        check(progress, "event: progress\nid: 7\ndata: {\"fraction\":0.5,\"note\":\"half\"}\n\n");
    }

    #[test]
    fn data_is_one_line_to_every_reader_and_still_the_same_json() {
        let json = "[\r\n\"a\u{2028}b\u{2029}c\u{85}d\"\n]";
        let line = one_line(json);
        assert_eq!(line, "[  \"a\\u2028b\\u2029c\\u0085d\" ]");
        let values = [json, &line].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(values[0], values[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_is_kept_open_and_numbers_go_on() {
        let (sender, frames) = mpsc::channel(2);
        let mut chunks = response(frames, Duration::from_secs(15)).into_body().into_data_stream();
        sender.send(Frame { event: "output", data: "1".to_owned() }).await.unwrap();
        assert_eq!(chunks.next().await.unwrap().unwrap(), "event: output\nid: 1\ndata: 1\n\n");
        assert_eq!(chunks.next().await.unwrap().unwrap(), ": keep-alive\n\n");
        sender.send(Frame { event: "done", data: "2".to_owned() }).await.unwrap();
        drop(sender);
        assert_eq!(chunks.next().await.unwrap().unwrap(), "event: done\nid: 2\ndata: 2\n\n");
        assert!(chunks.next().await.is_none());
    }
}
