//! Our side: an engine for each number of threads.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dormouse_engine::{
    Catalog, Completion, Config, Engine, Model, Prompt, Request, Tier, Usage, catalog::Digest,
    measure::Reader,
};

use super::{DECODED, READS, SHORT, Task};

pub(crate) const NAME: &str = "bench";

pub(crate) struct Ours {
    pub(crate) config: Config,
    one: Model,
    pub(crate) two: Model,
    /// That `two` is of.
    pub(crate) engine: Engine,
    /// For one thread and for two.
    readers: [Reader; 2],
    /// Prompts so far: each is another, so that none is in the prefix cache.
    prompts: u32,
}

impl Ours {
    pub(crate) async fn start(models_dir: &Path) -> Result<Self> {
        let config = Config::new(models_dir);
        // Its ready image is written.
        let engine = Engine::start(config.clone())?;
        drop(engine.open(NAME).await?);
        fall_asleep(&engine).await?;
        let one = Engine::start(Config { threads: 1, ..config.clone() })?.open(NAME).await?;
        let engine = Engine::start(Config { threads: 2, ..config.clone() })?;
        let two = engine.open(NAME).await?;
        let readers = [1, 2].map(|threads| Reader::new(threads, one.info().weights_bytes as usize));
        Ok(Self { config, one, two, engine, readers, prompts: 0 })
    }

    /// How long a read of all weights takes.
    pub(crate) fn read(&mut self, threads: usize) -> Duration {
        Duration::from_secs_f64(self.readers[threads - 1].read(READS))
    }

    pub(crate) async fn run(&mut self, task: Task) -> Result<Duration> {
        match task {
            Task::Load => {
                let folder = tempfile::tempdir()?;
                let mut config = self.config.clone();
                config.residency.ready_dir = folder.path().to_owned();
                first_token(config).await
            }
            Task::Wake => first_token(self.config.clone()).await,
            Task::Prefill { threads, tokens } => {
                let requests = self.requests(1, tokens, 1);
                Ok(complete(self.model(threads), requests).await?.iter().map(|usage| usage.prefill).sum())
            }
            Task::Decode { threads, sequences, depth } => {
                let requests = self.requests(sequences, depth, DECODED + 1);
                let usages = complete(self.model(threads), requests).await?;
                Ok(usages.iter().map(|usage| usage.decode).max().expect("a sequence ran"))
            }
        }
    }

    /// Greedy requests, each of another prompt.
    pub(crate) fn requests(
        &mut self,
        sequences: usize,
        prompt_tokens: usize,
        max_tokens: usize,
    ) -> Vec<Request> {
        (0..sequences).map(|_| Request::new(self.prompt(prompt_tokens), max_tokens)).collect()
    }

    pub(crate) fn prompt(&mut self, tokens: usize) -> Prompt {
        self.prompts += 1;
        let (seed, used) = (self.prompts, 20_000);
        Prompt::Tokens((0..tokens as u32).map(|i| 100 + (i * 7919 + seed * 104_729) % used).collect())
    }

    fn model(&self, threads: usize) -> &Model {
        if threads == 1 { &self.one } else { &self.two }
    }
}

/// Runs requests together; what each cost.
pub(crate) async fn complete(model: &Model, requests: Vec<Request>) -> Result<Vec<Usage>> {
    let started = requests.into_iter().map(|request| model.generate(request));
    let mut usages = Vec::new();
    for mut completion in started.collect::<Result<Vec<_>, _>>()? {
        while completion.next().await?.is_some() {}
        usages.push(completion.usage());
    }
    Ok(usages)
}

/// From nothing but the files to the first token of a text prompt.
async fn first_token(config: Config) -> Result<Duration> {
    let began = Instant::now();
    let model = Engine::start(config)?.open(NAME).await?;
    let text = "The quick brown fox jumps over the lazy dog and runs away from it, fast";
    read_all(model.generate(Request::new(Prompt::Text(text.to_owned()), 1))?).await?;
    Ok(began.elapsed())
}

/// Waits until nothing of the model is in memory, but all on disk.
pub(crate) async fn fall_asleep(engine: &Engine) -> Result<()> {
    engine.sleep(NAME, Tier::Disk).await?;
    let mut models = engine.watch_residency();
    models.wait_for(|models| models.iter().all(|model| model.tier == Tier::Disk)).await?;
    Ok(())
}

pub(crate) async fn read_all(mut completion: Completion) -> Result<()> {
    while completion.next().await?.is_some() {}
    Ok(())
}

pub(crate) fn add_to_catalog(models_dir: &Path, file: &Path) -> Result<()> {
    let catalog = Catalog::open(models_dir)?;
    let copy = catalog.tmp().join("model");
    std::fs::copy(file, &copy).with_context(|| format!("can't copy {}", file.display()))?;
    let digest = Digest::of_file(&copy)?;
    catalog.add(NAME, &file.display().to_string(), &copy, &digest)?;
    Ok(())
}

/// Loads the model, answers a prompt of one sequence, and prints this process's peak memory in KiB.
pub(crate) async fn print_memory(model: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    add_to_catalog(folder.path(), model)?;
    let config = Config { threads: 2, ..Config::new(folder.path()) };
    let model = Engine::start(config)?.open(NAME).await?;
    let prompt = Prompt::Tokens((100..100 + SHORT as u32).collect());
    read_all(model.generate(Request::new(prompt, DECODED))?).await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    println!("{}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}
