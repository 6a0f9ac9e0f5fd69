//! Pulls of models: what arrives in the catalogue, and what never may.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dormouse::config::{Hub, Token};
use dormouse::pull::{Error, Limits, Progress, Pulled, Puller, Request};
use dormouse_engine::catalog::{Catalog, Digest};
use tempfile::TempDir;
use url::Url;

use crate::fixtures::{Reply, Server, model};

const ETAG: &str = "\"v1\"";

/// A catalogue of its own, and a hub that nobody answers for.
struct Setting {
    _folder: TempDir,
    catalog: Catalog,
    hub: Hub,
    limits: Limits,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(folder.path()).unwrap();
        let hub = Hub { endpoint: Url::parse("http://127.0.0.1:1").unwrap(), token: None };
        let limits = Limits { attempts_max: 3, backoff: Duration::ZERO, ..Limits::default() };
        Self { _folder: folder, catalog, hub, limits }
    }

    fn with_hub(server: &Server, token: &str) -> Self {
        let hub = Hub { endpoint: Url::parse(&server.url).unwrap(), token: Some(Token(token.to_owned())) };
        Self { hub, ..Self::new() }
    }

    fn pull(&self, what: &str, sha256: Option<&Digest>) -> Result<Pulled, Error> {
        let request = Request::new(what, Some("m"), sha256.map(Digest::hex))?;
        let (hub, limits, progress) = (&self.hub, &self.limits, &Progress::silent());
        Puller { catalog: &self.catalog, hub, limits, progress }.pull(&request)
    }

    /// Bytes of the model in the catalogue.
    #[track_caller]
    fn model(&self) -> Vec<u8> {
        fs::read(self.catalog.resolve("m").unwrap().path).unwrap()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        assert_eq!(self.catalog.list().unwrap(), []);
        assert_eq!(fs::read_dir(self.catalog.tmp()).unwrap().count(), 0);
    }
}

/// The file, or the rest of it that a request asks for.
fn serve(file: &[u8], request: &crate::fixtures::Request) -> Reply {
    let start = request.header("range").map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let is_same = request.header("if-range") == Some(ETAG);
    match start.filter(|_| is_same) {
        Some(start) => Reply::new(206, &file[start..])
            .with("content-range", format!("bytes {start}-{}/{}", file.len() - 1, file.len())),
        None => Reply::new(200, file).with("etag", ETAG),
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    Digest::of_file(file.path()).unwrap()
}

#[test]
fn a_cut_download_goes_on_where_it_broke() {
    let file = model(100_000);
    let served = file.clone();
    let server = Server::start(move |count, request| match count {
        0 => serve(&served, request).cut_at(150_000),
        1 => serve(&served, request).cut_at(100_000),
        _ => serve(&served, request),
    });
    let setting = Setting::new();
    let pulled = setting.pull(&format!("{}/m.gguf", server.url), Some(&digest(&file))).unwrap();
    assert!(!pulled.was_present);
    assert_eq!(setting.model(), file);
    let ranges: Vec<_> = server.requests().iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_owned()), Some("bytes=250000-".to_owned())]);
}

#[test]
fn a_later_pull_goes_on_with_what_an_earlier_one_left() {
    let file = model(100_000);
    let served = file.clone();
    let server = Server::start(move |count, request| match count {
        0 => serve(&served, request).cut_at(150_000),
        1 => Reply::new(503, ""),
        2 => Reply::new(503, ""),
        _ => serve(&served, request),
    });
    let setting = Setting::new();
    let what = format!("{}/m.gguf", server.url);
    let error = setting.pull(&what, None).unwrap_err();
    assert!(matches!(error, Error::Unreachable { attempts: 3, kept_bytes: 150_000, .. }), "{error}");
    assert_eq!(setting.catalog.list().unwrap(), []);
    setting.pull(&what, None).unwrap();
    assert_eq!(setting.model(), file);
    assert_eq!(server.requests()[3].header("range"), Some("bytes=150000-"));
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_afresh() {
    let (old, new) = (model(100_000), model(90_000));
    let (before, after) = (old.clone(), new.clone());
    let server = Server::start(move |count, request| match count {
        0 => serve(&before, request).cut_at(150_000),
        _ => Reply::new(200, &after[..]).with("etag", "\"v2\""),
    });
    let setting = Setting::new();
    setting.pull(&format!("{}/m.gguf", server.url), None).unwrap();
    assert_eq!(setting.model(), new);
    assert_eq!(server.requests()[1].header("if-range"), Some(ETAG));
}

#[test]
fn a_wrong_checksum_is_refused_and_nothing_is_left() {
    let file = model(1000);
    let (served, actual) = (file.clone(), digest(&file));
    let server = Server::start(move |_, request| serve(&served, request));
    let setting = Setting::new();
    let expected = digest(b"something else");
    let error = setting.pull(&format!("{}/m.gguf", server.url), Some(&expected)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&expected.to_string()) && text.contains(&actual.to_string()), "{text}");
    setting.assert_nothing_is_left();
}

#[test]
fn a_file_that_is_no_model_is_refused_and_nothing_is_left() {
    let server = Server::start(|_, _| Reply::new(200, "<html>log in first</html>"));
    let setting = Setting::new();
    let error = setting.pull(&format!("{}/m.gguf", server.url), None).unwrap_err();
    assert!(matches!(error, Error::Catalog(dormouse_engine::Error::BadModel { .. })), "{error}");
    setting.assert_nothing_is_left();
}

#[test]
fn a_hub_gets_its_token_and_the_host_it_redirects_to_does_not() {
    let file = model(1000);
    let (served, tag) = (file.clone(), digest(&file));
    let store = Server::start(move |_, request| serve(&served, request));
    let location = format!("{}/signed?secret=1", store.url);
    let hub = Server::start(move |_, _| {
        Reply::new(302, "").with("location", &*location).with("x-linked-etag", format!("\"{}\"", tag.hex()))
    });
    let setting = Setting::with_hub(&hub, "hub-token");
    setting.pull("hf:owner/repo/sub/m.gguf@refs/pr/1", None).unwrap();
    assert_eq!(setting.model(), file);
    let asked = &hub.requests()[0];
    assert_eq!(asked.target, "/owner/repo/resolve/refs%2Fpr%2F1/sub/m.gguf");
    assert_eq!(asked.header("authorization"), Some("Bearer hub-token"));
    assert_eq!(store.requests()[0].header("authorization"), None);
    assert_eq!(store.requests()[0].target, "/signed?secret=1");
}

#[test]
fn a_redirect_within_the_hub_keeps_the_token() {
    let served = model(1000);
    let hub = Server::start(move |count, request| match count {
        0 => Reply::new(307, "").with("location", "/elsewhere"),
        _ => serve(&served, request),
    });
    let setting = Setting::with_hub(&hub, "hub-token");
    setting.pull("hf:owner/repo/m.gguf", None).unwrap();
    assert_eq!(hub.requests()[1].header("authorization"), Some("Bearer hub-token"));
}

#[test]
fn bytes_that_differ_from_the_hubs_own_digest_are_refused() {
    let served = model(1000);
    let tag = digest(b"something else");
    let hub = Server::start(move |_, request| {
        serve(&served, request).with("x-linked-etag", format!("\"{}\"", tag.hex()))
    });
    let setting = Setting::with_hub(&hub, "hub-token");
    assert!(matches!(setting.pull("hf:owner/repo/m.gguf", None), Err(Error::Checksum { .. })));
    setting.assert_nothing_is_left();
}

#[test]
fn a_redirect_to_plain_http_elsewhere_is_not_followed() {
    let hub = Server::start(|_, _| Reply::new(302, "").with("location", "http://models.example/m.gguf"));
    let setting = Setting::with_hub(&hub, "hub-token");
    let error = setting.pull("hf:owner/repo/m.gguf", None).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn refusals_say_what_to_do_and_are_not_tried_again() {
    for (status, words) in [(404, "check the names"), (403, "write hf:"), (418, "status 418")] {
        let server = Server::start(move |_, _| Reply::new(status, ""));
        let error = Setting::new().pull(&format!("{}/m.gguf", server.url), None).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_hub_that_wants_a_token_is_said_to() {
    let hub = Server::start(|_, _| Reply::new(401, ""));
    let setting = Setting { hub: Hub { token: None, ..Setting::with_hub(&hub, "").hub }, ..Setting::new() };
    let error = setting.pull("hf:owner/repo/m.gguf", None).unwrap_err();
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");
}

#[test]
fn a_server_that_is_always_busy_is_given_up() {
    let server = Server::start(|_, _| Reply::new(429, "").with("retry-after", "0"));
    let error = Setting::new().pull(&format!("{}/m.gguf", server.url), None).unwrap_err();
    assert!(matches!(error, Error::Unreachable { attempts: 3, .. }), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn what_is_there_already_is_not_fetched_again() {
    let file = model(1000);
    let served = file.clone();
    let server = Server::start(move |_, request| serve(&served, request));
    let setting = Setting::new();
    let what = format!("{}/m.gguf", server.url);
    setting.pull(&what, None).unwrap();
    assert!(setting.pull(&what, None).unwrap().was_present);
    assert_eq!(server.requests().len(), 1);

    // The digest tells, whatever the source and the name.
    let request = Request::new("/no/such/file.gguf", Some("other"), Some(digest(&file).hex())).unwrap();
    let (hub, limits, progress) = (&setting.hub, &setting.limits, &Progress::silent());
    let puller = Puller { catalog: &setting.catalog, hub, limits, progress };
    assert!(puller.pull(&request).unwrap().was_present);
    assert_eq!(setting.catalog.resolve("other").unwrap().path, setting.catalog.resolve("m").unwrap().path);
}

#[test]
fn a_local_file_is_copied_and_follows_no_later_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("M.gguf");
    let (old, new) = (model(1000), model(2000));
    let setting = Setting::new();
    let pull = |path: &Path| setting.pull(&format!("file:{}", path.display()), None).unwrap();
    fs::write(&path, &old).unwrap();
    pull(&path);
    fs::write(&path, &new).unwrap();
    assert_eq!(setting.model(), old);
    assert!(!pull(&path).was_present);
    assert_eq!(setting.model(), new);
}

#[test]
fn a_name_that_cannot_be_is_refused_before_anything_is_fetched() {
    let server = Server::start(|_, _| Reply::new(200, ""));
    let request = Request::new(&format!("{}/m.gguf", server.url), Some("../m"), None).unwrap();
    let setting = Setting::new();
    let (hub, limits, progress) = (&setting.hub, &setting.limits, &Progress::silent());
    assert!(Puller { catalog: &setting.catalog, hub, limits, progress }.pull(&request).is_err());
    assert_eq!(server.requests().len(), 0);
}
