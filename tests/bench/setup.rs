//! A predictor whose `setup` builds a large table: its first prediction with an image and without.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use dormouse_tests::Process;
use serde_json::json;

use crate::{figures, guests};

const RESTARTS: usize = 15;

pub(crate) fn run() -> Result<()> {
    figures::table(
        &format!(
            "a table of 2^20 numbers built in setup, first prediction after a restart (ms, median of {RESTARTS})"
        ),
        &["setup runs", "seen by the client", "map code", "setup", "predict", "deploy"],
    );
    let with = measure("at deploy", "image_bytes_max = 268435456")?;
    let without = measure("at each start", "image_bytes_max = 0")?;
    println!("\nratio {:.0}x", without.as_secs_f64() / with.as_secs_f64());
    Ok(())
}

fn measure(title: &str, bound: &str) -> Result<Duration> {
    let data = tempfile::tempdir()?;
    let settings = data.path().join("setup.toml");
    fs::write(&settings, format!("[deploy]\n{bound}\n"))?;
    let start = || Process::with_args(data.path(), &["--config", &settings.display().to_string()]);
    let deploy = Instant::now();
    start().client().deploy("table", "", Path::new(guests::TABLE)).expect(201);
    let deploy = deploy.elapsed();
    let (mut seen, mut parts) = (Vec::new(), [const { Vec::new() }; 3]);
    for _ in 0..RESTARTS {
        let process = start();
        process.client().get("/healthz").expect(200);
        let called = Instant::now();
        let answer = process.client().invoke("table", &json!({"start": 27})).expect(200);
        seen.push(called.elapsed());
        for (part, name) in parts.iter_mut().zip(["cold_start_ms", "setup_ms", "predict_ms"]) {
            part.push(Duration::from_secs_f64(answer["metrics"][name].as_f64().unwrap_or_default() / 1e3));
        }
    }
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    let [map, setup, predict] = parts.map(|times| ms(figures::median(&times)));
    let seen = figures::median(&seen);
    figures::row(&[title.to_owned(), ms(seen), map, setup, predict, ms(deploy)]);
    Ok(seen)
}
