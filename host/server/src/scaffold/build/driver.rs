//! Runs an SDK's own build and reads what it tells: events as JSON lines on its standard error, what came
//! of it as one JSON object on its standard output.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Built, Told};
use crate::scaffold::Error;

/// Where a project's component goes.
const FOLDER: &str = ".dormouse";
const FILE: &str = "predictor.wasm";

/// Bytes of the answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// An event of a build.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Step { message: String },
    Note { level: String, file: Option<String>, line: Option<u64>, message: String },
    Failed { file: Option<String>, line: Option<u64>, message: String, advice: Option<String> },
}

/// What a build answers with.
#[derive(Debug, Deserialize)]
struct Answer {
    name: String,
    #[serde(default)]
    settings: Map<String, Value>,
}

/// The file a project's component is built to, in a folder that version control leaves alone.
pub(super) fn output(project: &Path) -> Result<PathBuf, Error> {
    let folder = project.join(FOLDER);
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let ignore = folder.join(".gitignore");
    fs::write(&ignore, "*\n").map_err(Error::file(&ignore))?;
    // Absolute, as the build may run in another folder.
    Ok(folder.canonicalize().map_err(Error::file(&folder))?.join(FILE))
}

/// Runs a build that writes `wasm`.
pub(super) fn run(command: Command, wasm: PathBuf, tell: &mut dyn FnMut(Told)) -> Result<Built, Error> {
    let answer = answer(command, tell)?;
    let built = Built::check(answer.name, wasm)?;
    Ok(Built { settings: answer.settings, ..built })
}

fn answer(mut command: Command, tell: &mut dyn FnMut(Told)) -> Result<Answer, Error> {
    let program = PathBuf::from(command.get_program());
    let failed = || Error::file(&program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed())?;
    let out = child.stdout.take().expect("standard output is piped");
    let err = child.stderr.take().expect("standard error is piped");
    // Both at once: a build that fills one pipe waits for its reader.
    let (text, failure) = thread::scope(|scope| {
        let text = scope.spawn(move || {
            let mut text = String::new();
            out.take(ANSWER_BYTES_MAX).read_to_string(&mut text).map(|_| text)
        });
        let failure = listen(BufReader::new(err), tell);
        (text.join().expect("reading does not panic"), failure)
    });
    let status = child.wait().map_err(failed())?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !status.success() {
        return Err(Error::BuildBroke(format!("{} ended with {status}", program.display())));
    }
    serde_json::from_str(&text.map_err(failed())?)
        .map_err(|error| Error::BuildBroke(format!("its answer is not understood: {error}")))
}

/// Tells what a build tells until it ends; returns why it failed, if it said so.
fn listen(lines: impl BufRead, tell: &mut dyn FnMut(Told)) -> Option<Error> {
    let mut failure = None;
    for line in lines.lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Event::Step { message }) => tell(Told::Step(message)),
            Ok(Event::Note { level, file, line, message }) => {
                tell(Told::Note { is_warning: level == "warning", place: place(file, line), message });
            }
            Ok(Event::Failed { file, line, message, advice }) => {
                failure = Some(Error::Build { place: place(file, line), message, advice });
            }
            // What the tools beneath it say.
            Err(_) => tell(Told::Note { is_warning: false, place: None, message: line }),
        }
    }
    failure
}

fn place(file: Option<String>, line: Option<u64>) -> Option<String> {
    let file = file?;
    Some(line.map_or_else(|| file.clone(), |line| format!("{file}:{line}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn what_a_build_tells_is_told_and_its_answer_read() {
        let mut told = Vec::new();
        let text = r#"echo '{"event":"step","step":"x","message":"one"}' >&2
            echo '{"event":"note","level":"warning","file":"a.py","line":3,"message":"two"}' >&2
            echo 'three' >&2
            echo '{"name":"n","settings":{"concurrency":2},"more":1}'"#;
        let answer = answer(script(text), &mut |event| told.push(event)).unwrap();
        assert_eq!((answer.name.as_str(), &answer.settings["concurrency"]), ("n", &Value::from(2)));
        let note = |is_warning, place: Option<&str>, message: &str| Told::Note {
            is_warning,
            place: place.map(str::to_owned),
            message: message.to_owned(),
        };
        assert_eq!(
            told,
            [Told::Step("one".into()), note(true, Some("a.py:3"), "two"), note(false, None, "three")]
        );
    }

    #[test]
    fn a_build_that_fails_says_where_and_what_to_do() {
        let text = r#"echo '{"event":"failed","file":"cog.yaml","line":2,"message":"no","advice":"yes"}' >&2
            exit 1"#;
        let error = answer(script(text), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "cog.yaml:2: no\nyes");
    }

    #[test]
    fn a_build_that_breaks_off_is_an_error() {
        let error = |text| answer(script(text), &mut |_| {}).unwrap_err().to_string();
        assert!(error("exit 3").contains("exit status: 3"), "{}", error("exit 3"));
        assert!(error("echo hello").contains("not understood"));
    }
}
