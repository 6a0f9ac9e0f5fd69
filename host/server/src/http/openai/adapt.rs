//! A function under a model's name: how a chat, a text or texts become its input, and its output text or
//! vectors.
//!
//! ```text
//! asked          the input's schema has                   the input is
//! a chat         `messages`                               {"messages": [{"role", "content"}, …]}
//!                a text (and perhaps `system`)            {TEXT: the last turn's text; more turns as a transcript}
//! a text         a text, or `messages`                    {TEXT: …}, or a chat of one turn
//! vectors        a list of texts: `inputs`, `texts`, …    {LIST: […]}, one prediction for all
//!                a text                                   {TEXT: …}, one prediction for each
//! ```
//! A **text** is a property of type string: `prompt`, `text`, `input`, `question`, `message` or `query`, or
//! else the only one that is required, or the only one there is. What the schema declares of `max_tokens`,
//! `temperature`, `tools` and the like is passed on; what it doesn't is the function's own matter, but what
//! would change the answer's form is refused.
//!
//! An output that is a string, or emitted as strings, is the text; any other is told as JSON. Vectors are a
//! list of numbers or of such lists, or an object with `embedding` or `embeddings`.

use serde_json::{Map, Value, json};

use super::{super::Error, Failure, answerer::Target};
use crate::http::Code;

/// Names that a text goes by, the most telling first.
const TEXTS: [&str; 6] = ["prompt", "text", "input", "question", "message", "query"];
/// Names that a list of texts goes by.
const LISTS: [&str; 5] = ["inputs", "texts", "input", "sentences", "documents"];
/// Names of the text before a chat.
const SYSTEMS: [&str; 3] = ["system", "system_prompt", "instructions"];
/// Names of the bound on an answer's tokens.
const MAX_TOKENS: [&str; 3] = ["max_tokens", "max_new_tokens", "max_completion_tokens"];
/// What is passed on under its own name.
const OPTIONS: [&str; 11] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "repeat_penalty",
    "guess_tokens",
    "tools",
    "tool_choice",
    "response_format",
];
/// What changes an answer's form, so that it is refused where the schema doesn't declare it.
const FORMS: [&str; 2] = ["tools", "response_format"];

/// A chat as a function's input. Turns are objects with `role` and `content`; `options` are the request's
/// other fields, by OpenAI's names.
pub(in crate::http) fn chat(
    target: &Target,
    turns: &[Value],
    options: &Map<String, Value>,
) -> Result<Value, Failure> {
    let schema = target.schema();
    let mut input = passed_on(schema, options)?;
    if has(schema, "messages") {
        input.insert("messages".to_owned(), json!(turns));
        return Ok(Value::Object(input));
    }
    let Some(property) = text_property(schema) else { return Err(unsuited(target, "chats")) };
    let (systems, turns): (Vec<_>, Vec<_>) = turns.iter().partition(|turn| turn["role"] == "system");
    let mut text = match turns.as_slice() {
        [only] => content(only).to_owned(),
        many => many.iter().map(|turn| line(turn)).collect::<Vec<_>>().join("\n\n"),
    };
    let system = systems.into_iter().map(content).collect::<Vec<_>>().join("\n\n");
    if !system.is_empty() {
        match SYSTEMS.into_iter().find(|name| has(schema, name)) {
            Some(name) => _ = input.insert(name.to_owned(), system.into()),
            None => text = format!("{system}\n\n{text}"),
        }
    }
    input.insert(property.to_owned(), text.into());
    Ok(Value::Object(input))
}

/// A text as a function's input.
pub(in crate::http) fn text(
    target: &Target,
    text: &str,
    options: &Map<String, Value>,
) -> Result<Value, Failure> {
    let schema = target.schema();
    match text_property(schema) {
        Some(property) => {
            let mut input = passed_on(schema, options)?;
            input.insert(property.to_owned(), text.into());
            Ok(Value::Object(input))
        }
        None if has(schema, "messages") => chat(target, &[json!({"role": "user", "content": text})], options),
        None => Err(unsuited(target, "texts")),
    }
}

/// Texts as inputs of a function that makes vectors: one input for all, or one for each.
pub(in crate::http) fn texts(target: &Target, texts: &[String]) -> Result<Vec<Value>, Failure> {
    let schema = target.schema();
    let is_list = |name: &&str| {
        schema["properties"][name]["type"] == "array"
            && schema["properties"][name].pointer("/items/type").is_none_or(|kind| kind == "string")
    };
    if let Some(list) = LISTS.into_iter().find(is_list) {
        return Ok(vec![json!({list: texts})]);
    }
    let Some(property) = text_property(schema) else { return Err(unsuited(target, "texts")) };
    Ok(texts.iter().map(|text| json!({property: text})).collect())
}

/// The vectors that an output is, or holds.
pub(in crate::http) fn vectors(target: &Target, output: &Value) -> Result<Vec<Vec<f32>>, Failure> {
    let output = match output {
        Value::Object(object) => object.get("embeddings").or(object.get("embedding")).unwrap_or(output),
        other => other,
    };
    let many = serde_json::from_value::<Vec<Vec<f32>>>(output.clone());
    let vectors = many.or_else(|_| serde_json::from_value::<Vec<f32>>(output.clone()).map(|one| vec![one]));
    vectors.map_err(|_| {
        let message = format!("function \"{}\" makes no vectors: its output is not numbers", target.name);
        Error::new(Code::PredictorBadOutput, message).into()
    })
}

/// An output as text.
pub(in crate::http) fn told(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(elements) if elements.iter().all(Value::is_string) => {
            elements.iter().filter_map(Value::as_str).collect()
        }
        other => other.to_string(),
    }
}

/// Those of the options that a schema declares.
fn passed_on(schema: &Value, options: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let given = |name: &str| options.get(name).filter(|value| !value.is_null());
    for form in FORMS {
        let is_plain = |value: &Value| value == &json!([]) || value["type"] == "text";
        if given(form).is_some_and(|value| !is_plain(value)) && !has(schema, form) {
            return Err(Failure::unsupported(form, "is not in the function's input"));
        }
    }
    let mut passed = Map::new();
    for name in OPTIONS.into_iter().filter(|name| has(schema, name)) {
        if let Some(value) = given(name) {
            passed.insert(name.to_owned(), value.clone());
        }
    }
    let max_tokens = ["max_completion_tokens", "max_tokens", "max_output_tokens"].into_iter().find_map(given);
    if let (Some(value), Some(name)) = (max_tokens, MAX_TOKENS.into_iter().find(|name| has(schema, name))) {
        passed.insert(name.to_owned(), value.clone());
    }
    Ok(passed)
}

fn has(schema: &Value, name: &str) -> bool {
    schema["properties"].get(name).is_some()
}

/// The property that takes a text.
fn text_property(schema: &Value) -> Option<&str> {
    let properties = schema["properties"].as_object()?;
    let is_text = |name: &str| properties.get(name).is_some_and(|property| property["type"] == "string");
    if let Some(known) = TEXTS.into_iter().find(|name| is_text(name)) {
        return Some(known);
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    only(required.filter(|name| is_text(name)))
        .or_else(|| only(properties.keys().map(String::as_str).filter(|name| is_text(name))))
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

fn content(turn: &Value) -> &str {
    turn["content"].as_str().unwrap_or_default()
}

/// A turn in a transcript.
fn line(turn: &Value) -> String {
    format!("{}: {}", turn["role"].as_str().unwrap_or("user"), content(turn))
}

fn unsuited(target: &Target, what: &str) -> Failure {
    let message =
        format!("function \"{}\" takes no {what}: its input has no messages and no text", target.name);
    Failure::invalid("model", message)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

    use super::*;
    use crate::{
        Config,
        function::{
            Alias, Digest, Function, FunctionName, Manifest, Predictor, Revision, RevisionId, Settings,
            minimal_manifest,
        },
    };

    /// A function whose input has these properties.
    fn target(properties: Value, required: &[&str]) -> Target {
        let config = Config::new("");
        let mut manifest = minimal_manifest();
        manifest["input"] = json!({"type": "object", "properties": properties, "required": required});
        let manifest = Manifest::read(manifest, &config.deploy).unwrap();
        let (settings, digest) = (Settings::default(), Digest::of(b""));
        let revision = Arc::new(Revision {
            id: RevisionId::of(&digest, &settings),
            effective: settings.resolve(&manifest, &config),
            predictor: Arc::new(Predictor { digest, manifest }),
            start: Arc::default(),
            created_at: SystemTime::UNIX_EPOCH,
        });
        let function = Arc::new(Function {
            name: FunctionName::parse("f").unwrap(),
            created_at: SystemTime::UNIX_EPOCH,
            aliases: BTreeMap::from([(Alias::live(), revision.id.clone())]),
            revisions: vec![revision.clone()],
            previous: None,
        });
        Target { name: "f".to_owned(), function, revision }
    }

    fn turn(role: &str, content: &str) -> Value {
        json!({"role": role, "content": content})
    }

    fn string() -> Value {
        json!({"type": "string"})
    }

    fn options(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_chat_becomes_messages_or_a_text() {
        let turns = [turn("system", "Be brief."), turn("user", "Hi")];
        let whole = chat(&target(json!({"messages": {}, "text": string()}), &[]), &turns, &Map::new());
        assert_eq!(whole.unwrap(), json!({"messages": turns}));
        let split = target(json!({"prompt": string(), "system_prompt": string()}), &[]);
        let expected = json!({"system_prompt": "Be brief.", "prompt": "Hi"});
        assert_eq!(chat(&split, &turns, &Map::new()).unwrap(), expected);
        let only = chat(&target(json!({"name": string(), "n": {}}), &[]), &turns, &Map::new());
        assert_eq!(only.unwrap(), json!({"name": "Be brief.\n\nHi"}));
        let turns = [turn("user", "a"), turn("assistant", "b"), turn("user", "c")];
        let transcript = chat(&target(json!({"prompt": string()}), &[]), &turns, &Map::new());
        assert_eq!(transcript.unwrap(), json!({"prompt": "user: a\n\nassistant: b\n\nuser: c"}));
        chat(&target(json!({"a": string(), "b": string()}), &[]), &turns, &Map::new()).unwrap_err();
    }

    #[test]
    fn the_only_required_text_is_the_text() {
        let two = json!({"a": string(), "b": string()});
        assert_eq!(text(&target(two, &["b"]), "x", &Map::new()).unwrap(), json!({"b": "x"}));
        let chat = target(json!({"messages": {}}), &[]);
        assert_eq!(text(&chat, "x", &Map::new()).unwrap(), json!({"messages": [turn("user", "x")]}));
    }

    #[test]
    fn options_are_passed_on_where_they_are_declared() {
        let given =
            options(json!({"max_completion_tokens": 3, "temperature": 0.5, "seed": null, "top_p": 1}));
        let target =
            target(json!({"text": string(), "max_new_tokens": {}, "temperature": {}, "seed": {}}), &[]);
        let expected = json!({"temperature": 0.5, "max_new_tokens": 3, "text": "x"});
        assert_eq!(text(&target, "x", &given).unwrap(), expected);
        let tools = options(json!({"tools": [{}]}));
        text(&target, "x", &tools).unwrap_err();
        let plain = options(json!({"tools": [], "response_format": {"type": "text"}}));
        text(&target, "x", &plain).unwrap();
    }

    #[test]
    fn vectors_are_asked_for_together_or_one_by_one() {
        let given = ["a".to_owned(), "b".to_owned()];
        let list = target(json!({"texts": {"type": "array", "items": string()}}), &[]);
        assert_eq!(texts(&list, &given).unwrap(), [json!({"texts": ["a", "b"]})]);
        let single = target(json!({"text": string()}), &[]);
        assert_eq!(texts(&single, &given).unwrap(), [json!({"text": "a"}), json!({"text": "b"})]);
        for output in [json!([1, 2]), json!([[1, 2]]), json!({"embedding": [1, 2]})] {
            assert_eq!(vectors(&single, &output).unwrap(), [[1.0, 2.0]], "{output}");
        }
        vectors(&single, &json!("text")).unwrap_err();
    }

    #[test]
    fn an_output_is_text_or_json() {
        assert_eq!(told(&json!("a")), "a");
        assert_eq!(told(&json!(["a", "b"])), "ab");
        assert_eq!(told(&json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(told(&Value::Null), "");
    }
}
