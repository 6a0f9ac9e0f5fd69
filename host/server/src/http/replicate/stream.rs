//! A prediction's events as Replicate streams them. The URL is a capability: clients fetch it without a
//! token, and often after the prediction has ended.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use dormouse_runtime::Event;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::document::stream_key;
use crate::{
    http::{Error, sse, timing},
    prediction::{Item, PredictionId, Status},
    service::Service,
};

/// `GET /v1/streams/{id}/{key}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path((id, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let none = || Error::not_found("no such stream");
    let id = PredictionId::parse(&id).map_err(|_| none())?;
    let record = service.predictions.find(&id).await.map_err(|_| none())?;
    let is_right = |own: &str| bool::from(own.as_bytes().ct_eq(key.as_bytes()));
    if !stream_key(&record).is_some_and(is_right) {
        return Err(none());
    }
    let cursor = service.predictions.follow(&id).await?;
    let after = sse::last_event_id(&headers);
    Ok(sse::response(sse::follow(Box::new(cursor), events(after)), service.config.http.keep_alive))
}

/// Writes events with numbers, those up to `after` left out. Text is sent as it is, other elements as
/// JSON.
fn events(after: u64) -> impl FnMut(&Item) -> String + Send + 'static {
    let mut id = 0;
    let mut numbered = move |name: &str, data: &str| {
        id += 1;
        if id <= after { String::new() } else { event(name, id, data) }
    };
    move |item| match item {
        Item::Started => String::new(),
        Item::Event(event) => match &**event {
            Event::Output(json) => match serde_json::from_str(json) {
                Ok(Value::String(text)) => numbered("output", &text),
                _ => numbered("output", json),
            },
            Event::Log(line) => numbered("logs", &format!("{}\n", line.message)),
            // The official clients fail at an event that they don't know, and pass over a comment.
            Event::Wake(wake) => timing::comment(wake),
            Event::Progress { .. } => String::new(),
        },
        Item::Ended(record) => match (record.status, &record.failure) {
            (Status::Failed, Some(failure)) => {
                let error = numbered("error", &json!({"detail": failure.message}).to_string());
                error + &numbered("done", r#"{"reason": "error"}"#)
            }
            (Status::Canceled, _) => numbered("done", r#"{"reason": "canceled"}"#),
            _ => numbered("done", "{}"),
        },
    }
}

/// An event whose data may have several lines.
fn event(name: &str, id: u64, data: &str) -> String {
    let mut text = format!("event: {name}\nid: {id}\n");
    for line in data.replace("\r\n", "\n").split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::Code,
        prediction::{Failure, queued_record},
    };

    fn output(json: &str) -> Item {
        Item::Event(Event::Output(json.to_owned()).into())
    }

    fn ended(status: Status) -> Item {
        let mut record = queued_record("a", "f");
        record.status = status;
        record.failure = Some(Failure { code: Code::PredictorFailed, message: "no".to_owned() });
        Item::Ended(record.into())
    }

    fn all(items: &[Item], after: u64) -> String {
        items.iter().map(events(after)).collect()
    }

    #[test]
    fn text_is_sent_as_it_is_line_by_line() {
        let items = [Item::Started, output("\"a\\nb\""), output("[1]"), ended(Status::Succeeded)];
        let expected = "event: output\nid: 1\ndata: a\ndata: b\n\nevent: output\nid: 2\ndata: [1]\n\n\
            event: done\nid: 3\ndata: {}\n\n";
        assert_eq!(all(&items, 0), expected);
        assert_eq!(all(&items, 2), "event: done\nid: 3\ndata: {}\n\n");
    }

    #[test]
    fn a_failure_and_a_cancellation_say_what_they_are() {
        let failed = "event: error\nid: 1\ndata: {\"detail\":\"no\"}\n\nevent: done\nid: 2\ndata: {\"reason\": \"error\"}\n\n";
        assert_eq!(all(&[ended(Status::Failed)], 0), failed);
        assert_eq!(
            all(&[ended(Status::Canceled)], 0),
            "event: done\nid: 1\ndata: {\"reason\": \"canceled\"}\n\n"
        );
    }
}
