//! Projects in Python and JavaScript: from an author's folder to answers, and what is said of one that
//! can't be built.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use dormouse::scaffold::{self, Told};
use dormouse_tests::{Server, binary, model};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{guests, joined};

/// Installed once for all tests.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools")
}

/// A project of this repository as a component, and what its build told.
pub(crate) fn build(project: &str) -> (PathBuf, Vec<Told>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut notes = Vec::new();
    let built = scaffold::build(&root.join(project), &tools(), &mut |told| notes.push(told));
    (built.unwrap_or_else(|error| panic!("{project}: {error}")).wasm, notes)
}

/// Deploys projects of this repository on a server that has the model.
fn deployed(projects: &[(&str, &str)]) -> Server {
    let server = Server::start();
    model::install(server.data_dir());
    for (name, project) in projects {
        server.client().deploy(name, "", build(project).0).expect(201);
    }
    server
}

/// An author at work in a folder, with a service to push to.
struct Author {
    folder: TempDir,
    server: Server,
}

impl Author {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: Server::start() }
    }

    fn writes(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn types(&self, words: &[&str]) -> Output {
        fs::create_dir_all(tools()).unwrap();
        let tools = tools();
        Command::new(binary())
            .args(words)
            .current_dir(self.folder.path())
            .env("DORMOUSE_CONFIG", "/dev/null")
            .env("DORMOUSE_SERVER", self.server.client().base())
            // Where the tools are.
            .env("DORMOUSE_DATA", tools.parent().unwrap())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn sees(&self, words: &[&str]) -> String {
        let output = self.types(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn is_refused(&self, words: &[&str]) -> String {
        let output = self.types(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Why the folder can't be built.
    #[track_caller]
    fn is_told(&self) -> String {
        scaffold::build(self.folder.path(), &tools(), &mut |_| {}).unwrap_err().to_string()
    }
}

const GREETER: &str = r#"
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def predict(self, name: str = Input(min_length=1), times: int = Input(default=1, ge=1, le=3)) -> str:
        """Greets someone."""
        if name == "nobody":
            raise ValueError("nobody is there")
        return " ".join([f"Hello, {name}!"] * times)
"#;

#[test]
fn a_file_written_by_hand_is_predicted_pushed_and_run() {
    let author = Author::new();
    author.writes("predict.py", GREETER);
    assert_eq!(author.sees(&["predict", "-i", "name=Ada", "-i", "times=2"]), "Hello, Ada! Hello, Ada!\n");
    let error = author.is_refused(&["predict", "-i", "name=Ada", "-i", "times=4"]);
    assert!(error.contains("times: ") && error.contains('3'), "{error}");

    let text = author.sees(&["push", "greeter"]);
    assert!(text.contains(&format!("{}/fn/greeter", author.server.client().base())), "{text}");
    assert!(author.sees(&["push", "greeter"]).contains("unchanged"), "the same was built again");
    assert_eq!(author.sees(&["run", "greeter", "name=Ada"]), "Hello, Ada!\n");
    assert!(author.sees(&["fn", "ls"]).contains("Greets someone."));

    let error = author.is_refused(&["run", "greeter", "name=nobody"]);
    assert!(error.contains("nobody is there"), "{error}");
    let logs = author.sees(&["logs", "greeter"]);
    assert!(logs.contains("nobody is there"), "{logs}");
}

#[test]
fn what_a_component_can_not_do_is_told_while_it_is_built() {
    let author = Author::new();
    author.writes("predict.py", GREETER);
    author.writes("requirements.txt", "emoji==2.14.0\nnumpy>=2\npydantic\n");
    let error = author.is_told();
    assert!(error.starts_with("numpy, pydantic are not pure Python"), "{error}");
    assert!(error.contains("numpy: write the arithmetic in Python"), "{error}");
    assert!(error.contains("pydantic: use dormouse.BaseModel"), "{error}");

    author.writes("requirements.txt", "");
    author.writes("cog.yaml", "build:\n  gpu: true\n   python_version: '3.11'\n");
    let error = author.is_told();
    assert!(error.starts_with("cog.yaml:3: \"python_version: '3.11'\" is indented by 3 spaces"), "{error}");

    author.writes("cog.yaml", "build:\n  gpu: true\n");
    author.writes(
        "predict.py",
        &GREETER.replace("Input\n", "Input\nimport torch\nimport numpy as np\nx = torch.fft.fft\n"),
    );
    let error = author.is_told();
    assert!(error.starts_with("predict.py:4: numpy is not pure Python"), "{error}");
    assert!(error.contains("predict.py:5: torch.fft "), "{error}");

    author.writes("predict.py", &GREETER.replace(" -> str", ""));
    let error = author.is_told();
    assert!(error.contains("predict() needs a return type, such as `-> str`"), "{error}");
}

#[test]
fn a_cog_users_folder_answers_as_rusts_chat_does() {
    let server = deployed(&[]);
    let client = server.client();
    client.deploy("chat", "", guests::CHAT).expect(201);
    let (wasm, told) = build("examples/cog-import");
    client.deploy("cog-import", "", wasm).expect(201);
    let place = |line| Some(format!("cog.yaml:{line}"));
    let noted: Vec<_> = told
        .iter()
        .filter_map(|told| match told {
            Told::Note { place: Some(place), .. } => Some(place.clone()),
            _ => None,
        })
        .collect();
    // gpu, cuda, python_version, system_packages: what does not apply.
    for line in [3, 4, 5, 11] {
        assert!(noted.contains(&place(line).unwrap()), "line {line} in {told:?}");
    }

    let (system, prompt) = ("You are a mouse.", "Why do dormice sleep so long?");
    let input = json!({"prompt": prompt, "system_prompt": system, "max_new_tokens": 24});
    let answer = client.invoke("cog-import", &input).expect(200);
    let chat = client.output("chat", &json!({"prompt": prompt, "system": system, "max_tokens": 24}));
    assert_eq!(joined(&answer["output"]), joined(&chat));
    let pieces = answer["metrics"]["custom"]["pieces"].as_f64().unwrap();
    assert_eq!(pieces, answer["output"].as_array().unwrap().len() as f64);
}

#[test]
fn support_triage_sorts_alike_in_python_and_rust() {
    let server = deployed(&[("python", "examples/python/support-triage")]);
    server.client().deploy("rust", "", guests::SUPPORT_TRIAGE).expect(201);
    for ticket in
        ["I was charged twice this month.", "The app crashes when I open it.", "Where is my parcel?"]
    {
        let [python, rust] =
            ["python", "rust"].map(|name| server.client().output(name, &json!({"ticket": ticket})));
        for field in ["category", "reasons"] {
            assert_eq!(python[field], rust[field], "{ticket}");
        }
        let confidence = |output: &Value| output["confidence"].as_f64().unwrap();
        assert!((confidence(&python) - confidence(&rust)).abs() < 1e-9, "{python} and {rust}");
    }
}

#[test]
fn summarise_streams_its_parts_in_order() {
    let server = deployed(&[("summarise", "examples/js/summarise")]);
    let sentence = "A dormouse sleeps through the winter in a nest of leaves under the ground. ";
    let text = sentence.repeat(2500 / sentence.len());
    let answer = server.client().invoke("summarise", &json!({"text": text, "words": 5})).expect(200);
    assert_eq!(answer["metrics"]["custom"]["parts"], 2.0);
    let summary = joined(&answer["output"]);
    let parts: Vec<_> = summary.split("\n\n").filter(|part| !part.trim().is_empty()).collect();
    assert!(parts.len() >= 2 && summary.to_lowercase().contains("dormouse"), "{summary}");
}
