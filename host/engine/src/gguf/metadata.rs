//! Typed access to a file's key/value pairs.

use std::{collections::HashMap, ops::Range, path::Path};

use crate::Error;

/// The key/value pairs of an open file. Values are decoded when asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata<'a> {
    path: &'a Path,
    file: &'a [u8],
    entries: &'a HashMap<String, Entry>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, file: &'a [u8], entries: &'a HashMap<String, Entry>) -> Self {
        Self { path, file, entries }
    }

    /// The value of a key, `None` if it isn't there; [`Error::BadModel`] names the key when the
    /// value isn't a `T`.
    pub(crate) fn get<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match T::from_value(entry.value(self.file)) {
            Some(value) => Ok(Some(value)),
            None => Err(self.bad(key, format!("is {}, expected {}", entry.describe(), T::EXPECTED))),
        }
    }

    /// The value of a key; [`Error::BadModel`] names the key when it isn't there or isn't a `T`.
    pub(crate) fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, Error> {
        self.get(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    /// Every key, in no order.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().map(String::as_str)
    }

    /// An [`Error::BadModel`] about a key of this file.
    pub(crate) fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::BadModel { path: self.path.to_owned(), reason: format!("metadata key \"{key}\" {problem}") }
    }
}

/// A decoded value. Integers and floats keep their value, not their width.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// Of any unsigned width.
    Unsigned(u64),
    /// Of any signed width.
    Signed(i64),
    /// Of either width.
    Float(f64),
    /// One byte, 0 or not.
    Bool(bool),
    /// Not checked to be UTF-8.
    String(&'a [u8]),
    /// Elements of one kind.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value as a number of at least 0.
    pub(super) fn unsigned(self) -> Option<u64> {
        match self {
            Self::Unsigned(x) => Some(x),
            Self::Signed(x) => u64::try_from(x).ok(),
            _ => None,
        }
    }
}

/// An array's elements, as bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Array<'a> {
    element: Kind,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The elements in order.
    fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut rest = self.bytes;
        (0..self.count).map(move |_| {
            let (bytes, after) = match self.element.size() {
                Some(size) => rest.split_at(size),
                None => {
                    let (len, after) = rest.split_first_chunk().expect("the reader checked the length");
                    after.split_at(u64::from_le_bytes(*len) as usize)
                }
            };
            rest = after;
            self.element.decode(bytes)
        })
    }
}

/// What a value can be read as.
pub(crate) trait FromValue<'a>: Sized {
    /// The type in words, with its article.
    const EXPECTED: &'static str;

    /// The value, if it is one.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromValue<'_> for $type {
            const EXPECTED: &'static str = concat!("an integer that fits ", stringify!($type));

            fn from_value(value: Value<'_>) -> Option<Self> {
                match value {
                    Value::Unsigned(x) => x.try_into().ok(),
                    Value::Signed(x) => x.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

integers!(u32, i32, u64, usize);

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Float(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(x) => Some(x),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a UTF-8 string";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    const EXPECTED: &'static str = "an array of such elements";

    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            // Bounded by the file: an element has at least a byte there.
            Value::Array(array) => array.values().map(T::from_value).collect(),
            _ => None,
        }
    }
}

/// A value's place in the file, checked by the reader.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Kind of an array's elements; of the value itself otherwise.
    pub(super) element: Kind,
    /// Elements of an array; 1 otherwise.
    pub(super) count: usize,
    /// Of the file: a string without its length, an array without its header.
    pub(super) bytes: Range<usize>,
}

impl Entry {
    pub(super) fn value<'a>(&self, file: &'a [u8]) -> Value<'a> {
        let bytes = &file[self.bytes.clone()];
        match self.kind {
            Kind::Array => Value::Array(Array { element: self.element, count: self.count, bytes }),
            kind => kind.decode(bytes),
        }
    }

    /// The stored type in words.
    fn describe(&self) -> String {
        match self.kind {
            Kind::Array => format!("an array of {} {}", self.count, self.element.name()),
            kind => format!("of type {}", kind.name()),
        }
    }
}

/// The type of a value, `gguf_metadata_value_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers, which are dense.
    const ALL: [(Self, &'static str); 13] = [
        (Self::U8, "u8"),
        (Self::I8, "i8"),
        (Self::U16, "u16"),
        (Self::I16, "i16"),
        (Self::U32, "u32"),
        (Self::I32, "i32"),
        (Self::F32, "f32"),
        (Self::Bool, "bool"),
        (Self::String, "string"),
        (Self::Array, "array"),
        (Self::U64, "u64"),
        (Self::I64, "i64"),
        (Self::F64, "f64"),
    ];

    pub(super) fn read(id: u32) -> Result<Self, String> {
        match Self::ALL.get(id as usize) {
            Some((kind, _)) => Ok(*kind),
            None => Err(format!("value type {id} is unknown")),
        }
    }

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Bytes of a scalar; `None` for strings and arrays.
    pub(super) fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// Decodes a scalar of exactly [`Kind::size`] bytes, or a string.
    fn decode(self, bytes: &[u8]) -> Value<'_> {
        fn exactly<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.try_into().expect("the reader took the size of the type")
        }
        match self {
            Self::U8 => Value::Unsigned(bytes[0].into()),
            Self::U16 => Value::Unsigned(u16::from_le_bytes(exactly(bytes)).into()),
            Self::U32 => Value::Unsigned(u32::from_le_bytes(exactly(bytes)).into()),
            Self::U64 => Value::Unsigned(u64::from_le_bytes(exactly(bytes))),
            Self::I8 => Value::Signed((bytes[0] as i8).into()),
            Self::I16 => Value::Signed(i16::from_le_bytes(exactly(bytes)).into()),
            Self::I32 => Value::Signed(i32::from_le_bytes(exactly(bytes)).into()),
            Self::I64 => Value::Signed(i64::from_le_bytes(exactly(bytes))),
            Self::F32 => Value::Float(f32::from_le_bytes(exactly(bytes)).into()),
            Self::F64 => Value::Float(f64::from_le_bytes(exactly(bytes))),
            Self::Bool => Value::Bool(bytes[0] != 0),
            Self::String => Value::String(bytes),
            Self::Array => unreachable!("arrays are decoded by their element, and don't nest"),
        }
    }
}
