//! The language model that the tests use: SmolLM2-135M-Instruct, from the machine's cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use dormouse_engine::{Catalog, catalog::Digest};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Its file.
pub fn path() -> PathBuf {
    find()
}

/// The name that predictors open it by.
pub const NAME: &str = "smollm2";

/// Makes the model known to the service whose data folder this is.
///
/// Panics when the file is neither named by `DORMOUSE_TEST_MODEL` nor in the cache, where `make`
/// puts it.
pub fn install(data: &Path) {
    let source = find();
    let catalog = Catalog::open(data.join("models")).expect("a folder of models");
    let file = catalog.tmp().join(FILE);
    fs::copy(&source, &file).expect("the model can be copied");
    let digest = Digest::of_file(&file).expect("the model can be read");
    catalog.add(NAME, "file", &file, &digest).expect("the model is a model");
}

/// Makes a copy known under another name, as a model of its own: a byte is added to its file.
pub fn install_copy(data: &Path, name: &str) {
    let catalog = Catalog::open(data.join("models")).expect("a folder of models");
    let file = catalog.tmp().join(FILE);
    let mut bytes = fs::read(find()).expect("the model can be read");
    bytes.extend_from_slice(name.as_bytes());
    fs::write(&file, bytes).expect("the model can be written");
    let digest = Digest::of_file(&file).expect("the model can be read");
    catalog.add(name, "file", &file, &digest).expect("the model is a model");
}

fn find() -> PathBuf {
    let cache = || match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    let path =
        env::var_os("DORMOUSE_TEST_MODEL").map_or_else(|| cache().join("dormouse").join(FILE), PathBuf::from);
    assert!(path.exists(), "no model at {}: run `make model` or set DORMOUSE_TEST_MODEL", path.display());
    path
}
