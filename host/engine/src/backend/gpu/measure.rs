//! What steps take on a device, for `examples/gpu`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Device, Gpu, Layout, Units, WAIT_MAX};
use crate::{
    Config, Error,
    backend::{BLOCK_TOKENS, Batch, BlockId, Span},
    gguf::Gguf,
    models::{self, Capacity, Network},
    quant::DType,
};

/// A model on a device, without an engine around it.
pub struct Model {
    device: Arc<Device>,
    network: Box<dyn Network>,
    capacity: Capacity,
    weight_bytes: u64,
}

impl Model {
    /// Brings a file to the adapter of this index; `is_fused` says whether norms and rotations are dispatches of their
    /// own, `None` takes what is best there.
    pub fn open(index: usize, path: &Path, is_fused: Option<bool>) -> Result<Self, Error> {
        let mut device = Device::open(index, WAIT_MAX)?;
        if let Some(fuses) = is_fused {
            let units = device.units();
            device = device.with_units(Units { fuses_norms: fuses, fuses_rope: fuses, ..units });
        }
        let device = Arc::new(device);
        let gguf = Gguf::open(path)?;
        let config = Config { kv_bytes_max: 64 << 20, ..Config::new("") };
        let before = device.memory().0;
        let backend = Gpu::sharing(device.clone());
        let (mut network, capacity) = models::load(&backend, &gguf, None, &config)?;
        let weight_bytes = device.memory().0 - before;
        network.prepare()?;
        Ok(Self { device, network, capacity, weight_bytes })
    }

    /// Bytes of the weights in the device's memory, all of which a token reads once.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Time and dispatches of a step of `rows` tokens of one sequence that is empty before, the last row's largest logit
    /// read: a greedy token.
    pub fn step(&mut self, rows: usize) -> Result<(Duration, u64), Error> {
        let positions: Vec<u32> = (0..rows as u32).collect();
        let blocks: Vec<BlockId> = (0..rows.div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
        assert!(blocks.len() <= self.capacity.blocks, "{rows} tokens");
        let (began, before) = (Instant::now(), self.device.dispatches());
        self.network.forward(Batch {
            tokens: &vec![1; rows],
            positions: &positions,
            spans: &[Span { rows: 0..rows, blocks: 0..blocks.len() }],
            blocks: &blocks,
            generated: 0,
        });
        self.network.top(&[rows as u32 - 1], 1)?;
        Ok((began.elapsed(), self.device.dispatches() - before))
    }
}

/// Bytes that a generated token of a model of Llama 3 8B's shape reads: its layers in Q4_K, its head in Q6_K.
pub fn llama_3_8b_bytes() -> u64 {
    const LAYERS: usize = 32;
    const WIDTH: usize = 4096;
    const FFN_WIDTH: usize = 14336;
    const KV_WIDTH: usize = 1024;
    const VOCABULARY: usize = 128_256;
    let bytes = |dtype, rows: usize, columns| 4 * rows * Layout::of(dtype).row(columns);
    let layer = bytes(DType::Q4_K, WIDTH + 2 * KV_WIDTH, WIDTH)
        + bytes(DType::Q4_K, WIDTH, WIDTH)
        + bytes(DType::Q4_K, 2 * FFN_WIDTH, WIDTH)
        + bytes(DType::Q4_K, WIDTH, FFN_WIDTH);
    (LAYERS * layer + bytes(DType::Q6_K, VOCABULARY, WIDTH)) as u64
}
