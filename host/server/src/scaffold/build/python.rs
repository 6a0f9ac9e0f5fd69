//! A Python project, by the Python SDK's build in a virtual environment of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::workshop::{self, Plan, Workshop};
use super::{Built, Told, driver};
use crate::scaffold::Error;

/// The SDK's files, by path.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/python.rs"));

/// What the SDK's build needs beside it, as its pyproject.toml says.
const TOOLS: [&str; 2] = ["componentize-py==0.25.*", "PyYAML>=6"];

/// Interpreters, in the order they are tried.
const INTERPRETERS: [&str; 2] = ["python3", "python"];
/// The oldest that runs the SDK's build.
const VERSION_MIN: (u32, u32) = (3, 11);

/// Where a virtual environment has its programs.
const PROGRAMS: &str = if cfg!(windows) { "Scripts" } else { "bin" };

/// Builds the Python project in `folder`.
pub(super) fn build(folder: &Path, tools_dir: &Path, tell: &mut dyn FnMut(Told)) -> Result<Built, Error> {
    let (interpreter, version) = interpreter()?;
    let plan = Plan { language: "python", sources: SDK, depends_on: &format!("{version} {TOOLS:?}") };
    let workshop = Workshop::open(tools_dir, &plan, |path| {
        tell(Told::Step(format!("installing {} (once)", TOOLS.join(" and "))));
        furnish(interpreter, path)
    })?;
    let wasm = driver::output(folder)?;
    let mut command = Command::new(workshop.file("venv").join(PROGRAMS).join("python"));
    command.args(["-m", "dormouse.build"]).arg(folder).arg("--output").arg(&wasm);
    command.env("PYTHONPATH", workshop.sdk("src")).env("PYTHONNOUSERSITE", "1");
    driver::run(command, wasm, tell)
}

fn furnish(interpreter: &str, path: &Path) -> Result<(), Error> {
    let venv = path.join("venv");
    let mut make = Command::new(interpreter);
    make.args(["-m", "venv"]).arg(&venv);
    workshop::install(make)?;
    let mut pip = Command::new(venv.join(PROGRAMS).join("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(TOOLS);
    workshop::install(pip)
}

/// The first interpreter that is new enough, and its version.
fn interpreter() -> Result<(&'static str, String), Error> {
    let mut found = None;
    for name in INTERPRETERS {
        let Some(version) = version(name) else { continue };
        if parse(&version).is_some_and(|version| version >= VERSION_MIN) {
            return Ok((name, version));
        }
        found = Some(version);
    }
    let (major, minor) = VERSION_MIN;
    let here = found.map_or_else(|| "none is installed".to_owned(), |version| format!("here is {version}"));
    Err(Error::NoTool(format!(
        "a Python project needs Python {major}.{minor} or newer to be built, and {here}"
    )))
}

fn version(interpreter: &str) -> Option<String> {
    let mut command = Command::new(interpreter);
    command.args(["-c", "import platform; print(platform.python_version())"]).stdin(Stdio::null());
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `3.11.7` as (3, 11).
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_are_those_that_the_sdk_names() {
        let project = include_str!("../../../../../guest-sdk/python/pyproject.toml");
        for tool in TOOLS {
            assert!(project.contains(&format!("\"{tool}\"")), "{tool}");
        }
    }

    #[test]
    fn the_sdk_is_whole() {
        let has = |path: &str| SDK.iter().any(|(name, _)| *name == path);
        assert!(has("src/dormouse/build/__main__.py") && has("src/dormouse/wit/predictor.wit"));
        assert!(has("src/cog/__init__.py") && has("src/dormouse/lookalike/site/torch/__init__.py"));
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(parse("3.9.2"), Some((3, 9)));
        assert!(parse("3.9.2") < Some(VERSION_MIN) && parse("3.14.0rc1") > Some(VERSION_MIN));
        assert_eq!(parse("python"), None);
    }
}
