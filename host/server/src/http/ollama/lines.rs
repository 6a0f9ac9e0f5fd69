//! Answers as lines of JSON, or as one object: <https://github.com/ndjson/ndjson-spec>.
//!
//! Some clients split lines at U+0085, U+2028 and U+2029 too, so these are escaped.

use std::{
    convert::Infallible,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use dormouse_engine::{Finish, Usage};
use futures_util::{Stream, StreamExt};
use serde_json::{Value, json};

use super::super::{
    functions::rfc3339,
    openai::{
        Failure,
        generation::{Piece, Whole},
        stream::Writer,
        tools::{Call, Sieve},
    },
    sse,
};

/// A response of lines as they come.
pub(super) fn response(lines: impl Stream<Item = String> + Send + 'static) -> Response {
    let chunks = lines.map(|line| Ok::<_, Infallible>(Bytes::from(line)));
    let mut response = Response::new(Body::from_stream(chunks));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A value on a line of its own.
pub(super) fn line(value: &Value) -> String {
    let mut line = sse::json(value);
    line.push('\n');
    line
}

/// Which of the two endpoints is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Generate,
    Chat,
}

impl Kind {
    /// A part of an answer with its text, and what was called.
    fn part(self, text: &str, calls: &[Call]) -> Value {
        match self {
            Self::Generate => json!({"response": text}),
            Self::Chat => {
                let mut message = json!({"role": "assistant", "content": text});
                if !calls.is_empty() {
                    message["tool_calls"] = calls.iter().map(call).collect();
                }
                json!({"message": message})
            }
        }
    }
}

/// A call with its arguments as an object.
fn call(call: &Call) -> Value {
    let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
    json!({"function": {"name": call.function.name, "arguments": arguments}})
}

/// Writes one answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) model: String,
    pub(super) sieve: Sieve,
    /// When the request came.
    pub(super) began: Instant,
    /// Until the model was awake.
    pub(super) load: Duration,
    pub(super) finish: Finish,
}

impl Answer {
    /// The whole answer at once.
    pub(super) fn whole(&self, whole: Whole) -> Value {
        let (text, calls) = self.sieve.part(whole.chunk.text);
        self.last(&text, &calls, whole.finish, &whole.usage)
    }

    /// What is answered when a model was only told to wake, or to sleep.
    pub(super) fn moved(&self, reason: &str) -> Value {
        let mut object = self.object(self.kind.part("", &[]), true);
        object["done_reason"] = json!(reason);
        object
    }

    fn last(&self, text: &str, calls: &[Call], finish: Finish, usage: &Usage) -> Value {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut object = self.object(self.kind.part(text, calls), true);
        object["done_reason"] = json!(if finish == Finish::Length { "length" } else { "stop" });
        object["total_duration"] = json!(nanos(self.began.elapsed()));
        // A function's models wake while it runs.
        object["load_duration"] = json!(nanos(self.load.max(usage.wake)));
        object["prompt_eval_count"] = json!(usage.prompt_tokens);
        object["prompt_eval_duration"] = json!(nanos(usage.prefill));
        object["eval_count"] = json!(usage.completion_tokens);
        object["eval_duration"] = json!(nanos(usage.decode));
        object
    }

    fn object(&self, part: Value, is_done: bool) -> Value {
        let mut object = json!({"model": self.model, "created_at": rfc3339(SystemTime::now())});
        if let (Some(object), Value::Object(part)) = (object.as_object_mut(), part) {
            object.extend(part);
        }
        object["done"] = json!(is_done);
        object
    }

    fn part(&self, text: &str, calls: &[Call]) -> String {
        line(&self.object(self.kind.part(text, calls), false))
    }
}

impl Writer for Answer {
    fn begin(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn piece(&mut self, _: usize, piece: Piece) -> Vec<String> {
        let (text, calls) = match piece {
            Piece::Chunk(chunk) => (self.sieve.flow(chunk.text), Vec::new()),
            // Lines have no comments.
            Piece::Wake(_) => return Vec::new(),
            Piece::End(finish, _) => {
                self.finish = finish;
                self.sieve.end()
            }
        };
        match text.is_empty() && calls.is_empty() {
            true => Vec::new(),
            false => vec![self.part(&text, &calls)],
        }
    }

    fn end(&mut self, usages: &[Usage]) -> Vec<String> {
        vec![line(&self.last("", &[], self.finish, &usages[0]))]
    }

    fn failed(&mut self, failure: &Failure) -> Vec<String> {
        vec![line(&json!({"error": failure.error().message}))]
    }
}

#[cfg(test)]
mod tests {
    use dormouse_engine::Chunk;

    use super::*;

    fn answer(kind: Kind) -> Answer {
        let (began, load) = (Instant::now(), Duration::from_millis(2));
        let sieve = Sieve::new(None);
        Answer { kind, model: "m".to_owned(), sieve, began, load, finish: Finish::Stop }
    }

    fn chunk(text: &str) -> Chunk {
        Chunk { text: text.to_owned(), ..Chunk::default() }
    }

    #[test]
    fn a_line_is_one_line_to_every_reader() {
        let lines = answer(Kind::Generate).piece(0, Piece::Chunk(chunk("a\u{2028}b\u{85}c\n")));
        assert!(lines[0].contains("a\\u2028b\\u0085c\\n"), "{lines:?}");
        assert_eq!(lines[0].lines().count(), 1);
    }

    #[test]
    fn the_last_line_tells_counts_and_nanoseconds() {
        let mut chat = answer(Kind::Chat);
        assert!(chat.piece(0, Piece::End(Finish::Length, Usage::default())).is_empty());
        let usage = Usage { completion_tokens: 3, decode: Duration::from_micros(5), ..Usage::default() };
        let last: Value = serde_json::from_str(&chat.end(&[usage])[0]).unwrap();
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!((&last["eval_count"], &last["eval_duration"]), (&json!(3), &json!(5000)));
        assert_eq!(last["load_duration"], 2_000_000);
        assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    }
}
