//! What a predictor can take.

use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::schema;

/// A type that a prediction, or a field of its input, can be read from.
///
/// Derive it for structs and for enums without fields; it is there for text, `bool`, numbers,
/// `Option`, `Vec`, maps with text keys, and [`serde_json::Value`] for any JSON. A type can't
/// contain itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an input",
    label = "not an input type",
    note = "derive `Input` for your own structs and enums; take any JSON as `serde_json::Value`"
)]
pub trait Input: DeserializeOwned {
    /// A field of this type may be left out.
    const OPTIONAL: bool = false;

    /// The JSON Schema of the type.
    fn schema() -> Value;

    /// The value as JSON; defaults stand in the schema that way.
    fn to_json(&self) -> Value;
}

/// Numbers, which `ge` and `le` can bound. Elsewhere they don't compile:
///
/// ```compile_fail
/// # use dormouse_guest::prelude::*;
/// #[derive(Input)]
/// struct Bad {
///     #[input(ge = 1)]
///     name: String,
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`ge` and `le` bound numbers, and `{Self}` is none",
    label = "not a number"
)]
pub trait Number: Input {
    /// The type of a bound.
    type Bound: Input;
}

/// What has a length that `min_length` and `max_length` can bound. Elsewhere they don't compile:
///
/// ```compile_fail
/// # use dormouse_guest::prelude::*;
/// #[derive(Input)]
/// struct Bad {
///     #[input(max_length = 80)]
///     age: u8,
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`min_length` and `max_length` bound text and lists, and `{Self}` is neither",
    label = "has no length"
)]
pub trait Length: Input {
    /// JSON Schema's words for the least and the greatest length.
    const KEYWORDS: [&'static str; 2];
}

/// Text, which `regex` can check.
#[diagnostic::on_unimplemented(message = "`regex` checks text, and `{Self}` is none", label = "not text")]
pub trait Text: Input {}

macro_rules! numbers {
    ($($ty:ty: $schema:tt),* $(,)?) => {$(
        impl Input for $ty {
            fn schema() -> Value {
                json!($schema)
            }

            fn to_json(&self) -> Value {
                // By its shortest decimal: 0.7_f32 is 0.7 in the schema, not 0.699999988.
                let text = serde_json::to_string(self).expect("a number is JSON");
                serde_json::from_str(&text).expect("JSON that was just written")
            }
        }

        impl Number for $ty {
            type Bound = Self;
        }
    )*};
}

// Bounds of 64-bit integers are left out: most JSON readers couldn't hold them exactly.
numbers! {
    u8: {"type": "integer", "minimum": 0, "maximum": u8::MAX},
    u16: {"type": "integer", "minimum": 0, "maximum": u16::MAX},
    u32: {"type": "integer", "minimum": 0, "maximum": u32::MAX},
    u64: {"type": "integer", "minimum": 0},
    i8: {"type": "integer", "minimum": i8::MIN, "maximum": i8::MAX},
    i16: {"type": "integer", "minimum": i16::MIN, "maximum": i16::MAX},
    i32: {"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX},
    i64: {"type": "integer"},
    f32: {"type": "number"},
    f64: {"type": "number"},
    // A predictor's `usize` has 32 bits, whatever machine its tests run on.
    usize: {"type": "integer", "minimum": 0, "maximum": u32::MAX},
}

impl Input for bool {
    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Input for String {
    fn schema() -> Value {
        json!({"type": "string"})
    }

    fn to_json(&self) -> Value {
        json!(self)
    }
}

impl Length for String {
    const KEYWORDS: [&'static str; 2] = ["minLength", "maxLength"];
}

impl Text for String {}

impl Input for Value {
    fn schema() -> Value {
        json!({})
    }

    fn to_json(&self) -> Value {
        self.clone()
    }
}

impl<T: Input> Input for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        schema::nullable(T::schema())
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }
}

impl<T: Number> Number for Option<T> {
    type Bound = T::Bound;
}

impl<T: Length> Length for Option<T> {
    const KEYWORDS: [&'static str; 2] = T::KEYWORDS;
}

impl<T: Text> Text for Option<T> {}

impl<T: Input> Input for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }

    fn to_json(&self) -> Value {
        self.iter().map(T::to_json).collect()
    }
}

impl<T: Input> Length for Vec<T> {
    const KEYWORDS: [&'static str; 2] = ["minItems", "maxItems"];
}

macro_rules! maps {
    ($($map:ident),*) => {$(
        impl<T: Input> Input for $map<String, T> {
            fn schema() -> Value {
                json!({"type": "object", "additionalProperties": T::schema()})
            }

            fn to_json(&self) -> Value {
                self.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
        }
    )*};
}

maps!(BTreeMap, HashMap);
