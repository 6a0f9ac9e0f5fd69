//! Builds every example and test guest from source, and writes a constant with each component's path.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "guest";
const EXAMPLES: [&str; 3] = ["chat", "hello", "support-triage"];
const GUESTS: &str = "dormouse-test-guests";
/// What they are built from, beside the examples. Other SDKs and examples get build folders of their own.
const INPUTS: [&str; 5] = ["guest-sdk/rust", "guest-sdk/rust-macros", "tests/guests", "wit", "Cargo.lock"];

/// Cargo's own settings for the host build, which would be wrong for the guests.
const FOREIGN: [&str; 5] =
    ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR"];

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    let out = PathBuf::from(var("OUT_DIR"));
    let examples = EXAMPLES.map(|name| format!("examples/{name}"));
    for input in INPUTS.into_iter().chain(examples.iter().map(String::as_str)) {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let folder = build(&root, &out.join("guests"));
    let mut components: Vec<_> = EXAMPLES.iter().map(|name| folder.join(name.replace('-', "_"))).collect();
    components.extend(guests(&root).iter().map(|name| folder.join("examples").join(name)));
    fs::write(out.join("guests.rs"), components.iter().map(|path| constant(path)).collect::<String>())
        .expect("OUT_DIR can be written");
}

/// Builds all components in one cargo invocation and returns the folder they are in.
fn build(root: &Path, target_dir: &Path) -> PathBuf {
    let mut cargo = Command::new(var("CARGO"));
    cargo.current_dir(root).args(["build", "--lib", "--examples", "--target", TARGET, "--profile", PROFILE]);
    cargo.arg("--target-dir").arg(target_dir).args(["-p", GUESTS]);
    for name in EXAMPLES {
        cargo.args(["-p", name]);
    }
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("cargo runs, it is running this");
    assert!(status.success(), "guests don't build; is the target there? rustup target add {TARGET}");
    target_dir.join(TARGET).join(PROFILE)
}

/// The names of the test guests, one for each file.
fn guests(root: &Path) -> Vec<String> {
    let files = fs::read_dir(root.join("tests/guests")).expect("tests/guests is a folder");
    let paths = files.map(|file| file.expect("tests/guests can be listed").path());
    let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<_> =
        sources.map(|path| path.file_stem().expect("it has an extension").display().to_string()).collect();
    names.sort();
    names
}

/// `pub(crate) const NAME: &str = "PATH.wasm";`, after a check that the file is there.
fn constant(path: &Path) -> String {
    let file = path.with_extension("wasm");
    assert!(file.exists(), "{} was not built; is it in tests/guests/Cargo.toml?", file.display());
    let name = path.file_name().expect("it is a file").display().to_string().to_uppercase();
    format!("pub(crate) const {name}: &str = {:?};\n", file.display().to_string())
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
