//! What a predictor says about itself: the JSON that `describe` returns, checked.

use serde::Deserialize;
use serde_json::Value;

use super::{Prefix, schema};
use crate::config::Deploy;

/// The interface that this version serves; a later patch version only adds to it.
const INTERFACE: &str = "dormouse:predictor@0.1.";

/// A predictor's manifest, as it was checked at deploy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) description: String,
    /// JSON Schema of the input, an object.
    pub(crate) input: Value,
    /// JSON Schema of the output.
    pub(crate) output: Value,
    /// Elements are emitted one by one.
    pub(crate) streaming: bool,
    /// Models that it opens.
    pub(crate) models: Vec<String>,
    pub(crate) limits: Wishes,
    /// Beginnings of prompts that are computed at deploy and kept.
    pub(crate) prefixes: Vec<Prefix>,
    /// All of it, as it was given.
    pub(crate) text: String,
}

/// Limits that a predictor would like; settings override them and the node bounds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Wishes {
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
}

/// The fields as they are written. Unknown ones are let through: the interface grows by addition.
#[derive(Deserialize)]
struct Fields {
    interface: String,
    #[serde(default)]
    description: String,
    input: Value,
    output: Value,
    #[serde(default)]
    streaming: bool,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    limits: Wishes,
    #[serde(default)]
    prefixes: Vec<Prefix>,
}

impl Manifest {
    /// Reads and checks a manifest; the error says what is wrong with it.
    pub(crate) fn read(value: Value, bounds: &Deploy) -> Result<Self, String> {
        let text = value.to_string();
        if text.len() > bounds.manifest_bytes_max {
            let max = bounds.manifest_bytes_max;
            return Err(format!("manifest has {} bytes, this node takes {max}", text.len()));
        }
        let fields: Fields = serde_json::from_value(value).map_err(|error| format!("manifest: {error}"))?;
        if !fields.interface.starts_with(INTERFACE) {
            let found = fields.interface;
            return Err(format!("manifest names interface \"{found}\", this node serves \"{INTERFACE}x\""));
        }
        if fields.models.len() > bounds.names_max {
            let (found, max) = (fields.models.len(), bounds.names_max);
            return Err(format!("manifest names {found} models, this node takes {max}"));
        }
        if fields.models.iter().any(|model| model.trim().is_empty()) {
            return Err("manifest names a model \"\"".to_owned());
        }
        if fields.prefixes.len() > bounds.names_max {
            let (found, max) = (fields.prefixes.len(), bounds.names_max);
            return Err(format!("manifest names {found} prefixes, this node takes {max}"));
        }
        if fields.input.get("type") != Some(&Value::from("object")) {
            return Err("manifest: input is not a schema of type \"object\"".to_owned());
        }
        schema::InputSchema::compile(&fields.input).map_err(|error| format!("input schema: {error}"))?;
        schema::compile(&fields.output).map_err(|error| format!("output schema: {error}"))?;
        Ok(Self {
            description: fields.description,
            input: fields.input,
            output: fields.output,
            streaming: fields.streaming,
            models: fields.models,
            limits: fields.limits,
            prefixes: fields.prefixes,
            text,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// The least that a manifest says.
    pub(crate) fn minimal() -> Value {
        json!({
            "interface": "dormouse:predictor@0.1.0",
            "name": "f",
            "input": {"type": "object"},
            "output": {"type": "string"},
        })
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: &str) {
        let mut value = minimal();
        change(&mut value);
        let bounds = Deploy { manifest_bytes_max: 1000, names_max: 2, ..Deploy::default() };
        match Manifest::read(value, &bounds) {
            Ok(_) => assert_eq!("", expected),
            Err(error) => assert!(error.contains(expected) && !expected.is_empty(), "{error}"),
        }
    }

    #[test]
    fn the_least_manifest_and_unknown_fields_are_taken() {
        check(|_| {}, "");
        check(|manifest| manifest["future"] = json!(1), "");
        check(|manifest| manifest["interface"] = json!("dormouse:predictor@0.1.9"), "");
    }

    #[test]
    fn what_is_wrong_with_a_manifest_is_told() {
        check(|manifest| manifest["interface"] = json!("dormouse:predictor@0.2.0"), "predictor@0.2.0");
        check(|manifest| *manifest = json!([]), "manifest: ");
        check(|manifest| manifest["input"] = json!({"type": "string"}), "input is not a schema of type");
        check(|manifest| manifest["input"]["required"] = json!(1), "input schema: ");
        check(|manifest| manifest["output"] = json!({"type": 1}), "output schema: ");
        check(|manifest| manifest["models"] = json!(["a", "b", "c"]), "names 3 models, this node takes 2");
        check(|manifest| manifest["description"] = json!("x".repeat(1000)), "bytes, this node takes 1000");
    }
}
