//! Lists the guest SDK's sources, so that `dormouse new` can write them into a project.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Packages of the SDK, and what a project needs of each.
const PACKAGES: [&str; 2] = ["rust", "rust-macros"];
const PARTS: [&str; 4] = ["Cargo.toml", "README.md", "src", "wit"];

fn main() -> io::Result<()> {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-sdk").canonicalize()?;
    let mut files = Vec::new();
    for package in PACKAGES {
        for part in PARTS {
            let path = sdk.join(package).join(part);
            // Cargo takes a path that isn't there for one that has changed.
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
                collect(&path, &mut files)?;
            }
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&sdk).expect("every file is below the SDK");
        writeln!(list, "    ({name:?}, include_str!({file:?})),").expect("a string takes any text");
    }
    list.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("sdk.rs"), list)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| collect(&entry?.path(), files));
    }
    files.push(path.to_owned());
    Ok(())
}
