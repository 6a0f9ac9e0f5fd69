//! Our engine beside llama.cpp's Vulkan backend on the same device, by turns: one waits while the other runs.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use dormouse_engine::{Adapter, AdapterKind, Config, Engine, Model, Prompt, Request, Usage};

use super::{NAME, ROUNDS, ROWS, peers::Peer};

/// Tokens before those that are generated, and of these after the first.
const DEPTH: usize = 8;
const DECODED: usize = 8;
/// Threads for what llama.cpp leaves on the processor: to look up a token's embedding.
const THREADS: usize = 1;
/// Tells llama.cpp which devices it may take, by their numbers.
const VISIBLE: &str = "GGML_VK_VISIBLE_DEVICES";

/// One line of the table.
#[derive(Clone, Copy)]
enum Task {
    Decode,
    Prefill,
}

impl Task {
    fn name(self) -> String {
        match self {
            Self::Decode => format!("decode at {DEPTH}"),
            Self::Prefill => format!("prefill {ROWS}"),
        }
    }

    /// Tokens that it is about.
    fn tokens(self) -> usize {
        match self {
            Self::Decode => DECODED,
            Self::Prefill => ROWS,
        }
    }

    async fn run(self, model: &Model, number: usize) -> Result<Duration> {
        match self {
            Self::Decode => Ok(complete(model, prompt(number, DEPTH), DECODED + 1).await?.decode),
            Self::Prefill => Ok(complete(model, prompt(number, ROWS), 1).await?.prefill),
        }
    }

    fn ask(self, peer: &mut Peer) -> Result<Duration> {
        let command = match self {
            Self::Decode => format!("decode {THREADS} {DEPTH} {DECODED}"),
            Self::Prefill => format!("prefill {THREADS} {ROWS}"),
        };
        Ok(Duration::from_secs_f64(peer.ask(&command)? / 1e3))
    }
}

/// Starts a driver with all layers of a model on the adapter.
pub(crate) fn start(driver: &str, libraries: &str, model: &str, adapter: &Adapter) -> Result<Peer> {
    let mut command = Command::new(driver);
    command.args([model, libraries, &adapter.name]);
    // It takes no driver that computes on the processor unless told so.
    if adapter.kind == AdapterKind::Software && std::env::var_os(VISIBLE).is_none() {
        command.env(VISIBLE, "0");
    }
    Peer::start("llama.cpp", &mut command).context("no llama.cpp on this device, --alone leaves it out")
}

/// The table.
pub(crate) async fn print(config: Config, mut peer: Peer) -> Result<()> {
    let engine = Engine::start(config)?;
    let model = engine.open(NAME).await?;
    println!("\n{:>16} {:>12} {:>12}", "tokens/s", "ours", peer.name);
    for (at, task) in [Task::Decode, Task::Prefill].into_iter().enumerate() {
        let mut best = [Duration::MAX; 2];
        for round in 0..ROUNDS {
            let own = task.run(&model, at * ROUNDS + round).await?;
            let other = task.ask(&mut peer)?;
            best = [own.min(best[0]), other.min(best[1])];
        }
        let [own, other] = best.map(|time| task.tokens() as f64 / time.as_secs_f64());
        println!("{:>16} {own:>12.2} {other:>12.2} {:>7.2}x", task.name(), own / other);
    }
    Ok(())
}

/// What a greedy answer of so many tokens cost.
async fn complete(model: &Model, prompt: Prompt, tokens: usize) -> Result<Usage> {
    let mut completion = model.generate(Request::new(prompt, tokens))?;
    while completion.next().await?.is_some() {}
    let usage = completion.usage();
    ensure!(usage.completion_tokens as usize == tokens, "{} of {tokens} tokens", usage.completion_tokens);
    ensure!(usage.cached_tokens == 0, "{} tokens were cached", usage.cached_tokens);
    Ok(usage)
}

/// Each number's prompt is another, so that none is in the prefix cache.
fn prompt(number: usize, tokens: usize) -> Prompt {
    let id = |i: usize| 100 + (i * 7919 + number * 104_729) % 20_000;
    Prompt::Tokens((0..tokens).map(|i| id(i) as u32).collect())
}
