//! One suite for every backend: its operations against [`Reference`]'s, for every format, at sizes
//! around the blocks and tiles of fast kernels, and the promises of [`Backend`] that no single result
//! shows (batch invariance).
//!
//! `parity_suite!` instantiates it for a list of backends of one type.

use super::{
    Activation, BLOCK_TOKENS, Backend, Batch, BlockId, CacheShape, DType, HeadNorms, Heads, LayerNorm, Norm,
    Rope, RopePairs, Span, StepRows, Tensor, reference::Reference,
};
use crate::{KvType, quant::quantize::quantize};

/// Instantiates the suite in a module `$name` for the backends that `$backends` lists with names.
macro_rules! parity_suite {
    ($name:ident, $backends:expr) => {
        mod $name {
            use super::*;

            parity_suite!(@tests $backends;
                embedding_reads_rows_of_every_format,
                scales_may_be_as_small_as_f16_can_be,
                a_linear_layer_is_the_references_for_every_format_and_size,
                stacked_tensors_may_differ_in_format_and_have_a_bias,
                a_residual_layer_adds_to_what_is_there,
                a_gated_layer_is_the_references_for_every_format,
                a_gated_layer_may_have_any_activation,
                a_gated_layer_may_mix_formats,
                logits_are_those_of_the_rows_asked_for,
                a_norm_alone_is_the_references,
                rows_without_a_norm_are_multiplied_as_they_are,
                what_follows_a_layer_is_the_references,
                rows_of_a_table_are_added,
                attention_is_the_references_for_every_shape,
                attention_over_a_long_context_is_the_references,
                a_row_has_the_same_bits_in_every_batch,
                attention_has_the_same_bits_however_a_prompt_is_cut,
                a_long_row_has_the_same_bits_beside_short_ones,
                a_stale_block_does_not_reach_the_result,
            );
        }
    };
    (@tests $backends:expr; $($test:ident,)+) => {
        $(
            #[test]
            fn $test() {
                for (name, backend) in $backends {
                    println!("{name}");
                    super::$test(backend);
                }
            }
        )+
    };
}

parity_suite!(cpu, cpu_backends());
#[cfg(feature = "gpu")]
parity_suite!(gpu, gpu_backends());

/// What the kernels promise: integers and f32 sums in one order, whatever the instructions are. (A matrix
/// unit takes the rows of prompts in its own way.)
#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut backends = cpu_backends().into_iter();
    let (first, mut expected) = backends.next().unwrap();
    for (name, mut found) in backends {
        for dtype in DType::ALL {
            let parts = [Owned::noise(dtype, 53, 512, 31)];
            let rows = StepRows::generated(37);
            let same = linear(&mut found, &parts, rows, true) == linear(&mut expected, &parts, rows, true);
            assert!(same, "{dtype} on {name} and {first}");
        }
        for size in [16, 48, 64, 128] {
            let conversation =
                Conversation::new(heads(6, 2, size), &[&[90, 3], &[1, 1], &[230, 1], &[1, 17]]);
            let same = conversation.outputs(&mut found) == conversation.outputs(&mut expected);
            assert!(same, "heads of {size} on {name} and {first}");
        }
    }
}

/// Every instruction set of this machine, alone and with threads.
fn cpu_backends() -> Vec<(String, super::cpu::Cpu)> {
    let sets = super::cpu::Isa::available().into_iter();
    let variants = sets.flat_map(|isa| [1, 3].map(|threads| (isa, threads)));
    variants
        .map(|(isa, threads)| {
            (format!("{isa:?}, {threads} threads"), super::cpu::Cpu::with_isa(isa, threads))
        })
        .collect()
}

/// The first adapter, with the units of a processor's kernels and of a graphics processor's.
#[cfg(feature = "gpu")]
fn gpu_backends() -> Vec<(String, super::gpu::Gpu)> {
    use super::gpu::{Device, Gpu, Units, WAIT_MAX};
    [Units::SOFTWARE, Units::GRAPHICS]
        .map(|units| {
            let device =
                Device::open(0, WAIT_MAX).expect("there is an adapter: apt-get install mesa-vulkan-drivers");
            (format!("{}, {units:?}", device.adapter().name), Gpu::sharing(device.with_units(units).into()))
        })
        .into()
}

/// Numbers between -1 and 1 that look random and are the same in every run.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A tensor of noise and the bytes it owns.
struct Owned {
    dtype: DType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl Owned {
    fn noise(dtype: DType, rows: usize, columns: usize, seed: u64) -> Self {
        Self { dtype, rows, columns, bytes: quantize(dtype, &noise(rows * columns, seed)) }
    }

    fn floats(rows: usize, columns: usize, values: &[f32]) -> Self {
        Self { dtype: DType::F32, rows, columns, bytes: quantize(DType::F32, values) }
    }

    fn tensor(&self) -> Tensor<'_> {
        let Self { dtype, rows, columns, ref bytes } = *self;
        Tensor { name: "test", dtype, rows, columns, bytes }
    }
}

/// A buffer with these rows: an embedding of them.
fn filled<B: Backend>(backend: &mut B, rows: usize, columns: usize, values: &[f32]) -> B::Buffer {
    let table = backend.matrix(&[Owned::floats(rows, columns, values).tensor()]).unwrap();
    let mut buffer = backend.buffer(rows, columns).unwrap();
    let tokens: Vec<u32> = (0..rows as u32).collect();
    backend.embed(&tokens, &table, 1.0, &mut buffer);
    buffer
}

fn vector<B: Backend>(backend: &B, values: &[f32]) -> B::Vector {
    backend.vector(&[Owned::floats(1, values.len(), values).tensor()]).unwrap()
}

fn read<B: Backend>(backend: &mut B, buffer: &B::Buffer, rows: usize) -> Vec<f32> {
    backend.read(buffer, rows).unwrap().to_vec()
}

/// What a sum of `k` products of weights and activations between -`x_max` and `x_max` may be off by.
/// Activations of quantised weights have 8 bits for each block of 32, so each product is off by at
/// most `x_max / 254` and evenly spread; float sums are off by their roundings.
fn tolerance(dtype: DType, k: usize, x_max: f32) -> f32 {
    let of_product = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => f32::EPSILON * (k as f32).sqrt(),
        _ => 1.0 / 254.0,
    };
    4.0 * (k as f32).sqrt() * x_max * of_product + 1e-6
}

#[track_caller]
fn check(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance,
            "{what}: element {i} is {found}, not {expected} within {tolerance}"
        );
    }
}

/// Widths of a format's rows around its blocks.
fn widths(dtype: DType) -> &'static [usize] {
    match dtype.block_len() {
        1 => &[1, 15, 16, 17, 31, 97],
        32 => &[32, 64, 96, 352],
        _ => &[256, 768],
    }
}

const ROWS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 9, 17, 31];
const FEATURES: [usize; 7] = [1, 15, 16, 17, 31, 32, 53];

fn embedding_reads_rows_of_every_format<B: Backend>(mut backend: B) {
    for dtype in DType::ALL {
        for &columns in widths(dtype) {
            let table = Owned::noise(dtype, 21, columns, 1);
            let tokens = [20, 0, 15, 16, 3, 16];
            let (found, expected) =
                (embedded(&mut backend, &table, &tokens), embedded(&mut Reference, &table, &tokens));
            check(&found, &expected, 1e-5, &format!("{dtype} of {columns} columns"));
        }
    }
}

fn scales_may_be_as_small_as_f16_can_be<B: Backend>(mut backend: B) {
    for dtype in DType::ALL {
        let columns = 256;
        // The scales of K formats are divided once more.
        let most = if dtype.block_len() == 256 { 1e-3 } else { 1e-4 };
        let small: Vec<f32> = noise(3 * columns, 5).iter().map(|x| x * most).collect();
        let table = Owned { dtype, rows: 3, columns, bytes: quantize(dtype, &small) };
        let tokens = [2, 0];
        let (found, expected) =
            (embedded(&mut backend, &table, &tokens), embedded(&mut Reference, &table, &tokens));
        assert!(expected.iter().any(|x| *x > 1e-4), "{dtype}: there is something to lose");
        check(&found, &expected, 1e-8, &dtype.to_string());
    }
}

fn embedded<B: Backend>(backend: &mut B, table: &Owned, tokens: &[u32]) -> Vec<f32> {
    let matrix = backend.matrix(&[table.tensor()]).unwrap();
    let mut x = backend.buffer(tokens.len(), table.columns).unwrap();
    backend.embed(tokens, &matrix, 3.0, &mut x);
    read(backend, &x, tokens.len())
}

/// Rows of one kind and of the other.
fn kinds(rows: usize) -> [StepRows; 2] {
    [StepRows::generated(rows), StepRows { generated: 0, prompt: rows }]
}

/// `norm_linear` of noise.
fn linear<B: Backend>(backend: &mut B, parts: &[Owned], counts: StepRows, bias: bool) -> Vec<f32> {
    let rows = counts.total();
    let (columns, features) = (parts[0].columns, parts.iter().map(|part| part.rows).sum());
    let w = backend.matrix(&parts.iter().map(Owned::tensor).collect::<Vec<_>>()).unwrap();
    let x = filled(backend, rows, columns, &noise(rows * columns, 2));
    let gain = vector(backend, &noise(columns, 3));
    let bias = bias.then(|| vector(backend, &noise(features, 4)));
    let mut y = backend.buffer(rows, features).unwrap();
    let norm = Some(Norm { gain: &gain, epsilon: 1e-5 });
    backend.norm_linear(counts, &x, norm, &w, bias.as_ref(), &mut y);
    read(backend, &y, rows)
}

fn a_linear_layer_is_the_references_for_every_format_and_size<B: Backend>(mut backend: B) {
    for dtype in DType::ALL {
        for &columns in widths(dtype) {
            for (rows, features) in ROWS.into_iter().zip(FEATURES.into_iter().cycle()) {
                let parts = [Owned::noise(dtype, features, columns, 5)];
                for counts in kinds(rows) {
                    let found = linear(&mut backend, &parts, counts, false);
                    let expected = linear(&mut Reference, &parts, counts, false);
                    let what = format!("{dtype}, {counts:?} of {columns}, {features} features");
                    check(&found, &expected, tolerance(dtype, columns, 1.8), &what);
                }
            }
        }
    }
}

fn stacked_tensors_may_differ_in_format_and_have_a_bias<B: Backend>(mut backend: B) {
    let stacks: [&[(DType, usize)]; 4] = [
        &[(DType::Q4_K, 32), (DType::Q4_K, 16), (DType::Q6_K, 16)],
        &[(DType::Q4_1, 5), (DType::Q4_1, 16), (DType::Q4_1, 7)],
        &[(DType::F16, 16), (DType::Q8_0, 33), (DType::F32, 1)],
        &[(DType::Q5_0, 48), (DType::Q5_0, 17)],
    ];
    for stack in stacks {
        let part = |&(dtype, rows): &(DType, usize)| Owned::noise(dtype, rows, 512, rows as u64);
        let parts: Vec<Owned> = stack.iter().map(part).collect();
        for counts in [kinds(1), kinds(6), [StepRows { generated: 2, prompt: 3 }; 2]].concat() {
            let found = linear(&mut backend, &parts, counts, true);
            let expected = linear(&mut Reference, &parts, counts, true);
            check(&found, &expected, tolerance(DType::Q4_K, 512, 1.8), &format!("{stack:?}, {counts:?}"));
        }
    }
}

fn a_residual_layer_adds_to_what_is_there<B: Backend>(mut backend: B) {
    fn added<B: Backend>(backend: &mut B, w: &Owned, counts: StepRows) -> Vec<f32> {
        let rows = counts.total();
        let a = filled(backend, rows, w.columns, &noise(rows * w.columns, 6));
        let mut x = filled(backend, rows, w.rows, &noise(rows * w.rows, 7));
        let w = backend.matrix(&[w.tensor()]).unwrap();
        backend.linear_add(counts, &a, &w, &mut x);
        read(backend, &x, rows)
    }
    for dtype in DType::ALL {
        for (rows, features) in [(1, 17), (3, 33), (12, 64)] {
            let w = Owned::noise(dtype, features, 256, 8);
            for counts in kinds(rows) {
                let (found, expected) = (added(&mut backend, &w, counts), added(&mut Reference, &w, counts));
                check(&found, &expected, tolerance(dtype, 256, 1.0), &format!("{dtype}, {counts:?}"));
            }
        }
    }
}

/// `norm_gated_linear` of noise.
fn gated<B: Backend>(
    backend: &mut B,
    [gate, up]: &[Owned; 2],
    counts: StepRows,
    activation: Activation,
) -> Vec<f32> {
    let rows = counts.total();
    let x = filled(backend, rows, gate.columns, &noise(rows * gate.columns, 9));
    let gain = vector(backend, &vec![0.1; gate.columns]);
    let w = backend.gated_matrix(&gate.tensor(), &up.tensor()).unwrap();
    let mut h = backend.buffer(rows, gate.rows).unwrap();
    let norm = Some(Norm { gain: &gain, epsilon: 1e-6 });
    backend.norm_gated_linear(counts, &x, norm, &w, activation, &mut h);
    read(backend, &h, rows)
}

fn check_gated<B: Backend>(backend: &mut B, pair: &[Owned; 2], rows: usize, activation: Activation) {
    for counts in kinds(rows) {
        let found = gated(backend, pair, counts, activation);
        let expected = gated(&mut Reference, pair, counts, activation);
        // Each factor is off by a sum's tolerance; neither is above 6 for these values.
        let of_sum = pair.iter().map(|part| tolerance(part.dtype, part.columns, 0.2)).fold(0.0, f32::max);
        let what = format!("{} and {}, {counts:?}, {activation:?}", pair[0].dtype, pair[1].dtype);
        check(&found, &expected, 12.0 * of_sum, &what);
    }
}

fn a_gated_layer_is_the_references_for_every_format<B: Backend>(mut backend: B) {
    for dtype in DType::ALL {
        for (rows, features) in [(1, 33), (2, 16), (5, 7), (8, 48), (11, 17)] {
            let pair = [10, 11].map(|seed| Owned::noise(dtype, features, 256, seed));
            check_gated(&mut backend, &pair, rows, Activation::Silu);
        }
    }
}

fn a_gated_layer_may_have_any_activation<B: Backend>(mut backend: B) {
    let pair = [10, 11].map(|seed| Owned::noise(DType::Q8_0, 33, 256, seed));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluErf] {
        check_gated(&mut backend, &pair, 5, activation);
    }
}

fn a_gated_layer_may_mix_formats<B: Backend>(mut backend: B) {
    let pair = [Owned::noise(DType::Q4_K, 35, 256, 12), Owned::noise(DType::Q6_K, 35, 256, 13)];
    check_gated(&mut backend, &pair, 3, Activation::Silu);
}

fn logits_are_those_of_the_rows_asked_for<B: Backend>(mut backend: B) {
    fn logits<B: Backend>(backend: &mut B, w: &Owned, rows: &[u32]) -> Vec<f32> {
        let x = filled(backend, 12, w.columns, &noise(12 * w.columns, 14));
        let gain = vector(backend, &noise(w.columns, 15));
        let w = backend.matrix(&[w.tensor()]).unwrap();
        let mut y = backend.buffer(12, 70).unwrap();
        backend.norm_logits(rows, &x, Norm { gain: &gain, epsilon: 1e-5 }, &w, &mut y);
        read(backend, &y, rows.len())
    }
    let w = Owned::noise(DType::Q8_0, 70, 96, 16);
    for rows in [&[11][..], &[0, 3, 7], &[1, 2, 3, 4, 5, 6, 8, 9, 10]] {
        let (found, expected) = (logits(&mut backend, &w, rows), logits(&mut Reference, &w, rows));
        check(&found, &expected, tolerance(DType::Q8_0, 96, 1.8), &format!("rows {rows:?}"));
    }
}

fn a_norm_alone_is_the_references<B: Backend>(mut backend: B) {
    fn normalized<B: Backend>(backend: &mut B, columns: usize) -> Vec<f32> {
        let x = filled(backend, 5, columns, &noise(5 * columns, 17));
        let gain = vector(backend, &noise(columns, 18));
        let mut y = backend.buffer(5, columns).unwrap();
        backend.norm(5, &x, Norm { gain: &gain, epsilon: 1e-5 }, &mut y);
        read(backend, &y, 5)
    }
    for columns in [1, 15, 16, 17, 576] {
        let (found, expected) = (normalized(&mut backend, columns), normalized(&mut Reference, columns));
        check(&found, &expected, 1e-5, &format!("{columns} columns"));
    }
}

fn rows_without_a_norm_are_multiplied_as_they_are<B: Backend>(mut backend: B) {
    fn products<B: Backend>(backend: &mut B, w: &Owned, rows: usize) -> Vec<f32> {
        let x = filled(backend, rows, w.columns, &noise(rows * w.columns, 32));
        let matrix = backend.matrix(&[w.tensor()]).unwrap();
        let mut y = backend.buffer(rows, w.rows).unwrap();
        backend.norm_linear(StepRows::generated(rows), &x, None, &matrix, None, &mut y);
        let gate_up = backend.gated_matrix(&w.tensor(), &w.tensor()).unwrap();
        let mut h = backend.buffer(rows, w.rows).unwrap();
        backend.norm_gated_linear(StepRows::generated(rows), &x, None, &gate_up, Activation::Silu, &mut h);
        [read(backend, &y, rows), read(backend, &h, rows)].concat()
    }
    for dtype in [DType::F16, DType::Q4_1] {
        let w = Owned::noise(dtype, 33, 64, 33);
        let (found, expected) = (products(&mut backend, &w, 5), products(&mut Reference, &w, 5));
        // A gated value is off by a sum's tolerance times a sum, below 6 for these values.
        check(&found, &expected, 12.0 * tolerance(dtype, 64, 1.0), &format!("{dtype}"));
    }
}

/// The operations on rows that stand between the matrices of some architectures.
fn what_follows_a_layer_is_the_references<B: Backend>(mut backend: B) {
    fn followed<B: Backend>(backend: &mut B, columns: usize) -> [Vec<f32>; 3] {
        let y = filled(backend, 5, columns, &noise(5 * columns, 34));
        let (gain, bias) = (vector(backend, &noise(columns, 35)), vector(backend, &noise(columns, 36)));
        let mut x = filled(backend, 5, columns, &noise(5 * columns, 37));
        backend.norm_add(4, &y, Norm { gain: &gain, epsilon: 1e-5 }, &mut x);
        let added = read(backend, &x, 5);
        backend.add_layer_norm(4, Some(&y), LayerNorm { gain: &gain, bias: &bias, epsilon: 1e-5 }, &mut x);
        backend.add_layer_norm(2, None, LayerNorm { gain: &gain, bias: &bias, epsilon: 1e-5 }, &mut x);
        let normalized = read(backend, &x, 5);
        backend.activate(4, Activation::GeluErf, &mut x);
        [added, normalized, read(backend, &x, 5)]
    }
    for columns in [15, 16, 17, 384] {
        let (found, expected) = (followed(&mut backend, columns), followed(&mut Reference, columns));
        for (found, expected) in found.iter().zip(&expected) {
            check(found, expected, 2e-5, &format!("{columns} columns"));
        }
    }
}

fn rows_of_a_table_are_added<B: Backend>(mut backend: B) {
    fn added<B: Backend>(backend: &mut B) -> Vec<f32> {
        let table = backend.matrix(&[Owned::noise(DType::F16, 9, 40, 38).tensor()]).unwrap();
        let mut x = filled(backend, 3, 40, &noise(120, 39));
        backend.embed_add(&[8, 0], &table, &mut x);
        read(backend, &x, 3)
    }
    let (found, expected) = (added(&mut backend), added(&mut Reference));
    check(&found, &expected, 1e-6, "rows of a table");
}

/// Sequences whose prompts are given to a backend in steps.
struct Conversation {
    heads: Heads,
    rope: Rope,
    norms: bool,
    kv_type: KvType,
    /// For each step the rows of each sequence; sequences keep their place.
    steps: Vec<Vec<usize>>,
}

const LAYERS: usize = 2;
const BLOCKS_OF_SEQUENCE: usize = 72;

impl Conversation {
    fn new(heads: Heads, steps: &[&[usize]]) -> Self {
        let frequencies = (0..heads.size / 2).map(|i| 0.7f32.powi(i as i32)).collect();
        let rope = Rope { pairs: RopePairs::Adjacent, frequencies };
        Self {
            heads,
            rope,
            norms: false,
            kv_type: KvType::Bf16,
            steps: steps.iter().map(|step| step.to_vec()).collect(),
        }
    }

    fn columns(&self) -> usize {
        (self.heads.query + 2 * self.heads.kv) * self.heads.size
    }

    /// Runs all steps on the last layer; returns each sequence's outputs, position by position.
    fn outputs<B: Backend>(&self, backend: &mut B) -> Vec<Vec<f32>> {
        let Heads { query, kv, size, .. } = self.heads;
        let sequences = self.steps[0].len();
        let shape = CacheShape {
            layers: LAYERS,
            kv_heads: kv,
            head_size: size,
            blocks: sequences * BLOCKS_OF_SEQUENCE,
            kv_type: self.kv_type,
        };
        let mut cache = backend.cache(shape).unwrap();
        let (q_gain, k_gain) = (noise(size, 20), noise(size, 21));
        let (q_gain, k_gain) = (vector(backend, &q_gain), vector(backend, &k_gain));
        let mut outputs = vec![Vec::new(); sequences];
        let mut lengths = vec![0; sequences];
        for step in &self.steps {
            let (mut positions, mut spans, mut blocks, mut qkv) = (vec![], vec![], vec![], vec![]);
            for (sequence, &rows) in step.iter().enumerate() {
                let first = lengths[sequence];
                lengths[sequence] += rows;
                if rows == 0 {
                    continue;
                }
                // Blocks of all sequences are interleaved, last first.
                let count = lengths[sequence].div_ceil(BLOCK_TOKENS);
                let block = |i: usize| BlockId(((BLOCKS_OF_SEQUENCE - 1 - i) * sequences + sequence) as u32);
                let (row, entry) = (positions.len(), blocks.len());
                spans.push(Span { rows: row..row + rows, blocks: entry..entry + count });
                blocks.extend((0..count).map(block));
                for position in first..first + rows {
                    positions.push(position as u32);
                    qkv.extend(noise(self.columns(), (1 + sequence * 10_000 + position) as u64));
                }
            }
            let rows = positions.len();
            let tokens = vec![0; rows];
            let (spans, blocks) = (&spans[..], &blocks[..]);
            let batch = Batch { tokens: &tokens, positions: &positions, spans, blocks, generated: 0 };
            let mut qkv = filled(backend, rows, self.columns(), &qkv);
            let mut out = backend.buffer(rows, query * size).unwrap();
            let norms = self.norms.then_some(HeadNorms { query: &q_gain, key: &k_gain, epsilon: 1e-6 });
            let layer = LAYERS - 1;
            backend
                .rope_attention(batch, layer, self.heads, norms, &self.rope, &mut qkv, &mut cache, &mut out);
            let out = read(backend, &out, rows);
            let running = step.iter().enumerate().filter(|(_, rows)| **rows > 0);
            for ((sequence, _), span) in running.zip(spans) {
                let width = query * size;
                outputs[sequence].extend(&out[span.rows.start * width..span.rows.end * width]);
            }
        }
        outputs
    }

    #[track_caller]
    fn check<B: Backend>(&self, backend: &mut B) {
        let (found, expected) = (self.outputs(backend), self.outputs(&mut Reference));
        for (sequence, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Keys, values, queries and weights have 8 bits; values are below 1 and averaged.
            let what = format!("{:?}, sequence {sequence}, steps {:?}", self.heads, self.steps);
            check(found, expected, 0.02, &what);
        }
    }
}

fn heads(query: usize, kv: usize, size: usize) -> Heads {
    Heads { query, kv, size, scale: 1.0 / (size as f32).sqrt(), window: None, causal: true }
}

fn attention_is_the_references_for_every_shape<B: Backend>(mut backend: B) {
    let prompt_then_tokens: [&[usize]; 4] = [&[37, 1], &[1, 16], &[1, 1], &[4, 0]];
    for (query, kv, size) in
        [(9, 3, 64), (4, 4, 20), (6, 1, 128), (2, 2, 16), (5, 1, 48), (3, 3, 6), (1, 1, 256)]
    {
        Conversation::new(heads(query, kv, size), &prompt_then_tokens).check(&mut backend);
    }
    let long: [&[usize]; 4] = [&[255], &[1], &[1], &[270]];
    Conversation::new(heads(3, 1, 16), &long).check(&mut backend);
    for window in [1, 5, 16, 40, 300] {
        let heads = Heads { window: Some(window), ..heads(4, 2, 32) };
        Conversation::new(heads, &[&[90, 3], &[1, 1], &[300, 1], &[1, 1]]).check(&mut backend);
    }
    for size in [16, 64, 128] {
        let steps: [&[usize]; 3] = [&[37, 300], &[1, 16], &[1, 1]];
        let quantized = Conversation::new(heads(6, 2, size), &steps);
        Conversation { kv_type: KvType::Q8, ..quantized }.check(&mut backend);
    }
    for size in [32, 64] {
        let heads = Heads { causal: false, ..heads(4, 4, size) };
        Conversation::new(heads, &[&[90, 300, 1, 16]]).check(&mut backend);
    }
    let mut other = Conversation::new(heads(4, 2, 32), &prompt_then_tokens);
    other.norms = true;
    other.rope.pairs = RopePairs::Halves;
    other.rope.frequencies.truncate(10);
    other.check(&mut backend);
}

/// Contexts around the multiples of 512 positions, where a device may split them.
fn attention_over_a_long_context_is_the_references<B: Backend>(mut backend: B) {
    let mut steps: Vec<&[usize]> = vec![&[509, 3]];
    steps.extend([&[1, 1][..]; 5]);
    steps.extend([&[509, 31][..], &[1, 1], &[1, 1]]);
    for (window, heads) in [(None, heads(3, 1, 8)), (Some(300), heads(2, 2, 12)), (Some(600), heads(1, 1, 8))]
    {
        Conversation::new(Heads { window, ..heads }, &steps).check(&mut backend);
    }
    let heads = Heads { causal: false, ..heads(1, 1, 8) };
    Conversation::new(heads, &[&[523, 3, 1025, 512]]).check(&mut backend);
}

fn a_row_has_the_same_bits_in_every_batch<B: Backend>(mut backend: B) {
    let same = |some: &[f32], all: &[f32], what: String| assert!(some == all, "{what}");
    for dtype in DType::ALL {
        let parts = [Owned::noise(dtype, 53, 256, 22)];
        let pair = [23, 24].map(|seed| Owned::noise(dtype, 35, 256, seed));
        let [generated, prompt] = kinds(41).map(|counts| linear(&mut backend, &parts, counts, false));
        let gates = kinds(23).map(|counts| gated(&mut backend, &pair, counts, Activation::Silu));
        for rows in 1..41 {
            for (counts, all) in kinds(rows).into_iter().zip([&generated, &prompt]) {
                let some = linear(&mut backend, &parts, counts, false);
                same(&some, &all[..some.len()], format!("{dtype}: {counts:?}"));
            }
            // Both kinds in one step.
            let both = StepRows { generated: rows, prompt: 41 - rows };
            let some = linear(&mut backend, &parts, both, false);
            let (first, rest) = some.split_at(53 * rows);
            same(first, &generated[..first.len()], format!("{dtype}: generated of {both:?}"));
            same(rest, &prompt[first.len()..], format!("{dtype}: prompt of {both:?}"));
        }
        for rows in 1..23 {
            for (counts, all) in kinds(rows).into_iter().zip(&gates) {
                let some = gated(&mut backend, &pair, counts, Activation::Silu);
                same(&some, &all[..some.len()], format!("{dtype}: {counts:?}, gated"));
            }
        }
    }
}

fn attention_has_the_same_bits_however_a_prompt_is_cut<B: Backend>(mut backend: B) {
    for (window, size, kv_type) in [
        (None, 32, KvType::Bf16),
        (Some(70), 32, KvType::Bf16),
        (None, 64, KvType::Bf16),
        (None, 32, KvType::Q8),
        (None, 64, KvType::Q8),
    ] {
        let heads = Heads { window, ..heads(6, 2, size) };
        let whole = Conversation { kv_type, ..Conversation::new(heads, &[&[600, 40]]) }.outputs(&mut backend);
        let cuts: [&[&[usize]]; 3] = [
            &[&[1, 1], &[5, 0], &[250, 39], &[1, 0], &[1, 0], &[342, 0]],
            &[&[64, 16], &[300, 1], &[236, 23]],
            &[&[597, 37], &[1, 1], &[1, 1], &[1, 1]],
        ];
        for steps in cuts {
            let cut = Conversation { kv_type, ..Conversation::new(heads, steps) }.outputs(&mut backend);
            assert!(cut == whole, "window {window:?}, heads of {size}, steps {steps:?}");
        }
    }
}

fn a_long_row_has_the_same_bits_beside_short_ones<B: Backend>(mut backend: B) {
    for (window, size) in [(None, 16), (Some(530), 20)] {
        let heads = Heads { window, ..heads(3, 1, size) };
        let together: [&[usize]; 5] = [&[510, 40, 601], &[1, 1, 1], &[1, 1, 1], &[1, 1, 1], &[3, 3, 3]];
        let apart: Vec<[usize; 3]> =
            together.iter().flat_map(|step| [[step[0], 0, 0], [0, step[1], 0], [0, 0, step[2]]]).collect();
        let apart: Vec<&[usize]> = apart.iter().map(|step| &step[..]).collect();
        let together = Conversation::new(heads, &together).outputs(&mut backend);
        let apart = Conversation::new(heads, &apart).outputs(&mut backend);
        assert!(together == apart, "window {window:?}, heads of {size}");
    }
}

fn a_stale_block_does_not_reach_the_result<B: Backend>(mut backend: B) {
    for kv_type in [KvType::Bf16, KvType::Q8] {
        check_stale(&mut backend, kv_type);
    }
}

fn check_stale<B: Backend>(backend: &mut B, kv_type: KvType) {
    let heads = heads(2, 1, 16);
    let rope = Rope { pairs: RopePairs::Adjacent, frequencies: vec![] };
    let shape = CacheShape { layers: 1, kv_heads: 1, head_size: 16, blocks: 1, kv_type };
    let mut cache = backend.cache(shape).unwrap();
    let mut step = |rows: usize, value: f32| {
        let positions: Vec<u32> = (0..rows as u32).collect();
        let batch = Batch {
            tokens: &vec![0; rows],
            positions: &positions,
            spans: &[Span { rows: 0..rows, blocks: 0..1 }],
            blocks: &[BlockId(0)],
            generated: 0,
        };
        let mut qkv = filled(backend, rows, 64, &vec![value; rows * 64]);
        let mut out = backend.buffer(rows, 32).unwrap();
        backend.rope_store(batch, 0, heads, None, &rope, &mut qkv, &mut cache);
        backend.attention(batch, 0, heads, &qkv, &cache, &mut out);
        read(backend, &out, rows)
    };
    step(16, f32::NAN);
    let found = step(5, 1.0);
    assert!(found.iter().all(|x| (x - 1.0).abs() < 0.01), "another sequence's NaN came through: {found:?}");
}
