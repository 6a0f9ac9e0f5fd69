//! A Rust project, by cargo.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Built, Error};
use crate::scaffold::TARGET;

/// Cargo's profile where neither the package nor its workspace names one.
const PROFILE: &str = "release";

/// What a build needs to know of a package. `[package.metadata.dormouse]` may give a `name` and a
/// `profile`, `[workspace.metadata.dormouse]` a `profile`.
struct Package {
    manifest: PathBuf,
    name: String,
    profile: String,
}

/// Builds the cargo package in `folder`. What cargo says goes to standard error.
pub(super) fn build(folder: &Path) -> Result<Built, Error> {
    let package = Package::read(folder)?;
    let wasm = compile(&package)?;
    Built::check(package.name, wasm)
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
