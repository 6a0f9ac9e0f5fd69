//! What can go wrong when a model is pulled, by what its user can do about it.

use std::io;
use std::path::{Path, PathBuf};

use dormouse_engine::catalog::Digest;
use indicatif::DecimalBytes;

/// Any failure of a pull. Nothing is in the catalogue after one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a source nor a name the binary knows.
    #[error(
        "\"{name}\" is neither a known model ({known}) nor a source: write file:PATH, https://HOST/FILE, \
         hf:OWNER/REPO/FILE or pip:PACKAGE==VERSION/FILE"
    )]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A source that breaks its scheme's grammar.
    #[error("bad source \"{text}\": {reason}")]
    BadSource {
        /// What was asked for.
        text: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// A digest that is not 64 hexadecimal digits.
    #[error("bad digest \"{0}\": want 64 hexadecimal digits of SHA-256")]
    BadDigest(String),
    /// The server has no such file.
    #[error("{url} does not exist (status {status}): check the names in the source, and its revision")]
    NotFound {
        /// Where it was looked for.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// The server wants to know who asks.
    #[error("{url} refuses access (status {status}): {hint}")]
    Denied {
        /// Where it was looked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// What to set.
        hint: &'static str,
    },
    /// The server answers in a way that trying again won't change.
    #[error("{url} can't be downloaded: {reason}")]
    Refused {
        /// Where it was looked for.
        url: String,
        /// What the answer was.
        reason: String,
    },
    /// Every attempt failed. What has arrived is kept for the next pull.
    #[error("{url} failed {attempts} times, last: {reason}; pull again to go on at {}", DecimalBytes(*kept_bytes))]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// How many attempts there were.
        attempts: u32,
        /// Why the last one failed.
        reason: String,
        /// Bytes on disk.
        kept_bytes: u64,
    },
    /// The bytes are not the ones promised. They are deleted.
    #[error("wrong checksum for {source_text}: want {expected}, got {actual}; the download is deleted")]
    Checksum {
        /// Where the bytes came from.
        source_text: String,
        /// The digest promised by the catalogue, the user or the hub.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The model does not fit on the disk.
    #[error(
        "{} has {} free, the model needs {}: free some space or choose another folder with --data",
        dir.display(), DecimalBytes(*free_bytes), DecimalBytes(*need_bytes)
    )]
    NoRoom {
        /// Folder of the catalogue.
        dir: PathBuf,
        /// Bytes that may be written there.
        free_bytes: u64,
        /// Bytes still to come.
        need_bytes: u64,
    },
    /// Another process pulls the same source.
    #[error("another pull of {0} is running: wait for it")]
    Busy(String),
    /// The pip client is missing or failed.
    #[error("pip: {0}")]
    Pip(String),
    /// A file can't be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The catalogue refuses the file or the name.
    #[error(transparent)]
    Catalog(#[from] dormouse_engine::Error),
}

impl Error {
    /// Names the file that an I/O error is about, for `map_err`.
    pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}
