//! The first prediction after a restart, and after a deploy.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dormouse_tests::Process;
use serde_json::{Value, json};

use crate::{figures, guests};

const REPEATS: u32 = 30;
/// What the service reports of a prediction, in the order it happens.
const STAGES: [&str; 4] = ["cold_start_ms", "instantiate_ms", "setup_ms", "predict_ms"];

pub(crate) fn run() -> Result<()> {
    restarts()?;
    deploys()
}

fn restarts() -> Result<()> {
    let data = tempfile::tempdir()?;
    Process::start(data.path()).client().deploy("hello", "", guests::HELLO).expect(201);
    let mut stages: [Vec<Duration>; STAGES.len()] = Default::default();
    let (mut sums, mut seen, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let process = Process::start(data.path());
        // The connection is there already: what is timed is the request.
        process.client().get("/healthz").expect(200);
        let start = Instant::now();
        let body = process.client().invoke("hello", &json!({"name": "you"})).expect(200);
        seen.push(start.elapsed());
        ensure!(body["metrics"]["cold_start"] == "mapped", "not a mapped start: {body}");
        let times = STAGES.map(|stage| milliseconds(&body["metrics"][stage]));
        stages.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
        sums.push(times.iter().sum());
        let start = Instant::now();
        process.client().output("hello", &json!({"name": "you"}));
        warm.push(start.elapsed());
    }
    figures::table(
        &format!("hello, first prediction after a restart (µs, {REPEATS} restarts)"),
        &["part", "p50", "p90", "max"],
    );
    let names = ["map code", "instantiate", "setup", "predict"];
    for (name, times) in names.into_iter().zip(stages) {
        print(name, times);
    }
    print("all of these", sums);
    print("seen by the client", seen);
    print("the second, seen by the client", warm);
    Ok(())
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
