//! The example hello in every language: what its build, its component, its start and its calls cost, beside
//! Cog's own server on the Python file.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use dormouse::scaffold;
use dormouse_tests::Process;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    cog::Cog,
    cold::{self, STAGES},
    figures, load,
};

/// Languages, and their projects in `bench/languages`; Rust's is the template.
const PROJECTS: [(&str, &str); 4] = [
    ("Rust", "rust"),
    ("JavaScript, QuickJS", "javascript"),
    ("JavaScript, StarlingMonkey", "web"),
    ("Python", "python"),
];
const NAME: &str = "hello";

const REBUILDS: u32 = 3;
const RESTARTS: u32 = 15;
const COG_STARTS: u32 = 5;

const CONNECTIONS: [usize; 2] = [1, 32];
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
const TIME: Duration = Duration::from_secs(2);

/// A language's hello.
struct Hello {
    language: &'static str,
    wasm: PathBuf,
}

pub(crate) fn run() -> Result<()> {
    let workplace = tempfile::tempdir()?;
    let built = builds(&workplace)?;
    starts(&built)?;
    calls(&built)
}

/// Builds every project twice and more: with nothing installed, and after a change.
fn builds(workplace: &TempDir) -> Result<Vec<Hello>> {
    figures::table(
        "hello, its build and its component",
        &["language", "first build, tools and dependencies installed", "build after a change", "component"],
    );
    let projects = workplace.path().join("languages");
    copy(&bench().join("languages"), &projects)?;
    scaffold::new(NAME, &projects.join("rust"))?;
    fs::copy(bench().join("../../Cargo.lock"), projects.join("rust/Cargo.lock"))?;
    PROJECTS.into_iter().map(|(language, project)| build(language, &projects.join(project))).collect()
}

fn build(language: &'static str, project: &Path) -> Result<Hello> {
    let tools = tempfile::tempdir()?;
    let timed = || -> Result<_> {
        let start = Instant::now();
        let built = scaffold::build(project, tools.path(), &mut |_| {})?;
        Ok((built, start.elapsed()))
    };
    let (mut built, first) = timed()?;
    let mut again = Vec::new();
    for number in 0..REBUILDS {
        change(project, number)?;
        let (rebuilt, time) = timed()?;
        again.push(time);
        built = rebuilt;
    }
    again.sort();
    figures::row(&[
        language.to_owned(),
        format!("{:.1} s", first.as_secs_f64()),
        format!("{:.1} s", figures::percentile(&again, 0.5).as_secs_f64()),
        format!("{:.2} MB", built.bytes as f64 / 1e6),
    ]);
    Ok(Hello { language, wasm: built.wasm })
}

/// Adds a line to a project's source that every tool takes for a change.
fn change(project: &Path, number: u32) -> Result<()> {
    let lines = [
        ("src/lib.rs", format!("// {number}")),
        ("predict.ts", format!("globalThis.change = {number};")),
        ("predict.py", format!("change = {number}")),
    ];
    for (file, line) in lines {
        let path = project.join(file);
        if path.exists() {
            let text = fs::read_to_string(&path)?;
            fs::write(&path, format!("{text}{line}\n"))?;
        }
    }
    Ok(())
}

/// The first prediction after a restart, in each language, beside the start of Cog.
fn starts(built: &[Hello]) -> Result<()> {
    figures::table(
        &format!("hello, first prediction after a restart (ms, p50 of {RESTARTS})"),
        &["language", "map code", "instantiate", "setup", "predict", "seen by the client", "the second"],
    );
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    for hello in built {
        let restarts = cold::restarts(NAME, &hello.wasm, RESTARTS)?;
        let parts = restarts.stages.iter().chain([&restarts.seen, &restarts.warm]);
        let cells = parts.map(|times| ms(figures::median(times)));
        figures::row(&[hello.language.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    let starts = Cog::starts(&bench().join("languages/python"), COG_STARTS)?;
    let mut cells = vec!["Cog's server, without its container".to_owned()];
    cells.resize(1 + STAGES.len(), String::new());
    cells.extend([ms(figures::median(&starts)), String::new()]);
    figures::row(&cells);
    Ok(())
}

/// Requests a second, a fresh instance for each.
fn calls(built: &[Hello]) -> Result<()> {
    figures::table(
        &format!("hello over HTTP (median of {ROUNDS} rounds)"),
        &["language", "connections", "requests/s", "p50 µs", "p99 µs"],
    );
    let body = json!({"name": "dormouse"});
    for hello in built {
        let data = tempfile::tempdir()?;
        let process = Process::start(data.path());
        process.client().deploy(NAME, "", &hello.wasm).expect(201);
        for connections in CONNECTIONS {
            let path = format!("/fn/{NAME}");
            call(hello.language, process.client().base(), &path, &body.to_string(), connections)?;
        }
    }
    let cog = Cog::start(&bench().join("languages/python"))?;
    // It has one instance; a second caller at once is refused.
    call("Cog's server", cog.client().base(), "/predictions", &json!({"input": body}).to_string(), 1)
}

fn call(name: &str, base: &str, path: &str, body: &str, connections: usize) -> Result<()> {
    let address = base.trim_start_matches("http://");
    let mut rounds = (0..ROUNDS)
        .map(|_| load::run(address, path, body, connections, WARM_UP, TIME))
        .collect::<Result<Vec<_>>>()?;
    rounds.sort_by(|a, b| a.requests_per_second.total_cmp(&b.requests_per_second));
    let median = &rounds[ROUNDS / 2];
    figures::row(&[
        name.to_owned(),
        connections.to_string(),
        format!("{:.0}", median.requests_per_second),
        median.p50.as_micros().to_string(),
        median.p99.as_micros().to_string(),
    ]);
    Ok(())
}

/// The folder of what is measured.
pub(crate) fn bench() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench")
}

/// Copies a folder; what builds left in it stays.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        match path.is_dir() {
            true if name == ".dormouse" => {}
            true => copy(&path, &to.join(name))?,
            false => drop(fs::copy(&path, to.join(name))?),
        }
    }
    Ok(())
}
