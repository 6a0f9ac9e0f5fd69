//! Prints what a model takes on a graphics processor: dispatches and bytes of a token and what larger devices would
//! make of them, fused beside unfused kernels, what sleeping frees, waking and restarting take, and our engine beside
//! llama.cpp:
//!
//! ```text
//! gpu MODEL.gguf [INDEX] [CYCLES] [--llama DRIVER LIBRARIES]
//! ```
//! `make bench-gpu` calls it with what `scripts/llama-peer.sh vulkan` prints. Steps are the best of [`ROUNDS`], by
//! turns with what they stand beside.

mod beside;
#[path = "../peer/peers.rs"]
mod peers;
mod restart;
mod sleep;
mod steps;

use std::path::Path;

use anyhow::{Context, Result, bail};
use dormouse_engine::{
    Catalog, Config, Device, Model, Prompt, Request, adapters, catalog::Digest, copy_bandwidth,
};

const ROUNDS: usize = 3;
/// Rows of a prompt's step.
const ROWS: usize = 32;
const CYCLES: usize = 10;
const NAME: &str = "model";
const PROMPT: &str = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is";

/// What is to be run.
struct Args {
    model: String,
    index: usize,
    cycles: usize,
    /// Driver and libraries.
    llama: Option<[String; 2]>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, models_dir, index] = &words[..]
        && flag == restart::FLAG
    {
        return restart::answer(config(index.parse()?, Path::new(models_dir))).await;
    }
    let Args { model, index, cycles, llama } = Args::parse(words.into_iter())?;
    let adapter = adapters().into_iter().nth(index).with_context(|| format!("no gpu:{index}"))?;
    let copies = copy_bandwidth(index)?;
    println!("gpu:{index}: {}, {}, {}", adapter.name, adapter.api, adapter.driver);
    println!("copies {:.2} GB/s (bytes read and written)\n", copies / 1e9);
    steps::print(index, Path::new(&model))?;

    let folder = tempfile::tempdir()?;
    add_to_catalog(folder.path(), Path::new(&model))?;
    let config = config(index, folder.path());
    sleep::print(config.clone(), cycles).await?;
    restart::print(index, folder.path())?;
    if let Some([driver, libraries]) = llama {
        let peer = beside::start(&driver, &libraries, &model, &adapter)?;
        beside::print(config, peer).await?;
    }
    Ok(())
}

fn config(index: usize, models_dir: &Path) -> Config {
    Config { devices: vec![Device::Gpu(index)], ..Config::new(models_dir) }
}

/// The text of one greedy token.
async fn first_token(model: &Model) -> Result<String> {
    let mut completion = model.generate(Request::new(Prompt::Text(PROMPT.into()), 1))?;
    let mut text = String::new();
    while let Some(chunk) = completion.next().await? {
        text += &chunk.text;
    }
    Ok(text)
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let usage = "usage: gpu MODEL.gguf [INDEX] [CYCLES] [--llama DRIVER LIBRARIES]";
        let (mut plain, mut llama) = (Vec::new(), None);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--llama" => llama = Some([words.next().context(usage)?, words.next().context(usage)?]),
                _ if word.starts_with('-') => bail!(usage),
                _ => plain.push(word),
            }
        }
        let number =
            |at: usize, default| plain.get(at).map_or(Ok(default), |text| text.parse().context(usage));
        let model = plain.first().context(usage)?.clone();
        Ok(Self { model, index: number(1, 0)?, cycles: number(2, CYCLES)?, llama })
    }
}

fn add_to_catalog(models_dir: &Path, file: &Path) -> Result<()> {
    let catalog = Catalog::open(models_dir)?;
    let copy = catalog.tmp().join(NAME);
    std::fs::copy(file, &copy).with_context(|| format!("can't copy {}", file.display()))?;
    catalog.add(NAME, "file", &copy, &Digest::of_file(&copy)?)?;
    Ok(())
}
