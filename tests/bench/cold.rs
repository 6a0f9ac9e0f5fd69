//! The first prediction after a restart, and after a deploy.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use dormouse_tests::Process;
use serde_json::{Value, json};

use crate::{figures, guests};

const REPEATS: u32 = 30;
/// What the service reports of a prediction, in the order it happens.
pub(crate) const STAGES: [&str; 4] = ["cold_start_ms", "instantiate_ms", "setup_ms", "predict_ms"];

/// What first predictions after a restart took.
#[derive(Default)]
pub(crate) struct Restarts {
    /// By stage.
    pub(crate) stages: [Vec<Duration>; STAGES.len()],
    /// All stages.
    sums: Vec<Duration>,
    /// As the client sees it.
    pub(crate) seen: Vec<Duration>,
    /// The second prediction, as the client sees it.
    pub(crate) warm: Vec<Duration>,
}

pub(crate) fn run() -> Result<()> {
    let hello = restarts("hello", Path::new(guests::HELLO), REPEATS)?;
    figures::table(
        &format!("hello, first prediction after a restart (µs, {REPEATS} restarts)"),
        &["part", "p50", "p90", "max"],
    );
    let names = ["map code", "instantiate", "setup", "predict"];
    for (name, times) in names.into_iter().zip(hello.stages) {
        print(name, times);
    }
    print("all of these", hello.sums);
    print("seen by the client", hello.seen);
    print("the second, seen by the client", hello.warm);
    deploys()
}

/// Restarts a service that has a component which takes a `name`, and calls it twice each time.
pub(crate) fn restarts(function: &str, wasm: &Path, times: u32) -> Result<Restarts> {
    let data = tempfile::tempdir()?;
    Process::start(data.path()).client().deploy(function, "", wasm).expect(201);
    let mut restarts = Restarts::default();
    for _ in 0..times {
        let process = Process::start(data.path());
        // The connection is there already: what is timed is the request.
        process.client().get("/healthz").expect(200);
        let start = Instant::now();
        let body = process.client().invoke(function, &json!({"name": "you"})).expect(200);
        restarts.seen.push(start.elapsed());
        ensure!(body["metrics"]["cold_start"] == "mapped", "not a mapped start: {body}");
        let times = STAGES.map(|stage| milliseconds(&body["metrics"][stage]));
        restarts.stages.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        restarts.sums.push(times.iter().sum());
        let start = Instant::now();
        process.client().output(function, &json!({"name": "you"}));
        restarts.warm.push(start.elapsed());
    }
    Ok(restarts)
}

fn deploys() -> Result<()> {
    let (data, variants) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let process = Process::start(data.path());
    let (mut deploys, mut answers, mut compiles) = (Vec::new(), Vec::new(), Vec::new());
    for mark in 0..REPEATS {
        let wasm = figures::variant(guests::HELLO, mark, &variants)?;
        let name = format!("hello-{mark}");
        let start = Instant::now();
        let function = process.client().deploy(&name, "", &wasm).expect(201);
        deploys.push(start.elapsed());
        process.client().output(&name, &json!({"name": "you"}));
        answers.push(start.elapsed());
        compiles.push(milliseconds(&function["timings"]["compile_ms"]));
    }
    figures::table(
        &format!("hello, from deploy to first answer (µs, {REPEATS} components never seen before)"),
        &["part", "p50", "p90", "max"],
    );
    print("compile", compiles);
    print("deploy acknowledged", deploys);
    print("first answer", answers);
    Ok(())
}

fn print(name: &str, times: Vec<Duration>) {
    let [p50, p90, _, max] = figures::spread(times);
    figures::row(&[name.to_owned(), format!("{p50:.0}"), format!("{p90:.0}"), format!("{max:.0}")]);
}

fn milliseconds(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap_or_default() / 1e3)
}
