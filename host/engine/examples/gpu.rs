//! Prints what a model takes on a graphics processor: dispatches and bytes of a token and what larger devices would
//! make of them, fused beside unfused kernels, and what sleeping frees and waking takes.
//!
//! `cargo run --release -p dormouse-engine --features gpu --example gpu -- MODEL.gguf [index] [cycles]`

use std::{path::Path, time::Duration};

use dormouse_engine::{
    Catalog, Config, Device, Engine, Error, Prompt, Request, Tier, adapters,
    catalog::Digest,
    copy_bandwidth,
    gpu_measure::{Model, llama_3_8b_bytes},
};

const ROUNDS: usize = 3;
/// Rows of a prompt's step.
const ROWS: usize = 32;
const CYCLES: usize = 10;
const NAME: &str = "model";
const PROMPT: &str = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is";
/// Time between the ends of two dispatches that depend on each other, beside their work.
const DISPATCH_SECONDS: f64 = 3e-6;
/// What is reached of a device's bandwidth.
const REACHED: f64 = 0.8;

#[tokio::main]
async fn main() -> Result<(), anyhow::Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(args.first().ok_or_else(|| anyhow::anyhow!("want MODEL.gguf [index] [cycles]"))?);
    let index = args.get(1).map_or(Ok(0), |text| text.parse())?;
    let cycles = args.get(2).map_or(Ok(CYCLES), |text| text.parse())?;
    let adapter = adapters().into_iter().nth(index).ok_or_else(|| anyhow::anyhow!("no gpu:{index}"))?;
    let copies = copy_bandwidth(index)?;
    println!("gpu:{index}: {}, {}, {}", adapter.name, adapter.api, adapter.driver);
    println!("copies {:.2} GB/s (bytes read and written)\n", copies / 1e9);
    steps(index, path)?;
    sleep(index, path, cycles).await
}

/// Steps of both kinds in turns, and what their numbers mean elsewhere.
fn steps(index: usize, path: &Path) -> Result<(), Error> {
    let mut models = [Some(true), Some(false)].map(|is_fused| Model::open(index, path, is_fused));
    println!("{:>10} {:>12} {:>14} {:>12}", "", "a token ms", "dispatches", format!("{ROWS} rows ms"));
    let mut best = [[Duration::MAX; 2]; 2];
    let mut dispatches = [0; 2];
    for _ in 0..ROUNDS {
        for (at, model) in models.iter_mut().enumerate() {
            let model = model.as_mut().map_err(|error| error.clone())?;
            for (rows, best) in [1, ROWS].into_iter().zip(&mut best[at]) {
                let (took, count) = model.step(rows)?;
                *best = took.min(*best);
                if rows == 1 {
                    dispatches[at] = count;
                }
            }
        }
    }
    for (at, name) in ["fused", "unfused"].into_iter().enumerate() {
        let [token, prompt] = best[at].map(|time| time.as_secs_f64() * 1e3);
        println!("{name:>10} {token:>12.1} {:>14} {prompt:>12.1}", dispatches[at]);
    }
    let ratio = |of: usize| best[1][of].as_secs_f64() / best[0][of].as_secs_f64();
    println!("unfused / fused: a token {:.2}x, {ROWS} rows {:.2}x\n", ratio(0), ratio(1));
    let bytes = models[0].as_ref().map_err(|error| error.clone())?.weight_bytes();
    println!(
        "estimates from bytes and dispatches: {REACHED} of the bandwidth, {:.0} us a dispatch",
        DISPATCH_SECONDS * 1e6
    );
    println!(
        "{:>16} {:>10} {:>12} {:>10} {:>10} {:>10}",
        "", "MB a token", "dispatches", "H100", "RTX 4090", "M3 Max"
    );
    estimate("this model", bytes, dispatches[0]);
    estimate("Llama 3 8B Q4_K", llama_3_8b_bytes(), 32 * 5 + 2);
    Ok(())
}

fn estimate(name: &str, bytes: u64, dispatches: u64) {
    let tokens = [3.35e12, 1.0e12, 0.4e12]
        .map(|bandwidth| 1.0 / (bytes as f64 / (bandwidth * REACHED) + dispatches as f64 * DISPATCH_SECONDS));
    let [h100, rtx, m3] = tokens;
    println!(
        "{name:>16} {:>10.1} {dispatches:>12} {h100:>8.0}/s {rtx:>8.0}/s {m3:>8.0}/s",
        bytes as f64 / 1e6
    );
}

/// A model that sleeps and wakes, with the engine around it.
async fn sleep(index: usize, path: &Path, cycles: usize) -> Result<(), anyhow::Error> {
    let folder = tempfile::tempdir()?;
    let catalog = Catalog::open(folder.path())?;
    let file = catalog.tmp().join(NAME);
    std::fs::copy(path, &file)?;
    catalog.add(NAME, "file", &file, &Digest::of_file(&file)?)?;
    let mut config = Config { device: Device::Gpu(index), ..Config::new(folder.path()) };
    config.residency.residence_min = Duration::ZERO;
    let engine = Engine::start(config)?;
    let empty = device(&engine);
    let (mut first, mut wakes, mut kept, mut most) = (None, Vec::new(), Vec::new(), 0);
    for cycle in 0..=cycles {
        let model = engine.open(NAME).await?;
        wakes.push(model.wake());
        let mut completion = model.generate(Request::new(Prompt::Text(PROMPT.into()), 1))?;
        let mut text = String::new();
        while let Some(chunk) = completion.next().await? {
            text += &chunk.text;
        }
        let first = first.get_or_insert(text.clone());
        anyhow::ensure!(*first == text, "cycle {cycle} says {text:?}, the first said {first:?}");
        most = most.max(device(&engine).0);
        drop(completion);
        drop(model);
        engine.sleep(NAME, Tier::Disk).await?;
        let mut models = engine.watch_residency();
        models
            .wait_for(|models| models.iter().all(|model| model.tier != Tier::Awake && model.moving.is_none()))
            .await?;
        let (used, reserved) = device(&engine);
        anyhow::ensure!(used <= empty.0, "cycle {cycle}: {used} bytes are used, {} were before", empty.0);
        kept.push(reserved);
    }
    let later = &mut wakes[1..];
    later.sort();
    println!(
        "\n{cycles} times asleep and awake: {:.1} MB each time, freed to the byte, the same first token",
        most as f64 / 1e6
    );
    println!(
        "kept by the runtime to read through: {:.1} MB, at the end {:.1} MB",
        megabytes(kept[0]),
        megabytes(kept[cycles])
    );
    println!(
        "first wake {:.0} ms; from the ready image p50 {:.0} ms, at most {:.0} ms",
        wakes[0].as_secs_f64() * 1e3,
        wakes[1..][cycles / 2].as_secs_f64() * 1e3,
        wakes[cycles].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes of a device in use and reserved.
fn device(engine: &Engine) -> (u64, u64) {
    engine.device().map_or((0, 0), |device| (device.used_bytes, device.reserved_bytes))
}
