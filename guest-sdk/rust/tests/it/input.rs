//! Input types: their schemas, and what JSON they read.

use std::collections::BTreeMap;

use dormouse_guest::prelude::*;
use serde_json::from_value;

/// How to write
#[derive(Input, Debug, PartialEq)]
enum Tone {
    Friendly,
    VeryFormal,
}

#[derive(Input, Debug, PartialEq)]
struct Place {
    /// Two letters
    #[input(regex = "^[A-Z]{2}$")]
    country: String,
    city: Option<String>,
}

/// Everything a field can be.
///
/// In two paragraphs.
#[derive(Input, Debug, PartialEq)]
struct Everything {
    /// What to answer,
    /// in full
    #[input(min_length = 1, max_length = 20)]
    prompt: String,
    #[input(default = 100, ge = 1, le = 4096)]
    max_tokens: u32,
    #[input(default = 0.7, ge = 0, le = 2)]
    temperature: f32,
    #[input(default = -1)]
    offset: f64,
    #[input(default = Tone::Friendly)]
    tone: Tone,
    #[input(default = "small", choices = ["small", "large"])]
    size: String,
    #[input(choices = [1, 2, 4])]
    scale: Option<u8>,
    #[input(ge = 0)]
    seed: Option<u64>,
    #[input(default = ["a"], max_length = 4)]
    stop: Vec<String>,
    #[input(default = 3)]
    retries: Option<i32>,
    place: Option<Place>,
    r#type: bool,
    labels: BTreeMap<String, i64>,
    anything: Value,
}

fn minimal() -> Value {
    json!({"prompt": "hi", "type": true, "labels": {}, "anything": null})
}

#[test]
fn a_struct_becomes_a_closed_object_in_the_order_of_its_fields() {
    let integer = |minimum: Value, maximum: Value, extra: Value| {
        let mut schema = json!({"type": "integer", "minimum": minimum, "maximum": maximum});
        schema.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        schema
    };
    let expected = json!({
        "type": "object",
        "title": "Everything",
        "description": "Everything a field can be.\nIn two paragraphs.",
        "additionalProperties": false,
        "required": ["prompt", "type", "labels", "anything"],
        "properties": {
            "prompt": {"type": "string", "title": "Prompt", "description": "What to answer, in full",
                "minLength": 1, "maxLength": 20, "x-order": 0},
            "max_tokens": integer(json!(1), json!(4096), json!({"title": "Max Tokens", "default": 100, "x-order": 1})),
            "temperature": {"type": "number", "title": "Temperature", "default": 0.7,
                "minimum": 0.0, "maximum": 2.0, "x-order": 2},
            "offset": {"type": "number", "title": "Offset", "default": -1.0, "x-order": 3},
            "tone": {"type": "string", "enum": ["friendly", "very_formal"], "title": "Tone",
                "description": "How to write", "default": "friendly", "x-order": 4},
            "size": {"type": "string", "enum": ["small", "large"], "title": "Size", "default": "small",
                "x-order": 5},
            "scale": {"type": ["integer", "null"], "minimum": 0, "maximum": 255, "title": "Scale",
                "enum": [1, 2, 4, null], "x-order": 6},
            "seed": {"type": ["integer", "null"], "minimum": 0, "title": "Seed", "x-order": 7},
            "stop": {"type": "array", "items": {"type": "string"}, "title": "Stop", "default": ["a"],
                "maxItems": 4, "x-order": 8},
            "retries": {"type": ["integer", "null"], "minimum": i32::MIN, "maximum": i32::MAX,
                "title": "Retries", "default": 3, "x-order": 9},
            "place": {"type": ["object", "null"], "title": "Place", "additionalProperties": false,
                "required": ["country"], "x-order": 10,
                "properties": {
                    "country": {"type": "string", "title": "Country", "description": "Two letters",
                        "pattern": "^[A-Z]{2}$", "x-order": 0},
                    "city": {"type": ["string", "null"], "title": "City", "x-order": 1},
                }},
            "type": {"type": "boolean", "title": "Type", "x-order": 11},
            "labels": {"type": "object", "additionalProperties": {"type": "integer"}, "title": "Labels",
                "x-order": 12},
            "anything": {"title": "Anything", "x-order": 13},
        },
    });
    assert_eq!(Everything::schema(), expected);
}

#[test]
fn fields_left_out_take_their_defaults() {
    let read: Everything = from_value(minimal()).unwrap();
    let expected = Everything {
        prompt: "hi".into(),
        max_tokens: 100,
        temperature: 0.7,
        offset: -1.0,
        tone: Tone::Friendly,
        size: "small".into(),
        scale: None,
        seed: None,
        stop: vec!["a".into()],
        retries: Some(3),
        place: None,
        r#type: true,
        labels: BTreeMap::new(),
        anything: Value::Null,
    };
    assert_eq!(read, expected);
}

#[test]
fn given_fields_win_over_defaults() {
    let mut json = minimal();
    json["tone"] = json!("very_formal");
    json["retries"] = json!(null);
    json["stop"] = json!([]);
    json["place"] = json!({"country": "DE"});
    let read: Everything = from_value(json).unwrap();
    assert_eq!(read.tone, Tone::VeryFormal);
    assert_eq!(read.retries, None);
    assert_eq!(read.stop, Vec::<String>::new());
    assert_eq!(read.place, Some(Place { country: "DE".into(), city: None }));
}

#[test]
fn what_was_read_is_written_back_the_same() {
    let read: Everything = from_value(minimal()).unwrap();
    assert_eq!(from_value::<Everything>(read.to_json()).unwrap(), read);
}

#[test]
fn required_and_unknown_fields_are_told_by_name() {
    let error = |json: Value| from_value::<Place>(json).unwrap_err().to_string();
    assert_eq!(error(json!({})), "missing field `country`");
    assert!(error(json!({"country": "DE", "town": "Ulm"})).starts_with("unknown field `town`"));
}
