//! Encoders: BERT (arXiv 1810.04805), and Nomic's with rotary positions and a gated feed-forward layer.
//! Every token sees every other; each half of a layer is followed by a LayerNorm of it and its input.

use std::sync::Arc;

use crate::{
    Error, KvType, Pooling,
    backend::{
        Activation, Backend, Batch, CacheShape, DType, Heads, LayerNorm, Rope, RopePairs, StepClock, Tensor,
    },
    gguf::Gguf,
    quant::dequantize,
    ready::{Image, Part},
};

use super::{
    Capacity, Network, PREPARED,
    hyperparameters::{CONTEXT_MAX, HEADS_MAX, Keys, LAYERS_MAX, WIDTH_MAX},
    parts_of, rope,
    weights::Weights,
};

/// The architectures that share this forward pass.
pub(super) const VARIANTS: [Variant; 2] =
    [Variant { name: "bert", is_nomic: false }, Variant { name: "nomic-bert", is_nomic: true }];

/// What distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    /// `general.architecture`, and the prefix of its keys.
    pub(super) name: &'static str,
    /// Rotary positions instead of learned ones, a SiLU gate instead of GELU, no biases.
    is_nomic: bool,
}

/// A model's shape.
#[derive(Debug, Clone)]
pub(super) struct Hyperparameters {
    layers: usize,
    width: usize,
    ffn_width: usize,
    heads: Heads,
    rope: Rope,
    /// LayerNorm's epsilon.
    epsilon: f32,
    pooling: Pooling,
    /// Positions that the model was trained for.
    pub(super) context_tokens: usize,
}

impl Hyperparameters {
    /// Reads the keys of a file; [`Error::BadModel`] names the one that is missing or out of bounds.
    pub(super) fn read(gguf: &Gguf, variant: Variant) -> Result<Self, Error> {
        let keys = Keys { gguf, architecture: variant.name };
        let width = keys.count("embedding_length", WIDTH_MAX)?;
        let query = keys.count("attention.head_count", HEADS_MAX)?;
        if width % query != 0 {
            return Err(gguf.bad(format!("{query} heads can't share a width of {width}")));
        }
        let size = width / query;
        let scale = 1.0 / (size as f32).sqrt();
        let none = Rope { pairs: RopePairs::Halves, frequencies: Vec::new() };
        Ok(Self {
            layers: keys.count("block_count", LAYERS_MAX)?,
            width,
            ffn_width: keys.count("feed_forward_length", WIDTH_MAX)?,
            heads: Heads { query, kv: query, size, scale, window: None, causal: false },
            rope: if variant.is_nomic { rope::read(&keys, RopePairs::Halves, size)? } else { none },
            epsilon: keys.require("attention.layer_norm_epsilon")?,
            pooling: keys.pooling()?,
            context_tokens: keys.count("context_length", CONTEXT_MAX)?,
        })
    }

    /// The cache for one step's keys and values; blocks are the caller's to choose.
    pub(super) fn cache_shape(&self) -> CacheShape {
        // A layer's are no longer needed when the next one stores its own.
        let Heads { kv, size, .. } = self.heads;
        CacheShape { layers: 1, kv_heads: kv, head_size: size, blocks: 0, kv_type: KvType::Bf16 }
    }

    /// Bytes of the buffers of a step.
    pub(super) fn buffer_bytes(&self, capacity: Capacity) -> usize {
        capacity.batch_tokens_max * self.columns().iter().sum::<usize>() * size_of::<f32>()
    }

    /// Columns of the buffers of [`Activations`].
    fn columns(&self) -> [usize; 5] {
        [self.width, 3 * self.width, self.width, self.ffn_width, self.width]
    }
}

/// A model on a device.
pub(super) struct Bert<B: Backend> {
    backend: B,
    shape: Hyperparameters,
    capacity: Capacity,
    vocabulary: usize,
    /// `[vocabulary, width]`.
    embedding: B::Matrix,
    /// `[context, width]`, that of the first type of token added.
    positions: Option<B::Matrix>,
    embedding_norm: Affine<B>,
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
    /// `[3 * width, width]`.
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    /// `[width, width]`.
    attention_output: B::Matrix,
    attention_output_bias: Option<B::Vector>,
    attention_norm: Affine<B>,
    ffn: FeedForward<B>,
    /// `[width, ffn_width]`.
    down: B::Matrix,
    down_bias: Option<B::Vector>,
    output_norm: Affine<B>,
}

enum FeedForward<B: Backend> {
    /// `[ffn_width, width]`.
    Up { up: B::Matrix, bias: Option<B::Vector> },
    /// Gate and up, each `[ffn_width, width]`.
    Gated(B::Matrix),
}

/// Gain and bias of a LayerNorm.
struct Affine<B: Backend> {
    gain: B::Vector,
    bias: B::Vector,
}

/// One row for each token of a step.
struct Activations<B: Backend> {
    x: B::Buffer,
    qkv: B::Buffer,
    attended: B::Buffer,
    inner: B::Buffer,
    /// What is added to `x` next.
    change: B::Buffer,
}

impl<B: Backend> Bert<B> {
    pub(super) fn load(
        backend: B,
        gguf: &Gguf,
        image: Option<&Image>,
        variant: Variant,
        shape: Hyperparameters,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        let weights = Weights::new(gguf, image);
        let width = shape.width;
        let embedding = weights.any_rows("token_embd.weight", width)?;
        let vocabulary = embedding.rows;
        let embedding = weights.place(&backend, EMBEDDING, &[embedding])?;
        let positions = positions(&backend, &weights, &shape)?;
        let embedding_norm = Affine::load(&backend, &weights, "token_embd_norm", width)?;
        let layers = (0..shape.layers).map(|index| Layer::load(&backend, &weights, &shape, variant, index));
        let layers = layers.collect::<Result<_, _>>()?;
        weights.check_all_used()?;
        Ok(Self {
            backend,
            shape,
            capacity,
            vocabulary,
            embedding,
            positions,
            embedding_norm,
            layers,
            working: None,
        })
    }
}

/// The table that is added to the embeddings: learned positions, each with the first type of token (this
/// engine embeds single texts); `None` when there is neither.
fn positions<B: Backend>(
    backend: &B,
    weights: &Weights<'_>,
    shape: &Hyperparameters,
) -> Result<Option<B::Matrix>, Error> {
    let (rows, columns) = (shape.context_tokens, shape.width);
    let mut table = vec![0.0; rows * columns];
    let has_positions = weights.has("position_embd.weight");
    if has_positions {
        let positions = weights.matrix("position_embd.weight", rows, columns)?;
        dequantize(positions.dtype, positions.bytes, &mut table);
    }
    if weights.has("token_types.weight") {
        let types = weights.any_rows("token_types.weight", columns)?;
        let mut first = vec![0.0; columns];
        dequantize(types.dtype, &types.bytes[..types.dtype.bytes(columns)], &mut first);
        for row in table.chunks_exact_mut(columns) {
            row.iter_mut().zip(&first).for_each(|(x, of_type)| *x += of_type);
        }
    } else if !has_positions {
        return Ok(None);
    }
    let bytes: Vec<u8> = table.iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = Tensor { name: "position_embd.weight", dtype: DType::F32, rows, columns, bytes: &bytes };
    weights.place(backend, POSITIONS, &[tensor]).map(Some)
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
        let (width, ffn_width) = (shape.width, shape.ffn_width);
        let matrix = |part: &str, rows, columns| weights.matrix(&name(part), rows, columns);
        let bias = |part: &str, length| match weights.has(&name(part)) {
            true => Ok(Some(backend.vector(&[weights.vector(&name(part), length)?])?)),
            false => Ok::<_, Error>(None),
        };
        let norm = |part: &str| Affine::load(backend, weights, &name(part), width);
        let (qkv, qkv_bias) = match weights.has(&name("attn_qkv.weight")) {
            true => (vec![matrix("attn_qkv.weight", 3 * width, width)?], bias("attn_qkv.bias", 3 * width)?),
            false => {
                let parts = ["attn_q", "attn_k", "attn_v"];
                let qkv = parts.map(|part| matrix(&format!("{part}.weight"), width, width));
                let [q, k, v] = qkv;
                let biases = parts.map(|part| weights.vector(&name(&format!("{part}.bias")), width));
                let [q_bias, k_bias, v_bias] = biases;
                (vec![q?, k?, v?], Some(backend.vector(&[q_bias?, k_bias?, v_bias?])?))
            }
        };
        let up = matrix("ffn_up.weight", ffn_width, width)?;
        let ffn = match variant.is_nomic {
            true => {
                let gate = matrix("ffn_gate.weight", ffn_width, width)?;
                FeedForward::Gated(weights.place_gated(backend, &name(FFN), gate, up)?)
            }
            false => FeedForward::Up {
                up: weights.place(backend, &name(FFN), &[up])?,
                bias: bias("ffn_up.bias", ffn_width)?,
            },
        };
        let attention_output = matrix("attn_output.weight", width, width)?;
        let down = matrix("ffn_down.weight", width, ffn_width)?;
        Ok(Self {
            qkv: weights.place(backend, &name(QKV), &qkv)?,
            qkv_bias,
            attention_output: weights.place(backend, &name(ATTENTION_OUTPUT), &[attention_output])?,
            attention_output_bias: bias("attn_output.bias", width)?,
            attention_norm: norm("attn_output_norm")?,
            ffn,
            down: weights.place(backend, &name(DOWN), &[down])?,
            down_bias: bias("ffn_down.bias", width)?,
            output_norm: norm("layer_output_norm")?,
        })
    }

    /// Its matrices by their names in an image.
    fn matrices(&self) -> [(&'static str, &B::Matrix); 4] {
        let ffn = match &self.ffn {
            FeedForward::Up { up, .. } => up,
            FeedForward::Gated(gate_up) => gate_up,
        };
        [(QKV, &self.qkv), (ATTENTION_OUTPUT, &self.attention_output), (FFN, ffn), (DOWN, &self.down)]
    }
}

// What matrices are called in an image; those of a layer after its `blk.N.`.
const EMBEDDING: &str = "embedding";
const POSITIONS: &str = "positions";
const QKV: &str = "qkv";
const ATTENTION_OUTPUT: &str = "attention_output";
const FFN: &str = "ffn";
const DOWN: &str = "down";

impl<B: Backend> Activations<B> {
    fn new(backend: &B, shape: &Hyperparameters, capacity: Capacity) -> Result<Self, Error> {
        let [x, qkv, attended, inner, change] =
            shape.columns().map(|columns| backend.buffer(capacity.batch_tokens_max, columns));
        Ok(Self { x: x?, qkv: qkv?, attended: attended?, inner: inner?, change: change? })
    }
}

impl<B: Backend> Affine<B> {
    fn load(backend: &B, weights: &Weights<'_>, name: &str, width: usize) -> Result<Self, Error> {
        let vector = |part| backend.vector(&[weights.vector(&format!("{name}.{part}"), width)?]);
        Ok(Self { gain: vector("weight")?, bias: vector("bias")? })
    }

    fn norm(&self, epsilon: f32) -> LayerNorm<'_, B::Vector> {
        LayerNorm { gain: &self.gain, bias: &self.bias, epsilon }
    }
}

impl<B: Backend> Network for Bert<B> {
    fn forward(&mut self, batch: Batch<'_>) {
        let Self { backend, shape, working, .. } = self;
        let Working { cache, activations } = working.as_mut().expect(PREPARED);
        let Activations { x, qkv, attended, inner, change } = activations;
        let (rows, heads, epsilon) = (batch.rows(), shape.heads, shape.epsilon);
        backend.embed(batch.tokens, &self.embedding, 1.0, x);
        if let Some(positions) = &self.positions {
            backend.embed_add(batch.positions, positions, x);
        }
        backend.add_layer_norm(rows.total(), None, self.embedding_norm.norm(epsilon), x);
        for layer in &self.layers {
            backend.norm_linear(rows, x, None, &layer.qkv, layer.qkv_bias.as_ref(), qkv);
            backend.rope_attention(batch, 0, heads, None, &shape.rope, qkv, cache, attended);
            let bias = layer.attention_output_bias.as_ref();
            backend.norm_linear(rows, attended, None, &layer.attention_output, bias, change);
            backend.add_layer_norm(rows.total(), Some(change), layer.attention_norm.norm(epsilon), x);

            match &layer.ffn {
                FeedForward::Up { up, bias } => {
                    backend.norm_linear(rows, x, None, up, bias.as_ref(), inner);
                    backend.activate(rows.total(), Activation::GeluErf, inner);
                }
                FeedForward::Gated(gate_up) => {
                    backend.norm_gated_linear(rows, x, None, gate_up, Activation::Silu, inner);
                }
            }
            backend.norm_linear(rows, inner, None, &layer.down, layer.down_bias.as_ref(), change);
            backend.add_layer_norm(rows.total(), Some(change), layer.output_norm.norm(epsilon), x);
        }
    }

    fn logits(&mut self, _rows: &[u32]) -> Result<&[f32], Error> {
        Err(Error::Failed("an encoder has no logits".into()))
    }

    fn hidden(&mut self, rows: usize) -> Result<&[f32], Error> {
        self.backend.read(&self.working.as_ref().expect(PREPARED).activations.x, rows)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        let shape = CacheShape { blocks: self.capacity.blocks, ..self.shape.cache_shape() };
        let activations = Activations::new(&self.backend, &self.shape, self.capacity)?;
        self.working = Some(Working { cache: self.backend.cache(shape)?, activations });
        self.backend.check_memory()
    }

    fn release(&mut self) {
        self.working = None;
        // The clone has no scratch memory yet.
        self.backend = self.backend.clone();
    }

    fn matrices(&self) -> Vec<(String, Vec<Part>)> {
        let own = [(EMBEDDING, Some(&self.embedding)), (POSITIONS, self.positions.as_ref())];
        parts_of(&self.backend, own, self.layers.iter().map(Layer::matrices))
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

    fn width(&self) -> usize {
        self.shape.width
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}
