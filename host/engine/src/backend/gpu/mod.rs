//! The GPU backend: kernels in cubecl, for whatever its runtimes reach (Vulkan, Metal and DX12 by wgpu).
//!
//! Every operation is a function that checks its shapes, plans, and launches one kernel a part. Weights stay in the
//! file's formats (`weights` draws them), activations are f32, keys and values bf16. Nothing waits for
//! the device but `read`; what fails on it shows there.

#![allow(
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    reason = "kernels are written in the part of Rust that cubecl translates"
)]

mod adapter;
mod attention;
mod device;
mod elementwise;
mod linear;
pub mod measure;
mod memory;
mod rope;
mod step;
#[cfg(test)]
mod tests;
mod top;
mod weights;

use std::sync::{Arc, Mutex, PoisonError};

use cubecl_core::{client::ProfileWindow, environment::bytes::Bytes, server::Handle};
use memmap2::MmapMut;

use super::{
    Activation, BLOCK_TOKENS, Backend, Batch, BlockId, CacheShape, DType, HeadNorms, Heads, LayerNorm, Norm,
    Rope, StepClock, StepRows, Tensor, Top,
};
use crate::{
    Error, KvType,
    quant::{dequantize, to_f32_bytes},
    ready,
};
pub use adapter::{Adapter, AdapterKind, adapters};
use attention::{Attention, RopeAttention};
pub use device::copy_bandwidth;
pub(crate) use device::{Device, Slot, Units, WAIT_MAX};
use elementwise::{Lookup, Normed};
use linear::{Finish, Linear};
pub(crate) use memory::{Buffer, Cache, Matrix, Vector};
use memory::{Layer, Part};
use rope::RopeStore;
use step::Steps;
use weights::Layout;

/// A graphics processor.
pub(crate) struct Gpu {
    slot: Arc<Slot>,
    device: Arc<Device>,
    steps: Steps,
    /// Rows that were normalised for a matrix, where that is a dispatch of its own.
    normed: Option<Buffer>,
    /// What was read last.
    host: Vec<f32>,
    /// The device's clock, from a step's beginning to its first result.
    clock: Option<ProfileWindow>,
    /// What it says.
    took: Arc<StepClock>,
}

impl Gpu {
    /// The device of a slot.
    pub(crate) fn on(slot: Arc<Slot>) -> Self {
        let device = slot.current();
        Self::with(slot, device)
    }

    fn with(slot: Arc<Slot>, device: Arc<Device>) -> Self {
        let (steps, host) = (Steps::default(), Vec::new());
        Self { slot, device, steps, normed: None, host, clock: None, took: Arc::default() }
    }

    /// A device of one's own.
    pub(crate) fn sharing(device: Arc<Device>) -> Self {
        Self::on(Arc::new(Slot::holding(device)))
    }

    /// Rows of one format, a buffer for as many as a kernel can see at once.
    fn upload(&self, tensors: &[Tensor<'_>], halves: bool) -> Result<Vec<Part>, Error> {
        let Tensor { dtype, columns, .. } = tensors[0];
        let row_words = Layout::of(dtype).row(columns);
        let sets = if halves { tensors.len() } else { 1 };
        let bytes_max = self.device.adapter().binding_bytes_max as usize;
        let rows_max = bytes_max / (4 * row_words * sets);
        if rows_max == 0 {
            let row = 4 * row_words;
            let reason =
                format!("a row of {} has {row} bytes, the device takes {bytes_max}", tensors[0].name);
            return Err(Error::Invalid(reason));
        }
        let row_bytes = dtype.bytes(columns);
        let part = |rows: &[&[u8]], count| {
            let bytes = 4 * rows.len() * row_words;
            let mut pages = MmapMut::map_anon(bytes).map_err(|_| Error::no_memory_for(bytes))?;
            let mut words = Vec::with_capacity(row_words);
            for (row, into) in rows.iter().zip(pages.chunks_exact_mut(4 * row_words)) {
                words.clear();
                weights::pack_row(dtype, row, &mut words);
                into.chunks_exact_mut(4)
                    .zip(&words)
                    .for_each(|(into, word)| into.copy_from_slice(&word.to_le_bytes()));
            }
            let handle = self.device.upload(&pages)?;
            let unkept = Mutex::new(Some(ready::Bytes::of_memory(Some(pages))));
            Ok(Part { handle, words: bytes / 4, dtype, rows: count, unkept })
        };
        let all: Vec<Vec<&[u8]>> = match halves {
            true => tensors.iter().map(|tensor| tensor.bytes.chunks_exact(row_bytes).collect()).collect(),
            false => vec![tensors.iter().flat_map(|tensor| tensor.bytes.chunks_exact(row_bytes)).collect()],
        };
        let rows = all[0].len();
        let parts = (0..rows)
            .step_by(rows_max)
            .map(|first| {
                let range = first..rows.min(first + rows_max);
                let some: Vec<&[u8]> =
                    all.iter().flat_map(|set| set[range.clone()].iter().copied()).collect();
                part(&some, range.len())
            })
            .collect::<Result<_, Error>>()?;
        self.device.glance_at_memory()?;
        Ok(parts)
    }

    /// A part as it lies on the device.
    fn read_part(&self, part: &Part) -> Result<ready::Bytes, Error> {
        if let Some(bytes) = part.unkept.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(bytes);
        }
        let read = self.device.read(vec![part.handle.clone()])?.remove(0);
        let mut pages = MmapMut::map_anon(read.len()).map_err(|_| Error::no_memory_for(read.len()))?;
        pages.copy_from_slice(&read);
        Ok(ready::Bytes::of_memory(Some(pages)))
    }

    /// Has a matrix multiplied with the first rows of `x`, or with their norms.
    fn multiply(
        &mut self,
        x: &Buffer,
        rows: usize,
        norm: Option<Norm<'_, Vector>>,
        linear: impl FnOnce(&Buffer, Option<(&Vector, f32)>, &Device),
    ) {
        let norm = norm.map(|norm| (norm.gain, norm.epsilon));
        let Some((gain, epsilon)) = norm.filter(|_| !self.device.units().fuses_norms) else {
            return linear(x, norm, &self.device);
        };
        let fits = |buffer: &Buffer| buffer.rows >= rows && buffer.columns == x.columns;
        let normed = match self.normed.take().filter(fits) {
            Some(normed) => normed,
            None => self.device.buffer(x.rows, x.columns),
        };
        elementwise::norm(&self.device, rows, x, (gain, None, epsilon), Normed::Store, &normed);
        linear(&normed, None, &self.device);
        self.normed = Some(normed);
    }

    /// The bytes of buffers, once everything before has run.
    fn read_all(&mut self, handles: Vec<Handle>) -> Result<Vec<Bytes>, Error> {
        let Some(clock) = self.clock.take() else { return self.device.read(handles) };
        let (bytes, took) = self.device.stop_clock(clock, handles)?;
        self.took.set(took);
        Ok(bytes)
    }

    /// Where a block lies in every layer: keys, then values.
    fn block_handles(&self, cache: &Cache, block: BlockId) -> Vec<Handle> {
        let bytes = cache.block_bytes() as u64;
        let after = (cache.blocks as u64 - 1 - u64::from(block.0)) * bytes;
        let of = |vector: &Vector| {
            vector.handle.clone().offset_start(u64::from(block.0) * bytes).offset_end(after)
        };
        cache.layers.iter().flat_map(|layer| [of(&layer.keys), of(&layer.values)]).collect()
    }
}

impl Cache {
    /// Bytes of a block's keys, or of its values, in one layer.
    fn block_bytes(&self) -> usize {
        block_bytes(self.kv_heads, self.head_size)
    }
}

fn block_bytes(kv_heads: usize, head_size: usize) -> usize {
    2 * kv_heads * BLOCK_TOKENS * head_size
}

impl Clone for Gpu {
    /// Shares the device.
    fn clone(&self) -> Self {
        Self::with(self.slot.clone(), self.device.clone())
    }
}

impl Backend for Gpu {
    type Matrix = Matrix;
    type Vector = Vector;
    type Buffer = Buffer;
    type Cache = Cache;

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix, Error> {
        let columns = parts[0].columns;
        assert!(parts.iter().all(|part| part.columns == columns), "stacked tensors have equal columns");
        let same = |a: &Tensor<'_>, b: &Tensor<'_>| a.dtype == b.dtype;
        let parts = parts.chunk_by(same).map(|tensors| self.upload(tensors, false));
        let parts = parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        Ok(Matrix { columns, parts, is_gated: false })
    }

    fn gated_matrix(&self, gate: &Tensor<'_>, up: &Tensor<'_>) -> Result<Matrix, Error> {
        assert_eq!((gate.rows, gate.columns), (up.rows, up.columns), "gate and up pair row by row");
        let parts = if gate.dtype == up.dtype {
            self.upload(&[*gate, *up], true)?
        } else {
            // No file is known to do this; the kernel multiplies pairs of one format.
            let bytes = [gate, up].map(|tensor| to_f32_bytes(tensor.dtype, tensor.bytes));
            let gate = Tensor { dtype: DType::F32, bytes: &bytes[0], ..*gate };
            let up = Tensor { dtype: DType::F32, bytes: &bytes[1], ..*up };
            self.upload(&[gate, up], true)?
        };
        Ok(Matrix { columns: gate.columns, parts, is_gated: true })
    }

    fn layout(&self) -> Option<String> {
        Some(format!("gpu-{}", weights::LAYOUT))
    }

    fn parts(&self, matrix: &Matrix) -> Vec<ready::Part> {
        let sets = if matrix.is_gated { 2 } else { 1 };
        let read = matrix.parts.iter().map(|part| {
            let Part { dtype, rows, .. } = *part;
            let bytes = self.read_part(part)?;
            Ok(ready::Part { dtype, rows: sets * rows, columns: matrix.columns, bytes })
        });
        read.collect::<Result<_, Error>>().unwrap_or_else(|error| {
            // Nothing is kept then, and the next wake makes it from the file.
            tracing::warn!(%error, "can't read weights back");
            Vec::new()
        })
    }

    fn matrix_of(&self, parts: Vec<ready::Part>, gated: bool) -> Result<Matrix, Error> {
        let columns = parts.first().map_or(0, |part| part.columns);
        let sets = if gated { 2 } else { 1 };
        let upload = |part: &ready::Part| {
            let words = part.rows * Layout::of(part.dtype).row(columns);
            if part.columns != columns || part.bytes.len() != 4 * words || !part.rows.is_multiple_of(sets) {
                let len = part.bytes.len();
                return Err(Error::Invalid(format!("{len} bytes are no {} rows of {columns}", part.rows)));
            }
            let (handle, unkept) = (self.device.upload(&part.bytes)?, Mutex::new(None));
            Ok(Part { handle, words, dtype: part.dtype, rows: part.rows / sets, unkept })
        };
        let parts: Vec<_> = parts.iter().map(upload).collect::<Result<_, _>>()?;
        if parts.is_empty() {
            return Err(Error::Invalid("no parts make no matrix".into()));
        }
        self.device.glance_at_memory()?;
        Ok(Matrix { columns, parts, is_gated: gated })
    }

    fn kernel_rows(&self) -> &'static [usize] {
        &linear::KERNEL_ROWS
    }

    fn has_memory_of_its_own(&self) -> bool {
        true
    }

    fn trim(&self) {
        self.device.trim();
    }

    fn check_memory(&self) -> Result<(), Error> {
        self.device.check_memory()
    }

    fn is_lost(&self) -> bool {
        self.device.is_lost()
    }

    fn row_bytes(&self, dtype: DType, columns: usize) -> usize {
        4 * Layout::of(dtype).row(columns)
    }

    fn recover(&mut self) -> Result<(), Error> {
        self.device = self.slot.recover()?;
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Error> {
        match self.clock {
            Some(_) => self.read_all(Vec::new()).map(drop),
            None => self.device.sync(),
        }
    }

    fn clock(&self) -> Arc<StepClock> {
        self.took.clone()
    }

    fn vector(&self, parts: &[Tensor<'_>]) -> Result<Vector, Error> {
        let mut values = Vec::new();
        for part in parts {
            let start = values.len();
            values.resize(start + part.rows * part.columns, 0.0);
            dequantize(part.dtype, part.bytes, &mut values[start..]);
        }
        Ok(self.device.vector(&values))
    }

    fn buffer(&self, rows: usize, columns: usize) -> Result<Buffer, Error> {
        Ok(self.device.buffer(rows, columns))
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, Error> {
        let CacheShape { layers, kv_heads, head_size, blocks, .. } = shape;
        let bytes = blocks * block_bytes(kv_heads, head_size);
        let bytes_max = self.device.adapter().binding_bytes_max;
        if bytes as u64 > bytes_max {
            let reason =
                format!("{blocks} KV blocks have {bytes} bytes a layer, the device takes {bytes_max}");
            return Err(Error::Invalid(reason));
        }
        // What is in a block is not read before something was stored there.
        let vector = || self.device.uninitialized(bytes / 4);
        let layers = (0..layers).map(|_| Layer { keys: vector(), values: vector() }).collect();
        Ok(Cache { layers, kv_heads, head_size, blocks })
    }

    fn cache_layout(&self, _kv_type: KvType) -> Option<String> {
        let adapter = self.device.adapter();
        Some(format!("gpu-bf16-1-{}-{}", adapter.api, adapter.name))
    }

    fn read_block(&mut self, cache: &Cache, block: BlockId, into: &mut [u8]) -> Result<(), Error> {
        let handles = self.block_handles(cache, block);
        let read = self.device.read(handles)?;
        for (read, into) in read.iter().zip(into.chunks_exact_mut(cache.block_bytes())) {
            into.copy_from_slice(read);
        }
        Ok(())
    }

    fn write_block(&mut self, cache: &mut Cache, block: BlockId, from: &[u8]) -> Result<(), Error> {
        let handles = self.block_handles(cache, block);
        for (handle, from) in handles.iter().zip(from.chunks_exact(cache.block_bytes())) {
            self.device.client().write(handle, Bytes::from_bytes_vec(from.to_vec()));
        }
        Ok(())
    }

    fn block_bytes(&self, shape: CacheShape) -> usize {
        2 * shape.layers * block_bytes(shape.kv_heads, shape.head_size)
    }

    fn embed(&mut self, tokens: &[u32], table: &Matrix, scale: f32, x: &mut Buffer) {
        if let Some(clock) = self.clock.take() {
            // Of a step that failed.
            self.device.client().profile_abandon(clock);
        }
        self.clock = self.device.start_clock();
        let tokens = self.device.words(tokens.to_vec());
        elementwise::look_up(&self.device, &tokens, table, Lookup::Store, scale, x);
    }

    fn embed_add(&mut self, indices: &[u32], table: &Matrix, x: &mut Buffer) {
        let indices = self.device.words(indices.to_vec());
        elementwise::look_up(&self.device, &indices, table, Lookup::Add, 1.0, x);
    }

    fn norm_linear(
        &mut self,
        rows: StepRows,
        x: &Buffer,
        norm: Option<Norm<'_, Vector>>,
        w: &Matrix,
        bias: Option<&Vector>,
        y: &mut Buffer,
    ) {
        let rows = rows.total();
        self.multiply(x, rows, norm, |x, norm, device| {
            Linear { x, rows, sources: None, norm, w, bias, finish: Finish::Store, y }.run(device);
        });
    }

    fn rope_store(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        norms: Option<HeadNorms<'_, Vector>>,
        rope: &Rope,
        qkv: &mut Buffer,
        cache: &mut Cache,
    ) {
        self.steps.prepare(&self.device, batch);
        let angles = &self.steps.angles(&self.device, rope);
        RopeStore { step: self.steps.step(), layer, heads, norms, rope, angles, qkv, cache }
            .run(&self.device);
    }

    fn attention(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        qkv: &Buffer,
        cache: &Cache,
        out: &mut Buffer,
    ) {
        self.steps.prepare(&self.device, batch);
        let parts = self.steps.parts(&self.device, heads);
        Attention { step: self.steps.step(), parts, layer, heads, qkv, cache, out }.run(&self.device);
    }

    fn rope_attention(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        norms: Option<HeadNorms<'_, Vector>>,
        rope: &Rope,
        qkv: &mut Buffer,
        cache: &mut Cache,
        out: &mut Buffer,
    ) {
        self.steps.prepare(&self.device, batch);
        if !self.steps.step().is_alone || !self.device.units().fuses_rope {
            self.rope_store(batch, layer, heads, norms, rope, qkv, cache);
            return self.attention(batch, layer, heads, qkv, cache, out);
        }
        let angles = &self.steps.angles(&self.device, rope);
        let parts = self.steps.parts(&self.device, heads);
        let rope = RopeStore { step: self.steps.step(), layer, heads, norms, rope, angles, qkv, cache };
        RopeAttention { rope, parts, out }.run(&self.device);
    }

    fn linear_add(&mut self, rows: StepRows, a: &Buffer, w: &Matrix, x: &mut Buffer) {
        let (rows, finish) = (rows.total(), Finish::Add);
        Linear { x: a, rows, sources: None, norm: None, w, bias: None, finish, y: x }.run(&self.device);
    }

    fn norm_gated_linear(
        &mut self,
        rows: StepRows,
        x: &Buffer,
        norm: Option<Norm<'_, Vector>>,
        gate_up: &Matrix,
        activation: Activation,
        h: &mut Buffer,
    ) {
        let (rows, finish) = (rows.total(), Finish::Gate(activation));
        self.multiply(x, rows, norm, |x, norm, device| {
            Linear { x, rows, sources: None, norm, w: gate_up, bias: None, finish, y: h }.run(device);
        });
    }

    fn norm_logits(&mut self, rows: &[u32], x: &Buffer, norm: Norm<'_, Vector>, w: &Matrix, y: &mut Buffer) {
        assert!(rows.iter().all(|row| (*row as usize) < x.rows), "rows of the activations");
        let sources = self.device.words(rows.to_vec());
        let (count, all) = (rows.len(), 1 + rows.iter().max().map_or(0, |row| *row as usize));
        self.multiply(x, all, Some(norm), |x, norm, device| {
            let sources = Some(&sources);
            Linear { x, rows: count, sources, norm, w, bias: None, finish: Finish::Store, y }.run(device);
        });
    }

    fn top(&mut self, logits: &Buffer, rows: usize, count: usize) -> Result<Option<Vec<Top>>, Error> {
        let found = top::find(&self.device, logits, rows, count);
        let bytes = self.read_all(vec![found.handle])?.remove(0);
        let words: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
        Ok(top::taken(&words, count))
    }

    fn norm(&mut self, rows: usize, x: &Buffer, norm: Norm<'_, Vector>, y: &mut Buffer) {
        elementwise::norm(&self.device, rows, x, (norm.gain, None, norm.epsilon), Normed::Store, y);
    }

    fn norm_add(&mut self, rows: usize, y: &Buffer, norm: Norm<'_, Vector>, x: &mut Buffer) {
        elementwise::norm(&self.device, rows, y, (norm.gain, None, norm.epsilon), Normed::Add, x);
    }

    fn add_layer_norm(
        &mut self,
        rows: usize,
        y: Option<&Buffer>,
        norm: LayerNorm<'_, Vector>,
        x: &mut Buffer,
    ) {
        let norm = (norm.gain, Some(norm.bias), norm.epsilon);
        match y {
            Some(y) => elementwise::norm(&self.device, rows, y, norm, Normed::AddLayer, x),
            None => elementwise::layer_norm(&self.device, rows, norm, x),
        }
    }

    fn activate(&mut self, rows: usize, activation: Activation, x: &mut Buffer) {
        elementwise::activate(&self.device, rows, activation, x);
    }

    fn read<'a>(&'a mut self, buffer: &'a Buffer, rows: usize) -> Result<&'a [f32], Error> {
        let rest = 4 * ((buffer.rows - rows) * buffer.columns) as u64;
        let handle = buffer.handle.clone().offset_end(rest);
        let bytes = self.read_all(vec![handle])?.remove(0);
        self.host.clear();
        self.host.extend(bytes.chunks_exact(4).map(|bytes| f32::from_bits(word(bytes))));
        Ok(&self.host)
    }
}

/// Four bytes of the device's.
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
