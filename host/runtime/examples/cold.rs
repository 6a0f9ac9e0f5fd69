//! Measures how a predictor starts: `cargo run --release -p dormouse-runtime --example cold -- FILE.wasm
//! [INPUT] [ROUNDS]`. The predictor may not need a model. Each round maps the compiled component anew
//! and runs one prediction in a fresh instance, as a node does after a restart.

use std::{env, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use dormouse_engine::{Caller, Engine};
use dormouse_runtime::{Config, Invocation, Limits, Load, Runtime};
use tokio::{sync::mpsc, time::Instant};

/// Rounds that only warm the caches.
const WARM_UP: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let path = args.next().context("which .wasm file?")?;
    let input = args.next().unwrap_or_else(|| "{}".into());
    let rounds = args.next().map_or(Ok(1000), |rounds| rounds.parse())?;
    ensure!(rounds > 0, "no rounds, no figures");
    let wasm = fs::read(&path).with_context(|| path.clone())?;

    let folder = tempfile::tempdir()?;
    let engine = Engine::start(dormouse_engine::Config::new(folder.path().join("models")))?;
    let runtime = Runtime::new(Config::new(folder.path().join("cache")), engine)?;

    let (component, Load::Compiled(compile)) = runtime.load(&wasm)? else {
        anyhow::bail!("an empty cache had the component");
    };
    let digest = component.digest().to_owned();
    drop(component);
    let compiled_bytes: u64 = fs::read_dir(folder.path().join("cache"))?
        .map(|file| Ok(file?.metadata()?.len()))
        .sum::<Result<_>>()?;
    println!("{path}: {} bytes of wasm, compiled in {compile:.1?} to {compiled_bytes} bytes", wasm.len());

    let mut rows = [const { Vec::new() }; 5];
    for round in 0..WARM_UP + rounds {
        let times = one_round(&runtime, &digest, &input).await?;
        if round >= WARM_UP {
            for (row, time) in rows.iter_mut().zip(times) {
                row.push(time);
            }
        }
    }
    println!("{:<12} {:>10} {:>10}   of {rounds}", "", "median", "p99");
    for (name, mut times) in ["map", "instantiate", "setup", "predict", "all"].into_iter().zip(rows) {
        times.sort_unstable();
        let at = |share: f64| format!("{:.1?}", times[(times.len() as f64 * share) as usize]);
        println!("{name:<12} {:>10} {:>10}", at(0.5), at(0.99));
    }
    Ok(())
}

/// Times of map, instantiate, setup, predict and all of it, seen from outside.
async fn one_round(runtime: &Runtime, digest: &str, input: &str) -> Result<[Duration; 5]> {
    let start = Instant::now();
    let (component, Load::Mapped(map)) = runtime.load_cached(digest)?.context("the cache lost it")? else {
        anyhow::bail!("compiled again");
    };
    let invocation = Invocation {
        input: input.into(),
        limits: Limits::default(),
        caller: Caller::default(),
        models: [].into(),
        env: [].into(),
        keep_alive: None,
    };
    let (events, mut said) = mpsc::channel(64);
    let (result, metrics) = tokio::join!(runtime.predict(&component, invocation, events), async {
        while said.recv().await.is_some() {}
    })
    .0;
    let all = start.elapsed();
    result?;
    Ok([map, metrics.instantiate, metrics.setup, metrics.predict, all])
}
