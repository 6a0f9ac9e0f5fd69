//! Output types: their schemas, and what JSON they write.

use dormouse_guest::{Answer, prelude::*};

/// Where a ticket goes
#[derive(Input, Output, Debug, PartialEq)]
enum Category {
    Billing,
    BugReport,
}

/// A sorted ticket
#[derive(Output)]
struct Sorted {
    category: Category,
    /// From 0 to 1
    confidence: f32,
    reasons: Vec<String>,
    r#else: Option<&'static str>,
}

#[test]
fn a_struct_becomes_an_object_whose_fields_are_all_there() {
    let expected = json!({
        "type": "object",
        "title": "Sorted",
        "description": "A sorted ticket",
        "additionalProperties": false,
        "required": ["category", "confidence", "reasons", "else"],
        "properties": {
            "category": {"type": "string", "enum": ["billing", "bug_report"], "title": "Category",
                "description": "Where a ticket goes", "x-order": 0},
            "confidence": {"type": "number", "title": "Confidence", "description": "From 0 to 1", "x-order": 1},
            "reasons": {"type": "array", "items": {"type": "string"}, "title": "Reasons", "x-order": 2},
            "else": {"type": ["string", "null"], "title": "Else", "x-order": 3},
        },
    });
    assert_eq!(Sorted::answer_schema(), expected);
    const { assert!(!Sorted::STREAMING) };
}

#[test]
fn a_value_is_written_as_its_schema_says() {
    let value =
        Sorted { category: Category::BugReport, confidence: 0.7, reasons: vec!["x".into()], r#else: None };
    assert_eq!(
        value.into_json().unwrap(),
        r#"{"category":"bug_report","confidence":0.7,"reasons":["x"],"else":null}"#
    );
}

#[test]
fn a_stream_is_an_iterator_for_cog_and_text_is_joined() {
    assert_eq!(
        Stream::<String>::answer_schema(),
        json!({"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate"})
    );
    assert_eq!(
        Stream::<u8>::answer_schema(),
        json!({"type": "array", "items": u8::schema_of(), "x-cog-array-type": "iterator"})
    );
    const { assert!(Stream::<u8>::STREAMING) };
}

trait SchemaOf: Output {
    fn schema_of() -> Value {
        <Self as Output>::schema()
    }
}

impl SchemaOf for u8 {}
