//! Rules of the repository that no compiler checks.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file longer than this has a seam somewhere.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every file of the repository whose name ends with one of `endings`, with its text.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(&root(), &mut |path| {
        if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            found.push((path.strip_prefix(root()).unwrap().to_owned(), fs::read_to_string(path).unwrap()));
        }
    });
    assert!(!found.is_empty(), "no file ends with {endings:?}");
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_made =
            name.starts_with('.') || ["target", "dist", "node_modules", "__pycache__"].contains(&&*name);
        match path.is_dir() {
            _ if is_made => {}
            true => walk(&path, visit),
            false => visit(&path),
        }
    }
}

/// Fails with every file and what is wrong with it.
#[track_caller]
fn check(endings: &[&str], mut fault: impl FnMut(&Path, &str) -> Option<String>) {
    let faults: Vec<_> = files(endings)
        .iter()
        .filter_map(|(path, text)| fault(path, text).map(|fault| format!("{}: {fault}", path.display())))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn copies_of_the_host_interface_are_the_same() {
    let original = fs::read_to_string(root().join("wit/predictor.wit")).unwrap();
    check(&["predictor.wit"], |_, text| (text != original).then(|| "differs from wit/predictor.wit".into()));
}

#[test]
fn files_are_short_enough_to_be_one_idea() {
    check(&[".rs", ".py", ".js", ".ts", ".c"], |_, text| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("{lines} lines, at most {LINES_MAX}"))
    });
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    check(&[".rs"], |_, text| {
        marks.iter().find(|mark| text.contains(*mark)).map(|mark| format!("contains {mark}"))
    });
}

#[test]
fn every_rust_file_says_what_it_is() {
    check(&[".rs"], |path, text| {
        // A template's placeholders may come first.
        let is_template = path.components().any(|part| part.as_os_str() == "template");
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!")).unwrap_or_default();
        (!is_template && !first.starts_with("//!")).then(|| format!("begins with {first:?}, not with //!"))
    });
}

#[test]
fn every_crate_has_a_licence() {
    check(&["Cargo.toml"], |_, text| {
        let is_package = text.contains("[package]");
        (is_package && !text.contains("license")).then(|| "no license".into())
    });
    assert!(fs::read_to_string(root().join("LICENSE")).unwrap().contains("Apache License"));
}

#[test]
fn dependencies_point_one_way() {
    let check = |krate: &str, foreign: &[&str]| {
        let manifest = fs::read_to_string(root().join("host").join(krate).join("Cargo.toml")).unwrap();
        for name in foreign {
            let is_there = manifest.lines().any(|line| line.trim_start().starts_with(name));
            assert!(!is_there, "{krate} depends on {name}");
        }
    };
    check("engine", &["wasmtime", "dormouse-runtime", "axum", "hyper"]);
    check("runtime", &["dormouse.", "dormouse =", "axum", "hyper"]);
}

#[test]
fn what_an_author_imports_builds_outside_of_this_workspace() {
    check(&["rust/Cargo.toml", "rust-macros/Cargo.toml"], |_, text| {
        text.contains("workspace = true").then(|| "leans on the workspace".into())
    });
}

#[test]
fn unsafe_code_has_few_homes() {
    const HOMES: [&str; 6] = [
        "host/engine/src/backend/",
        "host/engine/src/gguf/map.rs",
        // The allocator that counts for tests.
        "host/engine/src/testing.rs",
        "host/runtime/src/component.rs",
        // Generated bindings.
        "guest-sdk/rust/src/lib.rs",
        "host/runtime/src/bindings.rs",
    ];
    let mark = ["allow", "expect"].map(|word| format!("{word}(unsafe_code"));
    check(&[".rs"], |path, text| {
        let is_home = HOMES.iter().any(|home| path.to_string_lossy().starts_with(home));
        (!is_home && mark.iter().any(|mark| text.contains(mark))).then(|| "may not hold unsafe code".into())
    });
}
