//! A file as bytes, without reading it.

#![expect(unsafe_code, reason = "mapping a file is unsafe: another process could change it")]

use std::{fs::File, io, ops::Deref, path::Path};

use memmap2::Mmap;

/// A read-only private mapping of a whole regular file.
///
/// The file must not be written to or truncated while it is mapped: a changed byte shows, and
/// reading a page beyond a new end kills the process with SIGBUS. The catalogue's blobs are
/// read-only, named by their digest and only ever renamed into place or unlinked (a mapping
/// outlives both); a file given by path is its owner's promise.
#[derive(Debug)]
pub(crate) struct Map(Mmap);

impl Map {
    /// Maps a file that has at least one byte.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Before opening: opening a FIFO would wait for a writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "file is empty"));
        }
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and only ever seen as `&[u8]`, in which any byte is valid.
        // That nobody changes the file while it is mapped is the contract on this type.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// Bytes of a test, as if they were a file's.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut map = memmap2::MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        Ok(Self(map.make_read_only()?))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
