//! Weights as kernels read them: words of 32 bits, because WGSL loads nothing smaller.
//!
//! A row is a whole number of blocks of groups of 32 weights, in the order of their columns. What belongs to its blocks
//! lies in three sections, so that loads of several words find the numbers where they may:
//!
//! ```text
//! format       of a block                                      high bits of a group   numbers of a group
//! F32          -                                               -                      32 words
//! F16, BF16    -                                               -                      16 words, two weights each
//! Q4_0         d as f32                                        -                      4 words of 8 nibbles
//! Q4_1         d, m as f16                                     -                      4 words of 8 nibbles
//! Q5_0         d as f32                                        a word of fifth bits   the same
//! Q5_1         d, m as f16                                     a word of fifth bits   the same
//! Q8_0         d as f32                                        -                      8 words of 4 bytes, 128 added
//! Q4_K         d, dmin as f16; 8 scales and 8 minima as bytes  -                      4 words of 8 nibbles
//! Q5_K         the same                                        a word of fifth bits   the same
//! Q6_K         d as f32; 16 scales as bytes                    2 words of 2 bits      the same
//! ```
//!
//! The numbers begin at a multiple of four words. It is the bytes of the file (`crate::quant`) in another order, and at
//! most a ninth more of them (Q4_0's) and three words.

use cubecl_core::{self as cubecl, prelude::*};
use half::f16;

use crate::quant::DType;

/// Another whenever the words of a row are.
pub(super) const LAYOUT: u32 = 2;
/// Weights of a group.
pub(super) const GROUP: usize = 32;
/// Weights that a kernel decodes at once.
pub(super) const OCTET: usize = 8;
/// Words whose multiples a row and its numbers begin at.
const ALIGNMENT: usize = 4;
/// 2^112: what an f16's bits, shifted to an f32's place, fall short by.
const HALF_BIAS: f32 = 5.192_297e33;
/// 2^-24: the smallest f16.
const HALF_LEAST: f32 = 5.960_464_5e-8;

/// What a row is made of, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Groups of a block.
    pub(super) groups: usize,
    /// Words of a block's scales.
    header: usize,
    /// Words of a group's high bits.
    high: usize,
    /// Words of a group's numbers.
    pub(super) group: usize,
}

impl Layout {
    pub(super) fn of(dtype: DType) -> Self {
        let (groups, header, high, group) = match dtype {
            DType::F32 => (1, 0, 0, 32),
            DType::F16 | DType::BF16 => (1, 0, 0, 16),
            DType::Q4_0 | DType::Q4_1 => (1, 1, 0, 4),
            DType::Q5_0 | DType::Q5_1 => (1, 1, 1, 4),
            DType::Q8_0 => (1, 1, 0, 8),
            DType::Q4_K => (8, 5, 0, 4),
            DType::Q5_K => (8, 5, 1, 4),
            DType::Q6_K => (8, 5, 2, 4),
        };
        Self { groups, header, high, group }
    }

    /// Words of an octet.
    pub(super) fn octet(self) -> usize {
        self.group * OCTET / GROUP
    }

    /// Words of a row.
    pub(super) fn row(self, columns: usize) -> usize {
        let blocks = columns.div_ceil(self.groups * GROUP);
        self.numbers(blocks) + blocks * self.groups * self.group
    }

    /// Where a row's numbers begin.
    fn numbers(self, blocks: usize) -> usize {
        (blocks * (self.header + self.groups * self.high)).next_multiple_of(ALIGNMENT)
    }
}

/// Appends a row; columns beyond the row's are zeros.
pub(super) fn pack_row(dtype: DType, bytes: &[u8], out: &mut Vec<u32>) {
    let size = match dtype.block_len() {
        1 => GROUP * dtype.block_bytes(),
        _ => dtype.block_bytes(),
    };
    let layout = Layout::of(dtype);
    let blocks = bytes.len().div_ceil(size);
    let start = out.len();
    let numbers = start + layout.numbers(blocks);
    out.resize(numbers + blocks * layout.groups * layout.group, 0);
    let (scales, numbers) = out[start..].split_at_mut(numbers - start);
    let (scales, high) = scales.split_at_mut(blocks * layout.header);
    let of = |block: usize, words: usize| block * words..(block + 1) * words;
    for (block, bytes) in bytes.chunks(size).enumerate() {
        let out = Block {
            scales: &mut scales[of(block, layout.header)],
            high: &mut high[of(block, layout.groups * layout.high)],
            numbers: &mut numbers[of(block, layout.groups * layout.group)],
        };
        out.pack(dtype, bytes);
    }
}

/// A block's place in the sections.
struct Block<'a> {
    scales: &'a mut [u32],
    high: &'a mut [u32],
    numbers: &'a mut [u32],
}

impl Block<'_> {
    fn pack(self, dtype: DType, b: &[u8]) {
        let Self { scales, high, numbers } = self;
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => words(b, numbers),
            DType::Q4_0 => {
                scales[0] = float(b, 0);
                nibbles(&b[2..], numbers);
            }
            DType::Q4_1 => {
                words(&b[..4], scales);
                nibbles(&b[4..], numbers);
            }
            DType::Q5_0 => {
                scales[0] = float(b, 0);
                words(&b[2..6], high);
                nibbles(&b[6..], numbers);
            }
            DType::Q5_1 => {
                words(&b[..4], scales);
                words(&b[4..8], high);
                nibbles(&b[8..], numbers);
            }
            DType::Q8_0 => {
                scales[0] = float(b, 0);
                words(&b[2..], numbers);
                numbers.iter_mut().for_each(|word| *word ^= 0x8080_8080);
            }
            DType::Q4_K => {
                words(&b[..4], scales);
                scales_and_minima(&b[4..16], &mut scales[1..]);
                for (group, out) in numbers.chunks_exact_mut(4).enumerate() {
                    let q = &b[16 + 32 * (group / 2)..];
                    pack_nibbles(|j| q[j] >> (4 * (group % 2)), out);
                }
            }
            DType::Q5_K => {
                words(&b[..4], scales);
                scales_and_minima(&b[4..16], &mut scales[1..]);
                let (fifths, low) = b[16..].split_at(32);
                for (group, out) in numbers.chunks_exact_mut(4).enumerate() {
                    let q = &low[32 * (group / 2)..];
                    pack_nibbles(|j| q[j] >> (4 * (group % 2)), out);
                    high[group] = (0..32).map(|j| u32::from(fifths[j] >> group & 1) << j).sum();
                }
            }
            DType::Q6_K => {
                scales[0] = float(b, 208);
                words(&b[192..208], &mut scales[1..]);
                for (group, out) in numbers.chunks_exact_mut(4).enumerate() {
                    let (half, quarter) = (group / 4, group % 4);
                    let low = &b[64 * half + 32 * (quarter % 2)..];
                    let pairs = &b[128 + 32 * half..];
                    pack_nibbles(|j| low[j] >> (4 * (quarter / 2)), out);
                    let bits = |j: usize| u32::from(pairs[j] >> (2 * quarter) & 3);
                    high[2 * group] = (0..16).map(|j| bits(j) << (2 * j)).sum();
                    high[2 * group + 1] = (0..16).map(|j| bits(16 + j) << (2 * j)).sum();
                }
            }
        }
    }
}

/// Bytes as words, the last filled up with zeros.
fn words(bytes: &[u8], out: &mut [u32]) {
    for (bytes, out) in bytes.chunks(4).zip(out) {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        *out = u32::from_le_bytes(word);
    }
}

/// An f16 as the bits of an f32.
fn float(block: &[u8], at: usize) -> u32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32().to_bits()
}

/// 16 bytes whose low nibbles are the first 16 weights and whose high nibbles the others.
fn nibbles(q: &[u8], out: &mut [u32]) {
    pack_nibbles(|j| q[j % 16] >> (4 * (j / 16)), out);
}

/// Four words of the low nibbles of 32 numbers.
fn pack_nibbles(number: impl Fn(usize) -> u8, out: &mut [u32]) {
    for (octet, out) in out.iter_mut().enumerate().take(4) {
        *out = (0..OCTET).map(|j| u32::from(number(OCTET * octet + j) & 15) << (4 * j)).sum();
    }
}

/// The 6-bit scales and minima of Q4_K and Q5_K, a byte each.
fn scales_and_minima(packed: &[u8], out: &mut [u32]) {
    let mut bytes = [0; 16];
    for group in 0..8 {
        let (scale, minimum) = crate::quant::scale_and_min(packed, group);
        (bytes[group], bytes[8 + group]) = (scale, minimum);
    }
    words(&bytes, out);
}

/// Where the sections of a row lie, and its length.
#[derive(CubeType)]
pub(super) struct Sections {
    high: usize,
    pub(super) numbers: usize,
    pub(super) row: usize,
}

/// [`Layout::row`] and its parts.
#[cube]
pub(super) fn sections(columns: usize, #[comptime] layout: Layout) -> Sections {
    let blocks = (columns + comptime!(32 * layout.groups - 1)) / comptime!(32 * layout.groups);
    let scales = blocks * comptime!(layout.header + layout.groups * layout.high);
    let numbers = (scales + 3) / 4 * 4;
    Sections {
        high: blocks * comptime!(layout.header),
        numbers,
        row: numbers + blocks * comptime!(layout.groups * layout.group),
    }
}

/// What turns the numbers of a group of each of `F` rows into weights: `a * q + b`, or `a * q` in its first and `b * q`
/// in its second half (Q6_K); and the numbers' high bits.
#[derive(CubeType)]
pub(super) struct Group<F: Size> {
    pub(super) a: Vector<f32, F>,
    pub(super) b: Vector<f32, F>,
    pub(super) high: Vector<u32, F>,
    pub(super) higher: Vector<u32, F>,
}

/// A group of the rows that begin at the words `rows[first..first + count]`.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a group is found by")]
pub(super) fn group_at<F: Size>(
    w: &[u32],
    rows: &Array<usize>,
    sections: &Sections,
    group: usize,
    #[comptime] first: usize,
    #[comptime] count: usize,
    #[comptime] dtype: DType,
    #[comptime] layout: Layout,
) -> Group<F> {
    let block = group / comptime!(layout.groups) * comptime!(layout.header);
    let within = group % comptime!(layout.groups);
    let bits = sections.high + group * comptime!(layout.high);
    let mut high = Vector::<u32, F>::new(0u32);
    let mut higher = Vector::<u32, F>::new(0u32);
    if comptime!(layout.high > 0) {
        high = words_at::<F>(w, rows, bits, first, count);
    }
    if comptime!(layout.high > 1) {
        higher = words_at::<F>(w, rows, bits + 1, first, count);
    }
    let mut a = Vector::<f32, F>::new(1.0f32);
    let mut b = Vector::<f32, F>::new(0.0f32);
    if comptime!(matches!(dtype, DType::Q4_0 | DType::Q5_0 | DType::Q8_0)) {
        a = Vector::<f32, F>::reinterpret(words_at::<F>(w, rows, block, first, count));
    } else if comptime!(matches!(dtype, DType::Q4_1 | DType::Q5_1)) {
        let words = words_at::<F>(w, rows, block, first, count);
        a = half_of::<F>(bits_of::<F>(words, 0u32, 0xffffu32));
        b = half_of::<F>(bits_of::<F>(words, 16u32, 0xffffu32));
    } else if comptime!(matches!(dtype, DType::Q4_K | DType::Q5_K)) {
        let words = words_at::<F>(w, rows, block, first, count);
        let shift = (within as u32 % 4) * 8;
        let scale = words_at::<F>(w, rows, block + 1 + within / 4, first, count);
        let minimum = words_at::<F>(w, rows, block + 3 + within / 4, first, count);
        a = half_of::<F>(bits_of::<F>(words, 0u32, 0xffffu32))
            * float_of::<F>(bits_of::<F>(scale, shift, 255u32));
        b = Vector::<f32, F>::new(0.0f32)
            - half_of::<F>(bits_of::<F>(words, 16u32, 0xffffu32))
                * float_of::<F>(bits_of::<F>(minimum, shift, 255u32));
    } else if comptime!(dtype == DType::Q6_K) {
        let d = Vector::<f32, F>::reinterpret(words_at::<F>(w, rows, block, first, count));
        let words = words_at::<F>(w, rows, block + 1 + within / 2, first, count);
        let shift = (within as u32 % 2) * 16;
        a = d * signed_byte::<F>(words >> Vector::<u32, F>::new(shift));
        b = d * signed_byte::<F>(words >> Vector::<u32, F>::new(shift + 8));
    }
    Group::<F> { a, b, high, higher }
}

/// A word of each of some rows.
#[cube]
fn words_at<F: Size>(
    w: &[u32],
    rows: &Array<usize>,
    offset: usize,
    #[comptime] first: usize,
    #[comptime] count: usize,
) -> Vector<u32, F> {
    let mut words = Vector::<u32, F>::new(0u32);
    #[unroll]
    for f in 0..count {
        words.insert(f, w[rows[first + f] + offset]);
    }
    words
}

/// How numbers are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Load {
    /// Two words, as an integer of 64 bits.
    Long,
    /// Four words, as a vector.
    Quad,
}

impl Load {
    pub(super) fn words(self) -> usize {
        match self {
            Self::Long => 2,
            Self::Quad => 4,
        }
    }

    /// Elements of the vector that is loaded.
    pub(super) fn elements(self) -> usize {
        if self == Self::Quad { 4 } else { 1 }
    }
}

/// Loads words of `count` rows, the first of which is `first`, to `out[to..]`.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a load is found by")]
pub(super) fn load<E: Int, N: Size, F: Size>(
    numbers: &[Vector<E, N>],
    rows: &Array<usize>,
    offset: usize,
    out: &mut Array<Vector<u32, F>>,
    #[comptime] first: usize,
    #[comptime] count: usize,
    #[comptime] to: usize,
    #[comptime] load: Load,
) {
    let mut loaded = Array::<Vector<E, N>>::new(count);
    #[unroll]
    for f in 0..count {
        loaded[f] = numbers[rows[first + f] + offset];
    }
    #[unroll]
    for i in 0..comptime!(load.words()) {
        let mut words = Vector::<u32, F>::new(0u32);
        #[unroll]
        for f in 0..count {
            if comptime!(load == Load::Long) {
                let long = loaded[f].extract(0usize);
                words.insert(
                    f,
                    u32::cast_from(
                        (long >> E::from_int(comptime!(32 * i as i64))) & E::from_int(0xffff_ffff),
                    ),
                );
            } else {
                words.insert(f, u32::cast_from(loaded[f].extract(i)));
            }
        }
        out[to + i] = words;
    }
}

/// Decodes weights `8 * octet ..` of a group of some rows, whose words begin at `words[from]`, to `out[first..]`.
#[cube]
pub(super) fn decode<F: Size>(
    words: &Array<Vector<u32, F>>,
    #[comptime] from: usize,
    octet: usize,
    group: &Group<F>,
    out: &mut Array<Vector<f32, F>>,
    #[comptime] first: usize,
    #[comptime] dtype: DType,
) {
    #[unroll]
    for j in 0..8usize {
        if comptime!(dtype == DType::F32) {
            out[first + j] = Vector::<f32, F>::reinterpret(words[from + j]);
        } else if comptime!(dtype == DType::F16) {
            let bits =
                bits_of::<F>(words[comptime!(from + j / 2)], comptime!(16 * (j as u32 % 2)), 0xffffu32);
            out[first + j] = half_of::<F>(bits);
        } else if comptime!(dtype == DType::BF16) {
            let word = words[comptime!(from + j / 2)];
            if comptime!(j % 2 == 0) {
                out[first + j] = Vector::<f32, F>::reinterpret(word << Vector::<u32, F>::new(16u32));
            } else {
                out[first + j] = Vector::<f32, F>::reinterpret(word & Vector::<u32, F>::new(0xffff_0000u32));
            }
        } else if comptime!(dtype == DType::Q8_0) {
            let bits = bits_of::<F>(words[comptime!(from + j / 4)], comptime!(8 * (j as u32 % 4)), 255u32);
            out[first + j] = group.a * (float_of::<F>(bits) - Vector::<f32, F>::new(128.0f32));
        } else {
            let mut q = bits_of::<F>(words[from], comptime!(4 * j as u32), 15u32);
            if comptime!(matches!(dtype, DType::Q5_0 | DType::Q5_1 | DType::Q5_K)) {
                let high = bits_of::<F>(group.high, 8 * octet as u32 + comptime!(j as u32), 1u32);
                q |= high << Vector::<u32, F>::new(4u32);
            }
            let mut a = group.a;
            if comptime!(dtype == DType::Q6_K) {
                let is_first = octet < 2;
                let words = select(is_first, group.high, group.higher);
                let high = bits_of::<F>(words, 16 * (octet as u32 % 2) + comptime!(2 * j as u32), 3u32);
                q |= high << Vector::<u32, F>::new(4u32);
                a = select(is_first, group.a, group.b);
            }
            let zero = comptime!(match dtype {
                DType::Q4_0 => 8.0f32,
                DType::Q5_0 => 16.0,
                DType::Q6_K => 32.0,
                _ => 0.0,
            });
            if comptime!(zero > 0.0) {
                out[first + j] = a * (float_of::<F>(q) - Vector::<f32, F>::new(zero));
            } else {
                out[first + j] = a * float_of::<F>(q) + group.b;
            }
        }
    }
}

/// Some bits of each word.
#[cube]
fn bits_of<F: Size>(words: Vector<u32, F>, shift: u32, #[comptime] mask: u32) -> Vector<u32, F> {
    (words >> Vector::<u32, F>::new(shift)) & Vector::<u32, F>::new(mask)
}

/// Numbers below 2^31: to convert these from integers with a sign is one instruction on most devices.
#[cube]
fn float_of<F: Size>(numbers: Vector<u32, F>) -> Vector<f32, F> {
    Vector::<f32, F>::cast_from(Vector::<i32, F>::reinterpret(numbers))
}

/// 16 bits as an f16; infinities and NaN come out as numbers. Most devices take a subnormal f32 for zero, so that the
/// smallest are made of their bits as an integer.
#[cube]
fn half_of<F: Size>(bits: Vector<u32, F>) -> Vector<f32, F> {
    let magnitude = bits & Vector::<u32, F>::new(0x7fffu32);
    let normal = Vector::<f32, F>::reinterpret(magnitude << Vector::<u32, F>::new(13u32))
        * Vector::<f32, F>::new(HALF_BIAS);
    let subnormal = float_of::<F>(magnitude) * Vector::<f32, F>::new(HALF_LEAST);
    let is_normal = magnitude.greater_than(&Vector::<u32, F>::new(0x3ffu32));
    let size = select_many(is_normal, normal, subnormal);
    let sign = (bits & Vector::<u32, F>::new(0x8000u32)) << Vector::<u32, F>::new(16u32);
    Vector::<f32, F>::reinterpret(Vector::<u32, F>::reinterpret(size) | sign)
}

/// The low byte, which has a sign.
#[cube]
fn signed_byte<F: Size>(words: Vector<u32, F>) -> Vector<f32, F> {
    let turned = (words & Vector::<u32, F>::new(255u32)) ^ Vector::<u32, F>::new(128u32);
    float_of::<F>(turned) - Vector::<f32, F>::new(128.0f32)
}

const _: () = assert!(GROUP == 32 && OCTET == 8 && ALIGNMENT == 4, "the kernels above have them as numbers");
