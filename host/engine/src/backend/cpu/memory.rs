//! Large, aligned, zeroed memory.

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
        let pages = MmapMut::map_anon(bytes)
            .map_err(|e| Error::Failed(format!("no memory for {bytes} bytes: {e}")))?;
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
