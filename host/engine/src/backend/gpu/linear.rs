//! Matrix times activations, with the norm before and what follows after in one dispatch.
//!
//! A cube makes some features of some rows. A unit makes a tile of them, so that it loads an activation once for
//! several features and decodes a weight once for several rows. Along a row of weights, `lanes` units take a group of
//! 32 columns each in turn; their sums are added in the order of the lanes. So a sum's order depends on the
//! device alone, never on the other rows of a step.

use cubecl_core::{
    self as cubecl,
    prelude::{Vector as Wide, *},
};

use super::{
    device::{Device, Tile},
    elementwise::activated,
    memory::{Buffer, Matrix, Part, Vector},
    weights::{GROUP, Group, Layout, Load, OCTET, decode, group_at, load, sections},
};
use crate::{backend::Activation, quant::DType};

/// Numbers of rows that have kernels of their own: what is fewer than a tile takes the one before.
pub(super) const KERNEL_ROWS: [usize; 3] = [1, 2, PROMPT_ROWS];
/// Rows from which on a step has larger tiles.
const PROMPT_ROWS: usize = 8;

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
    load: Load,
    finish: Finish,
    has_norm: bool,
    has_bias: bool,
    has_sources: bool,
    /// Whether the columns end within a group.
    is_ragged: bool,
    /// Activations of a load.
    x_len: usize,
    /// Whether the units of a cube load an activation each and tell the others.
    shares: bool,
    /// Rows of a unit's tile, and rows of weights.
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
        let is_ragged = !self.w.columns.is_multiple_of(GROUP);
        let Tile { rows, weights } = match self.rows {
            1 => units.single,
            2..PROMPT_ROWS => units.few,
            _ => units.prompt,
        };
        Plan {
            dtype: part.dtype,
            layout: Layout::of(part.dtype),
            load: units.load,
            finish: self.finish,
            has_norm: self.norm.is_some(),
            has_bias: self.bias.is_some(),
            has_sources: self.sources.is_some(),
            is_ragged,
            x_len: if is_ragged || units.shares { 1 } else { 4 },
            shares: units.shares,
            tile: rows,
            own: weights,
            lanes: units.lanes,
            across: units.across,
        }
    }

    fn launch(&self, device: &Device, part: &Part, first: usize) {
        let plan = self.plan(device, part);
        let features = part.rows.div_ceil(plan.across * plan.outputs()) as u32;
        let tiles = self.rows.div_ceil(plan.tile) as u32;
        let (gain, epsilon) = self.norm.map_or((None, 0.0), |(gain, epsilon)| (Some(gain), epsilon));
        // What a plan has no use for stands for itself.
        let gain = gain.map_or_else(|| self.x.argument(), Vector::argument);
        let bias = self.bias.map_or_else(|| self.x.argument(), Vector::argument);
        let sources = self.sources.map_or_else(|| part.argument(), Vector::argument);
        let launch = match plan.load {
            Load::Long => multiply::launch_unchecked::<u64>,
            Load::Quad => multiply::launch_unchecked::<u32>,
        };
        device.count();
        // SAFETY: `check` holds what the kernel's indices are made of against the buffers' sizes; rows of weights begin
        // at multiples of four words, rows of activations do where four are loaded.
        unsafe {
            launch(
                device.client(),
                CubeCount::Static(features, tiles, 1),
                plan.cube(),
                plan.x_len,
                plan.load.elements(),
                plan.width(),
                self.x.argument(),
                gain,
                part.argument(),
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

impl Plan {
    /// Units that run in step have to lie along the first dimension.
    fn cube(&self) -> CubeDim {
        match self.lanes {
            1 => CubeDim::new_1d(self.across as u32),
            lanes => CubeDim::new_2d(lanes as u32, self.across as u32),
        }
    }

    fn units(&self) -> usize {
        self.lanes * self.across
    }

    /// Rows of weights that an output is made of.
    fn halves(&self) -> usize {
        if matches!(self.finish, Finish::Gate(_)) { 2 } else { 1 }
    }

    /// Features of a unit.
    fn outputs(&self) -> usize {
        self.own / self.halves()
    }

    /// Words that a unit has of a row of weights at a time, and octets in them.
    fn words(&self) -> usize {
        self.load.words().max(self.layout.octet())
    }

    /// Rows of weights that an instruction takes at once, and how often.
    fn width(&self) -> usize {
        self.own.min(4)
    }

    fn chunks(&self) -> usize {
        self.own / self.width()
    }

    fn octets(&self) -> usize {
        self.words() / self.layout.octet()
    }

    /// Shares of the squares of a tile's rows.
    fn squares(&self) -> usize {
        if self.has_norm { self.tile * self.units() } else { 1 }
    }

    fn activation(&self) -> Activation {
        match self.finish {
            Finish::Gate(activation) => activation,
            _ => Activation::Silu,
        }
    }
}

/// `rows` rows of `y`, of `part_rows` features from `first` on. `w` and `numbers` are the same weights.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn multiply<E: Int, C: Size, N: Size, F: Size>(
    x: &[Wide<f32, C>],
    gain: &[f32],
    w: &[u32],
    numbers: &[Wide<E, N>],
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
    let outputs = comptime!(plan.outputs());
    let (rows, columns) = (rows as usize, columns as usize);
    let features = part_rows as usize;
    let first_feature = (CUBE_POS_X as usize * comptime!(plan.across) + place(plan)) * outputs;
    let first_row = CUBE_POS_Y as usize * tile;

    // Where the rows of x start; rows and features beyond the last are computed as the last, and not kept.
    let mut starts = Array::<usize>::new(tile);
    #[unroll]
    for r in 0..tile {
        let row = usize::min(first_row + r, rows - 1);
        if comptime!(plan.has_sources) {
            starts[r] = sources[row] as usize * columns / comptime!(plan.x_len);
        } else {
            starts[r] = row * columns / comptime!(plan.x_len);
        }
    }
    let mut squares = Shared::<[f32]>::new_slice(comptime!(plan.squares()));
    if comptime!(plan.has_norm) {
        add_squares(x, &starts, columns, &mut squares, plan);
    }
    let mut sums = Array::<Wide<f32, F>>::new(comptime!(plan.tile * plan.chunks()));
    add_products(x, gain, w, numbers, first_feature, features, &starts, columns, &mut sums, plan);

    if comptime!(plan.lanes == 1) {
        if comptime!(plan.has_norm) {
            sync_cube();
        }
        #[unroll]
        for r in 0..tile {
            #[unroll]
            for f in 0..outputs {
                let feature = first_feature + f;
                if feature < features && first_row + r < rows {
                    let factor = factor_of(&squares, r, columns, epsilon, plan);
                    let sum = of_row::<F>(&sums, r, f, plan);
                    let up = of_row::<F>(&sums, r, comptime!(f + plan.outputs() * (plan.halves() - 1)), plan);
                    let column = first as usize + feature;
                    let at = (first_row + r) * stride as usize + column;
                    finish(y, at, sum, up, factor, bias, column, plan);
                }
            }
        }
    } else {
        let lanes = comptime!(plan.lanes);
        let own = comptime!(plan.own);
        let mut shared = Shared::<[f32]>::new_slice(comptime!(plan.tile * plan.own * plan.units()));
        let start = UNIT_POS_Y as usize * comptime!(plan.lanes * plan.tile * plan.own);
        #[unroll]
        for r in 0..tile {
            #[unroll]
            for f in 0..own {
                shared[start + (r * own + f) * lanes + UNIT_POS_X as usize] = of_row::<F>(&sums, r, f, plan);
            }
        }
        sync_cube();
        let mut i = UNIT_POS_X as usize;
        while i < tile * outputs {
            let (r, f) = (i / outputs, i % outputs);
            let feature = first_feature + f;
            if feature < features && first_row + r < rows {
                let factor = factor_of(&squares, r, columns, epsilon, plan);
                let at = start + (r * own + f) * lanes;
                let sum = sum_of(&shared, at, plan);
                let mut up = sum;
                if comptime!(plan.halves() == 2) {
                    up = sum_of(&shared, at + outputs * lanes, plan);
                }
                let column = first as usize + feature;
                let at = (first_row + r) * stride as usize + column;
                finish(y, at, sum, up, factor, bias, column, plan);
            }
            i += lanes;
        }
    }
}

/// The sum of a row of activations and a row of weights of a unit's.
#[cube]
fn of_row<F: Size>(
    sums: &Array<Wide<f32, F>>,
    #[comptime] row: usize,
    #[comptime] weights: usize,
    #[comptime] plan: Plan,
) -> f32 {
    sums[comptime!(row * plan.chunks() + weights / plan.width())].extract(comptime!(weights % plan.width()))
}

/// A unit's place across rows of weights.
#[cube]
fn place(#[comptime] plan: Plan) -> usize {
    if comptime!(plan.lanes == 1) { UNIT_POS_X as usize } else { UNIT_POS_Y as usize }
}

/// A unit's place along a row of weights.
#[cube]
fn lane(#[comptime] plan: Plan) -> usize {
    if comptime!(plan.lanes == 1) { 0usize.runtime() } else { UNIT_POS_X as usize }
}

/// Stores a feature.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what it is made of")]
fn finish(
    y: &mut [f32],
    at: usize,
    sum: f32,
    up: f32,
    factor: f32,
    bias: &[f32],
    column: usize,
    #[comptime] plan: Plan,
) {
    let mut value = sum;
    if comptime!(plan.has_norm) {
        value *= factor;
    }
    if comptime!(plan.has_bias) {
        value += bias[column];
    }
    if comptime!(matches!(plan.finish, Finish::Gate(_))) {
        let mut other = up;
        if comptime!(plan.has_norm) {
            other *= factor;
        }
        value = activated(value, comptime!(plan.activation())) * other;
    }
    if comptime!(plan.finish == Finish::Add) {
        value += y[at];
    }
    y[at] = value;
}

/// A lane's share of `sum_k x[t,k] * w[n,k]` for a tile.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn add_products<E: Int, C: Size, N: Size, F: Size>(
    x: &[Wide<f32, C>],
    gain: &[f32],
    w: &[u32],
    numbers: &[Wide<E, N>],
    first_feature: usize,
    features: usize,
    starts: &Array<usize>,
    columns: usize,
    sums: &mut Array<Wide<f32, F>>,
    #[comptime] plan: Plan,
) {
    let own = comptime!(plan.own);
    let chunks = comptime!(plan.chunks());
    let width = comptime!(plan.width());
    let layout = comptime!(plan.layout);
    let words_len = comptime!(plan.words());
    let octet_len = comptime!(plan.layout.octet());
    #[unroll]
    for i in 0..comptime!(plan.tile * plan.chunks()) {
        sums[i] = Wide::<f32, F>::new(0.0f32);
    }
    let sections = sections(columns, layout);
    // Of a gated matrix, the rows of gate come first, then up's.
    let mut rows = Array::<usize>::new(own);
    let mut loads = Array::<usize>::new(own);
    #[unroll]
    for f in 0..own {
        let feature = usize::min(first_feature + f % comptime!(plan.outputs()), features - 1);
        rows[f] = (feature + features * comptime!(f / plan.outputs())) * sections.row;
        loads[f] = (rows[f] + sections.numbers) / comptime!(plan.load.words());
    }
    let mut words = Array::<Wide<u32, F>>::new(comptime!(plan.chunks() * plan.words()));
    let mut weights = Array::<Wide<f32, F>>::new(comptime!(plan.chunks() * 8));
    let mut scales = Array::<Wide<f32, F>>::new(comptime!(plan.chunks() * 2));
    let mut bits = Array::<Wide<u32, F>>::new(comptime!(plan.chunks() * 2));
    let groups = (columns + 31) / 32;
    let mut group = lane(plan);
    while group < groups {
        #[unroll]
        for c in 0..chunks {
            let of = group_at::<F>(
                w,
                &rows,
                &sections,
                group,
                comptime!(c * plan.width()),
                width,
                comptime!(plan.dtype),
                layout,
            );
            scales[2 * c] = of.a;
            scales[2 * c + 1] = of.b;
            bits[2 * c] = of.high;
            bits[2 * c + 1] = of.higher;
        }
        for part in 0..comptime!(4 / plan.octets()) {
            let at = group * comptime!(plan.layout.group / plan.load.words())
                + part * comptime!(plan.words() / plan.load.words());
            #[unroll]
            for c in 0..chunks {
                #[unroll]
                for i in 0..comptime!(plan.words() / plan.load.words()) {
                    load::<E, N, F>(
                        numbers,
                        &loads,
                        at + i,
                        &mut words,
                        comptime!(c * plan.width()),
                        width,
                        comptime!(c * plan.words() + i * plan.load.words()),
                        comptime!(plan.load),
                    );
                }
            }
            for within in 0..comptime!(plan.octets()) {
                let octet = part * comptime!(plan.octets()) + within;
                #[unroll]
                for c in 0..chunks {
                    let of = Group::<F> {
                        a: scales[2 * c],
                        b: scales[2 * c + 1],
                        high: bits[2 * c],
                        higher: bits[2 * c + 1],
                    };
                    let from = comptime!(c * plan.words());
                    decode::<F>(
                        &words,
                        from,
                        octet,
                        &of,
                        &mut weights,
                        comptime!(8 * c),
                        comptime!(plan.dtype),
                    );
                    // The next octet's words take the place of this one's.
                    #[unroll]
                    for i in 0..comptime!(plan.words() - plan.layout.octet()) {
                        words[c * words_len + i] = words[c * words_len + i + octet_len];
                    }
                }
                let column = group * 32 + octet * 8;
                add_octet::<C, F>(x, gain, &mut weights, column, starts, columns, sums, plan);
            }
        }
        group += comptime!(plan.lanes);
    }
}

/// The products of an octet of weights with those columns of the tile's rows.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a kernel is given")]
fn add_octet<C: Size, F: Size>(
    x: &[Wide<f32, C>],
    gain: &[f32],
    weights: &mut Array<Wide<f32, F>>,
    column: usize,
    starts: &Array<usize>,
    columns: usize,
    sums: &mut Array<Wide<f32, F>>,
    #[comptime] plan: Plan,
) {
    let chunks = comptime!(plan.chunks());
    if comptime!(plan.has_norm) {
        #[unroll]
        for j in 0..8usize {
            let gain = Wide::<f32, F>::new(gain[column_of(column + j, columns, plan)]);
            #[unroll]
            for c in 0..chunks {
                weights[8 * c + j] *= gain;
            }
        }
    }
    let mut values = Array::<f32>::new(8usize);
    #[unroll]
    for r in 0..comptime!(plan.tile) {
        if comptime!(plan.shares) {
            let at = starts[r] + column_of(column + UNIT_POS_X as usize, columns, plan);
            let value = x[at].extract(0usize);
            #[unroll]
            for j in 0..8usize {
                values[j] = plane_broadcast(value, comptime!(j as u32));
            }
        } else {
            #[unroll]
            for i in 0..comptime!(8 / plan.x_len) {
                let at = column_of(column + i * comptime!(plan.x_len), columns, plan);
                let loaded = x[starts[r] + at / comptime!(plan.x_len)];
                #[unroll]
                for j in 0..comptime!(plan.x_len) {
                    values[i * comptime!(plan.x_len) + j] = loaded.extract(j);
                }
            }
        }
        #[unroll]
        for j in 0..8usize {
            let value = Wide::<f32, F>::new(values[j]);
            #[unroll]
            for c in 0..chunks {
                sums[r * chunks + c] += weights[8 * c + j] * value;
            }
        }
    }
}

/// A column that is there: weights beyond the last are zeros.
#[cube]
fn column_of(column: usize, columns: usize, #[comptime] plan: Plan) -> usize {
    if comptime!(plan.is_ragged) { usize::min(column, columns - 1) } else { column }
}

/// The lanes' shares of a sum, in their order.
#[cube]
fn sum_of(shared: &Shared<[f32]>, at: usize, #[comptime] plan: Plan) -> f32 {
    let mut sum = 0.0f32;
    for lane in 0..comptime!(plan.lanes) {
        sum += shared[at + lane];
    }
    sum
}

/// Each unit's share of the sums of squares of a tile's rows.
#[cube]
fn add_squares<C: Size>(
    x: &[Wide<f32, C>],
    starts: &Array<usize>,
    columns: usize,
    squares: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for r in 0..comptime!(plan.tile) {
        let mut sum = 0.0f32;
        let mut k = unit;
        while k < columns / comptime!(plan.x_len) {
            let loaded = x[starts[r] + k];
            #[unroll]
            for j in 0..comptime!(plan.x_len) {
                let value = loaded.extract(j);
                sum += value * value;
            }
            k += comptime!(plan.units());
        }
        squares[r * comptime!(plan.units()) + unit] = sum;
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)` of a row of the tile, by the units' shares in their order.
#[cube]
fn factor_of(
    squares: &Shared<[f32]>,
    row: usize,
    columns: usize,
    epsilon: f32,
    #[comptime] plan: Plan,
) -> f32 {
    let mut factor = 1.0f32;
    if comptime!(plan.has_norm) {
        let mut sum = 0.0f32;
        for unit in 0..comptime!(plan.units()) {
            sum += squares[row * comptime!(plan.units()) + unit];
        }
        factor = 1.0 / f32::sqrt(sum / columns as f32 + epsilon);
    }
    factor
}

const _: () = assert!(GROUP == 32 && OCTET == 8, "the loops above have them as numbers");
