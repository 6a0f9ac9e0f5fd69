//! Matrix times activations, with the norm before and what follows after in one dispatch.
//!
//! A cube makes some features of some rows. A unit makes a tile of them, so that it loads an activation once for
//! several features and a weight once for several rows. Along a row of weights, `lanes` units take a group of 32
//! columns each in turn; their sums are added in the order of the lanes. So a sum's order depends on the
//! device alone, never on the other rows of a step.

use cubecl_core::{self as cubecl, prelude::*};

use super::{
    device::Device,
    elementwise::activated,
    memory::{Buffer, Matrix, Part, Vector},
    weights::{GROUP, Layout, OCTET, Scales, decode, scales},
};
use crate::{backend::Activation, quant::DType};

/// Rows that a unit multiplies its weights with; a single row has a kernel of its own.
const TILE: usize = 4;
/// Rows that take one kernel and the other.
pub(super) const KERNEL_ROWS: [usize; 2] = [1, TILE];

/// What one launch computes.
pub(super) struct Linear<'a> {
    pub(super) x: &'a Buffer,
    /// Rows of `y`.
    pub(super) rows: usize,
    /// Which row of `x` each is made of, if not its own.
    pub(super) sources: Option<&'a Vector>,
    /// Gain and epsilon.
    pub(super) norm: Option<(&'a Vector, f32)>,
    pub(super) w: &'a Matrix,
    pub(super) bias: Option<&'a Vector>,
    pub(super) finish: Finish,
    pub(super) y: &'a Buffer,
}

/// What becomes of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    /// `y = sum`.
    Store,
    /// `y += sum`.
    Add,
    /// `y = act(sum of the gate's row) * sum of up's`; up's rows lie behind all of the gate's.
    Gate(Activation),
}

/// What a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    dtype: DType,
    layout: Layout,
    finish: Finish,
    has_norm: bool,
    has_bias: bool,
    has_sources: bool,
    /// Whether the columns end within a group.
    is_ragged: bool,
    /// Rows of a unit's tile, and features.
    tile: usize,
    own: usize,
    /// Units of a cube along a row of weights, and across.
    lanes: usize,
    across: usize,
}

impl Linear<'_> {
    /// Runs it, a dispatch for each part of the matrix.
    pub(super) fn run(&self, device: &Device) {
        self.check();
        let mut first = 0;
        for part in &self.w.parts {
            self.launch(device, part, first);
            first += part.rows;
        }
    }

    fn check(&self) {
        let columns = self.w.columns;
        assert_eq!(self.x.columns, columns, "columns of the activations and of the matrix");
        assert!(self.rows <= self.y.rows, "{} rows of {}", self.rows, self.y.rows);
        assert!(self.sources.is_some() || self.rows <= self.x.rows, "{} rows of {}", self.rows, self.x.rows);
        assert!(self.sources.is_none_or(|sources| sources.len >= self.rows), "a source for each row");
        assert!(self.w.rows() <= self.y.columns, "columns of the output");
        assert!(self.norm.is_none_or(|(gain, _)| gain.len == columns), "columns of the norm and of the rows");
        assert!(self.bias.is_none_or(|bias| bias.len == self.w.rows()), "length of the bias");
        assert_eq!(self.w.is_gated, matches!(self.finish, Finish::Gate(_)), "a gate has two halves");
    }

    fn plan(&self, device: &Device, part: &Part) -> Plan {
        let units = device.units();
        Plan {
            dtype: part.dtype,
            layout: Layout::of(part.dtype),
            finish: self.finish,
            has_norm: self.norm.is_some(),
            has_bias: self.bias.is_some(),
            has_sources: self.sources.is_some(),
            is_ragged: !self.w.columns.is_multiple_of(GROUP),
            tile: if self.rows == 1 { 1 } else { TILE },
            own: units.features,
            lanes: units.lanes,
            across: units.across,
        }
    }

    fn launch(&self, device: &Device, part: &Part, first: usize) {
        let plan = self.plan(device, part);
        let cubes = (part.rows.div_ceil(plan.across * plan.own) as u32, self.rows.div_ceil(plan.tile) as u32);
        let (gain, epsilon) = self.norm.map_or((None, 0.0), |(gain, epsilon)| (Some(gain), epsilon));
        // What a plan has no use for stands for itself.
        let gain = gain.map_or_else(|| self.x.argument(), Vector::argument);
        let bias = self.bias.map_or_else(|| self.x.argument(), Vector::argument);
        let sources = self.sources.map_or_else(|| part.argument(), Vector::argument);
        device.count();
        // SAFETY: `check` holds what the kernel's indices are made of against the buffers' sizes.
        unsafe {
            multiply::launch_unchecked(
                device.client(),
                CubeCount::Static(cubes.0, cubes.1, 1),
                CubeDim::new_2d(plan.lanes as u32, plan.across as u32),
                self.x.argument(),
                gain,
                part.argument(),
                bias,
                sources,
                self.y.argument(),
                self.rows as u32,
                self.w.columns as u32,
                part.rows as u32,
                first as u32,
                self.y.columns as u32,
                epsilon,
                plan,
            );
        }
    }
}

/// `rows` rows of `y`, of `part_rows` features from `first` on.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn multiply(
    x: &[f32],
    gain: &[f32],
    w: &[u32],
    bias: &[f32],
    sources: &[u32],
    y: &mut [f32],
    rows: u32,
    columns: u32,
    part_rows: u32,
    first: u32,
    stride: u32,
    epsilon: f32,
    #[comptime] plan: Plan,
) {
    let tile = comptime!(plan.tile);
    let own = comptime!(plan.own);
    let (rows, columns) = (rows as usize, columns as usize);
    let features = part_rows as usize;
    let lane = lane(plan);
    let first_feature = (CUBE_POS_X as usize * comptime!(plan.across) + UNIT_POS_Y as usize) * own;
    let first_row = CUBE_POS_Y as usize * tile;

    // Where the rows of x start; rows and features beyond the last are computed as the last, and not kept.
    let mut starts = Array::<usize>::new(tile);
    #[unroll]
    for r in 0..tile {
        let row = usize::min(first_row + r, rows - 1);
        if comptime!(plan.has_sources) {
            starts[r] = sources[row] as usize * columns;
        } else {
            starts[r] = row * columns;
        }
    }
    let mut factors = Array::<f32>::new(tile);
    if comptime!(plan.has_norm) {
        norm_factors(x, &starts, columns, epsilon, &mut factors, plan);
    }

    let mut sums = Array::<f32>::new(comptime!(plan.tile * plan.own));
    add_products(x, gain, w, first_feature, features, 0usize, &starts, columns, &mut sums, plan);
    add_lanes(&mut sums, plan);
    let mut others = Array::<f32>::new(comptime!(plan.tile * plan.own));
    if comptime!(matches!(plan.finish, Finish::Gate(_))) {
        add_products(x, gain, w, first_feature, features, features, &starts, columns, &mut others, plan);
        add_lanes(&mut others, plan);
    }

    if lane == 0 {
        #[unroll]
        for f in 0..own {
            let feature = first_feature + f;
            if feature < features {
                let column = first as usize + feature;
                #[unroll]
                for r in 0..tile {
                    if first_row + r < rows {
                        let at = (first_row + r) * stride as usize + column;
                        let mut sum = sums[r * own + f];
                        if comptime!(plan.has_norm) {
                            sum *= factors[r];
                        }
                        if comptime!(plan.has_bias) {
                            sum += bias[column];
                        }
                        if comptime!(matches!(plan.finish, Finish::Gate(_))) {
                            let mut other = others[r * own + f];
                            if comptime!(plan.has_norm) {
                                other *= factors[r];
                            }
                            sum = activated(sum, comptime!(plan.activation())) * other;
                        }
                        if comptime!(plan.finish == Finish::Add) {
                            sum += y[at];
                        }
                        y[at] = sum;
                    }
                }
            }
        }
    }
}

impl Plan {
    fn activation(&self) -> Activation {
        match self.finish {
            Finish::Gate(activation) => activation,
            _ => Activation::Silu,
        }
    }
}

/// A unit's place along a row; a constant where there is one only, so that the addresses of activations are seen to
/// be the same for all units.
#[cube]
fn lane(#[comptime] plan: Plan) -> usize {
    if comptime!(plan.lanes == 1) { 0usize.runtime() } else { UNIT_POS_X as usize }
}

/// A lane's share of `sum_k x[t,k] * w[n,k]` for a tile; `offset` is of the gate's and of up's rows.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn add_products(
    x: &[f32],
    gain: &[f32],
    w: &[u32],
    first_feature: usize,
    features: usize,
    offset: usize,
    starts: &Array<usize>,
    columns: usize,
    sums: &mut Array<f32>,
    #[comptime] plan: Plan,
) {
    let tile = comptime!(plan.tile);
    let own = comptime!(plan.own);
    let layout = comptime!(plan.layout);
    #[unroll]
    for i in 0..comptime!(plan.tile * plan.own) {
        sums[i] = 0.0;
    }
    let groups = (columns + 31) / 32;
    let blocks = (groups + comptime!(layout.groups - 1)) / comptime!(layout.groups);
    let row_words = blocks * comptime!(layout.block());
    let mut weights = Array::<f32>::new(comptime!(8 * plan.own));
    let mut rows = Array::<usize>::new(own);
    #[unroll]
    for f in 0..own {
        rows[f] = (usize::min(first_feature + f, features - 1) + offset) * row_words;
    }
    let mut scale = Array::<f32>::new(own);
    let mut shift = Array::<f32>::new(own);
    let mut group = lane(plan);
    while group < groups {
        let block = group / comptime!(layout.groups) * comptime!(layout.block());
        let within = group % comptime!(layout.groups);
        let at = block + comptime!(layout.header) + within * comptime!(layout.group);
        #[unroll]
        for f in 0..own {
            let scales = scales(w, rows[f] + block, within, comptime!(plan.dtype));
            scale[f] = scales.a;
            shift[f] = scales.b;
        }
        for octet in 0..4usize {
            #[unroll]
            for f in 0..own {
                let scales = Scales { a: scale[f], b: shift[f] };
                decode(
                    w,
                    rows[f] + at,
                    octet,
                    &scales,
                    &mut weights,
                    comptime!(8 * f),
                    comptime!(plan.dtype),
                );
            }
            let column = group * 32 + octet * 8;
            #[unroll]
            for j in 0..8usize {
                // Weights beyond the last column are zeros.
                let k =
                    if comptime!(plan.is_ragged) { usize::min(column + j, columns - 1) } else { column + j };
                let mut gain_k = 1.0f32;
                if comptime!(plan.has_norm) {
                    gain_k = gain[k];
                }
                #[unroll]
                for r in 0..tile {
                    let mut value = x[starts[r] + k];
                    if comptime!(plan.has_norm) {
                        value *= gain_k;
                    }
                    #[unroll]
                    for f in 0..own {
                        sums[r * own + f] += weights[8 * f + j] * value;
                    }
                }
            }
        }
        group += comptime!(plan.lanes);
    }
}

/// Gives every lane the sums of all.
#[cube]
fn add_lanes(sums: &mut Array<f32>, #[comptime] plan: Plan) {
    if comptime!(plan.lanes > 1) {
        let count = comptime!(plan.tile * plan.own);
        let lanes = comptime!(plan.lanes);
        let mut shared =
            Shared::<[f32]>::new_slice(comptime!(plan.tile * plan.own * plan.lanes * plan.across));
        let start = UNIT_POS_Y as usize * lanes * count;
        #[unroll]
        for i in 0..count {
            shared[start + i * lanes + UNIT_POS_X as usize] = sums[i];
        }
        sync_cube();
        #[unroll]
        for i in 0..count {
            let mut sum = 0.0f32;
            for lane in 0..lanes {
                sum += shared[start + i * lanes + lane];
            }
            sums[i] = sum;
        }
        sync_cube();
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)` of every row of a tile.
#[cube]
fn norm_factors(
    x: &[f32],
    starts: &Array<usize>,
    columns: usize,
    epsilon: f32,
    factors: &mut Array<f32>,
    #[comptime] plan: Plan,
) {
    let tile = comptime!(plan.tile);
    let units = comptime!(plan.lanes * plan.across);
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.tile * plan.lanes * plan.across));
    #[unroll]
    for r in 0..tile {
        let mut sum = 0.0f32;
        let mut k = unit;
        while k < columns {
            let value = x[starts[r] + k];
            sum += value * value;
            k += units;
        }
        shared[r * units + unit] = sum;
    }
    sync_cube();
    #[unroll]
    for r in 0..tile {
        let mut sum = 0.0f32;
        for unit in 0..units {
            sum += shared[r * units + unit];
        }
        factors[r] = 1.0 / f32::sqrt(sum / columns as f32 + epsilon);
    }
    sync_cube();
}

const _: () = assert!(GROUP == 32 && OCTET == 8, "the loops above have them as numbers");
