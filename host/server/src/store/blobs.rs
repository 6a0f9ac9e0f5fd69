//! Components as files, each named by the digest of its bytes.
//!
//! A blob is written to a temporary file, synced and renamed, so that one that is there is whole. A
//! [`Pin`] keeps a blob from being removed while a deploy is about to refer to it; start-up sweeps
//! what nothing refers to.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tempfile::NamedTempFile;

use crate::function::Digest;

/// Start of a temporary file's name; no digest begins so.
const UPLOAD_PREFIX: &str = "upload-";

/// A folder of blobs; cloning shares it. Everything here blocks for file operations.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: Arc<Path>,
    pins: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Blobs {
    /// Opens the folder, making it if need be.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.into(), pins: Arc::default() })
    }

    /// A file to receive bytes that may become a blob; dropping it removes it.
    pub(crate) fn upload(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(UPLOAD_PREFIX).tempfile_in(&self.dir)
    }

    /// Keeps the blob, present or not, from being removed until the pin is dropped.
    pub(crate) fn pin(&self, digest: &Digest) -> Pin {
        *self.pins.lock().expect("no panic holds this lock").entry(digest.clone()).or_default() += 1;
        Pin { blobs: self.clone(), digest: digest.clone() }
    }

    /// Bytes of a blob.
    pub(crate) fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.path(digest))
    }

    /// Whether the blob is there.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Length of a blob.
    pub(crate) fn bytes(&self, digest: &Digest) -> io::Result<u64> {
        Ok(fs::metadata(self.path(digest))?.len())
    }

    /// Removes a blob unless it is pinned. Call it where nothing can come to refer to the blob without
    /// a pin meanwhile: on the store's thread, after the commit that dropped the last reference.
    pub(super) fn remove(&self, digest: &Digest) -> io::Result<()> {
        let pins = self.pins.lock().expect("no panic holds this lock");
        match pins.contains_key(digest) {
            true => Ok(()),
            false => fs::remove_file(self.path(digest)),
        }
    }

    /// Removes every file that is not a blob of `keep`; answers how many. For start-up, before anything
    /// else uses the folder.
    pub(super) fn sweep(&self, keep: &HashSet<Digest>) -> io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(|name| Digest::parse(name).ok());
            let is_upload = entry.file_name().to_string_lossy().starts_with(UPLOAD_PREFIX);
            if is_upload || digest.is_some_and(|digest| !keep.contains(&digest)) {
                fs::remove_file(entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.as_str())
    }
}

/// Keeps a blob from being removed.
#[derive(Debug)]
pub(crate) struct Pin {
    blobs: Blobs,
    digest: Digest,
}

impl Pin {
    /// Makes an upload the pinned blob. When this returns the blob outlives a crash.
    pub(crate) fn keep(&self, upload: NamedTempFile) -> io::Result<()> {
        let path = self.blobs.path(&self.digest);
        if path.exists() {
            return Ok(());
        }
        upload.as_file().sync_all()?;
        upload.persist(&path).map_err(|error| error.error)?;
        File::open(&self.blobs.dir)?.sync_all()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.blobs.pins.lock().expect("no panic holds this lock");
        let count = pins.get_mut(&self.digest).expect("a pin is counted");
        *count -= 1;
        if *count == 0 {
            pins.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn put(blobs: &Blobs, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut upload = blobs.upload().unwrap();
        upload.write_all(bytes).unwrap();
        blobs.pin(&digest).keep(upload).unwrap();
        digest
    }

    #[test]
    fn a_blob_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = put(&blobs, b"one");
        assert_eq!(put(&blobs, b"one"), digest);
        assert_eq!(blobs.read(&digest).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_pinned_blob_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = put(&blobs, b"one");
        let (first, second) = (blobs.pin(&digest), blobs.pin(&digest));
        drop(first);
        blobs.remove(&digest).unwrap();
        assert!(blobs.read(&digest).is_ok());
        drop(second);
        blobs.remove(&digest).unwrap();
        assert!(blobs.read(&digest).is_err());
    }

    #[test]
    fn a_sweep_leaves_what_is_referred_to_and_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let (kept, orphan) = (put(&blobs, b"kept"), put(&blobs, b"orphan"));
        blobs.upload().unwrap().keep().unwrap();
        fs::write(dir.path().join("README"), "").unwrap();
        assert_eq!(blobs.sweep(&HashSet::from([kept.clone()])).unwrap(), 2);
        assert!(blobs.read(&kept).is_ok() && blobs.read(&orphan).is_err());
        assert!(dir.path().join("README").exists());
    }
}
