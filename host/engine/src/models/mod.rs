//! Forward passes. Each architecture is a file that reads like the paper; what it computes on is
//! behind [`Backend`].

mod bert;
mod hyperparameters;
mod llama;
mod rope;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use crate::{
    Config, Error, KvType, Pooling,
    backend::{
        Activation, BLOCK_TOKENS, Backend, Batch, BlockId, CacheShape, RopePairs, Span, StepClock, TOP_MAX,
        Top,
    },
    gguf::Gguf,
    ready::{Image, Part},
    residency::Footprint,
};

use bert::Bert;
use hyperparameters::{Hyperparameters, Variant};
use llama::Llama;

/// The architectures that this engine runs.
const VARIANTS: [Variant; 5] = [
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
    Variant {
        name: "gemma3",
        pairs: RopePairs::Halves,
        has_head_norms: true,
        activation: Activation::Gelu,
        scales_embeddings: true,
        has_post_norms: true,
        window_period: 6,
    },
];

const LLAMA: Variant = Variant {
    name: "llama",
    pairs: RopePairs::Adjacent,
    has_head_norms: false,
    activation: Activation::Silu,
    scales_embeddings: false,
    has_post_norms: false,
    window_period: 0,
};

/// What [`Network::prepare`] is for.
const PREPARED: &str = "a step runs on a model that is prepared";

/// Rows of logits there is room for where few sequences run together: for guessed tokens.
const LOGITS_ROWS_MIN: usize = 16;

/// A model's forward pass with the device state it needs.
pub(crate) trait Network: Send {
    /// Computes the last layer's output of every row of the batch and stores its keys and values.
    /// The batch has at most `batch_tokens_max` rows, its tokens are in the vocabulary, its blocks
    /// in the cache.
    fn forward(&mut self, batch: Batch<'_>);

    /// `[rows.len(), vocabulary]` logits of some rows of the last batch, at most `logits_rows_max`.
    fn logits(&mut self, rows: &[u32]) -> Result<&[f32], Error>;

    /// [`Backend::top`] of the logits of some rows of the last batch, at most `logits_rows_max`.
    fn top(&mut self, _rows: &[u32], _count: usize) -> Result<Option<Vec<Top>>, Error> {
        Ok(None)
    }

    /// `[rows, width]` normalised hidden states of the first rows of the last batch.
    fn hidden(&mut self, rows: usize) -> Result<&[f32], Error>;

    /// [`Backend::clock`].
    fn clock(&self) -> Arc<StepClock> {
        Arc::default()
    }

    /// Waits until the last batch was computed.
    fn wait(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// [`Backend::is_lost`].
    fn is_lost(&self) -> bool {
        false
    }

    /// How hidden states become an embedding, unless one is asked for otherwise.
    fn pooling(&self) -> Pooling;

    /// Makes the KV cache and the buffers of a step; nothing is in the cache then. Before this, and after
    /// [`Network::release`], there is nothing to compute with.
    fn prepare(&mut self) -> Result<(), Error>;

    /// Gives back what [`Network::prepare`] made.
    fn release(&mut self);

    /// Every matrix as it lies in the device's memory, for an image.
    fn matrices(&self) -> Vec<(String, Vec<Part>)>;

    /// [`Backend::cache_layout`]; `None`, too, where blocks are of use within a step only.
    fn cache_layout(&self) -> Option<String> {
        None
    }

    /// Bytes of a block of the cache; of use where there is a layout, as is what follows.
    fn block_bytes(&self) -> usize {
        0
    }

    /// [`Backend::read_block`] of the cache.
    fn read_block(&mut self, _block: BlockId, _into: &mut [u8]) -> Result<(), Error> {
        Err(Error::Invalid("this model keeps no blocks".into()))
    }

    /// [`Backend::write_block`] of the cache.
    fn write_block(&mut self, _block: BlockId, _from: &[u8]) -> Result<(), Error> {
        Err(Error::Invalid("this model keeps no blocks".into()))
    }

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
    /// How keys and values are kept.
    pub(crate) kv_type: KvType,
    /// Whether a token sees those after it, so that a sequence is computed in one step.
    pub(crate) whole_sequences: bool,
}

/// A forward pass, and what it can hold.
pub(crate) type Made = (Box<dyn Network>, Capacity);

/// Makes the models of one device, whatever that computes with.
pub(crate) trait Maker: Send {
    /// What a file's model takes on the device.
    fn footprint(&self, gguf: &Gguf, config: &Config) -> Result<Footprint, Error>;

    /// [`load`] on the device. One that was lost is opened again first.
    fn load(&mut self, gguf: &Gguf, image: Option<&Image>, config: &Config) -> Result<Made, Error>;

    /// [`Backend::layout`].
    fn layout(&self) -> Option<String>;

    /// [`Backend::kernel_rows`].
    fn kernel_rows(&self) -> &'static [usize];

    /// [`Backend::has_memory_of_its_own`].
    fn has_memory_of_its_own(&self) -> bool;

    /// [`Backend::trim`].
    fn trim(&self);
}

impl<B: Backend> Maker for B {
    fn footprint(&self, gguf: &Gguf, config: &Config) -> Result<Footprint, Error> {
        let shape = Shape::read(gguf)?;
        let block_bytes = self.block_bytes(shape.cache(config));
        let capacity = shape.capacity(block_bytes, config)?;
        let vocabulary = gguf.tensor("token_embd.weight")?.rows;
        let working = capacity.blocks * block_bytes + shape.buffer_bytes(vocabulary, capacity);
        let rows = gguf.tensors().map(|tensor| tensor.rows * self.row_bytes(tensor.dtype, tensor.columns));
        let memory_bytes = rows.map(|bytes| bytes as u64).sum::<u64>();
        Ok(Footprint { awake_bytes: memory_bytes.saturating_add(working as u64), memory_bytes })
    }

    fn load(&mut self, gguf: &Gguf, image: Option<&Image>, config: &Config) -> Result<Made, Error> {
        self.recover()?;
        let made = load(self, gguf, image, config);
        // Asked for whatever became of it, so that nobody else hears of its lack.
        let is_enough = self.check_memory();
        made.and_then(|made| is_enough.map(|()| made))
    }

    fn layout(&self) -> Option<String> {
        Backend::layout(self)
    }

    fn kernel_rows(&self) -> &'static [usize] {
        Backend::kernel_rows(self)
    }

    fn has_memory_of_its_own(&self) -> bool {
        Backend::has_memory_of_its_own(self)
    }

    fn trim(&self) {
        Backend::trim(self);
    }
}

/// A file's forward pass, on a device but not yet [prepared](Network::prepare). Its matrices are those of
/// the image, if there is one. An architecture without a forward pass is [`Error::BadModel`] naming it.
pub(crate) fn load<B: Backend>(
    backend: &B,
    gguf: &Gguf,
    image: Option<&Image>,
    config: &Config,
) -> Result<Made, Error> {
    let shape = Shape::read(gguf)?;
    let capacity = shape.capacity(backend.block_bytes(shape.cache(config)), config)?;
    let backend = backend.clone();
    let network: Result<Box<dyn Network>, _> =
        match shape {
            Shape::Decoder(variant, shape) => Llama::load(backend, gguf, image, variant, shape, capacity)
                .map(|network| Box::new(network) as _),
            Shape::Encoder(variant, shape) => Bert::load(backend, gguf, image, variant, shape, capacity)
                .map(|network| Box::new(network) as _),
        };
    // A device doesn't know which file a tensor is from.
    let network = network.map_err(|error| match error {
        Error::Invalid(reason) => gguf.bad(reason),
        other => other,
    })?;
    Ok((network, capacity))
}

/// Runs a step of as many rows, which mean nothing, so that a device compiles the kernels for them before anyone
/// waits for it. What is in the cache's first block is lost.
pub(crate) fn warm_up(network: &mut dyn Network, capacity: Capacity, rows: usize) -> Result<(), Error> {
    let rows = rows.min(capacity.batch_tokens_max).min(capacity.context_tokens).min(BLOCK_TOKENS);
    let positions: Vec<u32> = (0..rows as u32).collect();
    let span = Span { rows: 0..rows, blocks: 0..1 };
    network.forward(Batch {
        tokens: &vec![0; rows],
        positions: &positions,
        spans: &[span],
        blocks: &[BlockId(0)],
        generated: 0,
    });
    let most = capacity.logits_rows_max;
    if most == 0 {
        return network.hidden(rows).map(drop);
    }
    let read = &positions[..rows.min(most)];
    network.top(read, 1)?;
    network.top(read, TOP_MAX)?;
    network.logits(read).map(drop)
}

/// Matrices as they lie in a device's memory, for an image: a model's own, then those of its layers after their
/// `blk.N.`.
fn parts_of<'a, B: Backend, const OWN: usize, const LAYER: usize>(
    backend: &B,
    own: [(&str, Option<&'a B::Matrix>); OWN],
    layers: impl Iterator<Item = [(&'static str, &'a B::Matrix); LAYER]>,
) -> Vec<(String, Vec<Part>)>
where
    B::Matrix: 'a,
{
    let own = own.into_iter().filter_map(|(name, matrix)| Some((name.to_owned(), matrix?)));
    let layers = layers
        .enumerate()
        .flat_map(|(index, layer)| layer.map(|(name, matrix)| (format!("blk.{index}.{name}"), matrix)));
    own.chain(layers).map(|(name, matrix)| (name, backend.parts(matrix))).collect()
}

/// Whether models of an architecture continue text; others only embed it.
pub(crate) fn generates(architecture: &str) -> bool {
    VARIANTS.iter().any(|variant| variant.name == architecture)
}

/// A file's model, by the forward pass that runs it.
enum Shape {
    Decoder(Variant, Hyperparameters),
    Encoder(bert::Variant, bert::Hyperparameters),
}

impl Shape {
    fn read(gguf: &Gguf) -> Result<Self, Error> {
        let name: &str = gguf.metadata().require("general.architecture")?;
        if let Some(variant) = VARIANTS.into_iter().find(|variant| variant.name == name) {
            return Ok(Self::Decoder(variant, Hyperparameters::read(gguf, variant)?));
        }
        if let Some(variant) = bert::VARIANTS.into_iter().find(|variant| variant.name == name) {
            return Ok(Self::Encoder(variant, bert::Hyperparameters::read(gguf, variant)?));
        }
        let known = VARIANTS.iter().map(|variant| variant.name);
        let known: Vec<_> = known.chain(bert::VARIANTS.iter().map(|variant| variant.name)).collect();
        let known = known.join(", ");
        Err(gguf.bad(format!("architecture \"{name}\" is not supported; this engine runs {known}")))
    }

    /// The cache that it wants; blocks are for [`Shape::capacity`] to count.
    fn cache(&self, config: &Config) -> CacheShape {
        match self {
            Self::Decoder(_, shape) => llama::cache_shape(shape, config.kv_type),
            Self::Encoder(_, shape) => shape.cache_shape(),
        }
    }

    fn capacity(&self, block_bytes: usize, config: &Config) -> Result<Capacity, Error> {
        let bound = config.kv_bytes_max;
        let blocks_max = bound / block_bytes;
        if blocks_max == 0 {
            return Err(Error::Invalid(format!(
                "kv_bytes_max {bound} holds no KV block of {block_bytes} bytes"
            )));
        }
        Ok(match self {
            Self::Decoder(_, shape) => {
                let context_tokens = shape.context_tokens.min(config.context_tokens_max);
                let wanted = context_tokens.div_ceil(BLOCK_TOKENS).saturating_mul(config.sequences_max);
                let blocks = wanted.min(blocks_max);
                Capacity {
                    batch_tokens_max: config.batch_tokens_max,
                    logits_rows_max: config.sequences_max.max(LOGITS_ROWS_MIN),
                    blocks,
                    context_tokens: context_tokens.min(blocks * BLOCK_TOKENS),
                    kv_type: config.kv_type,
                    whole_sequences: false,
                }
            }
            // Keys and values are of use within one step only.
            Self::Encoder(_, shape) => {
                let context_tokens = shape.context_tokens.min(config.context_tokens_max);
                let batch_tokens_max = config.batch_tokens_max.max(context_tokens);
                // A sequence may leave its last block partly empty, and the scheduler keeps one for it to
                // grow into.
                let wanted = batch_tokens_max.div_ceil(BLOCK_TOKENS) + 2 * config.sequences_max;
                let blocks = wanted.min(blocks_max);
                Capacity {
                    batch_tokens_max,
                    logits_rows_max: 0,
                    blocks,
                    context_tokens: context_tokens.min(blocks * BLOCK_TOKENS),
                    kv_type: KvType::Bf16,
                    whole_sequences: true,
                }
            }
        })
    }

    /// Bytes of the buffers of a step.
    fn buffer_bytes(&self, vocabulary: usize, capacity: Capacity) -> usize {
        match self {
            Self::Decoder(_, shape) => llama::buffer_bytes(shape, vocabulary, capacity),
            Self::Encoder(_, shape) => shape.buffer_bytes(capacity),
        }
    }
}
