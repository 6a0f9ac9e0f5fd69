//! The KV cache, in pages laid out for attention.
//!
//! A page is one block of 16 positions of one layer and key/value head; a block's pages follow each
//! other, so that a block is one range of bytes. `D` is the head size, rounded up to 16:
//!
//! ```text
//! keys    [D/2][16][2]   pair i: elements 2i and 2i + 1 of 16 positions, lane = position
//! values  [8][D][2]      pair i: positions 2i and 2i + 1 of D elements, lane = element
//! scales  [2][16]        f32, of each position's key and of its value; only where they have 8 bits
//! ```
//!
//! Elements are bf16: of 64 bytes, a shift makes one vector of f32 and a mask another. Or they are signed
//! bytes, which attention turns into bf16 exactly, and scales in the scores and the weights instead.
//! Values at positions behind the last stored one are finite, as they are multiplied with weights of 0.

use std::ops::Range;

use super::{memory::Memory, simd::LANES, split::Split};
use crate::{
    Error, KvType,
    backend::{BLOCK_TOKENS, BlockId, CacheShape},
};

/// The largest head size.
pub(super) const HEAD_MAX: usize = 512;

const _: () = assert!(BLOCK_TOKENS == LANES, "a vector of scores is one block's");

/// Names what a block's bytes are. Must change whenever the same tokens give other bytes: blocks on disk of
/// another version are computed again.
pub(super) fn layout_name(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::Bf16 => "bf16-2",
        KvType::Q8 => "q8-1",
    }
}

/// Keys and values of every block of a model.
pub(crate) struct Cache {
    layout: Layout,
    shape: CacheShape,
    memory: Memory,
}

/// Where pages lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    layers: usize,
    kv_heads: usize,
    /// Head size rounded up to 16.
    width: usize,
    kv_type: KvType,
}

impl Cache {
    pub(super) fn new(shape: CacheShape) -> Result<Self, Error> {
        assert!(shape.head_size <= HEAD_MAX, "head size {} is above {HEAD_MAX}", shape.head_size);
        let layout = Layout::new(shape);
        let memory = Memory::zeroed(shape.blocks.saturating_mul(layout.block_bytes()))?;
        Ok(Self { layout, shape, memory })
    }

    pub(super) fn shape(&self) -> CacheShape {
        self.shape
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The page of a block.
    #[inline(always)]
    pub(super) fn page(&self, block: BlockId, layer: usize, head: usize) -> Page<'_> {
        let start = self.layout.offset(block, layer, head);
        let page = &self.memory.bytes()[start..start + self.layout.page_bytes()];
        let (keys, rest) = page.split_at(self.layout.half_bytes());
        let (values, scales) = rest.split_at(self.layout.half_bytes());
        Page { keys, values, scales }
    }

    /// A block, all layers and heads.
    pub(super) fn block(&self, block: BlockId) -> &[u8] {
        &self.memory.bytes()[self.range(block)]
    }

    /// A block to be filled.
    pub(super) fn block_mut(&mut self, block: BlockId) -> &mut [u8] {
        let range = self.range(block);
        &mut self.memory.bytes_mut()[range]
    }

    fn range(&self, block: BlockId) -> Range<usize> {
        let bytes = self.layout.block_bytes();
        let start = block.0 as usize * bytes;
        start..start + bytes
    }

    /// All bytes, to be written by places.
    pub(super) fn split(&mut self) -> Split<'_, u8> {
        Split::new(self.memory.bytes_mut())
    }
}

/// A page to read.
#[derive(Clone, Copy)]
pub(super) struct Page<'a> {
    /// `[D/2][16][2]`.
    pub(super) keys: &'a [u8],
    /// `[8][D][2]`.
    pub(super) values: &'a [u8],
    /// `[2][16]` f32, or nothing.
    pub(super) scales: &'a [u8],
}

impl Layout {
    pub(super) fn new(shape: CacheShape) -> Self {
        let width = shape.head_size.next_multiple_of(LANES);
        Self { layers: shape.layers, kv_heads: shape.kv_heads, width, kv_type: shape.kv_type }
    }

    /// Head size rounded up to 16, `D` of a page.
    pub(super) fn width(self) -> usize {
        self.width
    }

    /// Bytes of a block, all layers and heads.
    pub(super) fn block_bytes(self) -> usize {
        self.layers * self.kv_heads * self.page_bytes()
    }

    pub(super) fn kv_type(self) -> KvType {
        self.kv_type
    }

    fn page_bytes(self) -> usize {
        let scales = if self.kv_type == KvType::Q8 { 2 * size_of::<f32>() * BLOCK_TOKENS } else { 0 };
        2 * self.half_bytes() + scales
    }

    /// Bytes of a page's keys, or of its values.
    fn half_bytes(self) -> usize {
        self.element_bytes() * BLOCK_TOKENS * self.width
    }

    fn element_bytes(self) -> usize {
        match self.kv_type {
            KvType::Bf16 => 2,
            KvType::Q8 => 1,
        }
    }

    /// Where a page starts.
    fn offset(self, block: BlockId, layer: usize, head: usize) -> usize {
        assert!(layer < self.layers && head < self.kv_heads, "layer {layer}, head {head} of {self:?}");
        ((block.0 as usize * self.layers + layer) * self.kv_heads + head) * self.page_bytes()
    }

    /// Where the pair `2i, 2i + 1` of a position's key lies.
    pub(super) fn key_pair(self, place: Place, i: usize) -> usize {
        self.page_of(place) + (i * BLOCK_TOKENS + place.slot) * 2 * self.element_bytes()
    }

    /// Where element `d` of a position's value lies.
    pub(super) fn value(self, place: Place, d: usize) -> usize {
        let values = self.page_of(place) + self.half_bytes();
        values + ((place.slot / 2 * self.width + d) * 2 + place.slot % 2) * self.element_bytes()
    }

    /// Where the scales of a position's key and value lie.
    pub(super) fn scales(self, place: Place) -> [usize; 2] {
        let scales = self.page_of(place) + 2 * self.half_bytes();
        [scales + 4 * place.slot, scales + 4 * (BLOCK_TOKENS + place.slot)]
    }

    fn page_of(self, place: Place) -> usize {
        self.offset(place.block, place.layer, place.head)
    }
}

/// One position of one head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) block: BlockId,
    pub(super) layer: usize,
    pub(super) head: usize,
    /// Position within the block.
    pub(super) slot: usize,
}
