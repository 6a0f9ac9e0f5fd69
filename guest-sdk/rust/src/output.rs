//! What a predictor can answer.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Input, schema};

/// A type that can be answered, or emitted as an element of a stream.
///
/// Derive it for structs and for enums without fields; it is there for text, `bool`, numbers,
/// `Option`, `Vec`, maps with text keys, `()`, and [`serde_json::Value`] for any JSON. A type can't
/// contain itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an output",
    label = "not an output type",
    note = "derive `Output` for your own structs and enums; answer any JSON as `serde_json::Value`"
)]
pub trait Output: Serialize {
    /// A field of this type may be null.
    const OPTIONAL: bool = false;

    /// The JSON Schema of the type.
    fn schema() -> Value;
}

/// What `predict` returns: an [`Output`] or a [`Stream`](crate::Stream) of them.
#[diagnostic::on_unimplemented(
    message = "a predictor can't answer with `{Self}`",
    label = "neither an output nor a stream",
    note = "derive `Output` for it, or use `Stream<T>` with a `T` that is an output"
)]
pub trait Answer {
    /// The answer goes out element by element while `predict` runs.
    const STREAMING: bool;

    /// The JSON Schema of the whole answer.
    fn answer_schema() -> Value;

    /// What `predict` returns to the host.
    #[doc(hidden)]
    fn into_json(self) -> Result<String>;
}

impl<T: Output> Answer for T {
    const STREAMING: bool = false;

    fn answer_schema() -> Value {
        T::schema()
    }

    fn into_json(self) -> Result<String> {
        serde_json::to_string(&self).context("output can't be written as JSON")
    }
}

/// Types whose schema is the same going in and coming out.
macro_rules! as_input {
    ($($ty:ty),*) => {$(
        impl Output for $ty {
            fn schema() -> Value {
                <$ty as Input>::schema()
            }
        }
    )*};
}

as_input!(u8, u16, u32, u64, usize, i8, i16, i32, i64, f32, f64, bool, String, Value);

impl Output for &str {
    fn schema() -> Value {
        <String as Input>::schema()
    }
}

impl Output for Cow<'_, str> {
    fn schema() -> Value {
        <String as Input>::schema()
    }
}

impl Output for () {
    fn schema() -> Value {
        json!({"type": "null"})
    }
}

impl<T: Output> Output for &T {
    const OPTIONAL: bool = T::OPTIONAL;

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: Output> Output for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        schema::nullable(T::schema())
    }
}

impl<T: Output> Output for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl<T: Output> Output for BTreeMap<String, T> {
    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

impl<T: Output> Output for HashMap<String, T> {
    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}
