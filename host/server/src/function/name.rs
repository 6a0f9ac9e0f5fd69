//! Names and ids, each a type of its own so that none is taken for another.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::Settings;

/// Characters of the shortest abbreviation of a revision id.
const ABBREVIATION_MIN: usize = 8;
/// Characters of a SHA-256 in hex.
const HEX_LEN: usize = 64;
/// Bytes of a file that are hashed at once.
const HASHED_BYTES: usize = 128 << 10;
/// Bytes of a DNS label, which a function's name must fit.
const LABEL_MAX: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{text}\" is not {rule}")]
pub(crate) struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl NameError {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // A hostile name may be as long as a request's head.
        let text = text.chars().take(2 * LABEL_MAX).collect();
        Self { what, text, rule }
    }
}

const LABEL_RULE: &str = "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    bytes.len() <= LABEL_MAX
        && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && edge(bytes.first())
        && edge(bytes.last())
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9'))
}

/// What every name has: shared text that prints, compares and borrows as `str`.
macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
    };
}

pub(crate) use text_type;

/// A function's name: a DNS label, so that it can be a host name's first part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FunctionName(Arc<str>);
text_type!(FunctionName);

impl FunctionName {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match is_label(text) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("function name", text, LABEL_RULE)),
        }
    }

    /// A lane of the queue: a function's, or one of the node's own, whose name ends in a dot so that it is
    /// no function's.
    pub(crate) fn lane(text: &str) -> Result<Self, NameError> {
        match is_label(text.strip_suffix('.').unwrap_or(text)) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("lane", text, LABEL_RULE)),
        }
    }
}

/// A movable name of a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Alias(Arc<str>);
text_type!(Alias);

impl Alias {
    /// Always the newest deployed; never stored.
    pub(crate) const LATEST: &str = "latest";
    /// What a plain invocation takes.
    pub(crate) const LIVE: &str = "live";

    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match is_label(text) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("alias", text, LABEL_RULE)),
        }
    }

    pub(crate) fn live() -> Self {
        Self(Self::LIVE.into())
    }

    pub(crate) fn is_live(&self) -> bool {
        &*self.0 == Self::LIVE
    }

    pub(crate) fn is_latest(&self) -> bool {
        &*self.0 == Self::LATEST
    }
}

/// SHA-256 of a component's bytes, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(Arc<str>);
text_type!(Digest);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)).into())
    }

    /// Blocks for reading the file.
    pub(crate) fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = Sha256::new();
        let mut file = BufReader::with_capacity(HASHED_BYTES, File::open(path)?);
        loop {
            let bytes = file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(Self(hex(&hasher.finalize()).into()));
            }
            hasher.update(bytes);
            let len = bytes.len();
            file.consume(len);
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match text.len() == HEX_LEN && is_hex(text) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("digest", text, "64 hex digits")),
        }
    }
}

/// SHA-256 over a component's digest and the settings it was deployed with, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RevisionId(Arc<str>);
text_type!(RevisionId);

impl RevisionId {
    /// The id of a component with settings. JSON keeps the parts apart and settings keep their fields
    /// in order, so that no two revisions are written the same way.
    pub(crate) fn of(component: &Digest, settings: &Settings) -> Self {
        let text = serde_json::to_vec(&("dormouse revision 1", component, settings))
            .expect("strings and numbers are JSON");
        Self(hex(&Sha256::digest(text)).into())
    }

    /// Of what has no component.
    pub(crate) fn none() -> Self {
        Self("0".repeat(HEX_LEN).into())
    }

    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match text.len() == HEX_LEN && is_hex(text) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("revision", text, "64 hex digits")),
        }
    }

    pub(crate) fn starts_with(&self, text: &str) -> bool {
        self.0.starts_with(text)
    }
}

/// What a caller writes to mean a revision: an alias, an id, or the first 8 or more digits of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference(Arc<str>);
text_type!(Reference);

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        match is_label(text) || (text.len() == HEX_LEN && is_hex(text)) {
            true => Ok(Self(text.into())),
            false => {
                Err(NameError::new("revision", text, "an alias or at least 8 hex digits of a revision id"))
            }
        }
    }

    pub(super) fn is_latest(&self) -> bool {
        &*self.0 == Alias::LATEST
    }

    pub(super) fn may_be_revision(&self) -> bool {
        self.0.len() >= ABBREVIATION_MIN && is_hex(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_name_is_a_dns_label() {
        for name in ["a", "0", "chat", "support-triage", "a--b", &"x".repeat(63)] {
            assert_eq!(FunctionName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "-", "-a", "a-", "A", "a.b", "a b", "a/b", "a:b", "ä", "a\0", &"x".repeat(64)] {
            assert!(FunctionName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_error_names_the_text_but_not_all_of_a_long_one() {
        let error = FunctionName::parse(&"X".repeat(10_000)).unwrap_err().to_string();
        assert!(error.starts_with("function name \"XXX") && error.len() < 300, "{error}");
    }

    #[test]
    fn a_revision_id_depends_on_the_component_and_on_every_setting() {
        let (component, settings) = (Digest::of(b"a"), Settings::default());
        let id = RevisionId::of(&component, &settings);
        assert_eq!(id, RevisionId::of(&component, &settings.clone()));
        assert_ne!(id, RevisionId::of(&Digest::of(b"b"), &settings));
        assert_ne!(id, RevisionId::of(&component, &Settings { concurrency: Some(1), ..settings.clone() }));
        assert_ne!(id, RevisionId::of(&component, &Settings { queue_max: Some(1), ..settings }));
    }

    #[test]
    fn a_digest_is_sha_256_in_hex() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").as_str(), abc);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(Digest::of_file(file.path()).unwrap().as_str(), abc);
    }
}
