//! `dormouse push`: a component to the service, built first when it is a project.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::client::{Call, Client};
use super::output::short;
use super::terminal::{BOLD, Terminal};
use super::{Error, project};
use crate::args::{Push, Settings};
use crate::scaffold;

/// Separates the parts of a deploy. Checked against the component before it is used.
const BOUNDARY: &str = "dormouse-deploy-5d1f0c53a7";

/// What goes up, and under which name.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// As typed; otherwise what is deployed says.
    name: Option<String>,
    path: PathBuf,
}

pub(super) fn run(
    settings: &Settings,
    client: &Client,
    push: &Push,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let target = Target::new(&push.what, push.path.as_deref());
    let (own_name, wasm, wanted) = if target.path.is_dir() {
        let built = project::component(&target.path, &settings.tools_dir(&push.data)?, terminal)?;
        if !terminal.json {
            project::show(&built, terminal)?;
        }
        (built.name, built.wasm, built.settings)
    } else {
        (own_name(&target.path), target.path.clone(), Map::new())
    };
    let name = target.name.unwrap_or(own_name);
    let component = fs::read(&wasm).map_err(|error| file_error(&wasm, error))?;
    scaffold::check_component(&wasm, &component)?;
    let body = multipart(&with_typed(wanted, push), &component);
    let answer = client.json(&Call {
        method: "PUT",
        path: &["v1", "functions", &name],
        body: Some((&format!("multipart/form-data; boundary={BOUNDARY}"), &body)),
        ..Call::default()
    })?;
    show(&answer, terminal)
}

impl Target {
    /// One word is a path if there is such a folder or file, else the name of the project here.
    fn new(what: &str, path: Option<&Path>) -> Self {
        let is_path = what.contains(['/', '.']) || scaffold::is_project(Path::new(what));
        match path {
            Some(path) => Self { name: Some(what.to_owned()), path: path.to_owned() },
            None if is_path => Self { name: None, path: what.into() },
            None => Self { name: Some(what.to_owned()), path: ".".into() },
        }
    }
}

/// The name that a file gives a function.
fn own_name(wasm: &Path) -> String {
    wasm.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase().replace('_', "-")
}

/// What the project asks for, and what was typed on top; the service knows the defaults.
fn with_typed(mut settings: Map<String, Value>, push: &Push) -> Value {
    let mut set = |key: &str, value: Option<Value>| value.map(|value| settings.insert(key.to_owned(), value));
    set("timeout_ms", push.timeout.map(|timeout| json!(timeout.as_millis() as u64)));
    set("memory_bytes", push.memory.map(Value::from));
    set("concurrency", push.concurrency.map(Value::from));
    set("queue_max", push.queue.map(Value::from));
    set("priority", push.priority.clone().map(Value::from));
    set("guess_tokens", push.guess_tokens.map(Value::from));
    set("models", (!push.model.is_empty()).then(|| json!(push.model)));
    set("idle_after_ms", push.idle_after.map(|time| json!(time.as_millis() as u64)));
    set("keep_warm", push.keep_warm.then_some(Value::Bool(true)));
    set("prewake", (!push.prewake.is_empty()).then(|| json!(push.prewake)));
    if !push.env.is_empty() {
        let env = settings.entry("env").or_insert_with(|| json!({}));
        push.env.iter().for_each(|(key, value)| env[key] = json!(value));
    }
    settings.into()
}

/// Settings go in the body, not in the URL: an environment holds secrets, and URLs are logged.
fn multipart(settings: &Value, component: &[u8]) -> Vec<u8> {
    let mut body = format!(
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"settings\"\r\n\
         content-type: application/json\r\n\r\n{settings}\r\n\
         --{BOUNDARY}\r\ncontent-disposition: form-data; name=\"component\"; filename=\"component.wasm\"\r\n\
         content-type: application/wasm\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(component);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn show(answer: &Value, terminal: &mut Terminal) -> Result<(), Error> {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        terminal.warn(warning.as_str().map_or_else(|| warning.to_string(), str::to_owned));
    }
    if terminal.json {
        return Ok(terminal.value(answer)?);
    }
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let unchanged = if answer["unchanged"] == true { ", unchanged" } else { "" };
    terminal.field(
        "pushed",
        format_args!("{BOLD}{}{BOLD:#} (revision {}{unchanged})", text("name"), short(text("revision"))),
    )?;
    terminal.field("url", text("url"))?;
    match answer["setup"]["reason"].as_str() {
        Some(reason) => {
            terminal.field("setup", format_args!("runs at the start of each prediction: {reason}"))?
        }
        None => terminal.field("setup", "ran once; predictions begin where it ended")?,
    }
    terminal
        .field("try", format_args!("dormouse run {}{}", text("name"), sample(&answer["input_schema"])))?;
    Ok(())
}

/// ` key=...` for each field that a caller must give.
fn sample(schema: &Value) -> String {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|key| format!(" {key}=...")).collect()
}

fn file_error(path: &Path, error: std::io::Error) -> Error {
    Error::File { path: path.display().to_string(), error }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn push(words: &[&str]) -> Push {
        match Args::parse_from(["dormouse", "push"].iter().chain(words)).command {
            Command::Push(push) => push,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_word_is_a_path_if_it_looks_like_one_and_a_name_otherwise() {
        let target =
            |name: Option<&str>, path: &str| Target { name: name.map(str::to_owned), path: path.into() };
        assert_eq!(Target::new("app.wasm", None), target(None, "app.wasm"));
        assert_eq!(Target::new("./app", None), target(None, "./app"));
        assert_eq!(Target::new(".", None), target(None, "."));
        assert_eq!(Target::new("app", None), target(Some("app"), "."));
        assert_eq!(Target::new("app", Some(Path::new("x.wasm"))), target(Some("app"), "x.wasm"));
        assert_eq!(own_name(Path::new("/x/My_App.wasm")), "my-app");
    }

    #[test]
    fn settings_hold_only_what_was_typed() {
        assert_eq!(with_typed(Map::new(), &push(&["x"])), json!({}));
        let awake =
            push(&["x", "--idle-after=1h", "--keep-warm", "--prewake", "0 8 * * *", "--prewake=@hourly"]);
        assert_eq!(
            with_typed(Map::new(), &awake),
            json!({"idle_after_ms": 3_600_000, "keep_warm": true, "prewake": ["0 8 * * *", "@hourly"]})
        );
        let push = push(&["x", "--timeout", "1m 500ms", "--memory=64MiB", "--env", "K=V=W", "--model", "m"]);
        assert_eq!(push.timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(
            with_typed(Map::new(), &push),
            json!({"timeout_ms": 60_500, "memory_bytes": 67_108_864, "env": {"K": "V=W"}, "models": ["m"]})
        );
    }

    #[test]
    fn what_is_typed_goes_before_what_the_project_asks_for() {
        let Value::Object(wanted) = json!({"concurrency": 4, "env": {"A": "1", "B": "2"}}) else {
            unreachable!()
        };
        assert_eq!(
            with_typed(wanted, &push(&["x", "--concurrency", "8", "--guess-tokens", "4", "--env", "B=3"])),
            json!({"concurrency": 8, "guess_tokens": 4, "env": {"A": "1", "B": "3"}})
        );
    }
}
