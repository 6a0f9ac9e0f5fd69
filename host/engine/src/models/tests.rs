//! Files that are refused, and one forward pass worked out by hand.

use super::*;
use crate::{
    backend::{
        BlockId, DType, Span,
        cpu::{Cpu, InstructionSet},
        reference::Reference,
    },
    gguf::writer::GgufWriter,
    sampler, testing,
};

/// A model of one layer, width 2, one head of size 2, three tokens. All weights of the layer are zero,
/// so the logits are those of the normalised embeddings with themselves.
fn tiny(architecture: &str) -> GgufWriter {
    let mut file = GgufWriter::new();
    let key = |name: &str| format!("{architecture}.{name}");
    file.str("general.architecture", architecture);
    for (name, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 2),
        ("feed_forward_length", 4),
        ("attention.head_count", 1),
    ] {
        file.u32(&key(name), value);
    }
    file.f32(&key("attention.layer_norm_rms_epsilon"), 0.0);
    file.tensor("token_embd.weight", DType::F32, 2, &[3.0, 4.0, 1.0, -1.0, 0.0, 2.0]);
    file.tensor("output_norm.weight", DType::F32, 2, &[1.0, 1.0]);
    for name in ["attn_norm", "ffn_norm"] {
        file.tensor(&format!("blk.0.{name}.weight"), DType::F32, 2, &[1.0, 1.0]);
    }
    for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        file.tensor(&format!("blk.0.{name}.weight"), DType::F32, 2, &[0.0; 4]);
    }
    for name in ["ffn_gate", "ffn_up"] {
        file.tensor(&format!("blk.0.{name}.weight"), DType::F32, 2, &[0.0; 8]);
    }
    file.tensor("blk.0.ffn_down.weight", DType::F32, 4, &[0.0; 8]);
    file
}

fn open(file: &GgufWriter) -> Result<(Box<dyn Network>, Capacity), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    file.write(&path);
    load(&Reference, &Gguf::open(&path).unwrap(), None, &Config::new(folder.path()))
}

#[track_caller]
fn check_refused(file: &GgufWriter, expected: &str) {
    match open(file).map(|_| ()) {
        Err(Error::BadModel { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("{other:?}, expected {expected:?}"),
    }
}

#[test]
fn logits_are_the_normalised_states_times_the_tied_head() {
    let (mut network, capacity) = open(&tiny("llama")).unwrap();
    assert_eq!((network.width(), network.vocabulary(), capacity.context_tokens), (2, 3, 64));
    network.prepare().unwrap();
    let spans = [Span { rows: 0..1, blocks: 0..1 }];
    let blocks = [BlockId(0)];
    network.forward(Batch { tokens: &[0], positions: &[0], spans: &spans, blocks: &blocks, generated: 0 });
    let root = 12.5f32.sqrt();
    let (a, b) = (3.0 / root, 4.0 / root);
    let expected = [3.0 * a + 4.0 * b, a - b, 2.0 * b];
    for (found, expected) in network.logits(&[0]).unwrap().iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} != {expected}");
    }
    assert_eq!(network.hidden(1).unwrap().len(), 2);
}

#[test]
fn an_architecture_without_a_forward_pass_is_refused_by_name() {
    check_refused(
        &tiny("mamba"),
        "architecture \"mamba\" is not supported; this engine runs llama, qwen2, qwen3, gemma, gemma3, bert, nomic-bert",
    );
}

#[test]
fn weights_that_the_forward_pass_does_not_know_are_refused() {
    let mut file = tiny("llama");
    file.tensor("blk.0.attn_output.bias", DType::F32, 2, &[1.0, 1.0]);
    check_refused(&file, "tensor blk.0.attn_output.bias is no part of this architecture");
}

#[test]
fn a_tensor_that_is_missing_or_has_another_shape_is_refused() {
    check_refused(&tiny("qwen3"), "no tensor \"blk.0.attn_q_norm.weight\"");
    let mut file = tiny("llama");
    file.tensor("output.weight", DType::F32, 3, &[0.0; 9]);
    check_refused(&file, "tensor output.weight is [3, 3], expected [3, 2]");
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let with = |key: &str, value| {
        let mut file = tiny("llama");
        file.u32(key, value);
        file
    };
    check_refused(&with("llama.expert_count", 8), "a mixture of 8 experts is not supported");
    check_refused(&with("llama.attention.head_count_kv", 0), "1 query heads can't share 0 key/value heads");
    check_refused(&with("llama.attention.head_count_kv", 2), "1 query heads can't share 2 key/value heads");
    check_refused(&with("llama.attention.value_length", 3), "keys of length 2 and values of length 3");
    check_refused(
        &with("llama.attention.key_length", u32::MAX),
        "keys of length 4294967295 and values of length 4294967295",
    );
    check_refused(&with("llama.rope.dimension_count", 3), "3 elements of a head of 2 can't rotate in pairs");
    let mut file = tiny("llama");
    file.str("llama.rope.scaling.type", "yarn");
    check_refused(&file, "rope scaling \"yarn\" is not supported");
}

#[test]
fn the_context_is_bounded_by_the_file_the_config_and_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny("llama").write(&path);
    let gguf = Gguf::open(&path).unwrap();
    let context = |change: fn(&mut Config)| {
        let mut config = Config::new(folder.path());
        change(&mut config);
        load(&Reference, &gguf, None, &config).map(|(_, capacity)| capacity.context_tokens)
    };
    assert_eq!(context(|_| ()).unwrap(), 64);
    assert_eq!(context(|config| config.context_tokens_max = 50).unwrap(), 50);
    // A block of one layer, one head of 2, is 256 bytes in f32.
    assert_eq!(context(|config| config.kv_bytes_max = 600).unwrap(), 32);
    let error = context(|config| config.kv_bytes_max = 200).unwrap_err();
    assert_eq!(error.to_string(), "kv_bytes_max 200 holds no KV block of 256 bytes");
}

/// Tokens that are evaluated together; all but the first of them count.
const WINDOW: usize = 512;

/// Perplexity of the test model on the first windows of the fixed text. They are computed by turns in steps of
/// prompts and in steps of generated tokens, for which a device may have other kernels.
fn perplexity(cpu: &Cpu, kv_type: KvType, windows: usize) -> f64 {
    let gguf = Gguf::open(testing::model()).unwrap();
    let (mut network, capacity) = load(cpu, &gguf, None, &Config { kv_type, ..Config::new("") }).unwrap();
    network.prepare().unwrap();
    let text = include_str!("../../tests/data/ppl_ids.txt");
    let ids: Vec<u32> = text.trim().split(',').map(|id| id.parse().unwrap()).collect();
    let (mut sum, mut count) = (0.0, 0);
    for (window, tokens) in ids.chunks(WINDOW).take(windows).enumerate() {
        let rows_max = if window % 2 == 0 { capacity.batch_tokens_max } else { capacity.logits_rows_max };
        for (step, rows) in tokens.chunks(rows_max).enumerate() {
            let (start, end) = (step * rows_max, step * rows_max + rows.len());
            let positions: Vec<u32> = (start as u32..end as u32).collect();
            let blocks: Vec<_> = (0..end.div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
            let spans = [Span { rows: 0..rows.len(), blocks: 0..blocks.len() }];
            let generated = if window % 2 == 0 { 0 } else { rows.len() };
            let batch =
                Batch { tokens: rows, positions: &positions, spans: &spans, blocks: &blocks, generated };
            network.forward(batch);
            let all: Vec<u32> = (0..rows.len() as u32).collect();
            for some in all.chunks(capacity.logits_rows_max) {
                let logits = network.logits(some).unwrap().chunks_exact(gguf_vocabulary(&gguf));
                for (row, logits) in some.iter().zip(logits) {
                    let Some(next) = tokens.get(start + *row as usize + 1) else { continue };
                    sum += f64::from(sampler::logprobs(logits, *next, 0).logprob);
                    count += 1;
                }
            }
        }
    }
    (-sum / f64::from(count)).exp()
}

fn gguf_vocabulary(gguf: &Gguf) -> usize {
    gguf.tensor("token_embd.weight").unwrap().rows
}

#[test]
fn perplexity_is_within_half_a_percent_of_f32_on_every_kernel_path() {
    // Of an f32 pass over the same four windows.
    let f32_pass = 23.74;
    #[track_caller]
    fn check(found: f64, expected: f64, tolerance: f64) {
        assert!((found / expected - 1.0).abs() < tolerance, "{found:.3}, expected {expected:.3}");
    }
    let all = InstructionSet::available();
    let (plain, fast) = all.split_last().expect("the plain loops run everywhere");
    for isa in fast {
        check(perplexity(&Cpu::with_isa(*isa, 2), KvType::Bf16, 4), f32_pass, 0.005);
    }
    check(perplexity(&Cpu::new(2), KvType::Q8, 4), f32_pass, 0.015);
    // Plain loops take long; what others compute of 8-bit activations is the same but for the order of sums.
    match fast.last() {
        Some(isa) => {
            let [plain, fast] = [plain, isa].map(|isa| perplexity(&Cpu::with_isa(*isa, 2), KvType::Bf16, 1));
            check(plain, fast, 0.001);
        }
        None => check(perplexity(&Cpu::with_isa(*plain, 2), KvType::Bf16, 4), f32_pass, 0.005),
    }
}
