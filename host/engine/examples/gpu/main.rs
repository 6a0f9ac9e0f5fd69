//! Prints what a model takes on a graphics processor: dispatches and bytes of a token and what larger devices would
//! make of them, fused beside unfused kernels, and what sleeping frees and waking takes.
//!
//! `cargo run --release -p dormouse-engine --features gpu --example gpu -- MODEL.gguf [index] [cycles]`

mod sleep;
mod steps;

use std::path::Path;

use anyhow::{Context, Result};
use dormouse_engine::{Catalog, Config, Device, adapters, catalog::Digest, copy_bandwidth};

const ROUNDS: usize = 3;
/// Rows of a prompt's step.
const ROWS: usize = 32;
const CYCLES: usize = 10;
const NAME: &str = "model";

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = Path::new(args.first().context("want MODEL.gguf [index] [cycles]")?);
    let index = args.get(1).map_or(Ok(0), |text| text.parse())?;
    let cycles = args.get(2).map_or(Ok(CYCLES), |text| text.parse())?;
    let adapter = adapters().into_iter().nth(index).with_context(|| format!("no gpu:{index}"))?;
    let copies = copy_bandwidth(index)?;
    println!("gpu:{index}: {}, {}, {}", adapter.name, adapter.api, adapter.driver);
    println!("copies {:.2} GB/s (bytes read and written)\n", copies / 1e9);
    steps::print(index, model)?;

    let folder = tempfile::tempdir()?;
    add_to_catalog(folder.path(), model)?;
    let config = Config { device: Device::Gpu(index), ..Config::new(folder.path()) };
    sleep::print(config, cycles).await
}

fn add_to_catalog(models_dir: &Path, file: &Path) -> Result<()> {
    let catalog = Catalog::open(models_dir)?;
    let copy = catalog.tmp().join(NAME);
    std::fs::copy(file, &copy).with_context(|| format!("can't copy {}", file.display()))?;
    catalog.add(NAME, "file", &copy, &Digest::of_file(&copy)?)?;
    Ok(())
}
