//! Changes to files that are there whole after a crash, or not at all.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Moves a file to its final place, synced and read-only. One that is there already with the same
/// length has the same content, by its name, and stays: it may be mapped.
pub(super) fn publish_read_only(from: &Path, to: &Path) -> io::Result<()> {
    let file = File::open(from)?;
    if fs::metadata(to).is_ok_and(|there| Some(there.len()) == file.metadata().ok().map(|new| new.len())) {
        return remove(from);
    }
    file.sync_all()?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Replaces a file's content, by way of `staged` on the same file system.
pub(super) fn write_whole(staged: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(staged, to)?;
    sync_parent(to)
}

/// Removes a file, also from the disk's view of its folder.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_parent(path)
}

/// A file's content; one of more than `max` bytes is an error.
pub(super) fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("has more than {max} bytes")));
    }
    Ok(bytes)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(path.parent().expect("files of the catalogue are in a folder"))
}

/// A rename or a removal lasts when the folder is synced.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
