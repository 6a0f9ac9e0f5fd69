//! The protocols that this service speaks about predictions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{answer::Document, cog};
use crate::prediction::Record;

/// Whose words a prediction is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// This service's own.
    Native,
    Cog,
}

/// A prediction as a webhook tells it. `base` is what stands before the paths of this service's URLs.
pub(crate) fn prediction_body(record: &Record, dialect: Dialect, base: &str) -> Vec<u8> {
    let document = match dialect {
        Dialect::Native => serde_json::to_value(Document::of(record, base)),
        Dialect::Cog => Ok::<Value, _>(cog::snapshot(record)),
    };
    document.expect("a document is JSON").to_string().into_bytes()
}
