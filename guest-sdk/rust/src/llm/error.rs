//! Why a call on a model did not work.

use std::fmt;

use crate::bindings::dormouse::predictor::llm as host;

/// Why a call on a model did not work, by what the predictor can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No such model on this node, or not declared in `#[predictor(models = [..])]`.
    UnknownModel(String),
    /// The request breaks a rule.
    Invalid(String),
    /// The prompt and `max_tokens` together exceed the context length.
    TooLong(String),
    /// The node can't serve this now; it may be tried again.
    Overloaded(String),
    /// The deadline passed or the caller went away.
    Cancelled,
    /// The model failed while computing.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::UnknownModel(text)
            | Self::Invalid(text)
            | Self::TooLong(text)
            | Self::Overloaded(text)
            | Self::Failed(text) => f.write_str(text),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {}

impl From<host::Error> for Error {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::UnknownModel(text) => Self::UnknownModel(text),
            host::Error::Invalid(text) => Self::Invalid(text),
            host::Error::TooLong(text) => Self::TooLong(text),
            host::Error::Overloaded(text) => Self::Overloaded(text),
            host::Error::Cancelled => Self::Cancelled,
            host::Error::Failed(text) => Self::Failed(text),
        }
    }
}
