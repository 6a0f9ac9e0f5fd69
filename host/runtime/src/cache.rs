//! Compiled components on disk.
//!
//! A file is named by the digest of the wasm and a hash of everything that shapes compiled code, and
//! holds wasmtime's compiled form followed by a trailer, so that the form itself starts at a page and
//! can be mapped. wasmtime trusts what it maps; therefore the folder is this user's alone, a file
//! appears by rename only when whole and synced, and nothing is mapped before its trailer and checksum
//! have been found right. Against a writer of the folder no checksum would help; against a torn or
//! rotten disk a CRC does, and at the speed of reading memory it costs a small guest some 20 us and a
//! 33 MB one some ms, so it is checked at every map instead of remembering what was checked when.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// What an interrupted write leaves.
const UNFINISHED_PREFIX: &str = ".unfinished-";
/// No compilation takes this long.
const UNFINISHED_AGE_MAX: Duration = Duration::from_secs(3600);

/// The folder of compiled components for one way of compiling.
pub(crate) struct Cache {
    dir: PathBuf,
    compatibility: u64,
}

/// Hex SHA-256 of wasm bytes.
pub(crate) type Digest = str;

/// What the folder has for a component.
pub(crate) enum Lookup {
    /// A file that may be mapped.
    Hit(PathBuf),
    Miss,
    /// A file that may not, and why.
    Bad(String),
}

impl Cache {
    /// Opens the folder, made if need be, for this user alone. `compatibility` is a hash of whatever
    /// compiled code depends on.
    pub(crate) fn open(dir: &Path, compatibility: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // Only the owner may do this, so it is also the check that the folder is ours.
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
        remove_unfinished(dir)?;
        Ok(Self { dir: dir.into(), compatibility })
    }

    /// Looks a component up and verifies its file. Reads the whole file.
    pub(crate) fn find(&self, digest: &Digest) -> Lookup {
        let path = self.path(digest);
        match self.verify(&path, digest) {
            Ok(()) => Lookup::Hit(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Lookup::Miss,
            Err(error) => Lookup::Bad(error.to_string()),
        }
    }

    /// Writes a component's compiled form; when this returns it survives a crash.
    pub(crate) fn store(&self, digest: &Digest, code: &[u8]) -> io::Result<PathBuf> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(&self.dir)?;
        file.write_all(code)?;
        file.write_all(&self.trailer(digest, code.len() as u64, crc32fast::hash(code)).to_bytes())?;
        file.as_file().sync_all()?;
        let path = self.path(digest);
        file.persist(&path)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(path)
    }

    /// Removes a component's file, if there is one. Maps of it stay good.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<()> {
        ignore_absent(fs::remove_file(self.path(digest)))
    }

    /// Removes a component's files for every way of compiling, so that none stays of versions past.
    pub(crate) fn remove_all(&self, digest: &Digest) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(digest) {
                ignore_absent(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}-{:016x}.cwasm", self.compatibility))
    }

    fn verify(&self, path: &Path, digest: &Digest) -> io::Result<()> {
        let mut file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let Some(code_bytes) = file_bytes.checked_sub(TRAILER_BYTES as u64) else {
            return Err(bad(format!("{file_bytes} bytes are less than its trailer")));
        };
        file.seek(SeekFrom::Start(code_bytes))?;
        let mut found = [0; TRAILER_BYTES];
        file.read_exact(&mut found)?;
        file.rewind()?;
        let expected = self.trailer(digest, code_bytes, checksum(&mut file, code_bytes)?).to_bytes();
        if found[..CHECKSUM_AT] != expected[..CHECKSUM_AT] {
            return Err(bad("its trailer belongs to other or more code".into()));
        }
        if found != expected {
            return Err(bad("its checksum is wrong".into()));
        }
        Ok(())
    }

    fn trailer<'a>(&self, digest: &'a Digest, code_bytes: u64, checksum: u32) -> Trailer<'a> {
        Trailer { digest, compatibility: self.compatibility, code_bytes, checksum }
    }
}

/// The end of a file: which code it is, and that it is whole.
struct Trailer<'a> {
    digest: &'a Digest,
    compatibility: u64,
    code_bytes: u64,
    checksum: u32,
}

const MAGIC: &[u8; 8] = b"dormouse";
const DIGEST_BYTES: usize = 64;
const CHECKSUM_AT: usize = MAGIC.len() + DIGEST_BYTES + 8 + 8;
const TRAILER_BYTES: usize = CHECKSUM_AT + 4;

impl Trailer<'_> {
    /// Magic, digest in hex, compatibility, length of the code, its CRC-32; numbers little endian.
    fn to_bytes(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        let mut rest = &mut bytes[..];
        for field in [
            &MAGIC[..],
            self.digest.as_bytes(),
            &self.compatibility.to_le_bytes(),
            &self.code_bytes.to_le_bytes(),
            &self.checksum.to_le_bytes(),
        ] {
            rest.write_all(field).expect("the fields are as long as the trailer");
        }
        bytes
    }
}

/// CRC-32 of the next `bytes` of a file.
fn checksum(file: &mut File, bytes: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    let mut file = file.take(bytes);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn ignore_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn bad(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Removes what a killed process left; a younger file may be another process's write under way.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX) {
            continue;
        }
        let age =
            entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > UNFINISHED_AGE_MAX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
