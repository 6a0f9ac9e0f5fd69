//! A project from `dormouse new` builds at once.

use std::fs;
use std::path::Path;

use dormouse::scaffold;

#[test]
fn a_new_project_builds_into_a_component() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("greeter");
    scaffold::new("greeter", &project).unwrap();
    // The versions that the workspace was tested with, and what was built before.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::copy(workspace.join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
    fs::create_dir(project.join(".cargo")).unwrap();
    fs::write(project.join(".cargo/config.toml"), format!("[build]\ntarget-dir = {target:?}\n")).unwrap();

    let built = scaffold::build(&project).unwrap();
    assert_eq!(built.name, "greeter");
    assert_eq!(built.wasm.extension().unwrap(), "wasm");
    scaffold::check_component(&built.wasm, &fs::read(&built.wasm).unwrap()).unwrap();
    assert!(built.bytes < 1 << 20, "{} bytes for a greeting", built.bytes);
}
