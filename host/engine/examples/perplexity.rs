//! Perplexity of a model on token ids: `cargo run --release -p dormouse-engine --example perplexity --
//! MODEL.gguf [IDS.txt]`. The ids are numbers separated by commas; by default those of the tests, on
//! which an f32 forward pass of SmolLM2-135M-Instruct Q4_1 has 23.74.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use dormouse_engine::{Config, Engine};

/// Tokens that are evaluated together; all but the first of them count.
const WINDOW: usize = 512;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().context("usage: perplexity MODEL.gguf [IDS.txt]")?;
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/ppl_ids.txt");
    let ids = args.next().map_or(default, PathBuf::from);
    let ids = fs::read_to_string(&ids).with_context(|| format!("read {}", ids.display()))?;
    let ids = ids.trim().split(',').map(|id| Ok(id.trim().parse()?)).collect::<Result<Vec<u32>>>()?;

    let folder = tempfile::tempdir()?;
    let engine = Engine::start(Config::new(folder.path()))?;
    let model = engine.open_file(model).await?;
    let mut logprobs = Vec::new();
    for window in ids.chunks(WINDOW) {
        logprobs.extend(model.logprobs(window.to_vec()).await?);
    }
    let mean = logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / logprobs.len() as f64;
    println!("{:.3}", (-mean).exp());
    Ok(())
}
