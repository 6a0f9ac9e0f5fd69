//! What no single operation shows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cubecl_wgpu::wgpu;

use super::*;
use crate::{
    Config,
    backend::{Span, TOP_MAX},
    gguf::Gguf,
    models, testing,
};

/// The first adapter, whatever it is, with the kernels of a graphics processor.
fn device() -> Arc<Device> {
    let device = Device::open(0, WAIT_MAX).expect("there is an adapter: apt-get install mesa-vulkan-drivers");
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
    models::warm_up(&mut *network, capacity, 1).unwrap();
    let (before, began, clock) = (device.dispatches(), Instant::now(), network.clock());
    network.forward(Batch {
        tokens: &[7],
        positions: &[0],
        spans: &[Span { rows: 0..1, blocks: 0..1 }],
        blocks: &[BlockId(0)],
        generated: 1,
    });
    let top = network.top(&[0], 1).unwrap().expect("one is found on the device");
    assert_eq!((top.len(), top[0].len()), (1, 1));
    // Thirty layers, the embedding before, the head and the largest of its logits behind.
    assert_eq!(device.dispatches() - before, 30 * 5 + 3);
    let took = clock.take().expect("a Vulkan driver has a clock");
    assert!(took > Duration::ZERO && took <= began.elapsed(), "{took:?} of {:?}", began.elapsed());
    assert_eq!(clock.take(), None, "it is told once");
}

#[test]
fn an_image_of_a_matrix_is_the_matrix() {
    let backend = Gpu::sharing(device());
    let gguf = Gguf::open(testing::model()).unwrap();
    let [gate, up] = ["gate", "up"].map(|name| gguf.tensor(&format!("blk.0.ffn_{name}.weight")).unwrap());
    let matrix = backend.gated_matrix(&gate, &up).unwrap();
    let parts = backend.parts(&matrix);
    let again = backend.parts(&backend.matrix_of(parts.clone(), true).unwrap());
    assert_eq!((parts.len(), parts[0].rows), (1, gate.rows + up.rows));
    assert!(parts.iter().zip(&again).all(|(a, b)| a.bytes[..] == b.bytes[..]), "words of both");
    let half = ready::Part { rows: gate.rows, ..parts[0].clone() };
    assert!(backend.matrix_of(vec![half], true).is_err(), "half of a gated matrix");
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
    let device = Device::open(0, WAIT_MAX).unwrap().with_binding_bytes_max(4096);
    let backend = Gpu::sharing(Arc::new(device));
    let gguf = Gguf::open(testing::model()).unwrap();
    let tensor = gguf.tensor("blk.0.attn_k.weight").unwrap();
    let matrix = backend.matrix(&[tensor]).unwrap();
    assert_eq!(matrix.rows(), tensor.rows);
    assert!(matrix.parts.len() > 1 && matrix.parts.iter().all(|part| 4 * part.words <= 4096));
    let tiny = Gpu::sharing(Arc::new(Device::open(0, WAIT_MAX).unwrap().with_binding_bytes_max(100)));
    let error = tiny.matrix(&[tensor]).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_k.weight") && error.ends_with("the device takes 100"), "{error}");
}

#[test]
fn a_lost_device_fails_what_waits_and_is_opened_again() {
    let slot = Arc::new(Slot::open(0, WAIT_MAX).unwrap());
    let mut backend = Gpu::on(slot.clone());
    let buffer = backend.buffer(1, 8).unwrap();
    assert_eq!(backend.read(&buffer, 1).unwrap(), [0.0; 8]);
    slot.current().lose();
    let error = backend.read(&buffer, 1).unwrap_err().to_string();
    assert!(matches!(backend.wait(), Err(Error::Failed(_))), "lost once, lost for good");
    assert!(error.contains(&slot.current().adapter().name), "{error}");
    assert_eq!(slot.current().memory(), (0, 0));

    let mut again = backend.clone();
    again.recover().unwrap();
    let buffer = again.buffer(1, 4).unwrap();
    assert_eq!(again.read(&buffer, 1).unwrap(), [0.0; 4]);
    // Who still has the lost one doesn't get it back.
    assert!(backend.wait().is_err());
    let healthy = slot.current();
    again.recover().unwrap();
    assert!(Arc::ptr_eq(&healthy, &slot.current()), "a healthy device stays");
}

#[test]
fn a_device_without_memory_says_so_and_goes_on() {
    let device = device();
    let backend = Gpu::sharing(device.clone());
    let invalid = |text: &str| wgpu::Error::Validation { source: text.into(), description: text.into() };
    device.report(wgpu::Error::OutOfMemory { source: "nothing left".into() });
    device.report(invalid("In Queue::write_buffer: a buffer is invalid"));
    // Whoever only computes has what it needs.
    device.sync().unwrap();
    let rows = [0; 32];
    let tensor = Tensor { name: "w", dtype: DType::F32, rows: 1, columns: 8, bytes: &rows };
    let error = backend.matrix(&[tensor]).map(drop).unwrap_err();
    assert!(matches!(&error, Error::OutOfMemory(reason) if reason.contains("no more memory")), "{error}");
    backend.matrix(&[tensor]).unwrap();
    backend.check_memory().unwrap();
    device.report(wgpu::Error::OutOfMemory { source: "nothing left".into() });
    assert!(matches!(backend.check_memory(), Err(Error::OutOfMemory(_))));
    assert!(!device.is_lost());
    // A step on what there is no memory for gives what lay there before.
    let computing = Gpu::sharing(self::device());
    computing.device.report(wgpu::Error::OutOfMemory { source: "nothing left".into() });
    computing.device.report(invalid("In Device::create_bind_group: a buffer is invalid"));
    let error = computing.device.sync().unwrap_err().to_string();
    assert!(error.contains("create_bind_group") && computing.device.is_lost(), "{error}");
    device.report(invalid("a kernel is wrong"));
    let error = device.sync().unwrap_err().to_string();
    assert!(error.contains("a kernel is wrong") && device.is_lost(), "{error}");
}

#[test]
fn a_device_that_does_not_answer_is_given_up() {
    let device = Device::open(0, Duration::from_millis(20)).unwrap();
    let slot = Slot::holding(Arc::new(device));
    let slow = slot.current();
    let [from, to] = [0.0, 1.0].map(|value| slow.vector(&vec![value; 16 << 20]));
    (0..40).for_each(|_| elementwise::copy(&slow, &from, &to));
    let error = slow.sync().unwrap_err().to_string();
    assert!(error.ends_with("no answer within 20ms (device_wait_max)"), "{error}");
    assert!(!slot.recover().unwrap().is_lost());
}

#[test]
fn the_largest_logits_are_those_of_the_sampler() {
    let mut backend = Gpu::sharing(device());
    for vocabulary in [1, 63, 255, 256, 257, 5000, 49152] {
        let mut rows = [0, 1, 2].map(|row| crate::backend::parity::noise(vocabulary, row));
        // Some are equal, and some can't be drawn.
        rows[1].iter_mut().for_each(|logit| *logit = (*logit * 20.0).round());
        rows[2].iter_mut().step_by(3).for_each(|logit| *logit = f32::NEG_INFINITY);
        rows[2].iter_mut().skip(1).step_by(7).for_each(|logit| *logit = f32::NAN);
        let logits = rows.concat();
        let handle = backend.device.vector(&logits).handle;
        let buffer = Buffer { handle, rows: 3, columns: vocabulary };
        for count in [1, 2, 40, TOP_MAX] {
            let found = backend.top(&buffer, 3, count).unwrap().expect("few are equal");
            for (row, found) in rows.iter().zip(found) {
                let mut expected = crate::sampler::top_logits(row, count);
                expected.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
                assert_eq!(found, expected, "{count} of {vocabulary}");
            }
        }
    }
    // Too many to list: all are read instead. One alone is found.
    let handle = backend.device.vector(&vec![1.0; 49152]).handle;
    let equal = Buffer { handle, rows: 1, columns: 49152 };
    assert_eq!(backend.top(&equal, 1, 2).unwrap(), None);
    assert_eq!(backend.top(&equal, 1, 1).unwrap(), Some(vec![vec![(0, 1.0)]]));
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
