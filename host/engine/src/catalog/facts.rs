//! What a model file says about itself, without loading it.

use std::path::Path;

use serde::Serialize;

use crate::{Error, gguf::Gguf};

/// Facts of a model file's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelFacts {
    /// What the file calls the model.
    pub title: Option<String>,
    /// Architecture, such as `llama`.
    pub architecture: String,
    /// How most weights are stored, such as `Q4_1`.
    pub quantization: String,
    /// The most tokens of a sequence; `None` if the file doesn't say.
    pub context_length: Option<u64>,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Number of token ids; `None` if the file has no vocabulary.
    pub vocabulary: Option<usize>,
    /// The chat template's source.
    pub chat_template: Option<String>,
    /// The licence as the file names it.
    pub license: Option<String>,
}

/// Reads a model file's header; [`Error::BadModel`] if it isn't one. Whether this engine can run
/// it isn't checked.
pub fn inspect(path: &Path) -> Result<ModelFacts, Error> {
    let gguf = Gguf::open(path)?;
    let metadata = gguf.metadata();
    let text = |key| Ok::<_, Error>(metadata.get::<&str>(key)?.map(str::to_owned));
    let architecture: &str = metadata.require("general.architecture")?;
    Ok(ModelFacts {
        title: text("general.name")?,
        architecture: architecture.to_owned(),
        quantization: gguf.quantization().to_string(),
        context_length: metadata.get(&format!("{architecture}.context_length"))?,
        parameters: gguf.tensors().map(|tensor| tensor.rows as u64 * tensor.columns as u64).sum(),
        weights_bytes: gguf.weights_bytes(),
        vocabulary: metadata.get::<Vec<&str>>("tokenizer.ggml.tokens")?.map(|tokens| tokens.len()),
        chat_template: text("tokenizer.chat_template")?,
        license: text("general.license")?,
    })
}
