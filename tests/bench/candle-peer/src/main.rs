//! Drives candle (`candle_transformers::models::quantized_llama`) for `make bench-engine`:
//!
//! ```text
//! candle-peer MODEL.gguf
//! ```
//! It answers each line of standard input with a line, as `tests/bench/llama_peer.c` does: milliseconds for
//! `load`, `prefill THREADS N`, `decode THREADS DEPTH N` and `batch THREADS B N`, KiB for `rss`. Token ids
//! are of the same pattern as the others'.

use std::{
    fs::File,
    io::{BufReader, Write},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{
    Device, Tensor,
    quantized::gguf_file::{Content, Value},
};
use candle_transformers::models::quantized_llama::ModelWeights;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokenizers::{
    Tokenizer,
    models::bpe::BPE,
    pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

const VOCABULARY_USED: u32 = 20_000;
const FIRST_ID: u32 = 100;
/// Tokens of each prompt of a batch.
const SHORT: usize = 16;
const TEXT: &str = "The quick brown fox jumps over the lazy dog and runs away from it, fast";

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: candle-peer MODEL.gguf")?;
    let pools = [1, 2].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build());
    let [one, two] = pools;
    let mut peer = Peer { model: open(&path)?.0, path, pools: [one?, two?] };
    answer("ready")?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> Result<usize> { Ok(words[at].parse()?) };
        let value = match words[..] {
            ["load"] => peer.load()?,
            ["prefill", _, _] => peer.decode(number(1)?, 1, number(2)?, 0)?.0,
            ["decode", _, _, _] => peer.decode(number(1)?, 1, number(2)?, number(3)?)?.1,
            ["batch", _, _, _] => peer.decode(number(1)?, number(2)?, SHORT, number(3)?)?.1,
            ["rss"] => peak_kib()?,
            _ => bail!("unknown command: {line}"),
        };
        answer(&format!("{value:.3}"))?;
    }
    Ok(())
}

fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

struct Peer {
    path: String,
    model: ModelWeights,
    /// Of one thread and of two.
    pools: [ThreadPool; 2],
}

impl Peer {
    /// From the file to the first token after a text.
    fn load(&mut self) -> Result<f64> {
        let began = Instant::now();
        let (model, tokenizer) = open(&self.path)?;
        self.model = model;
        let tokens = tokenizer.encode(TEXT, false).map_err(anyhow::Error::msg)?.get_ids().to_vec();
        let model = &mut self.model;
        self.pools[1].install(|| step(model, &[tokens], 0))?;
        Ok(millis(began))
    }

    /// Milliseconds of the prompts, and of the tokens after them.
    fn decode(
        &mut self,
        threads: usize,
        sequences: usize,
        depth: usize,
        tokens: usize,
    ) -> Result<(f64, f64)> {
        let model = &mut self.model;
        let pool = self.pools.get(threads - 1).context("one thread or two")?;
        pool.install(|| {
            model.clear_kv_cache();
            let prompts: Vec<Vec<u32>> = (0..sequences as u32).map(|s| prompt(s, depth)).collect();
            let began = Instant::now();
            let mut next = step(model, &prompts, 0)?;
            let prefill = millis(began);
            let began = Instant::now();
            for position in depth..depth + tokens {
                let rows: Vec<Vec<u32>> = next.into_iter().map(|token| vec![token]).collect();
                next = step(model, &rows, position)?;
            }
            Ok((prefill, millis(began)))
        })
    }
}

/// The likeliest token after each row, all of one length.
fn step(model: &mut ModelWeights, rows: &[Vec<u32>], position: usize) -> Result<Vec<u32>> {
    let shape = (rows.len(), rows[0].len());
    let tokens = Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?;
    Ok(model.forward(&tokens, position)?.argmax(1)?.to_vec1()?)
}

fn prompt(sequence: u32, tokens: usize) -> Vec<u32> {
    let id = |i: u32| FIRST_ID + (i.wrapping_mul(7919).wrapping_add(sequence * 104_729)) % VOCABULARY_USED;
    (0..tokens as u32).map(id).collect()
}

/// The model and its tokenizer, a byte-level BPE that splits digits.
fn open(path: &str) -> Result<(ModelWeights, Tokenizer)> {
    let mut file = BufReader::new(File::open(path).with_context(|| format!("can't open {path}"))?);
    let content = Content::read(&mut file)?;
    let tokens = strings(&content, "tokenizer.ggml.tokens")?.into_iter().zip(0..).collect();
    let merges = strings(&content, "tokenizer.ggml.merges")?.into_iter().map(|line| {
        let (left, right) = line.split_once(' ').context("a merge is of two tokens")?;
        Ok((left.to_owned(), right.to_owned()))
    });
    let mut tokenizer = Tokenizer::new(BPE::new(tokens, merges.collect::<Result<_>>()?));
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, true)),
    ])));
    Ok((ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?, tokenizer))
}

fn strings(content: &Content, key: &str) -> Result<Vec<String>> {
    let value = content.metadata.get(key).with_context(|| format!("the file has no {key}"))?;
    let Value::Array(values) = value else { bail!("{key} is no list") };
    values.iter().map(|value| Ok(value.to_string()?.clone())).collect()
}

/// The most memory this process had.
fn peak_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
