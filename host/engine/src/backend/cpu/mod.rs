//! The CPU backend.
//!
//! Weights are repacked when they are loaded (`format` draws the layout), activations are quantised
//! to 8 bits per 32 (`rows`), and one matrix kernel (`weights`, `linear`) serves every number of rows. On
//! a matrix unit, the rows of prompts are multiplied in bf16 instead (`wide`).
//! `rope` fills the KV cache (`cache`), `attention` reads it. All of it is written once over vectors of
//! 16 lanes (`simd`) and runs on the threads of `pool`.

mod attention;
mod cache;
mod elementwise;
mod format;
mod linear;
mod math;
pub mod measure;
mod memory;
mod panels;
#[expect(unsafe_code, reason = "a job's closure is shared with threads that outlive it")]
mod pool;
mod rope;
mod rows;
mod simd;
mod split;
mod weights;
mod wide;

use std::{cell::Cell, sync::Arc};

use super::{
    Activation, Backend, Batch, BlockId, CacheShape, DType, HeadNorms, Heads, LayerNorm, Norm, Rope,
    StepRows, Tensor,
};
use crate::{
    Error, KvType,
    quant::{dequantize, to_f32_bytes},
    ready::Part,
};
use attention::Attention;
pub(crate) use cache::Cache;
use linear::{Finish, Output};
use memory::Floats;
use panels::Panels;
use pool::Pool;
use rope::RopeStore;
use rows::{Forms, Rows, Source};
#[cfg(test)]
pub(crate) use simd::Isa as InstructionSet;
pub(crate) use simd::Isa;

/// The CPU: an instruction set and some threads.
pub(crate) struct Cpu {
    isa: Isa,
    pool: Arc<Pool>,
    sizes: Cell<Sizes>,
    rows: Rows,
    /// Of a table.
    row: Vec<f32>,
    angles: rope::Angles,
    attention: attention::Scratch,
}

/// What scratch must hold.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    rows: usize,
    quantized_columns: usize,
    float_columns: usize,
}

/// Stacked rows, or the gate and up halves of a gated layer.
pub(crate) struct Matrix {
    parts: Vec<Panels>,
    gated: bool,
}

/// `[rows, columns]` f32.
pub(crate) struct Buffer {
    rows: usize,
    columns: usize,
    values: Floats,
}

impl Cpu {
    /// The best instruction set of this machine on `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> Self {
        let isa = Isa::available()[0];
        tracing::debug!(isa = isa.name(), threads, "cpu backend");
        Self::with_isa(isa, threads)
    }

    /// A given instruction set.
    pub(crate) fn with_isa(isa: Isa, threads: usize) -> Self {
        Self::on(isa, Arc::new(Pool::new(threads)))
    }

    fn on(isa: Isa, pool: Arc<Pool>) -> Self {
        Self {
            isa,
            pool,
            sizes: Cell::default(),
            rows: Rows::default(),
            row: Vec::new(),
            angles: rope::Angles::default(),
            attention: attention::Scratch::default(),
        }
    }

    /// Normalises and quantises rows for a matrix.
    fn prepare(&mut self, counts: StepRows, source: Source<'_>, w: &Matrix) {
        let forms = w.forms();
        let sizes = self.sizes.get();
        self.rows.reserve(sizes.rows, sizes.quantized_columns, sizes.float_columns);
        self.rows.prepare(self.isa, &self.pool, counts, source, forms);
    }

    /// Multiplies the prepared rows with every part of a matrix.
    fn multiply(&self, w: &Matrix, finish: Finish<'_>, y: &mut Buffer) {
        assert!(!w.gated, "a gated matrix has an operation of its own");
        let mut first = 0;
        for part in &w.parts {
            let finish = match finish {
                Finish::Store(Some(bias)) => Finish::Store(Some(&bias[first..first + part.rows()])),
                other => other,
            };
            linear::linear(self.isa, &self.pool, &self.rows, part, finish, first, &mut y.output());
            first += part.rows();
        }
    }
}

impl Clone for Cpu {
    /// Shares the threads.
    fn clone(&self) -> Self {
        let clone = Self::on(self.isa, Arc::clone(&self.pool));
        clone.sizes.set(self.sizes.get());
        clone
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Buffer = Buffer;
    type Cache = Cache;

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix, Error> {
        let columns = parts[0].columns;
        assert!(parts.iter().all(|part| part.columns == columns), "stacked tensors have equal columns");
        // Tensors of one format are one run of panels, unless that left a gap of rows in a panel.
        let joins = |a: &Tensor<'_>, b: &Tensor<'_>| a.dtype == b.dtype && a.rows.is_multiple_of(simd::LANES);
        let parts = parts.chunk_by(joins).map(Panels::pack).collect::<Result<_, _>>()?;
        let matrix = Matrix { parts, gated: false };
        self.note(&matrix);
        Ok(matrix)
    }

    fn gated_matrix(&self, gate: &Tensor<'_>, up: &Tensor<'_>) -> Result<Matrix, Error> {
        assert_eq!((gate.rows, gate.columns), (up.rows, up.columns), "gate and up pair row by row");
        let parts = if gate.dtype == up.dtype {
            vec![Panels::pack(&[*gate])?, Panels::pack(&[*up])?]
        } else {
            // No file is known to do this; the kernel multiplies pairs of one format.
            vec![pack_as_f32(gate)?, pack_as_f32(up)?]
        };
        let matrix = Matrix { parts, gated: true };
        self.note(&matrix);
        Ok(matrix)
    }

    fn layout(&self) -> Option<String> {
        Some(format!("cpu-{}", panels::LAYOUT))
    }

    fn parts(&self, matrix: &Matrix) -> Vec<Part> {
        matrix.parts.iter().map(Panels::part).collect()
    }

    fn matrix_of(&self, parts: Vec<Part>, gated: bool) -> Result<Matrix, Error> {
        let parts: Vec<_> = parts.into_iter().map(Panels::of_part).collect::<Result<_, _>>()?;
        let is_even = parts.windows(2).all(|two| {
            let alike = |panels: &Panels| (panels.rows(), panels.dtype());
            two[0].columns() == two[1].columns() && (!gated || alike(&two[0]) == alike(&two[1]))
        });
        if parts.is_empty() || !is_even || gated && parts.len() != 2 {
            return Err(Error::Invalid(format!("{} parts make no matrix", parts.len())));
        }
        let matrix = Matrix { parts, gated };
        self.note(&matrix);
        Ok(matrix)
    }

    fn vector(&self, parts: &[Tensor<'_>]) -> Result<Vec<f32>, Error> {
        let mut vector = Vec::new();
        for part in parts {
            let start = vector.len();
            vector.resize(start + part.rows * part.columns, 0.0);
            dequantize(part.dtype, part.bytes, &mut vector[start..]);
        }
        Ok(vector)
    }

    fn buffer(&self, rows: usize, columns: usize) -> Result<Buffer, Error> {
        let sizes = self.sizes.get();
        self.sizes.set(Sizes { rows: sizes.rows.max(rows), ..sizes });
        Ok(Buffer { rows, columns, values: Floats::zeroed(rows, columns)? })
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, Error> {
        Cache::new(shape)
    }

    fn cache_layout(&self, kv_type: KvType) -> Option<String> {
        Some(format!("cpu-{}-{}", cache::layout_name(kv_type), self.isa.name()))
    }

    fn read_block(&mut self, cache: &Cache, block: BlockId, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(cache.block(block));
        Ok(())
    }

    fn write_block(&mut self, cache: &mut Cache, block: BlockId, from: &[u8]) -> Result<(), Error> {
        cache.block_mut(block).copy_from_slice(from);
        Ok(())
    }

    fn block_bytes(&self, shape: CacheShape) -> usize {
        cache::Layout::new(shape).block_bytes()
    }

    fn embed(&mut self, tokens: &[u32], table: &Matrix, scale: f32, x: &mut Buffer) {
        assert_eq!(table.columns(), x.columns, "columns of the table and of the rows");
        for (token, row) in tokens.iter().zip(x.values.chunks_exact_mut(x.columns)) {
            table.row(self.isa, *token as usize, row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn embed_add(&mut self, indices: &[u32], table: &Matrix, x: &mut Buffer) {
        assert_eq!(table.columns(), x.columns, "columns of the table and of the rows");
        let mut row = std::mem::take(&mut self.row);
        row.resize(x.columns, 0.0);
        for (index, x) in indices.iter().zip(x.values.chunks_exact_mut(x.columns)) {
            table.row(self.isa, *index as usize, &mut row);
            x.iter_mut().zip(&row).for_each(|(x, y)| *x += y);
        }
        self.row = row;
    }

    fn norm_linear(
        &mut self,
        rows: StepRows,
        x: &Buffer,
        norm: Option<Norm<'_, Vec<f32>>>,
        w: &Matrix,
        bias: Option<&Vec<f32>>,
        y: &mut Buffer,
    ) {
        self.prepare(rows, x.source(rows.total(), norm, None), w);
        self.multiply(w, Finish::Store(bias.map(Vec::as_slice)), y);
    }

    fn rope_store(
        &mut self,
        batch: Batch<'_>,
        layer: usize,
        heads: Heads,
        norms: Option<HeadNorms<'_, Vec<f32>>>,
        rope: &Rope,
        qkv: &mut Buffer,
        cache: &mut Cache,
    ) {
        check_heads(heads, qkv, cache);
        assert!(batch.positions.len() <= qkv.rows, "rows of the batch");
        assert!(2 * rope.frequencies.len() <= heads.size, "pairs of a head");
        self.angles.prepare(batch.positions, &rope.frequencies);
        let norms = norms.map(|norms| (norms.query.as_slice(), norms.key.as_slice(), norms.epsilon));
        let columns = qkv.columns;
        let all = RopeStore { batch, layer, heads, norms, rope, angles: &self.angles };
        all.run(self.isa, &self.pool, &mut qkv.values, columns, cache);
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
        check_heads(heads, qkv, cache);
        assert_eq!(out.columns, heads.query * heads.size, "columns of the output");
        assert!(batch.positions.len() <= out.rows.min(qkv.rows), "rows of the batch");
        let all = Attention { batch, layer, heads, qkv: &qkv.values, cache };
        all.run(self.isa, &self.pool, &mut self.attention, &mut out.values);
    }

    fn linear_add(&mut self, rows: StepRows, a: &Buffer, w: &Matrix, x: &mut Buffer) {
        self.prepare(rows, a.source(rows.total(), None, None), w);
        self.multiply(w, Finish::Add, x);
    }

    fn norm_gated_linear(
        &mut self,
        rows: StepRows,
        x: &Buffer,
        norm: Option<Norm<'_, Vec<f32>>>,
        gate_up: &Matrix,
        activation: Activation,
        h: &mut Buffer,
    ) {
        assert!(gate_up.gated, "the matrix has no gate");
        self.prepare(rows, x.source(rows.total(), norm, None), gate_up);
        let halves = [&gate_up.parts[0], &gate_up.parts[1]];
        linear::gated(self.isa, &self.pool, &self.rows, halves, activation, &mut h.output());
    }

    fn norm_logits(
        &mut self,
        rows: &[u32],
        x: &Buffer,
        norm: Norm<'_, Vec<f32>>,
        w: &Matrix,
        y: &mut Buffer,
    ) {
        let counts = StepRows::generated(rows.len());
        self.prepare(counts, x.source(x.rows, Some(norm), Some(rows)), w);
        self.multiply(w, Finish::Store(None), y);
    }

    fn norm(&mut self, rows: usize, x: &Buffer, norm: Norm<'_, Vec<f32>>, y: &mut Buffer) {
        assert!(x.columns == y.columns && rows <= x.rows.min(y.rows), "shapes of input and output");
        let rows = x.values.chunks_exact(x.columns).zip(y.values.chunks_exact_mut(x.columns)).take(rows);
        for (x, y) in rows {
            y.copy_from_slice(x);
            self.isa.run(elementwise::Normalize { row: y, gain: norm.gain, epsilon: norm.epsilon });
        }
    }

    fn norm_add(&mut self, rows: usize, y: &Buffer, norm: Norm<'_, Vec<f32>>, x: &mut Buffer) {
        assert!(x.columns == y.columns && rows <= x.rows.min(y.rows), "shapes of input and output");
        let rows = x.values.chunks_exact_mut(x.columns).zip(y.values.chunks_exact(x.columns)).take(rows);
        for (x, y) in rows {
            self.isa.run(elementwise::NormAdd { x, y, gain: norm.gain, epsilon: norm.epsilon });
        }
    }

    fn add_layer_norm(
        &mut self,
        rows: usize,
        y: Option<&Buffer>,
        norm: LayerNorm<'_, Vec<f32>>,
        x: &mut Buffer,
    ) {
        assert!(rows <= x.rows && y.is_none_or(|y| y.columns == x.columns && rows <= y.rows), "shapes");
        let columns = x.columns;
        for (t, x) in x.values.chunks_exact_mut(columns).enumerate().take(rows) {
            let y = y.map(|y| &y.values[t * columns..][..columns]);
            let LayerNorm { gain, bias, epsilon } = norm;
            self.isa.run(elementwise::AddLayerNorm { x, y, gain, bias, epsilon });
        }
    }

    fn activate(&mut self, rows: usize, activation: Activation, x: &mut Buffer) {
        let values = &mut x.values[..rows * x.columns];
        self.isa.run(elementwise::Activate { values, activation });
    }

    fn read<'a>(&'a mut self, buffer: &'a Buffer, rows: usize) -> Result<&'a [f32], Error> {
        Ok(&buffer.values[..rows * buffer.columns])
    }
}

impl Cpu {
    /// Keeps the sizes that scratch must have for a matrix.
    fn note(&self, matrix: &Matrix) {
        let mut sizes = self.sizes.get();
        let (columns, forms) = (matrix.columns(), matrix.forms());
        if forms.quantized {
            sizes.quantized_columns = sizes.quantized_columns.max(columns);
        }
        if forms.float {
            sizes.float_columns = sizes.float_columns.max(columns);
        }
        self.sizes.set(sizes);
    }
}

impl Matrix {
    /// Bytes in memory.
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.count() * part.panel_bytes()).sum()
    }

    fn columns(&self) -> usize {
        self.parts[0].columns()
    }

    /// Writes the weights of a row as f32.
    fn row(&self, isa: Isa, mut index: usize, out: &mut [f32]) {
        for part in &self.parts {
            if index < part.rows() {
                return part.row(isa, index, out);
            }
            index -= part.rows();
        }
        panic!("row lies {index} rows beyond the matrix");
    }

    /// The forms of activations that the parts are multiplied with.
    fn forms(&self) -> Forms {
        let forms = |of: fn(Forms) -> bool| self.parts.iter().any(|part| of(part.forms()));
        Forms { quantized: forms(|forms| forms.quantized), float: forms(|forms| forms.float) }
    }
}

impl Buffer {
    /// The first `rows` rows, normalised.
    fn source<'a>(
        &'a self,
        rows: usize,
        norm: Option<Norm<'a, Vec<f32>>>,
        gather: Option<&'a [u32]>,
    ) -> Source<'a> {
        assert!(rows <= self.rows, "{rows} rows of {}", self.rows);
        let norm = norm.map(|norm| {
            assert_eq!(norm.gain.len(), self.columns, "columns of the norm and of the rows");
            (norm.gain.as_slice(), norm.epsilon)
        });
        Source { x: &self.values, columns: self.columns, norm, gather }
    }

    fn output(&mut self) -> Output<'_> {
        Output { columns: self.columns, values: &mut self.values }
    }
}

fn check_heads(heads: Heads, qkv: &Buffer, cache: &Cache) {
    let shape = cache.shape();
    assert_eq!((heads.kv, heads.size), (shape.kv_heads, shape.head_size), "heads of the cache");
    assert!(heads.query.is_multiple_of(heads.kv), "query heads share key heads evenly");
    assert_eq!(qkv.columns, (heads.query + 2 * heads.kv) * heads.size, "columns of q, k and v");
}

fn pack_as_f32(tensor: &Tensor<'_>) -> Result<Panels, Error> {
    let bytes = to_f32_bytes(tensor.dtype, tensor.bytes);
    Panels::pack(&[Tensor { dtype: DType::F32, bytes: &bytes, ..*tensor }])
}
