//! Guests that misbehave, a thousand times each: whether the service keeps its memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dormouse_tests::Process;
use serde_json::json;

use crate::{figures, guests};

const REPEATS: usize = 1000;
/// Repeats before the first reading, for pools and allocators to fill up.
const WARM_UP: usize = 50;
/// Each guest with its settings and the error it must get.
const GUESTS: [(&str, &str, &str, &str); 5] = [
    ("endless", guests::ENDLESS, "?timeout_ms=20", "timeout"),
    ("trap", guests::TRAP, "", "predictor_trapped"),
    ("hog", guests::HOG, "?memory_bytes=33554432", "predictor_out_of_memory"),
    ("flood", guests::FLOOD, "", "output_too_large"),
    ("bomb", guests::BOMB, "", "predictor_stack_overflow"),
];

pub(crate) fn run() -> Result<()> {
    figures::table(
        &format!("Faulty guests, {REPEATS} predictions of each, hello after every one"),
        &["guest", "error", "p50 ms", "memory before", "after", "hello p99 µs"],
    );
    let data = tempfile::tempdir()?;
    let process = Process::start(data.path());
    process.client().deploy("hello", "", guests::HELLO).expect(201);
    for (name, wasm, query, code) in GUESTS {
        process.client().deploy(name, query, wasm).expect(201);
        repeat(&process, name, code, WARM_UP)?;
        let before = process.resident_bytes();
        let (faults, hellos) = repeat(&process, name, code, REPEATS)?;
        let after = process.resident_bytes();
        figures::row(&[
            name.to_owned(),
            code.to_owned(),
            format!("{:.2}", figures::spread(faults)[0] / 1e3),
            figures::kib(before as f64),
            figures::kib(after as f64),
            format!("{:.0}", figures::spread(hellos)[2]),
        ]);
    }
    Ok(())
}

/// Times of the faulty predictions, and of the `hello` after each.
fn repeat(process: &Process, name: &str, code: &str, times: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut faults, mut hellos) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let start = Instant::now();
        let answer = process.client().invoke(name, &json!({}));
        faults.push(start.elapsed());
        ensure!(answer.json()["error"]["code"] == code, "{name} was answered with {}", answer.text);
        let start = Instant::now();
        ensure!(process.client().output("hello", &json!({"name": "you"})) == "Hello, you!", "hello is gone");
        hellos.push(start.elapsed());
    }
    Ok((faults, hellos))
}
