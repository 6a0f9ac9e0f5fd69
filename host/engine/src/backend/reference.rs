//! Every operation as plain loops over dequantised rows in f32: what the fast backends are compared
//! with. One thread; it allocates its scratch as it goes.

use super::{
    Activation, BLOCK_TOKENS, Backend, Batch, BlockId, CacheShape, DType, HeadNorms, Heads, LayerNorm, Norm,
    Rope, RopePairs, StepRows, Tensor,
};
use crate::{Error, quant::dequantize};

/// The plain backend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reference;

/// Tensors stacked along `N`, as in the file.
#[derive(Debug)]
pub(crate) struct Matrix {
    columns: usize,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    dtype: DType,
    rows: usize,
    bytes: Vec<u8>,
}

/// `[rows, columns]` f32.
#[derive(Debug)]
pub(crate) struct Buffer {
    columns: usize,
    values: Vec<f32>,
}

/// `[block][layer][kv head][position][D]` f32, keys and values apart.
#[derive(Debug)]
pub(crate) struct Cache {
    shape: CacheShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Backend for Reference {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Buffer = Buffer;
    type Cache = Cache;

    fn matrix(&self, parts: &[Tensor<'_>]) -> Result<Matrix, Error> {
        let columns = parts[0].columns;
        assert!(parts.iter().all(|part| part.columns == columns), "stacked tensors have equal columns");
        let part = |t: &Tensor<'_>| Part { dtype: t.dtype, rows: t.rows, bytes: t.bytes.to_vec() };
        Ok(Matrix { columns, parts: parts.iter().map(part).collect() })
    }

    fn gated_matrix(&self, gate: &Tensor<'_>, up: &Tensor<'_>) -> Result<Matrix, Error> {
        assert_eq!(gate.rows, up.rows, "gate and up pair row by row");
        self.matrix(&[*gate, *up])
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
        Ok(Buffer { columns, values: zeros(rows * columns)? })
    }

    fn cache(&self, shape: CacheShape) -> Result<Cache, Error> {
        let floats = shape.blocks * shape.layers * shape.kv_heads * BLOCK_TOKENS * shape.head_size;
        Ok(Cache { shape, keys: zeros(floats)?, values: zeros(floats)? })
    }

    fn block_bytes(&self, shape: CacheShape) -> usize {
        2 * size_of::<f32>() * shape.layers * shape.kv_heads * BLOCK_TOKENS * shape.head_size
    }

    fn embed(&mut self, tokens: &[u32], table: &Matrix, scale: f32, x: &mut Buffer) {
        assert_eq!(table.columns, x.columns);
        for (t, &token) in tokens.iter().enumerate() {
            let row = x.row_mut(t);
            table.dequantize_row(token as usize, row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
    }

    fn embed_add(&mut self, indices: &[u32], table: &Matrix, x: &mut Buffer) {
        let mut row = vec![0.0; table.columns];
        for (t, &index) in indices.iter().enumerate() {
            table.dequantize_row(index as usize, &mut row);
            x.row_mut(t).iter_mut().zip(&row).for_each(|(x, y)| *x += y);
        }
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
        let x = normalized(x, 0..rows.total(), norm.as_ref());
        linear(&x, w, |t, n, sum| y.row_mut(t)[n] = sum + bias.map_or(0.0, |bias| bias[n]));
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
        let size = heads.size;
        for span in batch.spans {
            let blocks = &batch.blocks[span.blocks.clone()];
            for t in span.rows.clone() {
                let position = batch.positions[t];
                let (q, kv) = qkv.row_mut(t).split_at_mut(heads.query * size);
                let (k, v) = kv.split_at_mut(heads.kv * size);
                if let Some(norms) = &norms {
                    q.chunks_mut(size).for_each(|head| rms_norm(head, norms.query, norms.epsilon));
                    k.chunks_mut(size).for_each(|head| rms_norm(head, norms.key, norms.epsilon));
                }
                q.chunks_mut(size).chain(k.chunks_mut(size)).for_each(|head| rotate(head, position, rope));
                for (head, (k, v)) in k.chunks(size).zip(v.chunks(size)).enumerate() {
                    let at = cache.offset(blocks, layer, head, position as usize);
                    cache.keys[at..at + size].copy_from_slice(k);
                    cache.values[at..at + size].copy_from_slice(v);
                }
            }
        }
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
        let size = heads.size;
        for span in batch.spans {
            let blocks = &batch.blocks[span.blocks.clone()];
            for t in span.rows.clone() {
                let last = if heads.causal { t } else { span.rows.end - 1 };
                let end = batch.positions[last] as usize + 1;
                let start = heads.window.map_or(0, |window| end.saturating_sub(window));
                let queries = qkv.row(t).chunks(size).take(heads.query);
                for (head, (q, out)) in queries.zip(out.row_mut(t).chunks_mut(size)).enumerate() {
                    let kv_head = head / (heads.query / heads.kv);
                    let offset = |position| cache.offset(blocks, layer, kv_head, position);
                    let mut weights: Vec<f32> = (start..end)
                        .map(|position| heads.scale * dot(q, &cache.keys[offset(position)..][..size]))
                        .collect();
                    softmax(&mut weights);
                    out.fill(0.0);
                    for (position, weight) in (start..end).zip(weights) {
                        let v = &cache.values[offset(position)..][..size];
                        out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * v);
                    }
                }
            }
        }
    }

    fn linear_add(&mut self, rows: StepRows, a: &Buffer, w: &Matrix, x: &mut Buffer) {
        let a: Vec<&[f32]> = (0..rows.total()).map(|t| a.row(t)).collect();
        linear(&a, w, |t, n, sum| x.row_mut(t)[n] += sum);
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
        let x = normalized(x, 0..rows.total(), norm.as_ref());
        let half = gate_up.parts[0].rows;
        // Gate's rows come first, so each is there when its partner multiplies it.
        linear(&x, gate_up, |t, n, sum| match n.checked_sub(half) {
            None => h.row_mut(t)[n] = activate(activation, sum),
            Some(n) => h.row_mut(t)[n] *= sum,
        });
    }

    fn norm_logits(
        &mut self,
        rows: &[u32],
        x: &Buffer,
        norm: Norm<'_, Vec<f32>>,
        w: &Matrix,
        y: &mut Buffer,
    ) {
        let x = normalized(x, rows.iter().map(|&row| row as usize), Some(&norm));
        linear(&x, w, |t, n, sum| y.row_mut(t)[n] = sum);
    }

    fn norm(&mut self, rows: usize, x: &Buffer, norm: Norm<'_, Vec<f32>>, y: &mut Buffer) {
        for (t, row) in normalized(x, 0..rows, Some(&norm)).into_iter().enumerate() {
            y.row_mut(t).copy_from_slice(&row);
        }
    }

    fn norm_add(&mut self, rows: usize, y: &Buffer, norm: Norm<'_, Vec<f32>>, x: &mut Buffer) {
        for (t, row) in normalized(y, 0..rows, Some(&norm)).into_iter().enumerate() {
            x.row_mut(t).iter_mut().zip(row).for_each(|(x, y)| *x += y);
        }
    }

    fn add_layer_norm(
        &mut self,
        rows: usize,
        y: Option<&Buffer>,
        norm: LayerNorm<'_, Vec<f32>>,
        x: &mut Buffer,
    ) {
        for t in 0..rows {
            let row = x.row_mut(t);
            if let Some(y) = y {
                row.iter_mut().zip(y.row(t)).for_each(|(x, y)| *x += y);
            }
            let count = row.len() as f32;
            let mean = row.iter().sum::<f32>() / count;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
            let factor = 1.0 / (variance + norm.epsilon).sqrt();
            for ((x, gain), bias) in row.iter_mut().zip(norm.gain).zip(norm.bias) {
                *x = (*x - mean) * factor * gain + bias;
            }
        }
    }

    fn activate(&mut self, rows: usize, activation: Activation, x: &mut Buffer) {
        (0..rows).for_each(|t| x.row_mut(t).iter_mut().for_each(|x| *x = activate(activation, *x)));
    }

    fn read<'a>(&'a mut self, buffer: &'a Buffer, rows: usize) -> Result<&'a [f32], Error> {
        Ok(&buffer.values[..rows * buffer.columns])
    }
}

/// Numbers, unless the system has no memory for them.
fn zeros(count: usize) -> Result<Vec<f32>, Error> {
    let mut zeros = Vec::new();
    let reserved = zeros.try_reserve_exact(count);
    reserved.map_err(|_| Error::no_memory_for(count.saturating_mul(size_of::<f32>())))?;
    zeros.resize(count, 0.0);
    Ok(zeros)
}

impl Matrix {
    fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        let mut row = row;
        for part in &self.parts {
            if row < part.rows {
                let bytes = part.dtype.bytes(self.columns);
                return dequantize(part.dtype, &part.bytes[row * bytes..][..bytes], out);
            }
            row -= part.rows;
        }
        panic!("row lies {row} rows beyond the matrix");
    }

    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }
}

impl Buffer {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..][..self.columns]
    }
}

impl Cache {
    /// Where the key and the value of a position start.
    fn offset(&self, blocks: &[BlockId], layer: usize, head: usize, position: usize) -> usize {
        let CacheShape { layers, kv_heads, head_size, .. } = self.shape;
        let block = blocks[position / BLOCK_TOKENS].0 as usize;
        (((block * layers + layer) * kv_heads + head) * BLOCK_TOKENS + position % BLOCK_TOKENS) * head_size
    }
}

/// Calls `put(t, n, sum_k x[t,k] * w[n,k])` for every `n`, ascending, and every `t`.
fn linear(x: &[impl AsRef<[f32]>], w: &Matrix, mut put: impl FnMut(usize, usize, f32)) {
    let mut row = vec![0.0; w.columns];
    for n in 0..w.rows() {
        w.dequantize_row(n, &mut row);
        for (t, x) in x.iter().enumerate() {
            put(t, n, dot(x.as_ref(), &row));
        }
    }
}

/// `a·b` in 16 partial sums, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0; 16];
    for (a, b) in a.zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

fn normalized(
    x: &Buffer,
    rows: impl IntoIterator<Item = usize>,
    norm: Option<&Norm<'_, Vec<f32>>>,
) -> Vec<Vec<f32>> {
    let normalize = |row| {
        let mut row = x.row(row).to_vec();
        if let Some(norm) = norm {
            rms_norm(&mut row, norm.gain, norm.epsilon);
        }
        row
    };
    rows.into_iter().map(normalize).collect()
}

fn rms_norm(x: &mut [f32], gain: &[f32], epsilon: f32) {
    assert_eq!(x.len(), gain.len());
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt();
    x.iter_mut().zip(gain).for_each(|(x, gain)| *x *= scale * gain);
}

fn rotate(head: &mut [f32], position: u32, rope: &Rope) {
    let half = rope.frequencies.len();
    for (i, frequency) in rope.frequencies.iter().enumerate() {
        let (a, b) = match rope.pairs {
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
            RopePairs::Halves => (i, i + half),
        };
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}

fn softmax(weights: &mut [f32]) {
    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    weights.iter_mut().for_each(|weight| *weight = (*weight - max).exp());
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => (0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / 2f64.sqrt()))) as f32,
    }
}

/// `2/sqrt(pi) * integral from 0 to x of exp(-t^2)`, by its Taylor series where that converges fast.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    std::f64::consts::FRAC_2_SQRT_PI * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvType;
    use crate::backend::Span;

    fn f32_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn matrix(rows: usize, columns: usize, values: &[f32]) -> Matrix {
        let bytes = f32_bytes(values);
        Reference.matrix(&[Tensor { name: "w", dtype: DType::F32, rows, columns, bytes: &bytes }]).unwrap()
    }

    fn buffer(columns: usize, values: &[f32]) -> Buffer {
        Buffer { columns, values: values.to_vec() }
    }

    #[track_caller]
    fn check(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(found.iter().zip(expected).all(is_near), "{found:?} is not {expected:?}");
    }

    #[test]
    fn a_linear_layer_normalises_multiplies_and_adds_its_bias() {
        let (x, mut y) = (buffer(2, &[3.0, 4.0, 0.0, 2.0]), buffer(3, &[0.0; 6]));
        let w = matrix(3, 2, &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let norm = Norm { gain: &vec![1.0, 0.5], epsilon: 0.0 };
        Reference.norm_linear(
            StepRows::generated(2),
            &x,
            Some(norm),
            &w,
            Some(&vec![0.0, 0.0, 10.0]),
            &mut y,
        );
        let (a, b) = (3.0 / 12.5f32.sqrt(), 2.0 / 12.5f32.sqrt());
        check(&y.values, &[a, b, a + b + 10.0, 0.0, 0.5 * 2f32.sqrt(), 0.5 * 2f32.sqrt() + 10.0]);
    }

    #[test]
    fn a_gated_layer_multiplies_the_activated_gate_with_up() {
        let (x, mut h) = (buffer(2, &[1.0, -1.0]), buffer(1, &[0.0]));
        let bytes = f32_bytes(&[2.0, 0.0, 0.0, 3.0]);
        let tensor = |n: usize| Tensor {
            name: "w",
            dtype: DType::F32,
            rows: 1,
            columns: 2,
            bytes: &bytes[8 * n..][..8],
        };
        let w = Reference.gated_matrix(&tensor(0), &tensor(1)).unwrap();
        let norm = Norm { gain: &vec![1.0, 1.0], epsilon: 0.0 };
        Reference.norm_gated_linear(StepRows::generated(1), &x, Some(norm), &w, Activation::Silu, &mut h);
        check(&h.values, &[2.0 / (1.0 + (-2f32).exp()) * -3.0]);
    }

    #[test]
    fn both_pairings_turn_by_position_times_frequency() {
        let turn = |pairs, head: &[f32]| {
            let mut head = head.to_vec();
            rotate(&mut head, 3, &Rope { pairs, frequencies: vec![std::f32::consts::FRAC_PI_6, 0.0] });
            head
        };
        check(&turn(RopePairs::Adjacent, &[1.0, 2.0, 3.0, 4.0, 5.0]), &[-2.0, 1.0, 3.0, 4.0, 5.0]);
        check(&turn(RopePairs::Halves, &[1.0, 2.0, 3.0, 4.0, 5.0]), &[-3.0, 2.0, 1.0, 4.0, 5.0]);
    }

    /// Attention of one head of size 1, all keys equal, so that it averages the values it sees.
    fn average(values: &[f32], window: Option<usize>) -> Vec<f32> {
        let rows = values.len();
        let heads = Heads { query: 1, kv: 1, size: 1, scale: 1.0, window, causal: true };
        let rope = Rope { pairs: RopePairs::Adjacent, frequencies: vec![] };
        let qkv: Vec<f32> = values.iter().flat_map(|v| [1.0, 1.0, *v]).collect();
        let (mut qkv, mut out) = (buffer(3, &qkv), buffer(1, &vec![0.0; rows]));
        let shape = CacheShape { layers: 1, kv_heads: 1, head_size: 1, blocks: 3, kv_type: KvType::Bf16 };
        let mut cache = Reference.cache(shape).unwrap();
        let batch = Batch {
            tokens: &vec![0; rows],
            positions: &(0..rows as u32).collect::<Vec<_>>(),
            spans: &[Span { rows: 0..rows, blocks: 0..2 }],
            blocks: &[BlockId(2), BlockId(0)],
            generated: 0,
        };
        Reference.rope_store(batch, 0, heads, None, &rope, &mut qkv, &mut cache);
        Reference.attention(batch, 0, heads, &qkv, &cache, &mut out);
        out.values
    }

    #[test]
    fn a_query_sees_itself_and_what_came_before_within_its_window() {
        check(&average(&[2.0, 4.0, 9.0], None), &[2.0, 3.0, 5.0]);
        check(&average(&[2.0, 4.0, 9.0], Some(2)), &[2.0, 3.0, 6.5]);
        let ramp: Vec<f32> = (0..20).map(|i| i as f32).collect();
        check(&average(&ramp, None), &ramp.iter().map(|i| i / 2.0).collect::<Vec<_>>());
    }
}
