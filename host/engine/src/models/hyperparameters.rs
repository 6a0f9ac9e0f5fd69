//! The numbers that shape a decoder-only transformer, read and checked once.

use crate::{
    Error, Pooling,
    backend::{Activation, Heads, Rope, RopePairs},
    gguf::{FromValue, Gguf},
};

use super::rope;

// Far beyond any model there is, and small enough that no product of them overflows.
pub(super) const LAYERS_MAX: usize = 1 << 12;
pub(super) const WIDTH_MAX: usize = 1 << 22;
pub(super) const HEADS_MAX: usize = 1 << 12;
const HEAD_SIZE_MAX: usize = 1 << 16;
pub(super) const CONTEXT_MAX: usize = u32::MAX as usize;

/// What distinguishes the architectures that share the Llama shape of forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    /// `general.architecture`, and the prefix of its keys.
    pub(super) name: &'static str,
    /// Which elements of a head rotate together.
    pub(super) pairs: RopePairs,
    /// Whether each query and key head is normalised.
    pub(super) has_head_norms: bool,
    /// Of the feed-forward layer's gate.
    pub(super) activation: Activation,
    /// Whether embeddings are multiplied by the root of their length.
    pub(super) scales_embeddings: bool,
    /// Whether each half of a layer normalises its output, too.
    pub(super) has_post_norms: bool,
    /// Of so many layers, all but the last look back on a window only; 0 for none.
    pub(super) window_period: usize,
}

/// Layers that look back on a window.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) heads: Heads,
    pub(super) rope: Rope,
    /// Every so many layers, one is not local.
    period: usize,
}

/// A model's shape.
#[derive(Debug, Clone)]
pub(super) struct Hyperparameters {
    pub(super) layers: usize,
    /// Width of the residual stream.
    pub(super) width: usize,
    /// Width of the feed-forward layer.
    pub(super) ffn_width: usize,
    pub(super) heads: Heads,
    pub(super) rope: Rope,
    pub(super) local: Option<Local>,
    pub(super) activation: Activation,
    /// Factor on embeddings.
    pub(super) embedding_scale: f32,
    /// RMSNorm's epsilon.
    pub(super) epsilon: f32,
    /// How hidden states become an embedding.
    pub(super) pooling: Pooling,
    /// Positions that the model was trained for.
    pub(super) context_tokens: usize,
}

impl Hyperparameters {
    /// Reads the keys of a file; [`Error::BadModel`] names the one that is missing or out of bounds.
    pub(super) fn read(gguf: &Gguf, variant: Variant) -> Result<Self, Error> {
        let keys = Keys { gguf, architecture: variant.name };
        let width = keys.count("embedding_length", WIDTH_MAX)?;
        let query = keys.count("attention.head_count", HEADS_MAX)?;
        let kv = keys.optional("attention.head_count_kv")?.unwrap_or(query);
        let size = keys.optional("attention.key_length")?.unwrap_or(width / query);
        if kv == 0 || query % kv != 0 {
            return Err(gguf.bad(format!("{query} query heads can't share {kv} key/value heads")));
        }
        let value_size = keys.optional("attention.value_length")?.unwrap_or(size);
        if !(1..=HEAD_SIZE_MAX).contains(&size) || value_size != size {
            return Err(gguf.bad(format!("keys of length {size} and values of length {value_size}")));
        }
        if let Some(experts @ 1..) = keys.optional("expert_count")? {
            return Err(gguf.bad(format!("a mixture of {experts} experts is not supported")));
        }
        let epsilon = keys.require::<f32>("attention.layer_norm_rms_epsilon")?;
        let layers = keys.count("block_count", LAYERS_MAX)?;
        // The 27B of Gemma 3 alone scales by its width, as llama.cpp tells it by its layers.
        let scaled = if variant.window_period > 0 && layers == 62 { width / query } else { size };
        let scale = 1.0 / (scaled as f32).sqrt();
        let heads = Heads { query, kv, size, scale, window: None, causal: true };
        Ok(Self {
            layers,
            width,
            ffn_width: keys.count("feed_forward_length", WIDTH_MAX)?,
            heads,
            rope: rope::read(&keys, variant.pairs, size)?,
            local: Local::read(&keys, variant, heads)?,
            activation: variant.activation,
            embedding_scale: if variant.scales_embeddings { (width as f32).sqrt() } else { 1.0 },
            epsilon,
            pooling: keys.pooling()?,
            context_tokens: keys.count("context_length", CONTEXT_MAX)?,
        })
    }

    /// Attention and rotation of a layer.
    pub(super) fn attention(&self, layer: usize) -> (Heads, &Rope) {
        match &self.local {
            Some(local) if !(layer + 1).is_multiple_of(local.period) => (local.heads, &local.rope),
            _ => (self.heads, &self.rope),
        }
    }
}

impl Local {
    fn read(keys: &Keys<'_>, variant: Variant, heads: Heads) -> Result<Option<Self>, Error> {
        if variant.window_period == 0 {
            return Ok(None);
        }
        let window = keys.count("attention.sliding_window", CONTEXT_MAX)?;
        let base = keys.optional("rope.freq_base_swa")?.unwrap_or(10_000.0);
        Ok(Some(Self {
            heads: Heads { window: Some(window), ..heads },
            rope: rope::unscaled(variant.pairs, heads.size, base),
            period: variant.window_period,
        }))
    }
}

/// The keys of one architecture.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) architecture: &'static str,
}

impl Keys<'_> {
    /// A key's value, `None` if the file doesn't have it.
    pub(super) fn optional<T: for<'a> FromValue<'a>>(&self, key: &str) -> Result<Option<T>, Error> {
        self.gguf.metadata().get(&format!("{}.{key}", self.architecture))
    }

    /// A text's value.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        let text: Option<&str> = self.gguf.metadata().get(&format!("{}.{key}", self.architecture))?;
        Ok(text.map(str::to_owned))
    }

    /// The value of a key that must be there.
    pub(super) fn require<T: for<'a> FromValue<'a>>(&self, key: &str) -> Result<T, Error> {
        self.gguf.metadata().require(&format!("{}.{key}", self.architecture))
    }

    /// `pooling_type`, as llama.cpp numbers it: the mean where it isn't said.
    pub(super) fn pooling(&self) -> Result<Pooling, Error> {
        match self.optional::<u32>("pooling_type")? {
            None | Some(0 | 1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            Some(other) => Err(self.gguf.bad(format!("pooling of type {other} is not supported"))),
        }
    }

    /// A number in `1..=max` that must be there.
    pub(super) fn count(&self, key: &str, max: usize) -> Result<usize, Error> {
        let count = self.require(key)?;
        if !(1..=max).contains(&count) {
            let key = format!("{}.{key}", self.architecture);
            return Err(self.gguf.bad(format!("metadata key \"{key}\" is {count}, expected 1 to {max}")));
        }
        Ok(count)
    }
}
