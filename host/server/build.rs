//! Lists the guest SDKs' sources: `dormouse new` writes Rust's into a project, `dormouse build` runs those of
//! Python and JavaScript.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The lists: name, folder that paths are from, packages in it, and what is taken of each.
const LISTS: [(&str, &str, &[&str], [&str; 4]); 3] = [
    ("sdk.rs", "", &["rust", "rust-macros"], ["Cargo.toml", "README.md", "src", "wit"]),
    ("python.rs", "python", &[""], ["pyproject.toml", "README.md", "src/dormouse", "src/cog"]),
    ("javascript.rs", "js", &[""], ["package.json", "build", "src", "wit"]),
];

/// Folders that tools leave among sources.
const LEFT_OUT: [&str; 2] = ["__pycache__", "node_modules"];

fn main() -> io::Result<()> {
    // Asked now, not when this was compiled: a build folder may have moved here with another checkout.
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let sdks = here.join("../../guest-sdk").canonicalize()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (name, base, packages, parts) in LISTS {
        let base = sdks.join(base);
        let mut files = Vec::new();
        for path in packages.iter().flat_map(|package| parts.map(|part| base.join(package).join(part))) {
            if path.exists() {
                collect(&path, &mut files)?;
            }
        }
        files.sort();
        fs::write(out.join(name), list(&base, &files))?;
    }
    Ok(())
}

/// A slice of paths and texts, as Rust.
fn list(base: &Path, files: &[PathBuf]) -> String {
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(base).expect("every file is below the SDK");
        writeln!(list, "    ({name:?}, include_str!({file:?})),").expect("a string takes any text");
    }
    list + "]"
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if LEFT_OUT.iter().any(|name| path.ends_with(name)) {
        return Ok(());
    }
    if path.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| collect(&entry?.path(), files));
    }
    // A new file is of use once another names it. Folders change by what tools leave there.
    println!("cargo::rerun-if-changed={}", path.display());
    files.push(path.to_owned());
    Ok(())
}
