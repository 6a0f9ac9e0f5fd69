//! The file that a pull writes before the catalogue takes it: hashed as it grows, locked while it
//! is written, kept when a download breaks off.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dormouse_engine::catalog::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Error, Source};

/// Suffix of the file beside a partial one that says what it came from.
const ORIGIN: &str = "origin";
/// Bytes read or written at once.
pub(super) const CHUNK_BYTES: usize = 128 << 10;

/// A partial file of one source.
#[derive(Debug)]
pub(super) struct Stage {
    folder: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    bytes: u64,
    origin: Origin,
}

/// What the first bytes of a partial file came from; stands beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The server's strong validator (`ETag` or `Last-Modified`) of the file.
    pub(super) validator: Option<String>,
}

impl Stage {
    /// Opens the partial file of a source in `folder`, with what an earlier pull left in it.
    pub(super) fn open(folder: &Path, source: &Source) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let key = Digest::from_bytes(&Sha256::digest(source.to_string().as_bytes()).into());
        let path = folder.join(format!("{}.part", &key.hex()[..32]));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::file(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy(source.to_string())),
            Err(TryLockError::Error(error)) => return Err(Error::file(&path)(error)),
        }
        let origin = fs::read(path.with_extension(ORIGIN)).ok();
        let origin = origin.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let mut stage =
            Self { folder: folder.to_owned(), path, file, hasher: Sha256::new(), bytes: 0, origin };
        stage.hash_what_is_there()?;
        Ok(stage)
    }

    /// Bytes in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the bytes came from.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Forgets every byte; what follows comes from `origin`.
    pub(super) fn restart(&mut self, origin: Origin) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::file(&self.path))?;
        self.file.rewind().map_err(Error::file(&self.path))?;
        (self.hasher, self.bytes) = (Sha256::new(), 0);
        let json = serde_json::to_vec(&origin).expect("an origin is plain data");
        let beside = self.path.with_extension(ORIGIN);
        fs::write(&beside, json).map_err(Error::file(&beside))?;
        self.origin = origin;
        Ok(())
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::file(&self.path))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Fails when the folder's file system can't take `need_bytes` more.
    pub(super) fn ensure_room(&self, need_bytes: u64) -> Result<(), Error> {
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if need_bytes <= free_bytes {
            return Ok(());
        }
        Err(Error::NoRoom { dir: self.folder.clone(), free_bytes, need_bytes })
    }

    /// Digest of the bytes.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(&self.hasher.clone().finalize().into())
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes what is still there of the file, and what stands beside it.
    pub(super) fn discard(self) {
        // Nothing depends on either: a left-over is overwritten by the next pull of this source.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_extension(ORIGIN));
    }

    fn hash_what_is_there(&mut self) -> Result<(), Error> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match self.file.read(&mut chunk).map_err(Error::file(&self.path))? {
                0 => break,
                n => {
                    self.hasher.update(&chunk[..n]);
                    self.bytes += n as u64;
                }
            }
        }
        self.file.seek(SeekFrom::End(0)).map_err(Error::file(&self.path))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::File("/x".into())
    }

    #[test]
    fn a_reopened_stage_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin { validator: Some("\"v1\"".to_owned()) };
        let mut stage = Stage::open(folder.path(), &source()).unwrap();
        stage.restart(origin.clone()).unwrap();
        stage.write(b"dor").unwrap();
        drop(stage);

        let mut stage = Stage::open(folder.path(), &source()).unwrap();
        assert_eq!((stage.bytes(), stage.origin()), (3, &origin));
        stage.write(b"mouse").unwrap();
        assert_eq!(fs::read(stage.path()).unwrap(), b"dormouse");
        assert_eq!(stage.digest(), Digest::of_file(stage.path()).unwrap());
        stage.discard();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_pull_of_a_source_is_refused_while_the_first_runs() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Stage::open(folder.path(), &source()).unwrap();
        assert!(matches!(Stage::open(folder.path(), &source()), Err(Error::Busy(_))));
        assert!(Stage::open(folder.path(), &Source::File("/y".into())).is_ok());
    }

    #[test]
    fn more_bytes_than_the_disk_has_are_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::open(folder.path(), &source()).unwrap();
        stage.ensure_room(1).unwrap();
        let error = stage.ensure_room(u64::MAX).unwrap_err();
        assert!(matches!(error, Error::NoRoom { need_bytes: u64::MAX, .. }), "{error}");
    }
}
