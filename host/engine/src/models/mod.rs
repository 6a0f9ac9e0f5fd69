//! Forward passes. Each architecture is a file that reads like the paper; what it computes on is
//! behind [`Backend`].

mod hyperparameters;
mod llama;
mod rope;
#[cfg(test)]
mod tests;
mod weights;

use crate::{
    Config, Error,
    backend::{Activation, BLOCK_TOKENS, Backend, Batch, BlockId, RopePairs},
    gguf::Gguf,
    ready::{Image, Part},
    residency::Footprint,
};

use hyperparameters::{Hyperparameters, Variant};
use llama::Llama;

/// The architectures that this engine runs.
const VARIANTS: [Variant; 4] = [
    LLAMA,
    Variant { name: "qwen2", pairs: RopePairs::Halves, ..LLAMA },
    Variant { name: "qwen3", pairs: RopePairs::Halves, has_head_norms: true, ..LLAMA },
    Variant {
        name: "gemma",
        pairs: RopePairs::Halves,
        activation: Activation::Gelu,
        scales_embeddings: true,
        ..LLAMA
    },
];

const LLAMA: Variant = Variant {
    name: "llama",
    pairs: RopePairs::Adjacent,
    has_head_norms: false,
    activation: Activation::Silu,
    scales_embeddings: false,
};

/// A model's forward pass with the device state it needs.
pub(crate) trait Network: Send {
    /// Computes the last layer's output of every row of the batch and stores its keys and values.
    /// The batch has at most `batch_tokens_max` rows, its tokens are in the vocabulary, its blocks
    /// in the cache.
    fn forward(&mut self, batch: Batch<'_>);

    /// `[rows.len(), vocabulary]` logits of some rows of the last batch, at most `logits_rows_max`.
    fn logits(&mut self, rows: &[u32]) -> Result<&[f32], Error>;

    /// `[rows, width]` normalised hidden states of the first rows of the last batch.
    fn hidden(&mut self, rows: usize) -> Result<&[f32], Error>;

    /// Makes the KV cache and the buffers of a step; nothing is in the cache then. Before this, and after
    /// [`Network::release`], there is nothing to compute with.
    fn prepare(&mut self) -> Result<(), Error>;

    /// Gives back what [`Network::prepare`] made.
    fn release(&mut self);

    /// Every matrix as it lies in the device's memory, for an image.
    fn matrices(&self) -> Vec<(String, Vec<Part>)>;

    /// [`Backend::cache_layout`].
    fn cache_layout(&self) -> Option<String>;

    /// Bytes of a block of the cache.
    fn block_bytes(&self) -> usize;

    /// [`Backend::read_block`] of the cache.
    fn read_block(&mut self, block: BlockId, into: &mut [u8]) -> Result<(), Error>;

    /// [`Backend::write_block`] of the cache.
    fn write_block(&mut self, block: BlockId, from: &[u8]) -> Result<(), Error>;

    /// Length of a hidden state.
    fn width(&self) -> usize;

    /// Number of token ids.
    fn vocabulary(&self) -> usize;
}

/// How much a loaded model can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Rows of a batch.
    pub(crate) batch_tokens_max: usize,
    /// Rows whose logits are read at once.
    pub(crate) logits_rows_max: usize,
    /// KV blocks.
    pub(crate) blocks: usize,
    /// Tokens of a sequence.
    pub(crate) context_tokens: usize,
}

/// What a file's model takes on a device.
pub(crate) fn footprint<B: Backend>(backend: &B, gguf: &Gguf, config: &Config) -> Result<Footprint, Error> {
    let shape = Hyperparameters::read(gguf, variant(gguf)?)?;
    let block_bytes = backend.block_bytes(llama::cache_shape(&shape));
    let capacity = capacity(&shape, block_bytes, config)?;
    let vocabulary = gguf.tensor("token_embd.weight")?.rows;
    let working = capacity.blocks * block_bytes + llama::buffer_bytes(&shape, vocabulary, capacity);
    let memory_bytes = gguf.weights_bytes();
    Ok(Footprint { awake_bytes: memory_bytes.saturating_add(working as u64), memory_bytes })
}

/// A file's forward pass, on a device but not yet [prepared](Network::prepare). Its matrices are those of
/// the image, if there is one. An architecture without a forward pass is [`Error::BadModel`] naming it.
pub(crate) fn load<B: Backend>(
    backend: &B,
    gguf: &Gguf,
    image: Option<&Image>,
    config: &Config,
) -> Result<(Box<dyn Network>, Capacity), Error> {
    let variant = variant(gguf)?;
    let shape = Hyperparameters::read(gguf, variant)?;
    let block_bytes = backend.block_bytes(llama::cache_shape(&shape));
    let capacity = capacity(&shape, block_bytes, config)?;
    let network = Llama::load(backend.clone(), gguf, image, variant, capacity);
    // A device doesn't know which file a tensor is from.
    let network = network.map_err(|error| match error {
        Error::Invalid(reason) => gguf.bad(reason),
        other => other,
    })?;
    Ok((Box::new(network), capacity))
}

fn variant(gguf: &Gguf) -> Result<Variant, Error> {
    let name: &str = gguf.metadata().require("general.architecture")?;
    VARIANTS.into_iter().find(|variant| variant.name == name).ok_or_else(|| {
        let known = VARIANTS.map(|variant| variant.name).join(", ");
        gguf.bad(format!("architecture \"{name}\" is not supported; this engine runs {known}"))
    })
}

fn capacity(shape: &Hyperparameters, block_bytes: usize, config: &Config) -> Result<Capacity, Error> {
    let context_tokens = shape.context_tokens.min(config.context_tokens_max);
    let wanted = context_tokens.div_ceil(BLOCK_TOKENS).saturating_mul(config.sequences_max);
    let blocks = wanted.min(config.kv_bytes_max / block_bytes);
    if blocks == 0 {
        let bound = config.kv_bytes_max;
        return Err(Error::Invalid(format!("kv_bytes_max {bound} holds no KV block of {block_bytes} bytes")));
    }
    Ok(Capacity {
        batch_tokens_max: config.batch_tokens_max,
        logits_rows_max: config.sequences_max,
        blocks,
        context_tokens: context_tokens.min(blocks * BLOCK_TOKENS),
    })
}
