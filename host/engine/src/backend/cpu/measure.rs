//! Timing of the kernels, for `examples/kernels.rs`: each matrix kernel, and whole steps of a model of
//! SmolLM2-135M's shape, beside a plain read of the same bytes by the same threads.

use std::{hint::black_box, time::Instant};

use super::{
    Buffer, Cache, Cpu, Isa, Matrix,
    memory::Memory,
    simd::{Kernel, Simd},
};
use crate::{
    KvType,
    backend::{
        Activation, BLOCK_TOKENS, Backend, Batch, BlockId, CacheShape, DType, Heads, Norm, Rope, RopePairs,
        Span, StepRows, Tensor,
    },
};

/// Instruction sets of this machine, fastest first.
pub fn instruction_sets() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

/// Names of the weight formats.
pub fn formats() -> Vec<&'static str> {
    DType::ALL.into_iter().map(DType::name).collect()
}

/// Weights of one format, larger together than caches near the cores.
pub struct Weights {
    cpu: Cpu,
    x: Buffer,
    y: Buffer,
    gain: Vec<f32>,
    matrices: Vec<Matrix>,
}

const FEATURES: usize = 1536;
const COLUMNS: usize = 1536;

impl Weights {
    /// `count` matrices of 1536 x 1536 in a format, on an instruction set, both by index.
    pub fn new(isa: usize, threads: usize, format: usize, count: usize) -> Self {
        let cpu = Cpu::with_isa(Isa::available()[isa], threads);
        let matrices = (0..count).map(|_| random(&cpu, DType::ALL[format], FEATURES, COLUMNS)).collect();
        let mut x = cpu.buffer(256, COLUMNS).expect("memory");
        x.values.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).sin());
        let y = cpu.buffer(256, FEATURES).expect("memory");
        Self { cpu, x, y, gain: vec![1.0; COLUMNS], matrices }
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(Matrix::bytes).sum()
    }

    /// Multiplications of all matrices with one row.
    pub fn multiplications(&self) -> usize {
        self.matrices.len() * FEATURES * COLUMNS
    }

    /// Multiplies all matrices with `rows` rows, at most 256, of prompts if there are more than 16; seconds.
    pub fn multiply(&mut self, rows: usize) -> f64 {
        let counts = match rows {
            0..=16 => StepRows::generated(rows),
            _ => StepRows { generated: 0, prompt: rows },
        };
        let start = Instant::now();
        for w in &self.matrices {
            let norm = Norm { gain: &self.gain, epsilon: 1e-5 };
            self.cpu.norm_linear(counts, &self.x, Some(norm), w, None, &mut self.y);
        }
        start.elapsed().as_secs_f64()
    }

    /// Reads all matrices; seconds.
    pub fn read(&mut self) -> f64 {
        let matrices: Vec<&Matrix> = self.matrices.iter().collect();
        read(&self.cpu, &matrices)
    }
}

/// A model of SmolLM2-135M's shape: 30 layers, 576 wide, 1536 within, 9 query and 3 key heads of 64,
/// Q4_1 with a head of Q8_0.
pub struct Model {
    cpu: Cpu,
    layers: Vec<Layer>,
    head: Matrix,
    gain: Vec<f32>,
    rope: Rope,
    cache: Cache,
    x: Buffer,
    qkv: Buffer,
    mixed: Buffer,
    hidden: Buffer,
    logits: Buffer,
}

struct Layer {
    qkv: Matrix,
    out: Matrix,
    gate_up: Matrix,
    down: Matrix,
}

const LAYERS: usize = 30;
const WIDTH: usize = 576;
const HIDDEN: usize = 1536;
const VOCABULARY: usize = 49_152;
const HEADS: Heads = Heads { query: 9, kv: 3, size: 64, scale: 0.125, window: None, causal: true };
const QKV: usize = (HEADS.query + 2 * HEADS.kv) * HEADS.size;
const SEQUENCES: usize = 16;
const SEQUENCE_BLOCKS: usize = 2304 / BLOCK_TOKENS;

impl Model {
    /// With noise for weights; `rows` is the most of a step.
    pub fn new(isa: usize, threads: usize, rows: usize) -> Self {
        let cpu = Cpu::with_isa(Isa::available()[isa], threads);
        let layer = |_| Layer {
            qkv: random(&cpu, DType::Q4_1, QKV, WIDTH),
            out: random(&cpu, DType::Q4_1, WIDTH, WIDTH),
            gate_up: random_gated(&cpu, DType::Q4_1, HIDDEN, WIDTH),
            down: random(&cpu, DType::Q4_1, WIDTH, HIDDEN),
        };
        let layers = (0..LAYERS).map(layer).collect();
        let head = random(&cpu, DType::Q8_0, VOCABULARY, WIDTH);
        let shape = CacheShape {
            layers: LAYERS,
            kv_heads: HEADS.kv,
            head_size: HEADS.size,
            blocks: SEQUENCES * SEQUENCE_BLOCKS,
            kv_type: KvType::Bf16,
        };
        let cache = cpu.cache(shape).expect("memory");
        let buffer = |rows, columns| cpu.buffer(rows, columns).expect("memory");
        let frequencies = (0..HEADS.size / 2).map(|i| 1e5f32.powf(-(i as f32) / 32.0)).collect();
        Self {
            layers,
            head,
            gain: vec![1.0; WIDTH],
            rope: Rope { pairs: RopePairs::Adjacent, frequencies },
            cache,
            x: buffer(rows, WIDTH),
            qkv: buffer(rows, QKV),
            mixed: buffer(rows, WIDTH),
            hidden: buffer(rows, HIDDEN),
            logits: buffer(SEQUENCES, VOCABULARY),
            cpu,
        }
    }

    /// Bytes of weights that a step reads.
    pub fn bytes(&self) -> usize {
        self.matrices().iter().map(|matrix| matrix.bytes()).sum()
    }

    /// Reads all weights; seconds.
    pub fn read(&mut self) -> f64 {
        read(&self.cpu, &self.matrices())
    }

    /// One step of `sequences` sequences with `rows` new tokens each behind `depth` others; seconds.
    pub fn step(&mut self, sequences: usize, rows: usize, depth: usize) -> f64 {
        let generated = if rows == 1 { sequences } else { 0 };
        self.run(sequences, rows, depth, generated)
    }

    /// One step of `sequences` sequences with a new token each behind `depth` others, computed as tokens of
    /// prompts are; seconds.
    pub fn step_as_prompts(&mut self, sequences: usize, depth: usize) -> f64 {
        self.run(sequences, 1, depth, 0)
    }

    fn run(&mut self, sequences: usize, rows: usize, depth: usize, generated: usize) -> f64 {
        let count = sequences * rows;
        let tokens: Vec<u32> = (0..count as u32).collect();
        let positions: Vec<u32> = (0..count).map(|t| (depth + t % rows) as u32).collect();
        let blocks: Vec<BlockId> = (0..(sequences * SEQUENCE_BLOCKS) as u32).map(BlockId).collect();
        let span = |i: usize| Span {
            rows: i * rows..(i + 1) * rows,
            blocks: i * SEQUENCE_BLOCKS..(i + 1) * SEQUENCE_BLOCKS,
        };
        let spans: Vec<Span> = (0..sequences).map(span).collect();
        let last: Vec<u32> = spans.iter().map(|span| span.rows.end as u32 - 1).collect();
        let batch =
            Batch { tokens: &tokens, positions: &positions, spans: &spans, blocks: &blocks, generated };
        let start = Instant::now();
        self.forward(batch, &last);
        start.elapsed().as_secs_f64()
    }

    fn forward(&mut self, batch: Batch<'_>, last: &[u32]) {
        let Self { cpu, layers, head, gain, rope, cache, x, qkv, mixed, hidden, logits } = self;
        let rows = batch.rows();
        let norm = || Norm { gain: &*gain, epsilon: 1e-5 };
        cpu.embed(batch.tokens, head, 1.0, x);
        for (index, layer) in layers.iter().enumerate() {
            cpu.norm_linear(rows, x, Some(norm()), &layer.qkv, None, qkv);
            cpu.rope_store(batch, index, HEADS, None, rope, qkv, cache);
            cpu.attention(batch, index, HEADS, qkv, cache, mixed);
            cpu.linear_add(rows, mixed, &layer.out, x);
            cpu.norm_gated_linear(rows, x, Some(norm()), &layer.gate_up, Activation::Silu, hidden);
            cpu.linear_add(rows, hidden, &layer.down, x);
        }
        cpu.norm_logits(last, x, norm(), head, logits);
    }

    fn matrices(&self) -> Vec<&Matrix> {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.out, &l.gate_up, &l.down]);
        layers.chain([&self.head]).collect()
    }
}

/// As many bytes as a model's weights, read as fast as its threads can: what bounds a step of one token.
pub struct Reader {
    cpu: Cpu,
    memory: Memory,
}

/// Parts of its share that a thread reads at once: more keep more lines on their way than one.
const STREAMS: usize = 4;

impl Reader {
    /// Memory of its own, on large pages where there are some.
    pub fn new(threads: usize, bytes: usize) -> Self {
        let mut memory = Memory::zeroed(bytes.next_multiple_of(threads * STREAMS * LINES)).expect("memory");
        memory.bytes_mut().fill(1);
        Self { cpu: Cpu::new(threads), memory }
    }

    /// Reads all of it as often as told, after once more that brings it as near as it will be; the seconds
    /// of the fastest time.
    pub fn read(&mut self, times: usize) -> f64 {
        let Self { cpu, memory } = self;
        let (isa, threads) = (cpu.isa, cpu.pool.threads());
        let read = || {
            let start = Instant::now();
            let share = memory.bytes().len() / threads;
            cpu.pool.run(threads, &|thread| {
                black_box(isa.run(ReadStreams(&memory.bytes()[thread * share..][..share])));
            });
            start.elapsed().as_secs_f64()
        };
        read();
        (0..times).map(|_| read()).fold(f64::INFINITY, f64::min)
    }
}

/// Bytes of a stream that are read together.
const LINES: usize = 256;

struct ReadStreams<'a>(&'a [u8]);

impl Kernel for ReadStreams<'_> {
    type Output = u8;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u8 {
        let len = self.0.len() / STREAMS;
        let streams: [&[[u8; LINES]]; STREAMS] =
            std::array::from_fn(|stream| self.0[stream * len..][..len].as_chunks().0);
        let mut all = [simd.bytes(&[0; 64]); STREAMS];
        for at in 0..streams[0].len() {
            for (all, stream) in all.iter_mut().zip(streams) {
                let lines: &[[u8; 64]] = stream[at].as_chunks().0;
                let (a, b) = (simd.bytes(&lines[0]), simd.bytes(&lines[1]));
                let (c, d) = (simd.bytes(&lines[2]), simd.bytes(&lines[3]));
                *all = simd.or(*all, simd.or(simd.or(a, b), simd.or(c, d)));
            }
        }
        let all = simd.or(simd.or(all[0], all[1]), simd.or(all[2], all[3]));
        simd.to_array(all).into_iter().fold(0, |a, b| a | b)
    }
}

/// Reads matrices on all threads; seconds.
fn read(cpu: &Cpu, matrices: &[&Matrix]) -> f64 {
    let start = Instant::now();
    let (isa, threads) = (cpu.isa, cpu.pool.threads());
    for part in matrices.iter().flat_map(|matrix| &matrix.parts) {
        cpu.pool.run(threads, &|chunk| {
            let count = part.count();
            for panel in count * chunk / threads..count * (chunk + 1) / threads {
                black_box(isa.run(Read(part.panel(panel))));
            }
        });
    }
    start.elapsed().as_secs_f64()
}

struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = u8;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u8 {
        let (lines, _) = self.0.as_chunks::<256>();
        let mut all = [simd.bytes(&[0; 64]); 4];
        for line in lines {
            let line: &[[u8; 64]] = line.as_chunks().0;
            all[0] = simd.or(all[0], simd.bytes(&line[0]));
            all[1] = simd.or(all[1], simd.bytes(&line[1]));
            all[2] = simd.or(all[2], simd.bytes(&line[2]));
            all[3] = simd.or(all[3], simd.bytes(&line[3]));
        }
        let all = simd.or(simd.or(all[0], all[1]), simd.or(all[2], all[3]));
        simd.to_array(all).into_iter().fold(0, |a, b| a | b)
    }
}

fn random(cpu: &Cpu, dtype: DType, rows: usize, columns: usize) -> Matrix {
    let bytes = random_bytes(dtype, rows, columns);
    cpu.matrix(&[Tensor { name: "noise", dtype, rows, columns, bytes: &bytes }]).expect("memory")
}

fn random_gated(cpu: &Cpu, dtype: DType, rows: usize, columns: usize) -> Matrix {
    let bytes = random_bytes(dtype, rows, columns);
    let tensor = Tensor { name: "noise", dtype, rows, columns, bytes: &bytes };
    cpu.gated_matrix(&tensor, &tensor).expect("memory")
}

/// Blocks of noise whose f16 fields are small numbers.
fn random_bytes(dtype: DType, rows: usize, columns: usize) -> Vec<u8> {
    let scales: &[usize] = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => &[],
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
    };
    let mut state = 1u32;
    let mut bytes: Vec<u8> = (0..rows * dtype.bytes(columns))
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &scale in scales {
            block[scale..scale + 2].copy_from_slice(&half::f16::from_f32(1e-4).to_le_bytes());
        }
        if scales.is_empty() {
            // The top byte of a small number in all three formats.
            *block.last_mut().expect("a block has bytes") = 0x2C;
        }
    }
    bytes
}
