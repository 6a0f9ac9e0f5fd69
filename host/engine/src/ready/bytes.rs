//! Bytes that several hold and nobody changes.

use std::{fmt, ops::Deref, ops::Range, sync::Arc};

use memmap2::MmapMut;

use crate::gguf::Map;

/// A range of memory, shared. It is given back when the last who holds a part of it lets go.
#[derive(Clone)]
pub(crate) struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    /// Pages of a file.
    File(Map),
    /// Pages of our own.
    Memory(Option<MmapMut>),
}

impl Bytes {
    /// All of a file.
    pub(crate) fn of_file(map: Map) -> Self {
        let range = 0..map.len();
        Self { owner: Arc::new(Owner::File(map)), range }
    }

    /// All of some memory, which is written to no more; `None` is no bytes.
    pub(crate) fn of_memory(pages: Option<MmapMut>) -> Self {
        let range = 0..pages.as_ref().map_or(0, |pages| pages.len());
        Self { owner: Arc::new(Owner::Memory(pages)), range }
    }

    /// A part of these bytes.
    ///
    /// # Panics
    /// If it is none.
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "{range:?} of {:?}", self.range);
        let range = self.range.start + range.start..self.range.start + range.end;
        Self { owner: self.owner.clone(), range }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        let all = match &*self.owner {
            Owner::File(map) => map,
            Owner::Memory(Some(pages)) => &pages[..],
            Owner::Memory(None) => &[],
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}
