//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::{convert::Infallible, ops::DerefMut, pin::pin, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::time::timeout;

use crate::prediction::{Cursor, Item};

/// A response that writes events as they come, and a comment whenever none came for `keep_alive`.
pub(super) fn response(
    events: impl Stream<Item = String> + Send + 'static,
    keep_alive: Duration,
) -> Response {
    let events = Box::pin(events);
    let chunks = stream::unfold(events, move |mut events| async move {
        let chunk = match timeout(keep_alive, pin!(events.next())).await {
            Ok(event) => event.map(Bytes::from)?,
            Err(_) => Bytes::from_static(b": keep-alive\n\n"),
        };
        Some((Ok::<_, Infallible>(chunk), events))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What a prediction tells, from its beginning to its end, as `write` puts it; where that is nothing,
/// nothing is sent.
pub(super) fn follow<C, W>(cursor: C, write: W) -> impl Stream<Item = String> + Send + 'static
where
    C: DerefMut<Target = Cursor> + Send + 'static,
    W: FnMut(&Item) -> String + Send + 'static,
{
    let texts = stream::unfold(Some((cursor, write)), |state| async move {
        let (mut cursor, mut write) = state?;
        let item = cursor.next().await;
        let text = write(&item);
        let state = (!matches!(item, Item::Ended(_))).then_some((cursor, write));
        Some((text, state))
    });
    texts.filter(|text| std::future::ready(!text.is_empty()))
}

/// The number of the last event that a client has seen, 0 if it says nothing.
pub(super) fn last_event_id(headers: &HeaderMap) -> u64 {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// An event with a name, perhaps a number, and a line of data.
pub(super) fn event(name: &str, id: Option<u64>, data: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n")
}

/// An event that is nothing but data.
pub(super) fn data(value: &impl Serialize) -> String {
    format!("data: {}\n\n", json(value))
}

/// A value as JSON on one line.
pub(super) fn json(value: &impl Serialize) -> String {
    one_line(&serde_json::to_string(value).expect("strings and numbers are JSON"))
}

/// JSON without the characters that some readers take for the end of a line. In JSON, line ends stand
/// only between tokens, and the others only in strings.
pub(super) fn one_line(json: &str) -> String {
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
    use std::future::ready;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[test]
    fn data_is_one_line_to_every_reader_and_still_the_same_json() {
        let json = "[\r\n\"a\u{2028}b\u{2029}c\u{85}d\"\n]";
        let line = one_line(json);
        assert_eq!(line, "[  \"a\\u2028b\\u2029c\\u0085d\" ]");
        let values = [json, &line].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(values[0], values[1]);
    }

    #[test]
    fn an_event_has_a_name_and_data_and_perhaps_a_number() {
        assert_eq!(event("output", Some(7), "\"a\""), "event: output\nid: 7\ndata: \"a\"\n\n");
        assert_eq!(event("start", None, "{}"), "event: start\ndata: {}\n\n");
    }

    #[tokio::test]
    async fn a_quiet_stream_is_kept_open() {
        let (sender, events) = mpsc::channel(2);
        let response = response(ReceiverStream::new(events), Duration::from_millis(5));
        let mut chunks = response.into_body().into_data_stream();
        sender.send(event("output", Some(1), "1")).await.unwrap();
        assert_eq!(chunks.next().await.unwrap().unwrap(), "event: output\nid: 1\ndata: 1\n\n");
        assert_eq!(chunks.next().await.unwrap().unwrap(), ": keep-alive\n\n");
        sender.send(event("done", Some(2), "2")).await.unwrap();
        drop(sender);
        // It may have been quiet again before.
        let rest: Vec<_> =
            chunks.map(Result::unwrap).filter(|chunk| ready(chunk != ": keep-alive\n\n")).collect().await;
        assert_eq!(rest, ["event: done\nid: 2\ndata: 2\n\n"]);
    }
}
