//! The Llama forward pass (arXiv 2302.13971) and the architectures that differ from it in details:
//! grouped queries, rotary positions, RMSNorm before each half of a layer, a gated feed-forward
//! layer; optional biases of q, k, v (Qwen 2), norms of their heads (Qwen 3), scaled embeddings and
//! GELU (Gemma), norms of both halves' outputs and layers that look back on a window (Gemma 3).

use std::sync::Arc;

use crate::{
    Error, KvType, Pooling,
    backend::{Backend, Batch, BlockId, CacheShape, HeadNorms, Heads, Norm, StepClock, Top},
    gguf::Gguf,
    ready::{Image, Part},
};

use super::{
    Capacity, Network, PREPARED,
    hyperparameters::{Hyperparameters, Variant},
    parts_of,
    weights::Weights,
};

/// A model on a device.
pub(super) struct Llama<B: Backend> {
    backend: B,
    shape: Hyperparameters,
    capacity: Capacity,
    vocabulary: usize,
    /// `[vocabulary, width]`; also the head when `output` is `None` (tied).
    embedding: B::Matrix,
    output: Option<B::Matrix>,
    output_norm: B::Vector,
    layers: Vec<Layer<B>>,
    /// While it is prepared.
    working: Option<Working<B>>,
}

/// What a step writes to.
struct Working<B: Backend> {
    cache: B::Cache,
    activations: Activations<B>,
}

struct Layer<B: Backend> {
    attention_norm: B::Vector,
    /// `[(H+2G)*D, width]`.
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    /// Gains of the query and of the key heads.
    head_norms: Option<(B::Vector, B::Vector)>,
    /// `[width, H*D]`.
    attention_output: B::Matrix,
    /// Gains of the outputs of attention and of the feed-forward layer.
    post_norms: Option<(B::Vector, B::Vector)>,
    ffn_norm: B::Vector,
    /// Gate and up, each `[ffn_width, width]`.
    gate_up: B::Matrix,
    /// `[width, ffn_width]`.
    down: B::Matrix,
}

/// One row for each token of a step.
struct Activations<B: Backend> {
    /// The residual stream.
    x: B::Buffer,
    qkv: B::Buffer,
    attended: B::Buffer,
    gated: B::Buffer,
    logits: B::Buffer,
    hidden: B::Buffer,
}

impl<B: Backend> Llama<B> {
    pub(super) fn load(
        backend: B,
        gguf: &Gguf,
        image: Option<&Image>,
        variant: Variant,
        shape: Hyperparameters,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        let weights = Weights::new(gguf, image);
        let embedding = weights.any_rows("token_embd.weight", shape.width)?;
        let vocabulary = embedding.rows;
        let embedding = weights.place(&backend, EMBEDDING, &[embedding])?;
        let output = match weights.has("output.weight") {
            true => {
                let output = weights.matrix("output.weight", vocabulary, shape.width)?;
                Some(weights.place(&backend, OUTPUT, &[output])?)
            }
            false => None,
        };
        let output_norm = backend.vector(&[weights.vector("output_norm.weight", shape.width)?])?;
        let layers = (0..shape.layers).map(|index| Layer::load(&backend, &weights, &shape, variant, index));
        let layers = layers.collect::<Result<_, _>>()?;
        weights.check_all_used()?;
        Ok(Self {
            backend,
            shape,
            capacity,
            vocabulary,
            embedding,
            output,
            output_norm,
            layers,
            working: None,
        })
    }

    fn compute_logits(&mut self, rows: &[u32]) {
        let Activations { x, logits, .. } = &mut self.working.as_mut().expect(PREPARED).activations;
        let norm = Norm { gain: &self.output_norm, epsilon: self.shape.epsilon };
        let head = self.output.as_ref().unwrap_or(&self.embedding);
        self.backend.norm_logits(rows, x, norm, head, logits);
    }

    fn cache_shape(&self) -> CacheShape {
        cache_shape(&self.shape, self.capacity.kv_type)
    }
}

/// Bytes of the buffers of a step.
pub(super) fn buffer_bytes(shape: &Hyperparameters, vocabulary: usize, capacity: Capacity) -> usize {
    let [x, qkv, attended, gated, hidden] = columns(shape);
    let floats = capacity.batch_tokens_max * (x + qkv + attended + gated + hidden)
        + capacity.logits_rows_max * vocabulary;
    floats * size_of::<f32>()
}

/// Columns of the buffers that have a row for each token.
fn columns(shape: &Hyperparameters) -> [usize; 5] {
    let heads = shape.heads;
    let qkv = (heads.query + 2 * heads.kv) * heads.size;
    [shape.width, qkv, heads.query * heads.size, shape.ffn_width, shape.width]
}

/// The cache that a model of this shape wants; blocks are the caller's to choose.
pub(super) fn cache_shape(shape: &Hyperparameters, kv_type: KvType) -> CacheShape {
    let Heads { kv, size, .. } = shape.heads;
    CacheShape { layers: shape.layers, kv_heads: kv, head_size: size, blocks: 0, kv_type }
}

impl<B: Backend> Layer<B> {
    fn load(
        backend: &B,
        weights: &Weights<'_>,
        shape: &Hyperparameters,
        variant: Variant,
        index: usize,
    ) -> Result<Self, Error> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (width, ffn_width, size) = (shape.width, shape.ffn_width, shape.heads.size);
        let (q, kv) = (shape.heads.query * size, shape.heads.kv * size);
        let qkv = [
            weights.matrix(&name("attn_q.weight"), q, width)?,
            weights.matrix(&name("attn_k.weight"), kv, width)?,
            weights.matrix(&name("attn_v.weight"), kv, width)?,
        ];
        let qkv_bias = match weights.has(&name("attn_q.bias")) {
            true => Some(backend.vector(&[
                weights.vector(&name("attn_q.bias"), q)?,
                weights.vector(&name("attn_k.bias"), kv)?,
                weights.vector(&name("attn_v.bias"), kv)?,
            ])?),
            false => None,
        };
        let vector = |part: &str, length| backend.vector(&[weights.vector(&name(part), length)?]);
        let head_norms = match variant.has_head_norms {
            true => Some((vector("attn_q_norm.weight", size)?, vector("attn_k_norm.weight", size)?)),
            false => None,
        };
        let post_norms = match variant.has_post_norms {
            true => {
                Some((vector("post_attention_norm.weight", width)?, vector("post_ffw_norm.weight", width)?))
            }
            false => None,
        };
        let output = weights.matrix(&name("attn_output.weight"), width, q)?;
        let gate = weights.matrix(&name("ffn_gate.weight"), ffn_width, width)?;
        let up = weights.matrix(&name("ffn_up.weight"), ffn_width, width)?;
        let down = weights.matrix(&name("ffn_down.weight"), width, ffn_width)?;
        Ok(Self {
            attention_norm: vector("attn_norm.weight", width)?,
            qkv: weights.place(backend, &name(QKV), &qkv)?,
            qkv_bias,
            head_norms,
            attention_output: weights.place(backend, &name(ATTENTION_OUTPUT), &[output])?,
            post_norms,
            ffn_norm: vector("ffn_norm.weight", width)?,
            gate_up: weights.place_gated(backend, &name(GATE_UP), gate, up)?,
            down: weights.place(backend, &name(DOWN), &[down])?,
        })
    }

    /// Its matrices by their names in an image.
    fn matrices(&self) -> [(&'static str, &B::Matrix); 4] {
        let Self { qkv, attention_output, gate_up, down, .. } = self;
        [(QKV, qkv), (ATTENTION_OUTPUT, attention_output), (GATE_UP, gate_up), (DOWN, down)]
    }
}

// What matrices are called in an image; those of a layer after its `blk.N.`.
const EMBEDDING: &str = "embedding";
const OUTPUT: &str = "output";
const QKV: &str = "qkv";
const ATTENTION_OUTPUT: &str = "attention_output";
const GATE_UP: &str = "gate_up";
const DOWN: &str = "down";

impl<B: Backend> Activations<B> {
    fn new(
        backend: &B,
        shape: &Hyperparameters,
        vocabulary: usize,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        let [x, qkv, attended, gated, hidden] =
            columns(shape).map(|columns| backend.buffer(capacity.batch_tokens_max, columns));
        Ok(Self {
            x: x?,
            qkv: qkv?,
            attended: attended?,
            gated: gated?,
            hidden: hidden?,
            logits: backend.buffer(capacity.logits_rows_max, vocabulary)?,
        })
    }
}

impl<B: Backend> Network for Llama<B> {
    fn forward(&mut self, batch: Batch<'_>) {
        let Self { backend, shape, working, .. } = self;
        let Working { cache, activations } = working.as_mut().expect(PREPARED);
        let Activations { x, qkv, attended, gated, hidden, .. } = activations;
        let (rows, epsilon) = (batch.rows(), shape.epsilon);
        backend.embed(batch.tokens, &self.embedding, shape.embedding_scale, x);
        for (index, layer) in self.layers.iter().enumerate() {
            let norm = Norm { gain: &layer.attention_norm, epsilon };
            backend.norm_linear(rows, x, Some(norm), &layer.qkv, layer.qkv_bias.as_ref(), qkv);
            let norms = layer.head_norms.as_ref().map(|(query, key)| HeadNorms { query, key, epsilon });
            let (heads, rope) = shape.attention(index);
            backend.rope_attention(batch, index, heads, norms, rope, qkv, cache, attended);
            match &layer.post_norms {
                Some((gain, _)) => {
                    backend.norm_linear(rows, attended, None, &layer.attention_output, None, hidden);
                    backend.norm_add(rows.total(), hidden, Norm { gain, epsilon }, x);
                }
                None => backend.linear_add(rows, attended, &layer.attention_output, x),
            }

            let norm = Norm { gain: &layer.ffn_norm, epsilon };
            backend.norm_gated_linear(rows, x, Some(norm), &layer.gate_up, shape.activation, gated);
            match &layer.post_norms {
                Some((_, gain)) => {
                    backend.norm_linear(rows, gated, None, &layer.down, None, hidden);
                    backend.norm_add(rows.total(), hidden, Norm { gain, epsilon }, x);
                }
                None => backend.linear_add(rows, gated, &layer.down, x),
            }
        }
    }

    fn logits(&mut self, rows: &[u32]) -> Result<&[f32], Error> {
        self.compute_logits(rows);
        let logits = &self.working.as_ref().expect(PREPARED).activations.logits;
        self.backend.read(logits, rows.len())
    }

    fn top(&mut self, rows: &[u32], count: usize) -> Result<Option<Vec<Top>>, Error> {
        if !self.backend.has_memory_of_its_own() {
            return Ok(None);
        }
        self.compute_logits(rows);
        let logits = &self.working.as_ref().expect(PREPARED).activations.logits;
        self.backend.top(logits, rows.len(), count)
    }

    fn hidden(&mut self, rows: usize) -> Result<&[f32], Error> {
        let Activations { x, hidden, .. } = &mut self.working.as_mut().expect(PREPARED).activations;
        let norm = Norm { gain: &self.output_norm, epsilon: self.shape.epsilon };
        self.backend.norm(rows, x, norm, hidden);
        self.backend.read(hidden, rows)
    }

    fn clock(&self) -> Arc<StepClock> {
        self.backend.clock()
    }

    fn wait(&mut self) -> Result<(), Error> {
        self.backend.wait()
    }

    fn is_lost(&self) -> bool {
        self.backend.is_lost()
    }

    fn pooling(&self) -> Pooling {
        self.shape.pooling
    }

    fn prepare(&mut self) -> Result<(), Error> {
        let shape = CacheShape { blocks: self.capacity.blocks, ..self.cache_shape() };
        let activations = Activations::new(&self.backend, &self.shape, self.vocabulary, self.capacity)?;
        self.working = Some(Working { cache: self.backend.cache(shape)?, activations });
        self.backend.check_memory()
    }

    fn release(&mut self) {
        self.working = None;
        // The clone has no scratch memory yet.
        self.backend = self.backend.clone();
    }

    fn matrices(&self) -> Vec<(String, Vec<Part>)> {
        let own = [(EMBEDDING, Some(&self.embedding)), (OUTPUT, self.output.as_ref())];
        parts_of(&self.backend, own, self.layers.iter().map(Layer::matrices))
    }

    fn cache_layout(&self) -> Option<String> {
        self.backend.cache_layout(self.capacity.kv_type)
    }

    fn block_bytes(&self) -> usize {
        self.backend.block_bytes(self.cache_shape())
    }

    fn read_block(&mut self, block: BlockId, into: &mut [u8]) -> Result<(), Error> {
        self.backend.read_block(&self.working.as_ref().expect(PREPARED).cache, block, into)
    }

    fn write_block(&mut self, block: BlockId, from: &[u8]) -> Result<(), Error> {
        self.backend.write_block(&mut self.working.as_mut().expect(PREPARED).cache, block, from)
    }

    fn width(&self) -> usize {
        self.shape.width
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}
