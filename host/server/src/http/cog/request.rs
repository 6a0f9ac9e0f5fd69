//! What Cog's clients send.

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    super::{Code, Error, body},
    DIALECT,
};
use crate::{
    function::Problem,
    service::Service,
    webhook::{Event, Webhook, trace_headers},
};

/// The body of a new prediction. Fields that Cog does not know are let through, as Cog does.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) id: Option<String>,
    pub(super) input: Value,
    webhook: Option<String>,
    events: Option<Vec<Event>>,
    /// Bytes of the body.
    pub(super) bytes: usize,
}

#[derive(Debug, Default, Deserialize)]
struct Fields {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    webhook: Option<String>,
    #[serde(default)]
    webhook_events_filter: Option<Vec<Event>>,
}

impl Request {
    /// Reads a body: JSON by its type, or none at all.
    pub(super) async fn read(service: &Service, headers: &HeaderMap, body: Body) -> Result<Self, Error> {
        let has_type = headers.contains_key(header::CONTENT_TYPE);
        let is_json = body::media_type(headers).is_some_and(|media_type| {
            let subtype = media_type.strip_prefix("application/");
            subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
        });
        if has_type && !is_json {
            body::discard(body, &service.config.http).await;
            let message = "Expected request with `Content-Type: application/json`";
            return Err(Error::new(Code::UnsupportedMediaType, message));
        }
        let bytes = body::read(body, &service.config.http).await?;
        let fields = match bytes.trim_ascii() {
            [] if !has_type => Fields::default(),
            text => parse(text)?,
        };
        if let Some(url) = &fields.webhook {
            Webhook::check(url, &service.config.webhook)
                .map_err(|reason| Error::invalid_input(vec![Problem::new(["body", "webhook"], reason)]))?;
        }
        Ok(Self {
            id: fields.id,
            input: fields.input.filter(|input| !input.is_null()).unwrap_or(Value::Object(Map::new())),
            webhook: fields.webhook,
            events: fields.webhook_events_filter,
            bytes: bytes.len(),
        })
    }

    /// Whom to tell, if anyone.
    pub(super) fn webhook(&self, base: String, headers: &HeaderMap) -> Option<Box<Webhook>> {
        let url = self.webhook.clone()?;
        Some(Box::new(Webhook {
            url,
            events: self.events.clone().unwrap_or(Event::ALL.to_vec()),
            dialect: DIALECT,
            base,
            headers: trace_headers(headers),
        }))
    }
}

fn parse(text: &[u8]) -> Result<Fields, Error> {
    serde_json::from_slice(text).map_err(|error| match error.is_data() {
        true => Error::invalid_input(vec![Problem::new(["body"], error.to_string())]),
        false => {
            Error::new(Code::InvalidRequest, format!("Failed to parse the request body as JSON: {error}"))
        }
    })
}

/// An input less the keys that the schema does not name: Cog drops them.
pub(in super::super) fn known_only(mut input: Value, schema: &Value) -> Value {
    if let (Value::Object(input), Some(known)) =
        (&mut input, schema.get("properties").and_then(Value::as_object))
    {
        input.retain(|key, _| known.contains_key(key));
    }
    input
}

pub(super) fn invalid_id(message: impl Into<String>) -> Error {
    Error::invalid_input(vec![Problem::new(["body", "id"], message)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_the_schema_does_not_name_are_dropped() {
        let schema = json!({"properties": {"a": {}}});
        assert_eq!(known_only(json!({"a": 1, "b": 2}), &schema), json!({"a": 1}));
        assert_eq!(known_only(json!([1]), &schema), json!([1]));
        assert_eq!(known_only(json!({"b": 2}), &json!({})), json!({"b": 2}));
    }

    #[test]
    fn broken_json_is_not_the_same_as_json_of_another_shape() {
        assert_eq!(parse(b"{bad").unwrap_err().code, Code::InvalidRequest);
        assert_eq!(parse(b"").unwrap_err().code, Code::InvalidRequest);
        assert_eq!(parse(br#"{"webhook": 1}"#).unwrap_err().code, Code::InvalidInput);
        assert_eq!(parse(br#"{"webhook_events_filter": ["odd"]}"#).unwrap_err().code, Code::InvalidInput);
        assert!(parse(br#"{"input": null, "created_at": 1}"#).is_ok());
    }
}
