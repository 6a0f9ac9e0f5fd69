//! The catalogue on a real folder, with small model files.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::{gguf::writer::GgufWriter, quant::DType};

/// A catalogue in a folder of its own.
struct Fixture {
    dir: TempDir,
    catalog: Catalog,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        Self { dir, catalog }
    }

    /// A model file in `tmp`; its content depends on `title`.
    fn download(&self, title: &str) -> (PathBuf, Digest) {
        let path = self.catalog.tmp().join("download");
        GgufWriter::new()
            .str("general.architecture", "llama")
            .str("general.name", title)
            .u32("llama.context_length", 2048)
            .tensor("output_norm.weight", DType::F32, 4, &[1.0; 4])
            .tensor("output.weight", DType::Q8_0, 32, &[0.5; 96])
            .write(&path);
        let digest = Digest::of_file(&path).unwrap();
        (path, digest)
    }

    fn add(&self, name: &str, title: &str) -> Entry {
        let (path, digest) = self.download(title);
        self.catalog.add(name, "hf:owner/repo/model.gguf", &path, &digest).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.catalog.list().unwrap().into_iter().map(|entry| entry.record.name).collect()
    }

    fn files(&self, folder: &str) -> usize {
        fs::read_dir(self.dir.path().join(folder)).unwrap().count()
    }
}

fn an_hour_on() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

#[test]
fn a_model_that_was_added_is_found_by_its_name() {
    let fixture = Fixture::new();
    let added = fixture.add("tiny:q8_0", "a");
    let found = Catalog::open(fixture.dir.path()).unwrap().resolve("tiny:q8_0").unwrap();
    assert_eq!(found, added);
    assert_eq!(found.record.file, "model.gguf");
    assert_eq!(Digest::of_file(&found.path).unwrap(), found.record.digest);
    assert!(fs::metadata(&found.path).unwrap().permissions().readonly());
    assert_eq!(fixture.files("tmp"), 0);
    let unknown = fixture.catalog.resolve("tiny");
    assert!(matches!(unknown, Err(Error::UnknownModel(name)) if name == "tiny"));
}

#[test]
fn a_name_can_be_given_to_another_file() {
    let fixture = Fixture::new();
    let first = fixture.add("tiny", "a");
    let second = fixture.add("tiny", "b");
    assert_ne!(first.path, second.path);
    assert_eq!(fixture.catalog.resolve("tiny").unwrap(), second);
    assert_eq!(fixture.names(), ["tiny"]);
}

#[test]
fn names_that_mean_one_file_share_it_until_the_last_is_removed() {
    let fixture = Fixture::new();
    let path = fixture.add("one", "a").path;
    assert_eq!(fixture.add("two", "a").path, path);
    assert_eq!(fixture.names(), ["one", "two"]);

    fixture.catalog.remove("one").unwrap();
    assert!(path.exists());
    assert_eq!(fixture.names(), ["two"]);
    fixture.catalog.remove("two").unwrap();
    assert!(!path.exists());
    assert!(matches!(fixture.catalog.remove("two"), Err(Error::UnknownModel(_))));
}

#[test]
fn names_that_could_leave_the_folder_are_refused() {
    let catalog = Fixture::new().catalog;
    let long = "a".repeat(NAME_BYTES_MAX + 1);
    let bad =
        ["", "..", "../x", "a/b", "a\\b", "A", ".a", "-a", ":a", "a:", "a:b:c", "a b", "a\0", "é", &long];
    for name in bad {
        for result in [catalog.resolve(name).map(drop), catalog.remove(name)] {
            assert!(matches!(result, Err(Error::Invalid(_))), "{name:?}: {result:?}");
        }
    }
    for name in ["a", "smollm2-135m", "llama3.2:1b-q4_k", "0", &"a".repeat(NAME_BYTES_MAX)] {
        assert!(matches!(catalog.resolve(name), Err(Error::UnknownModel(_))), "{name:?}");
    }
}

#[test]
fn a_file_that_is_no_model_is_not_taken() {
    let fixture = Fixture::new();
    let path = fixture.catalog.tmp().join("page.html");
    fs::write(&path, "<html>not found</html>").unwrap();
    let digest = Digest::of_file(&path).unwrap();
    let result = fixture.catalog.add("page", "https://example.com/x", &path, &digest);
    assert!(matches!(result, Err(Error::BadModel { .. })), "{result:?}");
    assert!(path.exists());
    assert_eq!(fixture.files("names") + fixture.files("blobs"), 0);

    let outside = fixture.dir.path().join("elsewhere");
    fs::rename(&path, &outside).unwrap();
    let result = fixture.catalog.add("page", "file:x", &outside, &digest);
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
}

#[test]
fn what_a_crash_leaves_is_not_listed_and_is_swept() {
    let fixture = Fixture::new();
    let kept = fixture.add("kept", "a");
    // Killed after the blob was put in place, and while a record and a download were written.
    let orphan = fixture.add("orphan", "b");
    fs::remove_file(fixture.catalog.record("orphan")).unwrap();
    fs::write(fixture.catalog.tmp().join("orphan.json"), b"{\"name\":").unwrap();
    let (download, _) = fixture.download("c");
    assert_eq!(fixture.names(), ["kept"]);

    let long_ago = SystemTime::UNIX_EPOCH;
    assert_eq!(fixture.catalog.sweep(long_ago).unwrap(), Swept { files: 1, bytes: orphan.record.bytes });
    assert!(download.exists());
    assert_eq!(fixture.catalog.sweep(an_hour_on()).unwrap().files, 2);
    assert_eq!(fixture.files("tmp"), 0);
    assert_eq!(fixture.catalog.resolve("kept").unwrap(), kept);
    assert_eq!(fixture.catalog.sweep(an_hour_on()).unwrap(), Swept::default());
}

#[test]
fn a_damaged_record_hides_its_model_and_spares_its_blob() {
    let fixture = Fixture::new();
    let good = fixture.add("good", "a");
    let damaged = fixture.add("damaged", "b");
    let record = fixture.catalog.record("damaged");
    for content in [&b""[..], b"{}", b"\xFF", &[b' '; RECORD_BYTES_MAX as usize + 1]] {
        fs::write(&record, content).unwrap();
        assert!(matches!(fixture.catalog.resolve("damaged"), Err(Error::BadModel { .. })));
    }
    // A record of another name isn't this one's.
    fs::copy(fixture.catalog.record("good"), &record).unwrap();
    assert!(matches!(fixture.catalog.resolve("damaged"), Err(Error::BadModel { .. })));
    assert_eq!(fixture.names(), ["good"]);

    fs::write(&record, "").unwrap();
    assert_eq!(fixture.catalog.sweep(an_hour_on()).unwrap(), Swept::default());
    assert!(damaged.path.exists());
    fixture.catalog.remove("damaged").unwrap();
    assert_eq!(fixture.catalog.sweep(an_hour_on()).unwrap().files, 1);
    assert!(good.path.exists());
}

#[test]
fn a_blob_of_another_length_is_refused() {
    let fixture = Fixture::new();
    let entry = fixture.add("tiny", "a");
    fs::remove_file(&entry.path).unwrap();
    let missing = fixture.catalog.resolve("tiny").unwrap_err();
    assert!(matches!(&missing, Error::BadModel { path, .. } if *path == entry.path), "{missing}");
    fs::write(&entry.path, "short").unwrap();
    let short = fixture.catalog.resolve("tiny").unwrap_err().to_string();
    assert!(short.contains("has 5 bytes, expected"), "{short}");
    // Pulling it again mends it.
    let mended = fixture.add("tiny", "a");
    assert_eq!(fixture.catalog.resolve("tiny").unwrap(), mended);
}

#[test]
fn a_header_tells_what_a_model_is() {
    let fixture = Fixture::new();
    let (path, _) = fixture.download("Tiny");
    let facts = inspect(&path).unwrap();
    assert_eq!(facts.title.as_deref(), Some("Tiny"));
    assert_eq!((facts.architecture.as_str(), facts.quantization.as_str()), ("llama", "Q8_0"));
    assert_eq!((facts.context_length, facts.parameters, facts.weights_bytes), (Some(2048), 100, 16 + 3 * 34));
    assert_eq!((facts.vocabulary, facts.chat_template, facts.license), (None, None, None));
}

#[test]
fn digests_are_read_as_they_are_written() {
    let digest = Digest::from_bytes(&std::array::from_fn(|i| i as u8));
    assert_eq!(digest.to_string(), "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    for bad in ["", "sha256:", "sha256:00", &digest.to_string().to_uppercase(), digest.hex()] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
    // FIPS 180-2, appendix B.1.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "abc").unwrap();
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of_file(file.path()).unwrap().hex(), expected);
}
