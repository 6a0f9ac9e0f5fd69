//! From `dormouse new` to an answer: a project that builds at once, pushed to a service and run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use dormouse::scaffold;
use serde_json::Value;
use tempfile::TempDir;

/// A new project, with the versions that the workspace was tested with.
fn project(folder: &Path) -> std::path::PathBuf {
    let project = folder.join("greeter");
    scaffold::new("greeter", &project).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::copy(workspace.join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("projects");
    fs::create_dir(project.join(".cargo")).unwrap();
    fs::write(project.join(".cargo/config.toml"), format!("[build]\ntarget-dir = {target:?}\n")).unwrap();
    project
}

/// A service of its own; it is killed when the test is over.
struct Service {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--log", "warn", "--data"])
            .arg(folder.path().join("data"))
            .env("DORMOUSE_CONFIG", "/dev/null")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        Self { child, url: line["url"].as_str().unwrap().to_owned(), folder }
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(words)
            .current_dir(self.folder.path())
            .env("DORMOUSE_CONFIG", "/dev/null")
            .env("DORMOUSE_SERVER", &self.url)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn revision(&self) -> String {
        let text = self.succeeds(&["fn", "show", "greeter", "--json"]);
        serde_json::from_str::<Value>(&text).unwrap()["revision"].as_str().unwrap().to_owned()
    }

    /// Asks the service to stop and waits until it has.
    fn stop(mut self) -> std::process::ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_new_project_is_pushed_run_rolled_back_and_removed() {
    let service = Service::start();
    let project = project(service.folder.path());

    let text = service.succeeds(&["push", "./greeter"]);
    assert!(text.contains(&format!("{}/fn/greeter", service.url)), "{text}");
    let text = service.succeeds(&["push", "./greeter"]);
    assert!(text.contains("unchanged"), "{text}");
    let first = service.revision();

    assert_eq!(service.succeeds(&["run", "greeter", "name=42"]), "Hello, 42!\n");
    assert_eq!(service.succeeds(&["run", "greeter:live", "{\"name\": \"Ada\"}"]), "Hello, Ada!\n");
    assert_eq!(service.succeeds(&["run", "greeter", "--stream"]), "Hello, world!\n");
    let error = service.fails(&["run", "greeter", "name="]);
    assert!(error.contains("name: "), "{error}");
    assert!(service.succeeds(&["fn", "ls"]).contains("Greets someone by name"));
    let logs = service.succeeds(&["logs", "greeter"]);
    assert!(logs.contains("succeeded"), "{logs}");

    let code = fs::read_to_string(project.join("src/lib.rs")).unwrap();
    fs::write(project.join("src/lib.rs"), code.replace("Hello, ", "Goodbye, ")).unwrap();
    service.succeeds(&["push", "./greeter", "--timeout", "5s"]);
    assert_eq!(service.succeeds(&["run", "greeter"]), "Goodbye, world!\n");
    service.succeeds(&["fn", "alias", "greeter", "old", &first[..12]]);
    assert_eq!(service.succeeds(&["run", "greeter:old"]), "Hello, world!\n");
    service.succeeds(&["fn", "rollback", "greeter"]);
    assert_eq!(service.succeeds(&["run", "greeter"]), "Hello, world!\n");
    assert_eq!(service.revision(), first);
    service.succeeds(&["fn", "alias", "greeter", "old", "--remove"]);
    service.fails(&["run", "greeter:old"]);

    service.succeeds(&["fn", "rm", "greeter"]);
    let error = service.fails(&["run", "greeter"]);
    assert!(error.contains("greeter") && error.contains("dormouse fn ls"), "{error}");
    assert!(service.stop().success());
}

#[test]
fn a_new_project_builds_into_a_small_component() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path());
    let built = scaffold::build(&project, folder.path(), &mut |told| panic!("{told:?}")).unwrap();
    assert_eq!(built.name, "greeter");
    scaffold::check_component(&built.wasm, &fs::read(&built.wasm).unwrap()).unwrap();
    assert!(built.bytes < 1 << 20, "{} bytes for a greeting", built.bytes);
}
