//! A predictor's input schema: fills defaults in, then checks, before any wasm runs.
//!
//! Schemas come from whoever deploys and inputs from whoever calls, so neither may reach out or run
//! away: references outside the schema are refused, and patterns run in linear time.

use std::{collections::HashMap, ptr};

use jsonschema::{PatternOptions, Validator, error::ValidationErrorKind, paths::LocationSegment};
use serde::Serialize;
use serde_json::{Map, Value};

/// Values in an input whose every failure is looked for; of a larger one only the first is told, for
/// the checker holds all failures at once.
const SEARCHED_VALUES_MAX: usize = 10_000;
/// Values of a schema with its references written out; beyond it the schema is refused.
const EXPANDED_VALUES_MAX: usize = 100_000;
/// Levels of a schema with its references followed; beyond it the schema is refused.
const EXPANDED_DEPTH_MAX: usize = 256;
/// Bytes of a value that a problem may name.
const NAMED_BYTES_MAX: usize = 128;
/// Objects within objects whose defaults are filled in.
const DEFAULTS_DEPTH_MAX: usize = 16;

/// One thing that is wrong with what a caller sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Where, from the outside in: `["body", "input", "name"]`.
    pub(crate) loc: Vec<Step>,
    /// What.
    pub(crate) msg: String,
    /// What, with the value named, where that is short.
    #[serde(skip)]
    pub(crate) full: Option<String>,
}

/// A step into a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Step {
    /// A key of an object.
    Key(String),
    /// An index of an array.
    Index(usize),
}

impl Problem {
    pub(crate) fn new<'a>(loc: impl IntoIterator<Item = &'a str>, msg: impl Into<String>) -> Self {
        let loc = loc.into_iter().map(|key| Step::Key(key.to_owned())).collect();
        Self { loc, msg: msg.into(), full: None }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

/// A compiled input schema.
pub(crate) struct InputSchema {
    validator: Validator,
    defaults: Defaults,
    /// The input has a property named `input`, see [`unwrap`].
    has_input: bool,
}

impl InputSchema {
    /// Compiles a schema; the error says what is wrong with it.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        let validator = compile(schema)?;
        let has_input = schema.pointer("/properties/input").is_some();
        Ok(Self { validator, defaults: Defaults::of(schema, DEFAULTS_DEPTH_MAX), has_input })
    }

    /// The input in a request's body.
    pub(crate) fn unwrap(&self, body: Value) -> Value {
        unwrap(body, self.has_input)
    }

    /// An input with defaults filled in, as JSON; or what is wrong with it, at most `problems_max`
    /// things.
    pub(crate) fn prepare(&self, mut input: Value, problems_max: usize) -> Result<String, Vec<Problem>> {
        self.defaults.fill(&mut input);
        match self.validator.is_valid(&input) {
            true => Ok(input.to_string()),
            false => Err(self.problems(&input, problems_max)),
        }
    }

    fn problems(&self, input: &Value, problems_max: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        if count(input, SEARCHED_VALUES_MAX) < SEARCHED_VALUES_MAX {
            self.validator.iter_errors(input).for_each(|error| explain(&error, &mut problems));
        } else if let Err(error) = self.validator.validate(input) {
            explain(&error, &mut problems);
        }
        problems.truncate(problems_max);
        problems
    }
}

/// Checks that a schema is one, such as a manifest's `output`.
pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    Expansion::check(schema)?;
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    options.build(schema).map_err(|error| format!("{error} (at \"{}\")", error.instance_path()))
}

/// A body is the input, or `{"input": …}` around it. Where the schema has a property `input` of its
/// own, the wrapping is told by its value being an object with a key `input`.
fn unwrap(body: Value, has_input: bool) -> Value {
    let Value::Object(mut object) = body else { return body };
    let is_wrapped = object.len() == 1
        && match object.get("input") {
            Some(Value::Object(inner)) => !has_input || inner.contains_key("input"),
            _ => false,
        };
    match is_wrapped {
        true => object.swap_remove("input").expect("the key was just seen"),
        false => Value::Object(object),
    }
}

/// Defaults of an object's properties, and of the objects within.
struct Defaults {
    values: Vec<(String, Value)>,
    nested: Vec<(String, Self)>,
}

impl Defaults {
    fn of(schema: &Value, depth: usize) -> Self {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let values = properties
            .iter()
            .filter_map(|(name, property)| Some((name.clone(), property.get("default")?.clone())))
            .collect();
        let nested = match depth {
            0 => Vec::new(),
            _ => (properties.iter().map(|(name, property)| (name.clone(), Self::of(property, depth - 1))))
                .filter(|(_, defaults)| !(defaults.values.is_empty() && defaults.nested.is_empty()))
                .collect(),
        };
        Self { values, nested }
    }

    fn fill(&self, input: &mut Value) {
        let Value::Object(object) = input else { return };
        for (name, value) in &self.values {
            if !object.contains_key(name) {
                object.insert(name.clone(), value.clone());
            }
        }
        for (name, defaults) in &self.nested {
            if let Some(value) = object.get_mut(name) {
                defaults.fill(value);
            }
        }
    }
}

/// Number of values in a document, as far as `max`.
fn count(value: &Value, max: usize) -> usize {
    let mut sum = 1;
    let mut add = |child| {
        if sum < max {
            sum += count(child, max - sum);
        }
    };
    match value {
        Value::Array(items) => items.iter().for_each(&mut add),
        Value::Object(object) => object.values().for_each(&mut add),
        _ => {}
    }
    sum
}

/// Turns a failure into problems: one for each key that is missing or unknown, so that `loc` names it.
fn explain(error: &jsonschema::ValidationError<'_>, problems: &mut Vec<Problem>) {
    let mut loc = vec![Step::Key("body".to_owned()), Step::Key("input".to_owned())];
    loc.extend(error.instance_path().segments().map(|segment| match segment {
        LocationSegment::Property(name) => Step::Key(name.into_owned()),
        LocationSegment::Index(index) => Step::Index(index),
    }));
    let mut at_key = |key: &str, msg: &str| {
        let loc = loc.iter().cloned().chain([Step::Key(key.to_owned())]).collect();
        problems.push(Problem { loc, msg: msg.to_owned(), full: None });
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            at_key(property.as_str().unwrap_or_default(), "field required");
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            unexpected.iter().for_each(|key| at_key(key, "unknown field"));
        }
        // The value is the caller's own; masking it keeps answers small.
        _ => {
            let full = is_short(error.instance()).then(|| error.to_string());
            problems.push(Problem { loc, msg: error.masked_with("value").to_string(), full });
        }
    }
}

/// Whether a message may name a value.
fn is_short(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= NAMED_BYTES_MAX,
        _ => count(value, NAMED_BYTES_MAX) < NAMED_BYTES_MAX && value.to_string().len() <= NAMED_BYTES_MAX,
    }
}

/// What a schema comes to when every reference is written out: the most values that one place of an
/// input is checked against. References double at every level if they like, so it is measured first.
struct Expansion<'a> {
    root: &'a Value,
    /// By address; `None` while its own expansion is under way, as in a schema of trees.
    known: HashMap<*const Value, Option<usize>>,
}

impl<'a> Expansion<'a> {
    fn check(root: &'a Value) -> Result<(), String> {
        let values = Self { root, known: HashMap::new() }.of(root, EXPANDED_DEPTH_MAX)?;
        match values <= EXPANDED_VALUES_MAX {
            true => Ok(()),
            false => Err(format!("expands to {values} values, at most {EXPANDED_VALUES_MAX} are taken")),
        }
    }

    fn of(&mut self, value: &'a Value, depth: usize) -> Result<usize, String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("is more than {EXPANDED_DEPTH_MAX} levels deep"));
        };
        if let Some(known) = self.known.get(&ptr::from_ref(value)) {
            return Ok(known.unwrap_or(1));
        }
        self.known.insert(value, None);
        let mut sum = 1_usize;
        let pointer = value.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#'));
        let target = pointer.and_then(|pointer| self.root.pointer(pointer));
        let items = value.as_array().into_iter().flatten();
        let children = items.chain(value.as_object().into_iter().flat_map(Map::values));
        for child in children.chain(target) {
            sum = sum.saturating_add(self.of(child, depth)?);
        }
        self.known.insert(value, Some(sum));
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "prompt": {"type": "string", "minLength": 1},
                "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2048, "default": 128},
                "style": {"enum": ["short", "long"], "default": "short"},
                "sampling": {"type": "object", "properties": {"seed": {"type": "integer", "default": 7}}},
                "stop": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["prompt"],
            "additionalProperties": false,
        })
    }

    #[track_caller]
    fn check(body: Value, expected: Result<Value, Value>) {
        let schema = InputSchema::compile(&schema()).unwrap();
        let prepared = schema.prepare(schema.unwrap(body), 20);
        match expected {
            Ok(input) => assert_eq!(serde_json::from_str::<Value>(&prepared.unwrap()).unwrap(), input),
            Err(problems) => assert_eq!(serde_json::to_value(prepared.unwrap_err()).unwrap(), problems),
        }
    }

    #[test]
    fn defaults_fill_what_is_absent_at_every_depth() {
        check(json!({"prompt": "a"}), Ok(json!({"prompt": "a", "max_tokens": 128, "style": "short"})));
        check(
            json!({"prompt": "a", "max_tokens": 1, "style": "long", "sampling": {}}),
            Ok(json!({"prompt": "a", "max_tokens": 1, "style": "long", "sampling": {"seed": 7}})),
        );
    }

    #[test]
    fn a_problem_names_the_place() {
        check(json!({}), Err(json!([{"loc": ["body", "input", "prompt"], "msg": "field required"}])));
        check(
            json!({"prompt": "a", "x": 1, "y": 2}),
            Err(json!([
                {"loc": ["body", "input", "x"], "msg": "unknown field"},
                {"loc": ["body", "input", "y"], "msg": "unknown field"},
            ])),
        );
        check(
            json!({"prompt": "a", "stop": ["b", 1]}),
            Err(json!([{"loc": ["body", "input", "stop", 1], "msg": "value is not of type \"string\""}])),
        );
        check(
            json!({"prompt": "a", "max_tokens": 0, "style": "odd"}),
            Err(json!([
                {"loc": ["body", "input", "max_tokens"], "msg": "value is less than the minimum of 1"},
                {"loc": ["body", "input", "style"], "msg": "value is not one of \"short\" or \"long\""},
            ])),
        );
        check(json!([1]), Err(json!([{"loc": ["body", "input"], "msg": "value is not of type \"object\""}])));
    }

    #[test]
    fn no_more_problems_are_told_than_asked_for() {
        let body = json!({"prompt": "a", "stop": vec![1; 50]});
        let schema = InputSchema::compile(&schema()).unwrap();
        assert_eq!(schema.prepare(body.clone(), 20).unwrap_err().len(), 20);
        let large = json!({"prompt": "a", "stop": vec![1; SEARCHED_VALUES_MAX]});
        assert_eq!(schema.prepare(large, 20).unwrap_err().len(), 1);
    }

    #[test]
    fn a_wrapped_input_is_unwrapped() {
        let plain = json!({"prompt": "a", "max_tokens": 128, "style": "short"});
        check(json!({"input": {"prompt": "a"}}), Ok(plain));
        check(
            json!({"input": {"prompt": "a"}, "id": 1}),
            Err(json!([
                {"loc": ["body", "input", "input"], "msg": "unknown field"},
                {"loc": ["body", "input", "id"], "msg": "unknown field"},
                {"loc": ["body", "input", "prompt"], "msg": "field required"},
            ])),
        );
    }

    #[test]
    fn a_property_named_input_is_not_taken_for_the_wrapping() {
        let own = InputSchema::compile(&json!({"properties": {"input": {}}})).unwrap();
        assert_eq!(own.unwrap(json!({"input": {"a": 1}})), json!({"input": {"a": 1}}));
        assert_eq!(own.unwrap(json!({"input": {"input": "a"}})), json!({"input": "a"}));
    }

    #[track_caller]
    fn check_refused(schema: Value, part: &str) {
        let error = InputSchema::compile(&schema).err().unwrap();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        check_refused(json!({"type": "objekt"}), "objekt");
        check_refused(json!({"properties": {"a": {"minimum": "1"}}}), "/properties/a/minimum");
        check_refused(json!({"pattern": "("}), "(");
    }

    #[test]
    fn a_schema_reaches_nothing_outside_itself() {
        check_refused(json!({"$ref": "http://127.0.0.1:1/schema.json"}), "127.0.0.1");
        check_refused(json!({"$ref": "file:///etc/passwd"}), "/etc/passwd");
    }

    #[test]
    fn a_schema_that_grows_without_end_is_refused() {
        let double = |to: usize| json!({"allOf": vec![json!({"$ref": format!("#/$defs/{to}")}); 2]});
        let mut defs: Vec<Value> = (1..40).map(double).collect();
        defs.push(json!({}));
        check_refused(json!({"$defs": defs, "$ref": "#/$defs/0"}), "at most 100000 are taken");
        let chain: Vec<Value> = (1..1000).map(|to| json!({"$ref": format!("#/$defs/{to}")})).collect();
        check_refused(json!({"$defs": chain, "$ref": "#/$defs/0"}), "more than 256 levels deep");
    }

    #[test]
    fn a_schema_that_refers_to_itself_at_the_same_place_ends() {
        let schema = InputSchema::compile(&json!({"allOf": [{"$ref": "#"}]})).unwrap();
        assert_eq!(schema.prepare(json!({}), 20).unwrap(), "{}");
    }

    #[test]
    fn a_recursive_schema_checks_a_tree() {
        let schema = json!({
            "type": "object",
            "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        });
        let schema = InputSchema::compile(&schema).unwrap();
        assert!(schema.prepare(json!({"children": [{"name": "a"}]}), 20).is_ok());
        assert!(schema.prepare(json!({"children": [{"name": 1}]}), 20).is_err());
    }
}
