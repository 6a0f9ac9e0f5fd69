//! JSON Schema as the derives build it, with Cog's `x-order` and `x-cog-array-type`.

use serde_json::{Map, Value, json};

use crate::{
    Input, Output,
    input::{Length, Number, Text},
};

/// One property of an object's schema.
pub struct Property {
    name: &'static str,
    required: bool,
    schema: Map<String, Value>,
}

impl Property {
    /// A field that is read: required unless its type is optional.
    pub fn input<T: Input>(name: &'static str, title: &str, description: &str) -> Self {
        Self::new(name, !T::OPTIONAL, T::schema(), title, description)
    }

    /// A field that is written: always there, perhaps null.
    pub fn output<T: Output>(name: &'static str, title: &str, description: &str) -> Self {
        Self::new(name, true, T::schema(), title, description)
    }

    fn new(name: &'static str, required: bool, schema: Value, title: &str, description: &str) -> Self {
        let mut property = Self { name, required, schema: members(schema) };
        property.set("title", title);
        if !description.is_empty() {
            property.set("description", description);
        }
        property
    }

    /// The value when there is none.
    #[must_use]
    pub fn default<T: Input>(mut self, value: T) -> Self {
        self.required = false;
        self.set("default", value.to_json());
        self
    }

    /// The least value.
    #[must_use]
    pub fn minimum<T: Number>(mut self, bound: T::Bound) -> Self {
        self.set("minimum", bound.to_json());
        self
    }

    /// The greatest value.
    #[must_use]
    pub fn maximum<T: Number>(mut self, bound: T::Bound) -> Self {
        self.set("maximum", bound.to_json());
        self
    }

    /// The least length.
    #[must_use]
    pub fn min_length<T: Length>(mut self, length: usize) -> Self {
        self.set(T::KEYWORDS[0], length);
        self
    }

    /// The greatest length.
    #[must_use]
    pub fn max_length<T: Length>(mut self, length: usize) -> Self {
        self.set(T::KEYWORDS[1], length);
        self
    }

    /// What the text must match.
    #[must_use]
    pub fn regex<T: Text>(mut self, pattern: &str) -> Self {
        self.set("pattern", pattern);
        self
    }

    /// The only values, beside null where the field is optional.
    #[must_use]
    pub fn choices<T: Input>(mut self, values: &[T]) -> Self {
        let is_nullable = matches!(self.schema.get("type"), Some(Value::Array(_)));
        let null = is_nullable.then_some(Value::Null);
        self.set("enum", values.iter().map(T::to_json).chain(null).collect::<Value>());
        self
    }

    fn set(&mut self, keyword: &str, value: impl Into<Value>) {
        self.schema.insert(keyword.to_owned(), value.into());
    }
}

/// The schema of a struct. Nothing but its properties is allowed.
pub fn object(title: &str, description: &str, properties: Vec<Property>) -> Value {
    let required: Value = properties.iter().filter(|property| property.required).map(|p| p.name).collect();
    let properties: Map<String, Value> = properties
        .into_iter()
        .enumerate()
        .map(|(order, mut property)| {
            property.set("x-order", order);
            (property.name.to_owned(), Value::Object(property.schema))
        })
        .collect();
    let schema = json!({
        "type": "object",
        "title": title,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    described(schema, description)
}

/// The schema of an enum.
pub fn enumeration(title: &str, description: &str, spellings: &[&str]) -> Value {
    described(json!({"type": "string", "title": title, "enum": spellings}), description)
}

/// The same, or null.
pub(crate) fn nullable(schema: Value) -> Value {
    let mut schema = members(schema);
    if let Some(kind @ Value::String(_)) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
    Value::Object(schema)
}

/// The schema of a list that goes out element by element. Cog's clients join text as it comes.
pub(crate) fn iterator(items: Value) -> Value {
    let is_text = items.get("type").is_some_and(|kind| kind == "string");
    let mut schema = json!({"type": "array", "items": items, "x-cog-array-type": "iterator"});
    if is_text {
        schema["x-cog-array-display"] = json!("concatenate");
    }
    schema
}

fn described(mut schema: Value, description: &str) -> Value {
    if !description.is_empty() {
        schema["description"] = json!(description);
    }
    schema
}

fn members(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
