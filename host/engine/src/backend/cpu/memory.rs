//! Large, aligned, zeroed memory. What the system doesn't give is an error, never the end of the process.
#![expect(unsafe_code, reason = "bytes are read as floats")]

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::{Error, ready::Bytes};

/// Bytes on pages of their own, zero at first. Untouched pages take no memory.
pub(super) struct Memory {
    /// `None` for no bytes.
    pages: Option<MmapMut>,
}

impl Memory {
    /// Asks the system for `bytes`.
    pub(super) fn zeroed(bytes: usize) -> Result<Self, Error> {
        if bytes == 0 {
            return Ok(Self { pages: None });
        }
        let pages = MmapMut::map_anon(bytes).map_err(|_| Error::no_memory_for(bytes))?;
        // Fewer page walks while weights stream through; a system without huge pages does without.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Ok(Self { pages: Some(pages) })
    }

    /// The bytes as they are now, for many to hold.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::of_memory(self.pages)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.pages.as_deref().unwrap_or(&[])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages.as_deref_mut().unwrap_or(&mut [])
    }
}

/// Numbers on pages of their own, zero at first.
pub(super) struct Floats(Memory);

impl Floats {
    /// Asks the system for `rows` times `columns` of them.
    pub(super) fn zeroed(rows: usize, columns: usize) -> Result<Self, Error> {
        let bytes = rows.saturating_mul(columns).saturating_mul(size_of::<f32>());
        Memory::zeroed(bytes).map(Self)
    }
}

impl Deref for Floats {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: any four bytes are an f32. Pages begin at a multiple of four, so none is left out.
        unsafe { self.0.bytes().align_to().1 }
    }
}

impl DerefMut for Floats {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: any four bytes are an f32, and any f32 four bytes.
        unsafe { self.0.bytes_mut().align_to_mut().1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_many_as_were_asked_for_and_zero() {
        let mut floats = Floats::zeroed(3, 5).unwrap();
        assert_eq!(*floats, [0.0; 15]);
        floats[14] = 1.0;
        assert_eq!(floats.iter().sum::<f32>(), 1.0);
        assert!(Floats::zeroed(0, 5).unwrap().is_empty());
    }

    #[test]
    fn what_the_system_does_not_have_is_an_error() {
        // More than a process can address.
        for floats in [Floats::zeroed(1 << 40, 1 << 10), Floats::zeroed(usize::MAX, 2)] {
            assert!(matches!(floats.map(drop), Err(Error::OutOfMemory(_))));
        }
    }
}
