//! What is done to rows one by one: embeddings, norms, activations.

use cubecl_core::{
    self as cubecl,
    prelude::{Vector as Wide, *},
};

use super::{
    device::Device,
    memory::{Buffer, Matrix, Part, Vector},
    weights::{GROUP, Layout, OCTET, decode, group_at, sections},
};
use crate::{backend::Activation, quant::DType};

/// Units that share a row.
const UNITS: usize = 32;

/// What is done with a row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lookup {
    /// `x = scale * row`.
    Store,
    /// `x += row`.
    Add,
}

/// Rows of a table, by index.
pub(super) fn look_up(
    device: &Device,
    indices: &Vector,
    table: &Matrix,
    lookup: Lookup,
    scale: f32,
    x: &Buffer,
) {
    assert_eq!(table.columns, x.columns, "columns of the table and of the rows");
    assert!(indices.len <= x.rows, "{} rows of {}", indices.len, x.rows);
    let mut first = 0;
    for part in &table.parts {
        look_up_part(device, indices, part, first, lookup, scale, x);
        first += part.rows;
    }
}

fn look_up_part(
    device: &Device,
    indices: &Vector,
    part: &Part,
    first: usize,
    lookup: Lookup,
    scale: f32,
    x: &Buffer,
) {
    let octets = x.columns.div_ceil(OCTET).div_ceil(UNITS) as u32;
    device.count();
    // SAFETY: `look_up` checked the shapes; indices beyond a part's rows are passed over.
    unsafe {
        embed::launch_unchecked(
            device.client(),
            CubeCount::Static(octets, indices.len as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            indices.argument(),
            part.argument(),
            x.argument(),
            x.columns as u32,
            first as u32,
            part.rows as u32,
            scale,
            part.dtype,
            Layout::of(part.dtype),
            lookup,
        );
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn embed(
    indices: &[u32],
    w: &[u32],
    x: &mut [f32],
    columns: u32,
    first: u32,
    part_rows: u32,
    scale: f32,
    #[comptime] dtype: DType,
    #[comptime] layout: Layout,
    #[comptime] lookup: Lookup,
) {
    let columns = columns as usize;
    let row = CUBE_POS_Y as usize;
    let index = indices[row];
    let octet = ABSOLUTE_POS_X as usize;
    if index >= first && index < first + part_rows && octet * 8 < columns {
        let group = octet / 4;
        let sections = sections(columns, layout);
        let mut rows = Array::<usize>::new(1usize);
        rows[0] = (index - first) as usize * sections.row;
        let of = group_at::<Const<1>>(w, &rows, &sections, group, 0usize, 1usize, dtype, layout);
        let at = rows[0] + sections.numbers + octet * comptime!(layout.octet());
        let mut words = Array::<Wide<u32, Const<1>>>::new(comptime!(layout.octet()));
        #[unroll]
        for i in 0..comptime!(layout.octet()) {
            words[i] = Wide::<u32, Const<1>>::new(w[at + i]);
        }
        let mut weights = Array::<Wide<f32, Const<1>>>::new(8usize);
        decode::<Const<1>>(&words, 0usize, octet % 4, &of, &mut weights, 0usize, dtype);
        #[unroll]
        for j in 0..8usize {
            let column = octet * 8 + j;
            if column < columns {
                let at = row * columns + column;
                if comptime!(lookup == Lookup::Add) {
                    x[at] += weights[j].extract(0usize);
                } else {
                    x[at] = scale * weights[j].extract(0usize);
                }
            }
        }
    }
}

/// What a norm makes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Normed {
    /// `y = rms(x)`.
    Store,
    /// `y += rms(x)`.
    Add,
    /// `y = layer(y)`.
    Layer,
    /// `y = layer(y + x)`.
    AddLayer,
}

/// Norms of `rows` rows of `x` into `y`; of a layer norm, `bias` is added. An RMSNorm has none.
pub(super) fn norm(
    device: &Device,
    rows: usize,
    x: &Buffer,
    (gain, bias, epsilon): (&Vector, Option<&Vector>, f32),
    normed: Normed,
    y: &Buffer,
) {
    assert!(x.columns == y.columns && rows <= x.rows.min(y.rows), "shapes of input and output");
    assert!(gain.len == x.columns && bias.is_none_or(|bias| bias.len == x.columns), "columns of the norm");
    launch_norm(device, rows, x.argument(), (gain, bias, epsilon), normed, y);
}

/// A layer norm of `rows` rows of `y` in place.
pub(super) fn layer_norm(
    device: &Device,
    rows: usize,
    (gain, bias, epsilon): (&Vector, Option<&Vector>, f32),
    y: &Buffer,
) {
    assert!(rows <= y.rows, "{rows} rows of {}", y.rows);
    assert!(gain.len == y.columns && bias.is_none_or(|bias| bias.len == y.columns), "columns of the norm");
    launch_norm(device, rows, gain.argument(), (gain, bias, epsilon), Normed::Layer, y);
}

fn launch_norm(
    device: &Device,
    rows: usize,
    x: BufferArg,
    (gain, bias, epsilon): (&Vector, Option<&Vector>, f32),
    normed: Normed,
    y: &Buffer,
) {
    device.count();
    // SAFETY: the callers checked the shapes; a norm in place doesn't read `x`.
    unsafe {
        normalize::launch_unchecked(
            device.client(),
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            x,
            gain.argument(),
            bias.unwrap_or(gain).argument(),
            y.argument(),
            y.columns as u32,
            epsilon,
            normed,
        );
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn normalize(
    x: &[f32],
    gain: &[f32],
    bias: &[f32],
    y: &mut [f32],
    columns: u32,
    epsilon: f32,
    #[comptime] normed: Normed,
) {
    let columns = columns as usize;
    let start = CUBE_POS_X as usize * columns;
    let unit = UNIT_POS as usize;
    if comptime!(matches!(normed, Normed::Store | Normed::Add)) {
        let mut sum = 0.0f32;
        let mut k = unit;
        while k < columns {
            let value = x[start + k];
            sum += value * value;
            k += 32;
        }
        let factor = 1.0 / f32::sqrt(total(sum) / columns as f32 + epsilon);
        let mut k = unit;
        while k < columns {
            let value = x[start + k] * factor * gain[k];
            if comptime!(normed == Normed::Add) {
                y[start + k] += value;
            } else {
                y[start + k] = value;
            }
            k += 32;
        }
    } else {
        let mut sum = 0.0f32;
        let mut k = unit;
        while k < columns {
            if comptime!(normed == Normed::AddLayer) {
                y[start + k] += x[start + k];
            }
            sum += y[start + k];
            k += 32;
        }
        let mean = total(sum) / columns as f32;
        let mut squares = 0.0f32;
        let mut k = unit;
        while k < columns {
            let value = y[start + k] - mean;
            squares += value * value;
            k += 32;
        }
        let factor = 1.0 / f32::sqrt(total(squares) / columns as f32 + epsilon);
        let mut k = unit;
        while k < columns {
            y[start + k] = (y[start + k] - mean) * factor * gain[k] + bias[k];
            k += 32;
        }
    }
}

/// The sum over the units of a cube, in their order, for each of them.
#[cube]
fn total(value: f32) -> f32 {
    let mut shared = Shared::<[f32]>::new_slice(32usize);
    shared[UNIT_POS as usize] = value;
    sync_cube();
    let mut sum = 0.0f32;
    for unit in 0..32usize {
        sum += shared[unit];
    }
    sync_cube();
    sum
}

/// `x = act(x)` of `rows` rows.
pub(super) fn activate(device: &Device, rows: usize, activation: Activation, x: &Buffer) {
    assert!(rows <= x.rows, "{rows} rows of {}", x.rows);
    let columns = x.columns.div_ceil(UNITS) as u32;
    device.count();
    // SAFETY: the shapes were checked.
    unsafe {
        activate_rows::launch_unchecked(
            device.client(),
            CubeCount::Static(columns, rows as u32, 1),
            CubeDim::new_1d(UNITS as u32),
            x.argument(),
            x.columns as u32,
            activation,
        );
    }
}

#[cube(launch_unchecked)]
fn activate_rows(x: &mut [f32], columns: u32, #[comptime] activation: Activation) {
    if ABSOLUTE_POS_X < columns {
        let at = CUBE_POS_Y as usize * columns as usize + ABSOLUTE_POS_X as usize;
        x[at] = activated(x[at], activation);
    }
}

/// Copies a vector onto another.
pub(super) fn copy(device: &Device, from: &Vector, to: &Vector) {
    assert_eq!(from.len, to.len, "lengths of both");
    device.count();
    // SAFETY: the shapes were checked.
    unsafe {
        copy_words::launch_unchecked(
            device.client(),
            CubeCount::Static((from.len.div_ceil(COPY_UNITS * COPY_WORDS)) as u32, 1, 1),
            CubeDim::new_1d(COPY_UNITS as u32),
            from.argument(),
            to.argument(),
            from.len as u32,
        );
    }
}

/// Units of a cube that copies, and words that each does.
const COPY_UNITS: usize = 64;
const COPY_WORDS: usize = 16;

#[cube(launch_unchecked)]
fn copy_words(from: &[f32], to: &mut [f32], len: u32) {
    let start = CUBE_POS_X * 64 * 16 + UNIT_POS_X;
    #[unroll]
    for i in 0..16u32 {
        let at = start + i * 64;
        if at < len {
            to[at as usize] = from[at as usize];
        }
    }
}

/// An activation's value.
#[cube]
pub(super) fn activated(x: f32, #[comptime] activation: Activation) -> f32 {
    if comptime!(activation == Activation::Silu) {
        x / (f32::exp(-x) + 1.0f32)
    } else if comptime!(activation == Activation::Gelu) {
        // x/2 * (1 + tanh(u)) = x / (1 + exp(-2u))
        let u = (x * x * x * 0.044_715f32 + x) * 0.797_884_6f32;
        x / (f32::exp(u * -2.0f32) + 1.0f32)
    } else {
        gelu_erf(x)
    }
}

/// GELU by the error function, which is Abramowitz and Stegun's 7.1.26.
#[cube]
fn gelu_erf(x: f32) -> f32 {
    let z = f32::abs(x) * 0.707_106_77f32;
    let t = f32::recip(z * 0.327_591_1f32 + 1.0f32);
    let mut series = t * 1.061_405_4f32 - 1.453_152f32;
    series = series * t + 1.421_413_7f32;
    series = series * t - 0.284_496_74f32;
    series = series * t + 0.254_829_6f32;
    let tail = series * t * f32::exp(-(z * z)) * 0.5f32;
    let mut part = tail;
    if x >= 0.0f32 {
        part = 1.0f32 - tail;
    }
    x * part
}

const _: () = assert!(GROUP == 32 && OCTET == 8 && UNITS == 32, "the loops above have them as numbers");
