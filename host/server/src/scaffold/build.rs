//! From a project to a component, by cargo.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Error, TARGET};

/// Cargo's profile where neither the package nor its workspace names one.
const PROFILE: &str = "release";
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
}

/// What a build needs to know of a package. `[package.metadata.dormouse]` may give a `name` and a
/// `profile`, `[workspace.metadata.dormouse]` a `profile`.
struct Package {
    manifest: PathBuf,
    name: String,
    profile: String,
}

/// Builds the project in `folder`. What cargo says goes to standard error.
pub fn build(folder: &Path) -> Result<Built, Error> {
    let package = Package::read(folder)?;
    let wasm = compile(&package)?;
    let mut head = Vec::new();
    let file = fs::File::open(&wasm).map_err(Error::file(&wasm))?;
    let bytes = file.metadata().map_err(Error::file(&wasm))?.len();
    file.take(8).read_to_end(&mut head).map_err(Error::file(&wasm))?;
    check_component(&wasm, &head)?;
    Ok(Built { name: package.name, wasm, bytes })
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

impl Package {
    fn read(folder: &Path) -> Result<Self, Error> {
        let no_project = || Error::NoProject(folder.to_owned());
        let manifest = folder.join("Cargo.toml").canonicalize().map_err(|_| no_project())?;
        let output = cargo("metadata", &manifest)
            .args(["--no-deps", "--format-version=1"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(not_run)?;
        if !output.status.success() {
            return Err(Error::Cargo("metadata"));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|_| Error::Cargo("metadata"))?;
        let mut packages = metadata["packages"].as_array().into_iter().flatten();
        let is_this = |package: &&Value| package["manifest_path"].as_str().map(Path::new) == Some(&manifest);
        let package = packages.find(is_this).ok_or_else(no_project)?;
        let ours = |of: &Value, key: &str| of["metadata"]["dormouse"][key].as_str().map(str::to_owned);
        let name = ours(package, "name").or_else(|| package["name"].as_str().map(str::to_owned));
        Ok(Self {
            name: name.ok_or_else(no_project)?,
            profile: ours(package, "profile")
                .or_else(|| ours(&metadata, "profile"))
                .unwrap_or_else(|| PROFILE.to_owned()),
            manifest,
        })
    }
}

/// Runs cargo and reads which file it made from its messages.
fn compile(package: &Package) -> Result<PathBuf, Error> {
    let mut child = cargo("build", &package.manifest)
        .args(["--target", TARGET, "--profile", &package.profile])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    let messages = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let mut wasm = None;
    for line in messages.lines() {
        let line = line.map_err(Error::file(&package.manifest))?;
        wasm = artifact(&line, &package.manifest).or(wasm);
    }
    let status = child.wait().map_err(Error::file(&package.manifest))?;
    if !status.success() {
        return Err(if has_target() { Error::Cargo("build") } else { Error::NoTarget });
    }
    wasm.ok_or_else(|| Error::NoArtifact(package.name.clone()))
}

/// The `.wasm` that a message of cargo says this package was made into.
fn artifact(message: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact"
        || message["manifest_path"].as_str().map(Path::new) != Some(manifest)
    {
        return None;
    }
    let mut files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    files.find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

fn cargo(command: &str, manifest: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    // In its folder, where the project's own cargo settings count.
    cargo.arg(command).arg("--manifest-path").arg(manifest).stdin(Stdio::null());
    if let Some(folder) = manifest.parent() {
        cargo.current_dir(folder);
    }
    cargo
}

fn not_run(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NoCargo,
        _ => Error::file(Path::new("cargo"))(error),
    }
}

/// Whether rustc has a standard library for the target.
fn has_target() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

#[cfg(test)]
mod tests {
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
    fn the_artifact_is_the_packages_own() {
        let message = |manifest: &str, file: &str| {
            let (manifest, file) = (Value::from(manifest), Value::from(file));
            format!(r#"{{"reason":"compiler-artifact","manifest_path":{manifest},"filenames":[{file}]}}"#)
        };
        let own = Path::new("/p/Cargo.toml");
        assert_eq!(artifact(&message("/p/Cargo.toml", "/t/p.wasm"), own), Some("/t/p.wasm".into()));
        assert_eq!(artifact(&message("/q/Cargo.toml", "/t/q.wasm"), own), None);
        assert_eq!(artifact(&message("/p/Cargo.toml", "/t/p.rlib"), own), None);
        assert_eq!(artifact("not json", own), None);
    }

    #[test]
    fn a_folder_without_a_manifest_is_no_project() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(build(folder.path()), Err(Error::NoProject(_))));
    }
}
