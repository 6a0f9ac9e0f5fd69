//! Rows that have no peer: what parts of the engine cost and gain, each in turns with itself without them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dormouse_engine::{Config, Engine, Message, Model, Prompt, Request, Usage, measure};

use super::{
    DECODED, RUNS, SHORT, median,
    ours::{NAME, Ours, complete, fall_asleep, read_all},
};

/// A message whose answer repeats it.
const COPY: &str = "Repeat the following text word for word:\n\nThe warehouse opens at seven and closes at nine. \
    Deliveries are accepted at the north gate only. Every driver must register at the gate, show a valid \
    licence, and wait for a number. Numbers are called in the order of registration. Drivers who leave the \
    yard lose their number and must register again.";
/// A message whose answer doesn't.
const NEW: &str = "Write a short story about a lighthouse keeper.";
/// Of texts that don't end before [`DECODED`] tokens.
const SCHEMA: &str = r#"{"type": "array", "minItems": 50, "items": {
    "type": "object", "properties": {"name": {"type": "string", "minLength": 3}, "age": {"type": "integer"}},
    "required": ["name", "age"], "additionalProperties": false}}"#;
const GUESSES: usize = 8;
/// Tokens of the prompt that a decode runs beside.
const LONG: usize = 2048;

/// A table whose head is printed before its first row.
pub(crate) struct Table<'a> {
    only: &'a str,
    /// Begins the names of its rows.
    name: &'a str,
    columns: &'a [&'a str],
    has_head: bool,
}

impl<'a> Table<'a> {
    pub(crate) fn new(only: &'a str, name: &'a str, columns: &'a [&'a str]) -> Self {
        Self { only, name, columns, has_head: false }
    }

    /// Whether a row is to be run.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.full(row).contains(self.only)
    }

    pub(crate) fn print(&mut self, row: &str, cells: &[String]) {
        if !self.has_head {
            println!("\n| | {} |\n|{}", self.columns.join(" | "), "---|".repeat(self.columns.len() + 1));
            self.has_head = true;
        }
        println!("| {} | {} |", self.full(row), cells.join(" | "));
    }

    fn full(&self, row: &str) -> String {
        if self.name.is_empty() { row.to_owned() } else { format!("{}: {row}", self.name) }
    }
}

/// All of them; two threads.
pub(crate) async fn print_all(ours: &mut Ours, only: &str) -> Result<()> {
    prefix(ours, Table::new(only, "prefix", &["from disk", "computed", "gain"])).await?;
    guessing(ours, Table::new(only, "guessing", &["off", "on", "gain"])).await?;
    let columns = ["plain", "with a schema", "ratio", "mask a token", "waited a token"];
    schema(ours, Table::new(only, "schema", &columns)).await?;
    let columns = ["any batch gives the same text", "with the kernels of prompts", "ratio"];
    invariance(Table::new(only, "invariance", &columns));
    let columns = ["alone, between tokens", "beside it", "longest stall beside it"];
    busy(ours, Table::new(only, "busy", &columns)).await
}

/// What it takes to answer a prompt whose keys and values are on disk, and one that is new.
async fn prefix(ours: &mut Ours, mut table: Table<'_>) -> Result<()> {
    let row = "prompt of 512";
    if !table.wants(row) {
        return Ok(());
    }
    let engine = Engine::start(Config { threads: 2, ..ours.config.clone() })?;
    let (mut new, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let prompt = ours.prompt(512);
        let model = engine.open(NAME).await?;
        new.push(answer_time(&model, prompt.clone(), 0).await?);
        drop(model);
        fall_asleep(&engine).await?;
        kept.push(answer_time(&engine.open(NAME).await?, prompt, 496).await?);
    }
    let (new, kept) = (median(new), median(kept));
    table.print(row, &[millis(kept), millis(new), ratio(new, kept)]);
    Ok(())
}

/// What guessing gains where a text repeats its prompt, and costs where it doesn't.
async fn guessing(ours: &Ours, mut table: Table<'_>) -> Result<()> {
    for (row, text) in [("text that copies its prompt", COPY), ("text that is new", NEW)] {
        if !table.wants(row) {
            continue;
        }
        let (mut off, mut on, mut tokens) = (Vec::new(), Vec::new(), 0);
        for _ in 0..RUNS {
            let (plain, _) = decode(&ours.two, text, 0).await?;
            let (guessed, usage) = decode(&ours.two, text, GUESSES).await?;
            ensure!(plain.0 == guessed.0, "guessing changed the text");
            off.push(plain.1);
            on.push(guessed.1);
            tokens = usage.completion_tokens;
        }
        let (off, on) = (median(off), median(on));
        table.print(row, &[speed(tokens as usize, off), speed(tokens as usize, on), ratio(off, on)]);
    }
    Ok(())
}

/// What it costs to hold texts to a schema, and how much of that goes by beside the steps.
async fn schema(ours: &mut Ours, mut table: Table<'_>) -> Result<()> {
    for (row, sequences) in [("1 sequence", 1), ("8 sequences", 8)] {
        if !table.wants(row) {
            continue;
        }
        let (mut plain, mut held, mut drawn) = (Vec::new(), Vec::new(), 0);
        let before = masks(ours).await?;
        for _ in 0..RUNS {
            plain.push(token_time(ours, sequences, None).await?.0);
            let (time, tokens) = token_time(ours, sequences, Some(SCHEMA)).await?;
            held.push(time);
            drawn += tokens;
        }
        let after = masks(ours).await?;
        let micros = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6 / f64::from(drawn));
        let [masks, waited] = [after.0 - before.0, after.1 - before.1].map(micros);
        let (plain, held) = (median(plain), median(held));
        table.print(row, &[speed(1, plain), speed(1, held), ratio(plain, held), masks, waited]);
    }
    Ok(())
}

/// Time of each token after the first, of all sequences; and how many tokens there were.
async fn token_time(ours: &mut Ours, sequences: usize, format: Option<&str>) -> Result<(Duration, u32)> {
    let mut requests = ours.requests(sequences, SHORT, DECODED + 1);
    requests.iter_mut().for_each(|request| request.format = format.map(str::to_owned));
    let usages = complete(&ours.two, requests).await?;
    let decode = usages.iter().map(|usage| usage.decode).max().expect("a sequence ran");
    let tokens: u32 = usages.iter().map(|usage| usage.completion_tokens).sum();
    Ok((decode / (tokens - sequences as u32), tokens))
}

/// Times of masks, and of waiting for them, once nothing runs.
async fn masks(ours: &Ours) -> Result<(Duration, Duration)> {
    let mut stats = ours.engine.watch_stats();
    let stats = stats.wait_for(|stats| stats.models.iter().all(|model| model.running == 0)).await?;
    Ok((stats.models[0].mask, stats.models[0].mask_wait))
}

/// What it costs that a text is the same whoever else is in its batch: the kernels of generated tokens beside
/// those of prompts, which may round otherwise, on as many rows. Noise for weights.
fn invariance(mut table: Table<'_>) {
    let rows = [1, 4, 8, 16];
    let name = |sequences: usize| format!("decode {sequences} sequences");
    if !rows.iter().any(|sequences| table.wants(&name(*sequences))) {
        return;
    }
    let mut model = measure::Model::new(0, 2, 16);
    for sequences in rows.into_iter().filter(|sequences| table.wants(&name(*sequences))).collect::<Vec<_>>() {
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for _ in 0..RUNS * 10 {
            same.push(Duration::from_secs_f64(model.step(sequences, 1, SHORT)));
            other.push(Duration::from_secs_f64(model.step_as_prompts(sequences, SHORT)));
        }
        let (same, other) = (median(same), median(other));
        table.print(&name(sequences), &[speed(sequences, same), speed(sequences, other), ratio(other, same)]);
    }
}

/// How a long prompt that comes while a text is generated holds that up.
async fn busy(ours: &mut Ours, mut table: Table<'_>) -> Result<()> {
    let row = format!("decode while a prompt of {LONG} is computed");
    if !table.wants(&row) {
        return Ok(());
    }
    let (mut alone, mut beside, mut longest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let [own, long] = [ours.prompt(SHORT), ours.prompt(LONG)];
        let mut running = ours.two.generate(Request::new(own, 2000))?;
        running.next().await?;
        let mut gaps = Vec::new();
        for _ in 0..DECODED {
            gaps.push(gap(&mut running).await?);
        }
        alone.push(median(gaps));
        let long = ours.two.generate(Request::new(long, 1))?;
        let mut gaps = Vec::new();
        while long.finish().is_none() && long.usage().completion_tokens == 0 {
            gaps.push(gap(&mut running).await?);
        }
        drop(running);
        read_all(long).await?;
        longest.push(gaps.iter().copied().max().expect("the prompt takes steps"));
        beside.push(median(gaps));
    }
    table.print(&row, &[alone, beside, longest].map(|times| millis(median(times))));
    Ok(())
}

/// Time until the next piece.
async fn gap(completion: &mut dormouse_engine::Completion) -> Result<Duration> {
    let began = Instant::now();
    ensure!(completion.next().await?.is_some(), "the text ended early");
    Ok(began.elapsed())
}

/// A greedy answer to a message, the time from its first token to its last, and what it cost.
async fn decode(model: &Model, text: &str, guess_tokens: usize) -> Result<((Vec<u32>, Duration), Usage)> {
    let message = Message { role: "user".into(), content: text.into() };
    let request =
        Request { guess_tokens: Some(guess_tokens), ..Request::new(Prompt::Messages(vec![message]), 160) };
    let mut completion = model.generate(request)?;
    let mut tokens = Vec::new();
    while let Some(chunk) = completion.next().await? {
        tokens.extend(chunk.tokens);
    }
    let usage = completion.usage();
    Ok(((tokens, usage.decode), usage))
}

/// Time to the only token after a prompt, of which so many are cached.
async fn answer_time(model: &Model, prompt: Prompt, cached: u32) -> Result<Duration> {
    let began = Instant::now();
    let mut completion = model.generate(Request::new(prompt, 1))?;
    while completion.next().await?.is_some() {}
    let elapsed = began.elapsed();
    let found = completion.usage().cached_tokens;
    ensure!(found == cached, "{found} tokens were cached, not {cached}");
    Ok(elapsed)
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn speed(tokens: usize, time: Duration) -> String {
    format!("{:.0} tokens/s", tokens as f64 / time.as_secs_f64())
}

fn ratio(without: Duration, with: Duration) -> String {
    format!("{:.2}x", without.as_secs_f64() / with.as_secs_f64())
}
