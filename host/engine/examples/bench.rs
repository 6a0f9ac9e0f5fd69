//! Tokens per second of a model file: `cargo run --release -p dormouse-engine --example bench --
//! MODEL.gguf [THREADS]`. Each number is the median of several runs in one process, with the
//! bandwidth of reading as many bytes as the model has weights beside it: memory speed of a shared
//! machine changes between minutes, so neither means much without the other.

use std::{hint::black_box, thread, time::Instant};

use anyhow::{Context, Result};
use dormouse_engine::{Config, Engine, Model, Prompt, Request, Usage};

const RUNS: usize = 5;
const DECODED: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("usage: bench MODEL.gguf [THREADS]")?;
    let folder = tempfile::tempdir()?;
    let mut config = Config::new(folder.path());
    if let Some(threads) = args.next() {
        config.threads = threads.parse().context("THREADS is a number")?;
    }
    let threads = config.threads;
    let engine = Engine::start(config)?;
    let model = engine.open_file(path).await?;
    let bytes = model.info().weights_bytes;
    println!("load                {:>9.1} ms, hashing included", model.wake().as_secs_f64() * 1e3);
    println!("raw read, {threads} threads {:>9.1} GB/s", read_bandwidth(bytes as usize, threads) / 1e9);

    let mut bench = Bench { model, prompts: 0 };
    for tokens in [128, 512] {
        let speed =
            bench.median(1, tokens, 1, |usage| tokens as f64 / usage[0].prefill.as_secs_f64()).await?;
        println!("prefill {tokens:>4}        {speed:>9.1} tokens/s");
    }
    for depth in [16, 512] {
        let speed = bench.median(1, depth, DECODED, decode_speed).await?;
        let read = speed * bytes as f64 / 1e9;
        println!("decode at {depth:>4}      {speed:>9.1} tokens/s, {read:.1} GB/s");
    }
    for sequences in [4, 8] {
        let speed = bench.median(sequences, 16, DECODED, decode_speed).await?;
        println!("decode batch of {sequences}   {speed:>9.1} tokens/s in all");
    }
    println!("raw read, {threads} threads {:>9.1} GB/s", read_bandwidth(bytes as usize, threads) / 1e9);
    Ok(())
}

struct Bench {
    model: Model,
    /// Prompts so far: each is another, so that none is in the prefix cache.
    prompts: u32,
}

impl Bench {
    /// The median over some runs of `speed`, which sees the usage of all sequences of a run.
    async fn median(
        &mut self,
        sequences: usize,
        prompt_tokens: usize,
        max_tokens: usize,
        speed: impl Fn(&[Usage]) -> f64,
    ) -> Result<f64> {
        let mut speeds = Vec::new();
        for _ in 0..RUNS {
            speeds.push(speed(&self.run(sequences, prompt_tokens, max_tokens).await?));
        }
        speeds.sort_by(f64::total_cmp);
        Ok(speeds[RUNS / 2])
    }

    async fn run(&mut self, sequences: usize, prompt_tokens: usize, max_tokens: usize) -> Result<Vec<Usage>> {
        let requests =
            (0..sequences).map(|_| Request::new(Prompt::Tokens(self.prompt(prompt_tokens)), max_tokens));
        let requests: Vec<_> = requests.collect();
        let started = requests.into_iter().map(|request| self.model.generate(request));
        let mut usages = Vec::new();
        for mut completion in started.collect::<Result<Vec<_>, _>>()? {
            while completion.next().await?.is_some() {}
            usages.push(completion.usage());
        }
        Ok(usages)
    }

    /// Ordinary tokens, never the same prompt twice.
    fn prompt(&mut self, tokens: usize) -> Vec<u32> {
        self.prompts += 1;
        let vocabulary = self.model.info().vocabulary as u32;
        (0..tokens as u32).map(|i| 100 + (self.prompts * 7919 + i * 104_729) % (vocabulary - 100)).collect()
    }
}

/// Tokens per second of all sequences together, from the first token of each to its last.
fn decode_speed(usages: &[Usage]) -> f64 {
    usages.iter().map(|usage| f64::from(usage.completion_tokens - 1) / usage.decode.as_secs_f64()).sum()
}

/// Bytes per second of reading a buffer of `bytes` on some threads: the median of some runs.
fn read_bandwidth(bytes: usize, threads: usize) -> f64 {
    let words = vec![1u64; bytes / size_of::<u64>()];
    let sum = |words: &[u64]| words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    let mut speeds: Vec<f64> = (0..4 * RUNS)
        .map(|_| {
            let began = Instant::now();
            thread::scope(|scope| {
                for part in words.chunks(words.len().div_ceil(threads)) {
                    scope.spawn(move || black_box(sum(part)));
                }
            });
            bytes as f64 / began.elapsed().as_secs_f64()
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    speeds[speeds.len() / 2]
}
