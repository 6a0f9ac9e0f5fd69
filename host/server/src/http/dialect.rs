//! The protocols that this service speaks about predictions.

use std::{pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, answer::Document, cog, lambda, openai, replicate};
use crate::{
    prediction::{Errand, Record},
    service::Service,
};

/// Whose words a prediction is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// This service's own.
    Native,
    Cog,
    Replicate,
}

/// A prediction as a webhook tells it. `base` is what stands before the paths of this service's URLs.
pub(crate) fn prediction_body(record: &Record, dialect: Dialect, base: &str) -> Vec<u8> {
    let document = match dialect {
        Dialect::Native => serde_json::to_value(Document::of(record, base)),
        Dialect::Cog => Ok::<Value, _>(cog::snapshot(record)),
        Dialect::Replicate => Ok(replicate::document(record, base, "")),
    };
    document.expect("a document is JSON").to_string().into_bytes()
}

/// Does work of the queue that is no predictor's, as the dialect that sent it wants it.
pub(crate) async fn run_errand(
    service: &Arc<Service>,
    errand: Errand,
    record: &Record,
) -> Result<Value, Error> {
    match errand {
        // Boxed: what a batch runs is as deep as what runs it.
        Errand::Batch => boxed(openai::batches::run(service, record)).await,
    }
}

fn boxed<'a, T>(work: impl Future<Output = T> + Send + 'a) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
    Box::pin(work)
}

/// A prediction of the queue ends so; what its dialect does then is done before this answers. It may be
/// asked again for the same end.
pub(crate) async fn ended(service: &Arc<Service>, record: &Record) {
    lambda::ended(service, record).await;
}
