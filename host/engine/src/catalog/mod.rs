//! Models by name, on disk.
//!
//! ```text
//! models_dir/
//!   blobs/sha256-<hex>   a model file: read-only, named by its digest, never changed
//!   names/<name>.json    which blob a name means, and where it came from
//!   tmp/                 downloads under way
//!   lock                 held while names or blobs are added or removed
//! ```
//!
//! A name is written after its blob is in place and synced, and removed before it: a crash between
//! two steps leaves a file in `tmp` or a blob without a name, which nothing reads and
//! [`Catalog::sweep`] removes. Removing a blob that is mapped is safe, its pages outlive its name.

mod digest;
mod facts;
pub(crate) mod files;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

pub use digest::Digest;
pub use facts::{ModelFacts, inspect};

use crate::Error;

/// The most bytes of a model's name.
const NAME_BYTES_MAX: usize = 128;
/// The most bytes of a name's record.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The models on this node. Cheap to make; every call reads the disk, so don't call it from an
/// async task.
#[derive(Debug, Clone)]
pub struct Catalog {
    dir: PathBuf,
}

/// A model that is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// What is recorded about it.
    #[serde(flatten)]
    pub record: Record,
}

/// What a name stands for, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name.
    pub name: String,
    /// Digest of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub bytes: u64,
    /// Where it came from, such as `hf:owner/repo/file.gguf`.
    pub source: String,
    /// The file's name there.
    pub file: String,
    /// When it was added, in seconds since 1970.
    pub added_at: u64,
}

/// What [`Catalog::sweep`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Catalog {
    /// The catalogue in a folder, which is made if it isn't there.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let catalog = Self { dir: dir.into() };
        for dir in [catalog.blobs(), catalog.names(), catalog.tmp()] {
            fs::create_dir_all(&dir).map_err(|e| failed("make", &dir, &e))?;
        }
        Ok(catalog)
    }

    /// The model of this name. [`Error::UnknownModel`] when there is none, [`Error::BadModel`] when
    /// its file is gone or has another length.
    pub fn resolve(&self, name: &str) -> Result<Entry, Error> {
        check_name(name)?;
        let record = self.read_record(name)?.ok_or_else(|| Error::UnknownModel(name.to_owned()))?;
        let path = self.blob(&record.digest);
        let bad = |reason: String| Error::BadModel { path: path.clone(), reason };
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == record.bytes => Ok(Entry { path, record }),
            Ok(metadata) => Err(bad(format!("has {} bytes, expected {}", metadata.len(), record.bytes))),
            Err(e) => Err(bad(e.to_string())),
        }
    }

    /// Every model, by name. One whose record or file is damaged is left out, with a warning.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for name in self.recorded_names()? {
            match self.resolve(&name) {
                Ok(entry) => entries.push(entry),
                // Removed since the folder was read.
                Err(Error::UnknownModel(_)) => {}
                Err(error) => tracing::warn!(name, %error, "model can't be used"),
            }
        }
        Ok(entries)
    }

    /// Where a download belongs until [`Catalog::add`] takes it.
    pub fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Takes a file out of [`Catalog::tmp`] under a name; a name that is there already then means
    /// the new file. `digest` must be the file's: the caller has just computed it. A file that isn't
    /// a model is [`Error::BadModel`] and stays where it is.
    pub fn add(&self, name: &str, source: &str, file: &Path, digest: &Digest) -> Result<Entry, Error> {
        check_name(name)?;
        if file.parent() != Some(&*self.tmp()) {
            return Err(Error::Invalid(format!("{} is not in {}", file.display(), self.tmp().display())));
        }
        inspect(file)?;
        let _lock = self.lock()?;
        let bytes = fs::metadata(file).map_err(|e| failed("read", file, &e))?.len();
        let blob = self.blob(digest);
        files::publish_read_only(file, &blob).map_err(|e| failed("put a model at", &blob, &e))?;

        let record = Record {
            name: name.to_owned(),
            digest: digest.clone(),
            bytes,
            source: source.to_owned(),
            file: file_name(source).to_owned(),
            added_at: seconds_since_1970(SystemTime::now()),
        };
        let json = serde_json::to_vec_pretty(&record).expect("a record is plain data");
        let path = self.record(name);
        let staged = self.tmp().join(format!("{name}.json"));
        files::write_whole(&staged, &path, &json).map_err(|e| failed("write", &path, &e))?;
        Ok(Entry { path: blob, record })
    }

    /// Forgets a name, and removes its file if no other name means it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        let _lock = self.lock()?;
        let path = self.record(name);
        // Of a damaged record the blob isn't known; a sweep finds it.
        let digest = self.read_record(name).ok().flatten().map(|record| record.digest);
        match files::remove(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::UnknownModel(name.to_owned()));
            }
            result => result.map_err(|e| failed("remove", &path, &e))?,
        }
        let in_use = self.digests_in_use()?;
        if let Some(blob) = digest.filter(|digest| !in_use.contains(digest)).map(|digest| self.blob(&digest))
        {
            files::remove(&blob).map_err(|e| failed("remove", &blob, &e))?;
        }
        Ok(())
    }

    /// Removes blobs without a name, and files in [`Catalog::tmp`] last written before `tmp_before`
    /// (younger ones may be downloads under way, or to be resumed). With a damaged record about, no
    /// blob is removed: it may be the one that was meant.
    pub fn sweep(&self, tmp_before: SystemTime) -> Result<Swept, Error> {
        let _lock = self.lock()?;
        let mut swept = Swept::default();
        let names = self.recorded_names()?;
        if names.iter().all(|name| matches!(self.read_record(name), Ok(Some(_)))) {
            let in_use: HashSet<PathBuf> = self.digests_in_use()?.iter().map(|d| self.blob(d)).collect();
            self.sweep_dir(&self.blobs(), &mut swept, |path, _| !in_use.contains(path))?;
        }
        self.sweep_dir(&self.tmp(), &mut swept, |_, metadata| {
            metadata.modified().is_ok_and(|modified| modified < tmp_before)
        })?;
        Ok(swept)
    }

    fn sweep_dir(
        &self,
        dir: &Path,
        swept: &mut Swept,
        is_garbage: impl Fn(&Path, &fs::Metadata) -> bool,
    ) -> Result<(), Error> {
        for item in fs::read_dir(dir).map_err(|e| failed("read", dir, &e))? {
            let path = item.map_err(|e| failed("read", dir, &e))?.path();
            // One that went since is no concern.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_file() && is_garbage(&path, &metadata) {
                files::remove(&path).map_err(|e| failed("remove", &path, &e))?;
                swept.files += 1;
                swept.bytes += metadata.len();
            }
        }
        Ok(())
    }

    /// Names that have a record, sorted; other files are none of ours.
    fn recorded_names(&self) -> Result<Vec<String>, Error> {
        let dir = self.names();
        let mut names = Vec::new();
        for item in fs::read_dir(&dir).map_err(|e| failed("read", &dir, &e))? {
            let file = item.map_err(|e| failed("read", &dir, &e))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.filter(|name| check_name(name).is_ok()).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// What the records that can be read mean.
    fn digests_in_use(&self) -> Result<HashSet<Digest>, Error> {
        let names = self.recorded_names()?.into_iter();
        Ok(names.filter_map(|name| self.read_record(&name).ok()?).map(|record| record.digest).collect())
    }

    /// The record of a name; `None` if it has none, [`Error::BadModel`] if it is damaged.
    fn read_record(&self, name: &str) -> Result<Option<Record>, Error> {
        let path = self.record(name);
        let bad = |reason: String| Error::BadModel { path: path.clone(), reason };
        let json = match files::read_at_most(&path, RECORD_BYTES_MAX) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(e.to_string())),
        };
        let record: Record = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
        if record.name != name {
            return Err(bad(format!("is the record of \"{}\"", record.name)));
        }
        Ok(Some(record))
    }

    /// Keeps other processes from adding and removing until it is dropped.
    fn lock(&self) -> Result<File, Error> {
        let path = self.dir.join("lock");
        let lock = || {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|e| failed("lock", &path, &e))
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    fn names(&self) -> PathBuf {
        self.dir.join("names")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(format!("sha256-{}", digest.hex()))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.names().join(format!("{name}.json"))
    }
}

/// `[a-z0-9][a-z0-9._-]*`, then perhaps `:` and a tag of the same characters: a file's name
/// that can't leave its folder.
fn check_name(name: &str) -> Result<(), Error> {
    if name.len() > NAME_BYTES_MAX {
        let len = name.len();
        return Err(Error::Invalid(format!(
            "model name has {len} bytes, at most {NAME_BYTES_MAX} are allowed"
        )));
    }
    let is_plain = |c: char| matches!(c, 'a'..='z' | '0'..='9');
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| is_plain(c) || matches!(c, '.' | '_' | '-'));
    let (stem, tag) = name.split_once(':').map_or((name, None), |(stem, tag)| (stem, Some(tag)));
    if stem.starts_with(is_plain) && is_word(stem) && tag.is_none_or(is_word) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "model name {name:?} may have a-z, 0-9, \".\", \"_\" and \"-\", a letter or digit first, and one \":\""
    )))
}

/// The last part of where a file came from.
fn file_name(source: &str) -> &str {
    source.rsplit('/').next().unwrap_or(source)
}

pub(crate) fn seconds_since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::Failed(format!("can't {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
