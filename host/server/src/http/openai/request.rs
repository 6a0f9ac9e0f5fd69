//! What the dialect's requests have in common: bodies, sampling, formats.

use axum::body::Body;
use bytes::Bytes;
use dormouse_engine::{Open, Sampling};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    super::{body, prefer},
    Failure,
};
use crate::config;

/// The most choices of a request.
pub(super) const CHOICES_MAX: usize = 16;

/// A body's bytes.
pub(in crate::http) async fn read(body: Body, bounds: &config::Http) -> Result<Bytes, Failure> {
    Ok(body::read(body, bounds).await?)
}

/// The fields of a body that a type knows; an error names the field.
pub(in crate::http) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        Failure::invalid(field, error.into_inner().to_string())
    })
}

/// How a request wants its model opened: Ollama's `keep_alive` says how long it stays awake after this.
pub(super) fn open(bytes: &[u8]) -> Result<Open, Failure> {
    #[derive(Deserialize)]
    struct Field {
        keep_alive: Option<Value>,
    }
    let Field { keep_alive } = parse(bytes)?;
    let invalid = || Failure::invalid("keep_alive", "is neither seconds nor a time such as \"5m\"");
    let keep_alive = keep_alive.map(|value| prefer::keep_alive(&value).ok_or_else(invalid)).transpose()?;
    Ok(Open { keep_alive, ..Open::default() })
}

/// How tokens are drawn and when it ends. The names that other servers have for more than OpenAI
/// offers are taken too.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Drawing {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    #[serde(alias = "repetition_penalty")]
    repeat_penalty: Option<f32>,
    seed: Option<i64>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<Map<String, Value>>,
    stop: Option<OneOrMany>,
    /// Tokens that a step may guess from what the text repeats.
    pub(super) guess_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Drawing {
    /// Within OpenAI's bounds, with its defaults.
    pub(super) fn sampling(&self) -> Result<Sampling, Failure> {
        let nonzero = |value: Option<f32>| value.is_some_and(|value| value != 0.0);
        if nonzero(self.frequency_penalty) {
            return Err(Failure::unsupported("frequency_penalty", "is not offered; repeat_penalty is"));
        }
        if nonzero(self.presence_penalty) {
            return Err(Failure::unsupported("presence_penalty", "is not offered; repeat_penalty is"));
        }
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return Err(Failure::unsupported("logit_bias", "is not offered"));
        }
        let defaults = Sampling::default();
        Ok(Sampling {
            temperature: within("temperature", self.temperature, 0.0, 2.0)?.unwrap_or(1.0),
            // OpenAI takes 0 for the likeliest token alone.
            top_p: within("top_p", self.top_p, 0.0, 1.0)?.unwrap_or(1.0).max(f32::MIN_POSITIVE),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: within("min_p", self.min_p, 0.0, 1.0)?.unwrap_or(defaults.min_p),
            repeat_penalty: within("repeat_penalty", self.repeat_penalty, 0.01, 10.0)?
                .unwrap_or(defaults.repeat_penalty),
            seed: self.seed.map(i64::cast_unsigned),
        })
    }

    /// What ends the text.
    pub(super) fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(stop)) => vec![stop.clone()],
            Some(OneOrMany::Many(stops)) => stops.clone(),
        }
    }
}

fn within(name: &str, value: Option<f32>, low: f32, high: f32) -> Result<Option<f32>, Failure> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            Err(Failure::invalid(name, format!("{value} is not in {low} to {high}")))
        }
        value => Ok(value),
    }
}

/// How many choices are asked for.
pub(super) fn choices(n: Option<usize>) -> Result<usize, Failure> {
    match n.unwrap_or(1) {
        n if (1..=CHOICES_MAX).contains(&n) => Ok(n),
        n => Err(Failure::invalid("n", format!("{n} is not in 1 to {CHOICES_MAX}"))),
    }
}

/// `response_format`, or `text.format` of a response.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Format {
    Text,
    JsonObject,
    JsonSchema(SchemaFormat),
}

/// Chats have the schema one level deeper than responses.
#[derive(Debug, Deserialize)]
pub(super) struct SchemaFormat {
    json_schema: Option<Box<SchemaFormat>>,
    schema: Option<Value>,
}

impl Format {
    /// The JSON Schema that the text must match.
    pub(super) fn schema(self, param: &str) -> Result<Option<String>, Failure> {
        match self {
            Self::Text => Ok(None),
            Self::JsonObject => Ok(Some(json!({"type": "object"}).to_string())),
            Self::JsonSchema(SchemaFormat { json_schema: Some(inner), .. }) => {
                Self::JsonSchema(*inner).schema(param)
            }
            Self::JsonSchema(SchemaFormat { schema: Some(schema), .. }) => Ok(Some(schema.to_string())),
            Self::JsonSchema(_) => Err(Failure::invalid(param, "has no schema")),
        }
    }
}

/// Text, whole or in parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a content.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Part {
    r#type: String,
    text: Option<String>,
}

impl Content {
    /// The text of all parts; a part that isn't text is an error that names it.
    pub(super) fn text(self, param: &str) -> Result<String, Failure> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Parts(parts) => parts
                .into_iter()
                .map(|Part { r#type, text }| match (&*r#type, text) {
                    ("text" | "input_text" | "output_text" | "refusal", Some(text)) => Ok(text),
                    _ => Err(Failure::invalid(param, format!("a part of type \"{type}\" is not text"))),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<T: std::fmt::Debug>(result: Result<T, Failure>) -> Value {
        serde_json::to_value(result.unwrap_err().event()).unwrap()["error"].clone()
    }

    #[test]
    fn an_error_names_the_field() {
        #[derive(Debug, Deserialize)]
        struct Body {
            #[expect(dead_code, reason = "only parsed")]
            messages: Vec<Content>,
        }
        assert_eq!(failure(parse::<Body>(br#"{"messages": "nope"}"#))["param"], "messages");
        assert_eq!(failure(parse::<Body>(br#"{"messages": ["a", 1]}"#))["param"], "messages[1]");
        assert_eq!(failure(parse::<Body>(b"{}"))["param"], "body");
    }

    #[test]
    fn drawing_has_the_bounds_and_defaults_of_openai() {
        let sampling = |json: Value| serde_json::from_value::<Drawing>(json).unwrap().sampling();
        let defaults = sampling(json!({})).unwrap();
        assert_eq!((defaults.temperature, defaults.top_p, defaults.seed), (1.0, 1.0, None));
        assert!(sampling(json!({"top_p": 0})).unwrap().top_p > 0.0);
        assert_eq!(sampling(json!({"seed": -1})).unwrap().seed, Some(u64::MAX));
        assert_eq!(failure(sampling(json!({"temperature": 9})))["param"], "temperature");
        assert_eq!(failure(sampling(json!({"presence_penalty": 1})))["code"], "unsupported_parameter");
        sampling(json!({"presence_penalty": 0, "logit_bias": {}})).unwrap();
    }

    #[test]
    fn a_schema_is_found_where_either_kind_of_request_has_it() {
        let schema = |json: Value| serde_json::from_value::<Format>(json).unwrap().schema("f");
        let expected = Some(r#"{"type":"object"}"#.to_owned());
        let inner = json!({"name": "a", "schema": {"type": "object"}});
        assert_eq!(schema(json!({"type": "json_schema", "json_schema": inner})).unwrap(), expected);
        let flat = json!({"type": "json_schema", "name": "a", "schema": {"type": "object"}});
        assert_eq!(schema(flat).unwrap(), expected);
        assert_eq!(schema(json!({"type": "json_object"})).unwrap(), expected);
        assert_eq!(schema(json!({"type": "text"})).unwrap(), None);
        assert_eq!(failure(schema(json!({"type": "json_schema"})))["param"], "f");
    }

    #[test]
    fn parts_that_are_not_text_are_refused_by_type() {
        let text = |json: Value| serde_json::from_value::<Content>(json).unwrap().text("messages[0].content");
        assert_eq!(
            text(json!([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}])).unwrap(),
            "ab"
        );
        let failure = failure(text(json!([{"type": "image_url", "image_url": {"url": "data:"}}])));
        assert_eq!(failure["message"], "messages[0].content: a part of type \"image_url\" is not text");
    }
}
