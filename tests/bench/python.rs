//! A Python predictor with a model, from a restart to its first text, and what a thousand idle ones cost,
//! beside Cog's own server.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dormouse::scaffold;
use dormouse_tests::{Process, model};
use serde_json::json;

use crate::{
    cog::Cog,
    figures, guests,
    languages::{bench, copy},
};

const RESTARTS: u32 = 5;
const FUNCTIONS: u32 = 1000;
/// Components with code of their own: each has 35 MB of it.
const DISTINCT: u32 = 20;

pub(crate) fn run() -> Result<()> {
    let tools = tempfile::tempdir()?;
    awake(tools.path())?;
    sleep(&build(&bench().join("languages/python"), tools.path())?)
}

/// Builds a copy of a project, which stays beside the tools.
fn build(project: &Path, tools: &Path) -> Result<PathBuf> {
    let folder = tools.join("projects").join(project.file_name().expect("projects have names"));
    copy(project, &folder)?;
    Ok(scaffold::build(&folder, tools, &mut |_| {})?.wasm)
}

/// The first text of a Python predictor that streams a model's answer, after a restart.
fn awake(tools: &Path) -> Result<()> {
    figures::table(
        &format!("cog-import (Python), first text after a restart (ms, p50 of {RESTARTS})"),
        &["model asleep", "model awake", "chat (Rust), model awake"],
    );
    let wasm = build(&bench().join("../../examples/cog-import"), tools)?;
    let data = tempfile::tempdir()?;
    model::install(data.path());
    let process = Process::start(data.path());
    process.client().deploy("cog-import", "", &wasm).expect(201);
    process.client().deploy("chat", "", guests::CHAT).expect(201);
    process.terminate();

    let (mut asleep, mut awake, mut rust) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        asleep.push(first_text(&Process::start(data.path()), "cog-import"));
        // The other function wakes the model, so that each is met by a model that is awake.
        awake.push(first_text_after(data.path(), "chat", "cog-import"));
        rust.push(first_text_after(data.path(), "cog-import", "chat"));
    }
    let row =
        [asleep, awake, rust].map(|times| format!("{:.1}", figures::median(&times).as_secs_f64() * 1e3));
    figures::row(&row);
    Ok(())
}

/// The first text of `function` in a new process in which only `before` has been called.
fn first_text_after(data: &Path, before: &str, function: &str) -> Duration {
    let process = Process::start(data);
    first_text(&process, before);
    first_text(&process, function)
}

fn first_text(process: &Process, function: &str) -> Duration {
    let start = Instant::now();
    process.client().stream(function, &json!({"prompt": "Hello"})).wait_for("output");
    start.elapsed()
}

/// What a Python function costs while nobody calls it.
fn sleep(hello: &Path) -> Result<()> {
    figures::table(
        "idle Python functions: memory each",
        &["functions", "after a restart", "each called once, then idle", "disk each"],
    );
    idle(hello, FUNCTIONS, false)?;
    idle(hello, DISTINCT, true)?;
    let cog = Cog::start(&bench().join("languages/python"))?;
    let resident = figures::kib(cog.resident_bytes()? as f64);
    figures::row(&["Cog's server".to_owned(), resident.clone(), resident, String::new()]);
    Ok(())
}

fn idle(hello: &Path, count: u32, are_distinct: bool) -> Result<()> {
    let (data, variants) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let process = Process::start(data.path());
    let original = hello.display().to_string();
    for mark in 0..count {
        let own = if are_distinct { Some(figures::variant(&original, mark, &variants)?) } else { None };
        process.client().deploy(&name(mark), "", own.as_ref().unwrap_or(&original)).expect(201);
    }
    ensure!(process.terminate(), "the service did not stop well");

    let empty = tempfile::tempdir()?;
    let bare = Process::start(empty.path()).resident_bytes();
    let process = Process::start(data.path());
    let each = |bytes: u64| (bytes as f64 - bare as f64) / f64::from(count);
    let restarted = each(process.resident_bytes());
    for mark in 0..count {
        process.client().output(&name(mark), &json!({"name": "you"}));
    }
    let called = each(process.resident_bytes());
    let what = if are_distinct { "with code of their own" } else { "of the same component" };
    figures::row(&[
        format!("{count} {what}"),
        figures::kib(restarted),
        figures::kib(called),
        figures::kib(figures::folder_bytes(data.path())? as f64 / f64::from(count)),
    ]);
    Ok(())
}

fn name(mark: u32) -> String {
    format!("hello-{mark}")
}
