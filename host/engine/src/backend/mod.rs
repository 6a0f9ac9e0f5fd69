//! The seam between a model's forward pass and a device.
//!
//! An operation is defined three times: its contract here, plain loops in `reference`, and fast
//! versions per device. Operations are as coarse as the fusion that pays on every device, so that a
//! decode step is few dispatches: per layer `norm_linear`, `rope_attention`, `linear_add`,
//! `norm_gated_linear`, `linear_add`.
//!
//! Letters: `T` rows (tokens of the step), `N` output features, `K` input features, `H` query heads,
//! `G` key/value heads, `D` head size. Activations are f32, row-major.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
#[expect(unsafe_code, reason = "kernels are launched on buffers whose shapes were checked")]
pub(crate) mod gpu;
#[cfg(test)]
mod parity;
pub(crate) mod reference;

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(crate) use crate::{gguf::Tensor, quant::DType};

use crate::{Error, KvType, ready::Part};

/// Positions that one KV block holds.
pub(crate) const BLOCK_TOKENS: usize = 16;

/// Tokens and the logits of each, the largest of a row.
pub(crate) type Top = Vec<(u32, f32)>;

/// The most logits of a row that [`Backend::top`] is asked for.
pub(crate) const TOP_MAX: usize = 64;

/// Index of a KV block in a model's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) u32);

/// What the last step took by the device's own clock.
#[derive(Debug, Default)]
pub(crate) struct StepClock(Mutex<Option<Duration>>);

impl StepClock {
    /// A step has ended.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "the processor's clock is ours"))]
    pub(crate) fn set(&self, took: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = took;
    }

    /// What it took, told once.
    pub(crate) fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The rows of one step: every running sequence's new tokens, concatenated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// `[T]` token ids.
    pub(crate) tokens: &'a [u32],
    /// `[T]` position of each in its sequence.
    pub(crate) positions: &'a [u32],
    /// One for each sequence; together they cover `0..T` in order.
    pub(crate) spans: &'a [Span],
    /// Block tables of all sequences, concatenated.
    pub(crate) blocks: &'a [BlockId],
    /// Rows of generated tokens, which come first; the others are of prompts.
    pub(crate) generated: usize,
}

impl Batch<'_> {
    /// How many rows of each kind there are.
    pub(crate) fn rows(&self) -> StepRows {
        StepRows { generated: self.generated, prompt: self.tokens.len() - self.generated }
    }
}

/// Rows of a step by what they belong to, generated ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StepRows {
    pub(crate) generated: usize,
    pub(crate) prompt: usize,
}

impl StepRows {
    /// Rows of generated tokens alone.
    pub(crate) fn generated(rows: usize) -> Self {
        Self { generated: rows, prompt: 0 }
    }

    /// All rows.
    pub(crate) fn total(self) -> usize {
        self.generated + self.prompt
    }
}

/// One sequence's part of a [`Batch`]. Its rows have consecutive positions; positions before the
/// first row's are in the cache already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// Rows of the batch.
    pub(crate) rows: Range<usize>,
    /// Its block table in `Batch::blocks`: position `p` lives in entry `p / BLOCK_TOKENS`.
    pub(crate) blocks: Range<usize>,
}

/// Attention's shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Heads {
    /// Query heads, `H`.
    pub(crate) query: usize,
    /// Key/value heads, `G`; divides `H`.
    pub(crate) kv: usize,
    /// Head size, `D`.
    pub(crate) size: usize,
    /// Factor on q·k, usually `1/sqrt(D)`.
    pub(crate) scale: f32,
    /// Positions a query sees, itself included; `None` sees all (sliding window attention).
    pub(crate) window: Option<usize>,
    /// Whether a query sees no later position than its own; otherwise it sees all of its sequence.
    pub(crate) causal: bool,
}

/// RMSNorm: `x[t,k] * gain[k] / sqrt(mean_k(x[t,k]^2) + epsilon)`.
pub(crate) struct Norm<'a, V> {
    /// `[K]`.
    pub(crate) gain: &'a V,
    /// Added under the root.
    pub(crate) epsilon: f32,
}

/// Which elements of a head a rotation pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RopePairs {
    /// `(2i, 2i+1)`: ggml's NORM, the llama files' permuted rows.
    Adjacent,
    /// `(i, i + rotated/2)`: ggml's NEOX.
    Halves,
}

/// Rotary position embedding (arXiv 2104.09864): pair `i` of a head at position `p` turns by
/// `p * frequencies[i]`.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    /// Which elements pair.
    pub(crate) pairs: RopePairs,
    /// `[rotated/2]` radians per position, scaling applied; elements beyond stay as they are.
    pub(crate) frequencies: Vec<f32>,
}

/// LayerNorm: `(x[t,k] - mean) * gain[k] / sqrt(variance + epsilon) + bias[k]` over a row.
pub(crate) struct LayerNorm<'a, V> {
    /// `[K]`.
    pub(crate) gain: &'a V,
    /// `[K]`.
    pub(crate) bias: &'a V,
    /// Added under the root.
    pub(crate) epsilon: f32,
}

/// Activation of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// tanh approximation of GELU.
    Gelu,
    /// GELU: `x/2 * (1 + erf(x / sqrt(2)))`, within 1e-6.
    GeluErf,
}

/// How much KV cache to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    /// Layers of the model.
    pub(crate) layers: usize,
    /// Key/value heads, `G`.
    pub(crate) kv_heads: usize,
    /// Head size, `D`.
    pub(crate) head_size: usize,
    /// Blocks of [`BLOCK_TOKENS`] positions.
    pub(crate) blocks: usize,
    /// How keys and values are kept; a device may keep more than it is asked to.
    pub(crate) kv_type: KvType,
}

/// RMSNorm of each query and each key head (over its `D` elements) before rotation, as Qwen 3 and
/// Gemma 3 do.
pub(crate) struct HeadNorms<'a, V> {
    /// `[D]` gain of the query heads.
    pub(crate) query: &'a V,
    /// `[D]` gain of the key heads.
    pub(crate) key: &'a V,
    /// Added under the root.
    pub(crate) epsilon: f32,
}

/// What a forward pass asks of a device.
///
/// One value serves one model: the loader thread clones the engine's, makes the model's weights,
/// buffers and cache with it, and hands all of them to the engine thread, which alone runs steps.
/// Clones share the device (its threads, its queue), not scratch memory; two models' steps never
/// overlap, but a load may overlap a step.
///
/// Scratch is sized by the matrices, buffers and caches made so far, so that a step allocates
/// nothing. `rows` (or `T`) is at least 1 and at most the rows of every buffer passed. Shapes are
/// the caller's promise: an implementation asserts them on entry.
///
/// Every row's result is the same whatever the other rows are (batch invariance): each dot product
/// is summed in one order for every `T`, and attention over a context doesn't depend on how the
/// prompt was cut into steps. A device may round differently in the rows of a prompt than in generated
/// ones, of which there are few at a time; so a token's kind is for good.
pub(crate) trait Backend: Clone + Send + 'static {
    /// Weights `[N, K]` in a layout of the device's own, in their quantised form.
    type Matrix: Send;
    /// f32 gains, biases.
    type Vector: Send;
    /// Activations `[rows, columns]` f32.
    type Buffer: Send;
    /// Keys and values of every block of a model.
    type Cache: Send;

    /// Weights of one or more tensors stacked along `N` (q, k, v become one matrix); their formats
    /// may differ. A format that the device has no kernel for is an [`Error::Invalid`] naming the
    /// tensor and the format.
    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Self::Matrix, Error>;
    /// Gate and up, each `[N, K]`, as [`Backend::norm_gated_linear`] wants them.
    fn gated_matrix(&self, gate: &Tensor<'_>, up: &Tensor<'_>) -> Result<Self::Matrix, Error>;
    /// Names the way that matrices lie in memory, for [ready images](crate::ready): another name whenever
    /// the same weights give other bytes. `None` if nothing can be kept.
    fn layout(&self) -> Option<String> {
        None
    }
    /// A matrix as it lies in memory.
    fn parts(&self, _matrix: &Self::Matrix) -> Vec<Part> {
        Vec::new()
    }
    /// The matrix that [`Backend::parts`] gave these of, under the same layout; `gated` if it was made by
    /// [`Backend::gated_matrix`]. Parts that can't be of such a matrix are an [`Error::Invalid`].
    fn matrix_of(&self, _parts: Vec<Part>, _gated: bool) -> Result<Self::Matrix, Error> {
        Err(Error::Invalid("this device keeps no matrices".into()))
    }
    /// Numbers of rows that the device has kernels of their own for: each compiled by the first step that has as
    /// many. Empty where kernels are there from the start.
    fn kernel_rows(&self) -> &'static [usize] {
        &[]
    }
    /// Whether weights lie where the system can't take them to make room, so that a model that sleeps gives them up at
    /// once and is read from its image when it wakes.
    fn has_memory_of_its_own(&self) -> bool {
        false
    }
    /// Gives memory back to the system that nothing lies in any more.
    fn trim(&self) {}
    /// Asks the device whether there was memory for all that was made since this was last asked; what was made is of no
    /// use before. [`Error::OutOfMemory`] if there was none.
    fn check_memory(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Whether the device was lost, and with it all that lies there.
    fn is_lost(&self) -> bool {
        false
    }
    /// Bytes of a row of a matrix as it lies in the device's memory.
    fn row_bytes(&self, dtype: DType, columns: usize) -> usize {
        dtype.bytes(columns)
    }
    /// Opens the device again if it was lost: for what is made from now on, with this value or a clone of it.
    fn recover(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// Waits until everything has run, for a step of which nothing is [read](Backend::read).
    fn wait(&mut self) -> Result<(), Error> {
        Ok(())
    }
    /// A one-dimensional tensor (or several, concatenated) as f32.
    fn vector(&self, parts: &[Tensor<'_>]) -> Result<Self::Vector, Error>;
    /// A zeroed buffer; `rows` bounds what a step passes.
    fn buffer(&self, rows: usize, columns: usize) -> Result<Self::Buffer, Error>;
    /// A KV cache; contents of a block are undefined until stored.
    fn cache(&self, shape: CacheShape) -> Result<Self::Cache, Error>;
    /// Names the way that keys and values are computed and lie in memory, as [`Backend::layout`] does for
    /// weights; `None` if blocks can't be taken out.
    fn cache_layout(&self, _kv_type: KvType) -> Option<String> {
        None
    }
    /// Copies a block of a cache, as many bytes as [`Backend::block_bytes`] says.
    fn read_block(&mut self, _cache: &Self::Cache, _block: BlockId, _into: &mut [u8]) -> Result<(), Error> {
        Err(Error::Invalid("this device keeps no blocks".into()))
    }
    /// Fills a block of a cache with what [`Backend::read_block`] gave under the same layout.
    fn write_block(&mut self, _cache: &mut Self::Cache, _block: BlockId, _from: &[u8]) -> Result<(), Error> {
        Err(Error::Invalid("this device keeps no blocks".into()))
    }
    /// Bytes of one block of a cache of this shape, all layers; `shape.blocks` is not read.
    fn block_bytes(&self, shape: CacheShape) -> usize;

    /// Tells what steps take, from [`Backend::embed`] to the first result, where a device has a clock of its own.
    fn clock(&self) -> Arc<StepClock> {
        Arc::default()
    }

    /// `x[t,:] = scale * table[tokens[t],:]`, with which a step begins.
    fn embed(&mut self, tokens: &[u32], table: &Self::Matrix, scale: f32, x: &mut Self::Buffer);

    /// `x[t,:] += table[indices[t],:]`.
    fn embed_add(&mut self, indices: &[u32], table: &Self::Matrix, x: &mut Self::Buffer);

    /// `y[t,n] = sum_k norm(x)[t,k] * w[n,k] + bias[n]` for `t < rows`; without a norm, `x` as it is.
    fn norm_linear(
        &mut self,
        rows: StepRows,
        x: &Self::Buffer,
        norm: Option<Norm<'_, Self::Vector>>,
        w: &Self::Matrix,
        bias: Option<&Self::Vector>,
        y: &mut Self::Buffer,
    );

    /// Normalises (if `norms`) and rotates q and k of `qkv` `[T, (H+2G)*D]` in place, and stores k
    /// and v in the cache.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    fn rope_store(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        norms: Option<HeadNorms<'_, Self::Vector>>,
        rope: &Rope,
        qkv: &mut Self::Buffer,
        cache: &mut Self::Cache,
    );

    /// `out[t, h*D..] = sum_p softmax_p(scale * q[t,h]·k[p,h/(H/G)]) * v[p,h/(H/G)]` over the cached
    /// positions `p` of t's sequence up to its own (and within the window). `out` is `[T, H*D]`.
    fn attention(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        qkv: &Self::Buffer,
        cache: &Self::Cache,
        out: &mut Self::Buffer,
    );

    /// [`Backend::rope_store`], then [`Backend::attention`]; what is in `qkv` afterwards is not defined.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    fn rope_attention(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        norms: Option<HeadNorms<'_, Self::Vector>>,
        rope: &Rope,
        qkv: &mut Self::Buffer,
        cache: &mut Self::Cache,
        out: &mut Self::Buffer,
    ) {
        self.rope_store(batch, layer, heads, norms, rope, qkv, cache);
        self.attention(batch, layer, heads, qkv, cache, out);
    }

    /// `x[t,n] += sum_k a[t,k] * w[n,k]` for `t < rows`.
    fn linear_add(&mut self, rows: StepRows, a: &Self::Buffer, w: &Self::Matrix, x: &mut Self::Buffer);

    /// `h[t,n] = act(sum_k norm(x)[t,k] * gate[n,k]) * sum_k norm(x)[t,k] * up[n,k]`; without a norm, `x` as
    /// it is.
    fn norm_gated_linear(
        &mut self,
        rows: StepRows,
        x: &Self::Buffer,
        norm: Option<Norm<'_, Self::Vector>>,
        gate_up: &Self::Matrix,
        activation: Activation,
        h: &mut Self::Buffer,
    );

    /// `y[i,n] = sum_k norm(x)[rows[i],k] * w[n,k]`: logits of some of the rows. `w` may be the
    /// matrix that `embed` reads (a tied head).
    fn norm_logits(
        &mut self,
        rows: &[u32],
        x: &Self::Buffer,
        norm: Norm<'_, Self::Vector>,
        w: &Self::Matrix,
        y: &mut Self::Buffer,
    );

    /// Of each of the first `rows` rows of logits the `count` largest, at most [`TOP_MAX`], with their tokens: largest
    /// first, of equals the lower token first; NaN and negative infinity are left out. `None` where it is as well to
    /// [read](Backend::read) all of them.
    fn top(
        &mut self,
        _logits: &Self::Buffer,
        _rows: usize,
        _count: usize,
    ) -> Result<Option<Vec<Top>>, Error> {
        Ok(None)
    }

    /// `y[t,:] = norm(x)[t,:]` for `t < rows`: hidden states for embeddings.
    fn norm(&mut self, rows: usize, x: &Self::Buffer, norm: Norm<'_, Self::Vector>, y: &mut Self::Buffer);

    /// `x[t,:] += norm(y)[t,:]` for `t < rows`.
    fn norm_add(&mut self, rows: usize, y: &Self::Buffer, norm: Norm<'_, Self::Vector>, x: &mut Self::Buffer);

    /// `x[t,:] = norm(x + y)[t,:]` for `t < rows`; without `y`, `norm(x)`.
    fn add_layer_norm(
        &mut self,
        rows: usize,
        y: Option<&Self::Buffer>,
        norm: LayerNorm<'_, Self::Vector>,
        x: &mut Self::Buffer,
    );

    /// `x[t,:] = act(x[t,:])` for `t < rows`.
    fn activate(&mut self, rows: usize, activation: Activation, x: &mut Self::Buffer);

    /// The first `rows` rows of a buffer, once everything before has run. A failure of the device
    /// shows here.
    fn read<'a>(&'a mut self, buffer: &'a Self::Buffer, rows: usize) -> Result<&'a [f32], Error>;
}
