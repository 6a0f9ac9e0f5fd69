//! The folder of images and prefixes.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::SystemTime,
};

use super::{
    Block, Matrices, Prefixes,
    image::{self, Image},
    prefixes, proof,
};
use crate::{
    catalog::{Digest, files::sync_dir},
    kv::BlockHash,
};

/// What the names of images, of prefixes and of what models say end with.
const IMAGE: &str = ".image";
const PREFIXES: &str = ".prefixes";
const PROOF: &str = ".proof";
/// What the name of a file begins with that is not whole.
const UNFINISHED: &str = ".unfinished-";

/// The files of a node; each is of one model in one layout. Cloning shares the folder.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Bytes of all files; beyond it those that were used longest ago go.
    bytes_max: u64,
}

impl Store {
    /// Opens the folder, made if need be, and removes what an interrupted write left.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if name_of(&path).starts_with(UNFINISHED) {
                ignore_absent(fs::remove_file(path))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), bytes_max })
    }

    /// Whether there is an image, whatever it is worth.
    pub(crate) fn has_image(&self, digest: &Digest, layout: &str) -> bool {
        self.path(digest, layout, IMAGE).is_file()
    }

    /// Maps an image; `None` if there is none. The text says why one can't be used.
    pub(crate) fn image(&self, digest: &Digest, layout: &str) -> Option<Result<Image, String>> {
        find(&self.path(digest, layout, IMAGE), |path| Image::open(path, digest, layout))
    }

    /// Writes an image; when this returns it survives a crash. One that has no room is an error, as is
    /// one that was told to stop.
    pub(crate) fn write_image(
        &self,
        digest: &Digest,
        layout: &str,
        matrices: &Matrices,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let parts = matrices.iter().flat_map(|(_, parts)| parts);
        let bytes = parts.map(|part| part.bytes.len() as u64).sum();
        let write = |file: &mut File| image::write(file, digest, layout, matrices, stop);
        self.write(&self.path(digest, layout, IMAGE), bytes, write)
    }

    /// Removes a model's images of every layout. Maps of them stay good.
    pub(crate) fn remove_images(&self, digest: &Digest) -> io::Result<()> {
        self.remove(|name| name.starts_with(digest.hex()) && name.ends_with(IMAGE))
    }

    /// Maps the kept blocks of a model; `None` if there are none. The text says why they can't be used.
    pub(crate) fn prefixes(
        &self,
        digest: &Digest,
        layout: &str,
        root: BlockHash,
        block_bytes: usize,
    ) -> Option<Result<Prefixes, String>> {
        find(&self.path(digest, layout, PREFIXES), |path| Prefixes::open(path, root, block_bytes))
    }

    /// Writes the blocks of a model in place of those that are there; when this returns they survive a
    /// crash.
    pub(crate) fn write_prefixes(
        &self,
        digest: &Digest,
        layout: &str,
        root: BlockHash,
        blocks: &[Block],
    ) -> io::Result<()> {
        let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
        let write = |file: &mut File| prefixes::write(file, root, blocks);
        self.write(&self.path(digest, layout, PREFIXES), bytes, write)
    }

    /// What a model of this kind said, if that is known.
    pub(crate) fn proof(&self, digest: &Digest, layout: &str, kind: &str) -> Option<Vec<u32>> {
        find(&self.path(digest, layout, PROOF), |path| proof::read(path, kind))?.ok()
    }

    /// Keeps what a model of this kind says, in place of what was kept.
    pub(crate) fn write_proof(
        &self,
        digest: &Digest,
        layout: &str,
        kind: &str,
        said: &[u32],
    ) -> io::Result<()> {
        let write = |file: &mut File| proof::write(file, kind, said);
        self.write(&self.path(digest, layout, PROOF), size_of_val(said) as u64, write)
    }

    /// Removes everything of a model. Maps stay good.
    pub(crate) fn remove_all(&self, digest: &Digest) -> io::Result<()> {
        self.remove(|name| name.starts_with(digest.hex()))
    }

    fn write(
        &self,
        path: &Path,
        bytes: u64,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_room(path, bytes)?;
        let staged = self.dir.join(format!("{UNFINISHED}{}-{}", std::process::id(), name_of(path)));
        let written = self.write_at(&staged, path, write);
        if written.is_err() {
            // What is left of it goes at the next start at the latest.
            drop(fs::remove_file(&staged));
        }
        written
    }

    fn write_at(
        &self,
        staged: &Path,
        path: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut file = File::create(staged)?;
        write(&mut file)?;
        // It is mapped from now on, and must not change.
        file.set_permissions(Permissions::from_mode(0o444))?;
        fs::rename(staged, path)?;
        sync_dir(&self.dir)
    }

    /// Removes files until one of `bytes` at `path` is within the bound.
    fn make_room(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let max = self.bytes_max;
        if bytes > max {
            let reason = format!("it has {bytes} bytes, all of its kind may have {max} (ready_bytes_max)");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, reason));
        }
        let mut files = self.list()?;
        files.retain(|(other, ..)| other != path);
        files.sort_by_key(|(_, _, used_at)| *used_at);
        let mut total = files.iter().fold(bytes, |total, (_, bytes, _)| total.saturating_add(*bytes));
        for (path, bytes, _) in files {
            if total <= max {
                break;
            }
            tracing::info!(file = %name_of(&path), "removed what was kept of a model, to make room");
            ignore_absent(fs::remove_file(path))?;
            total -= bytes;
        }
        Ok(())
    }

    /// Every file with its bytes and when it was last used.
    fn list(&self) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if [IMAGE, PREFIXES, PROOF].iter().any(|kind| name_of(&path).ends_with(kind)) {
                // One that went since is no concern.
                let Ok(metadata) = fs::metadata(&path) else { continue };
                files.push((path, metadata.len(), metadata.modified()?));
            }
        }
        Ok(files)
    }

    fn remove(&self, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
        for (path, ..) in self.list()? {
            if is_meant(name_of(&path)) {
                ignore_absent(fs::remove_file(path))?;
            }
        }
        sync_dir(&self.dir)
    }

    fn path(&self, digest: &Digest, layout: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{}-{layout}{kind}", digest.hex()))
    }
}

/// Opens a file, and notes that it was used.
fn find<T>(
    path: &Path,
    open: impl FnOnce(&Path) -> io::Result<Result<T, String>>,
) -> Option<Result<T, String>> {
    match open(path) {
        Ok(opened) => {
            // Where that can't be noted, it goes a bit early.
            drop(File::open(path).and_then(|file| file.set_modified(SystemTime::now())));
            Some(opened)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn ignore_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
