//! From a project to a component: by cargo, or by the Python or JavaScript SDK's own build, which runs in
//! a `workshop` that has its tools.

mod driver;
mod javascript;
mod python;
mod rust;
mod workshop;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Error;

/// The first bytes of every WebAssembly binary; then comes what it is, a module or a component.
const MAGIC: &[u8] = b"\0asm";
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
const MODULE: [u8; 4] = [1, 0, 0, 0];

/// A component that was built.
#[derive(Debug)]
pub struct Built {
    /// What the project is called.
    pub name: String,
    /// The component.
    pub wasm: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Deployment settings that the project's files ask for.
    pub settings: Map<String, Value>,
}

/// What a build tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A part of it begins, in a few words.
    Step(String),
    /// Something the author should know.
    Note {
        /// A prediction may differ from what the author expects.
        is_warning: bool,
        /// File and line, if it has a place.
        place: Option<String>,
        /// What it is.
        message: String,
    },
}

/// What a project is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    Python,
    JavaScript,
}

/// The files that tell a project's language; the first that is there decides.
const MARKS: [(&str, Language); 14] = [
    ("Cargo.toml", Language::Rust),
    ("cog.yaml", Language::Python),
    ("predict.py", Language::Python),
    ("run.py", Language::Python),
    ("dormouse.toml", Language::Python),
    ("package.json", Language::JavaScript),
    ("predict.ts", Language::JavaScript),
    ("predict.js", Language::JavaScript),
    ("predict.mts", Language::JavaScript),
    ("predict.mjs", Language::JavaScript),
    ("index.ts", Language::JavaScript),
    ("index.js", Language::JavaScript),
    ("index.mts", Language::JavaScript),
    ("index.mjs", Language::JavaScript),
];

/// Builds the project in `folder`. Tools of guest languages are kept below `tools_dir`. What cargo says
/// goes to standard error; what the other builds say goes to `tell`.
pub fn build(folder: &Path, tools_dir: &Path, tell: &mut dyn FnMut(Told)) -> Result<Built, Error> {
    match language(folder).ok_or_else(|| Error::NoProject(folder.to_owned()))? {
        Language::Rust => rust::build(folder),
        Language::Python => python::build(folder, tools_dir, tell),
        Language::JavaScript => javascript::build(folder, tools_dir, tell),
    }
}

/// Whether a folder is something that [`build`] builds.
pub fn is_project(folder: &Path) -> bool {
    language(folder).is_some()
}

/// Fails where the bytes begin like anything but a component.
pub fn check_component(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let what = match bytes.strip_prefix(MAGIC) {
        Some(rest) if rest.starts_with(&COMPONENT) => return Ok(()),
        Some(rest) if rest.starts_with(&MODULE) => "a WebAssembly module, not a component",
        Some(_) => "WebAssembly of an unknown version, not a component",
        None => "no WebAssembly component",
    };
    Err(Error::NotComponent { path: path.to_owned(), what })
}

impl Built {
    /// What was built, if it is a component.
    fn check(name: String, wasm: PathBuf) -> Result<Self, Error> {
        let mut head = Vec::new();
        let file = File::open(&wasm).map_err(Error::file(&wasm))?;
        let bytes = file.metadata().map_err(Error::file(&wasm))?.len();
        file.take(8).read_to_end(&mut head).map_err(Error::file(&wasm))?;
        check_component(&wasm, &head)?;
        Ok(Self { name, wasm, bytes, settings: Map::new() })
    }
}

fn language(folder: &Path) -> Option<Language> {
    let found = MARKS.iter().find(|(file, _)| folder.join(file).is_file());
    found.map(|(_, language)| *language)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_components_pass() {
        let check =
            |bytes: &[u8]| check_component(Path::new("x.wasm"), bytes).map_err(|error| error.to_string());
        assert_eq!(check(b"\0asm\x0d\0\x01\0rest"), Ok(()));
        assert!(check(b"\0asm\x01\0\0\0").unwrap_err().contains("module"));
        assert!(check(b"\0asm\x02\0\0\0").unwrap_err().contains("version"));
        assert!(check(b"\x7fELF").unwrap_err().contains("x.wasm"));
        assert!(check(b"").is_err());
    }

    #[test]
    fn a_project_is_told_by_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let add = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        assert_eq!(language(folder.path()), None);
        add("index.js");
        assert_eq!(language(folder.path()), Some(Language::JavaScript));
        add("predict.py");
        assert_eq!(language(folder.path()), Some(Language::Python));
        add("Cargo.toml");
        assert_eq!(language(folder.path()), Some(Language::Rust));
    }

    #[test]
    fn a_folder_without_a_project_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let result = build(folder.path(), folder.path(), &mut |told| panic!("{told:?}"));
        assert!(matches!(result, Err(Error::NoProject(_))));
    }
}
