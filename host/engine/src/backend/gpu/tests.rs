//! What no single operation shows.

use std::sync::Arc;

use super::*;
use crate::{Config, backend::Span, gguf::Gguf, models, testing};

/// The first adapter, whatever it is, with the kernels of a graphics processor.
fn device() -> Arc<Device> {
    let device = Device::open(0).expect("there is an adapter: apt-get install mesa-vulkan-drivers");
    Arc::new(device.with_units(Units::GRAPHICS))
}

#[test]
fn a_generated_token_takes_five_dispatches_a_layer() {
    let device = device();
    let config = Config { kv_bytes_max: 16 << 20, ..Config::new("") };
    let gguf = Gguf::open(testing::model()).unwrap();
    let backend = Gpu::sharing(device.clone());
    let (mut network, capacity) = models::load(&backend, &gguf, None, &config).unwrap();
    network.prepare().unwrap();
    let before = device.dispatches();
    models::warm_up(&mut *network, capacity, 1).unwrap();
    // Thirty layers, the embedding before and the head behind.
    assert_eq!(device.dispatches() - before, 30 * 5 + 2);
}

#[test]
fn an_image_of_a_matrix_is_the_matrix() {
    let backend = Gpu::sharing(device());
    let gguf = Gguf::open(testing::model()).unwrap();
    let [gate, up] = ["gate", "up"].map(|name| gguf.tensor(&format!("blk.0.ffn_{name}.weight")).unwrap());
    let matrix = backend.gated_matrix(&gate, &up).unwrap();
    let parts = backend.parts(&matrix);
    let again = backend.parts(&backend.matrix_of(parts.clone(), true).unwrap());
    assert_eq!(parts.len(), 1);
    assert!(parts.iter().zip(&again).all(|(a, b)| a.bytes[..] == b.bytes[..]), "words of both");
    assert!(backend.matrix_of(parts, false).is_err(), "half of a gated matrix");
    assert!(backend.matrix_of(Vec::new(), true).is_err(), "no parts");
}

#[test]
fn a_block_that_was_taken_out_is_put_into_another_place() {
    let mut backend = Gpu::sharing(device());
    let shape = CacheShape { layers: 2, kv_heads: 3, head_size: 8, blocks: 5, kv_type: KvType::Bf16 };
    let mut cache = backend.cache(shape).unwrap();
    let bytes: Vec<u8> = (0..backend.block_bytes(shape)).map(|i| i as u8).collect();
    for (block, bytes) in [(2, vec![0; bytes.len()]), (4, vec![0; bytes.len()]), (3, bytes.clone())] {
        backend.write_block(&mut cache, BlockId(block), &bytes).unwrap();
    }
    for (block, expected) in [(2, vec![0; bytes.len()]), (3, bytes.clone()), (4, vec![0; bytes.len()])] {
        let mut found = vec![1; bytes.len()];
        backend.read_block(&cache, BlockId(block), &mut found).unwrap();
        assert!(found == expected, "block {block}");
    }
}

#[test]
fn a_matrix_larger_than_a_binding_is_split_by_rows() {
    let device = Device::open(0).unwrap().with_binding_bytes_max(4096);
    let backend = Gpu::sharing(Arc::new(device));
    let gguf = Gguf::open(testing::model()).unwrap();
    let tensor = gguf.tensor("blk.0.attn_k.weight").unwrap();
    let matrix = backend.matrix(&[tensor]).unwrap();
    assert_eq!(matrix.rows(), tensor.rows);
    assert!(matrix.parts.len() > 1 && matrix.parts.iter().all(|part| 4 * part.words <= 4096));
    let tiny = Gpu::sharing(Arc::new(Device::open(0).unwrap().with_binding_bytes_max(100)));
    let error = tiny.matrix(&[tensor]).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_k.weight") && error.ends_with("the device takes 100"), "{error}");
}

/// Rows whose contexts have up to three parts.
struct LongRows {
    backend: Gpu,
    positions: Vec<u32>,
    blocks: Vec<BlockId>,
    heads: Heads,
    qkv: Buffer,
    cache: Cache,
}

impl LongRows {
    fn new(positions: Vec<u32>) -> Self {
        const SIZE: usize = 8;
        let mut backend = Gpu::sharing(device());
        let shape = CacheShape { layers: 1, kv_heads: 1, head_size: SIZE, blocks: 80, kv_type: KvType::Bf16 };
        let mut cache = backend.cache(shape).unwrap();
        for block in 0..shape.blocks {
            // Values from 0.5 to 2.
            let word = |i: usize| (0x3f00 | ((37 * i + 11 * block) & 0xff) as u16).to_le_bytes();
            let bytes: Vec<u8> = (0..backend.block_bytes(shape) / 2).flat_map(word).collect();
            backend.write_block(&mut cache, BlockId(block as u32), &bytes).unwrap();
        }
        let heads = Heads { query: 2, kv: 1, size: SIZE, scale: 0.3, window: None, causal: true };
        let columns = 4 * SIZE;
        let values: Vec<f32> = (0..positions.len() * columns).map(|i| (i as f32).sin()).collect();
        let handle = backend.device.vector(&values).handle;
        let qkv = Buffer { handle, rows: positions.len(), columns };
        let blocks = (0..shape.blocks as u32).map(BlockId).collect();
        Self { backend, positions, blocks, heads, qkv, cache }
    }

    /// The rows' attention, so many at a time if that is said, and the dispatches that it took.
    fn attend(&mut self, rows_at_a_time: Option<usize>) -> (Vec<f32>, u64) {
        let Self { backend, positions, blocks, heads, qkv, cache } = self;
        let rows = positions.len();
        let batch = Batch {
            tokens: &vec![0; rows],
            positions,
            spans: &[Span { rows: 0..rows, blocks: 0..blocks.len() }],
            blocks,
            generated: 0,
        };
        let device = backend.device.clone();
        let out = device.buffer(rows, heads.query * heads.size);
        backend.steps.prepare(&device, batch);
        let mut parts = backend.steps.parts(&device, *heads);
        parts.rows = rows_at_a_time.unwrap_or(parts.rows);
        let before = device.dispatches();
        let (step, layer) = (backend.steps.step(), 0);
        Attention { step, parts, layer, heads: *heads, qkv, cache, out: &out }.run(&device);
        let dispatches = device.dispatches() - before;
        (backend.read(&out, rows).unwrap().to_vec(), dispatches)
    }
}

#[test]
fn contexts_are_split_from_the_first_part_on() {
    for (position, dispatches) in [(0, 1), (511, 1), (512, 2), (1100, 2)] {
        assert_eq!(LongRows::new(vec![position]).attend(None).1, dispatches, "position {position}");
    }
}

#[test]
fn parts_that_have_no_room_at_once_are_computed_one_after_another() {
    let mut rows = LongRows::new((505..515).chain(1020..1030).collect());
    let ((at_once, two), (in_turns, six)) = (rows.attend(None), rows.attend(Some(7)));
    assert_eq!((two, six), (2, 6));
    assert_eq!(at_once, in_turns);
}
