//! What sleeping costs and waking takes: an idle node, wakes beside raw reads and llama.cpp, prefixes,
//! a thousand callers, two models in turns, and a soak of random events.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dormouse_engine::{Config, Engine, Prompt, Request, Tier};
use dormouse_tests::{Client, Process, model};
use serde_json::{Value, json};

use crate::{figures, guests};

const FUNCTIONS: u32 = 100;
const MODELS: [&str; 3] = ["smollm2", "second", "third"];
const WAKES: usize = 15;
const CALLERS: usize = 1000;
const PREFIX_TOKENS: usize = 512;
/// Events of the soak between two kills of the process, while it is killed.
const KILL_EVERY: u64 = 500;
/// What memory may grow by over the half of the soak without kills, both models on disk before and after:
/// the allocator's slack. A KV cache that stayed behind once would be more.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// How long two models are asked in turns.
const TURNS: Duration = Duration::from_secs(20);

pub(crate) fn run() -> Result<()> {
    wakes()?;
    prefix()?;
    callers()?;
    turns()?;
    soak(number("DORMOUSE_SOAK_EVENTS", 10_000)?)?;
    idle(Duration::from_secs(number("DORMOUSE_IDLE_SECONDS", 300)?))
}

fn number(name: &str, default: u64) -> Result<u64> {
    env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// An idle node with functions and sleeping models, beside an empty one over the same time.
fn idle(time: Duration) -> Result<()> {
    let (full, bare) = (tempfile::tempdir()?, tempfile::tempdir()?);
    model::install(full.path());
    for name in &MODELS[1..] {
        model::install_copy(full.path(), name);
    }
    {
        let process = Process::start(full.path());
        for index in 0..FUNCTIONS {
            let name = format!("chat-{index}");
            process.client().deploy(&name, "", guests::CHAT).expect(201);
        }
        for name in MODELS {
            ask(process.client(), name);
        }
        process.terminate();
    }
    let nodes = [Process::start(bare.path()), Process::start(full.path())];
    for name in MODELS {
        ask(nodes[1].client(), name);
        go_to(nodes[1].client(), name, "disk");
    }
    let before = nodes.each_ref().map(|node| (node.resident_bytes(), node.cpu_time()));
    thread::sleep(time);
    figures::table(
        &format!("idle for {time:?}: {FUNCTIONS} functions and {} models asleep on disk", MODELS.len()),
        &["node", "resident before", "after", "growth", "CPU time"],
    );
    for ((name, node), (resident, cpu)) in ["empty", "full"].iter().zip(&nodes).zip(before) {
        let after = node.resident_bytes();
        figures::row(&[
            (*name).to_owned(),
            figures::kib(resident as f64),
            figures::kib(after as f64),
            figures::kib(after as f64 - resident as f64),
            format!("{:.0} ms", (node.cpu_time() - cpu).as_secs_f64() * 1e3),
        ]);
    }
    Ok(())
}

/// Wakes of one model from each tier to its first token.
fn wakes() -> Result<()> {
    let data = tempfile::tempdir()?;
    model::install(data.path());
    let engine = engine(data.path())?;
    let runtime = runtime()?;
    runtime.block_on(first_token(&engine))?;
    go_down(&runtime, &engine, Tier::Disk)?;
    let image = largest(&data.path().join("ready"))?;
    let bytes = fs::metadata(&image)?.len();
    let mut rows: Vec<(&str, Vec<Duration>, Vec<Duration>)> = Vec::new();
    for (name, tier, drops) in [
        ("memory", Tier::Memory, false),
        ("disk, page cache warm", Tier::Disk, false),
        ("disk, page cache dropped", Tier::Disk, true),
    ] {
        let (mut times, mut reads) = (Vec::new(), Vec::new());
        for _ in 0..WAKES {
            go_down(&runtime, &engine, tier)?;
            if drops {
                drop_cache(&image)?;
            }
            reads.push(raw_read(&image)?);
            if drops {
                drop_cache(&image)?;
            }
            let start = Instant::now();
            runtime.block_on(first_token(&engine))?;
            times.push(start.elapsed());
        }
        rows.push((name, times, reads));
    }
    engine.shutdown();
    let peer = llama()?;
    figures::table(
        &format!("wake to first token of 16 (median of {WAKES}; {} MB)", bytes / 1_000_000),
        &[
            "from",
            "ms",
            "GiB/s",
            "raw read of the same bytes, GiB/s",
            "llama.cpp load to first token, ms",
            "ratio",
        ],
    );
    let gib = |time: Duration| bytes as f64 / time.as_secs_f64() / f64::from(1 << 30);
    for (name, times, reads) in rows {
        let (time, read) = (figures::median(&times), figures::median(&reads));
        figures::row(&[
            name.to_owned(),
            format!("{:.1}", time.as_secs_f64() * 1e3),
            format!("{:.1}", gib(time)),
            format!("{:.1}", gib(read)),
            peer.map_or("not here".to_owned(), |peer| format!("{peer:.0}")),
            peer.map_or(String::new(), |peer| format!("{:.1}x", peer / 1e3 / time.as_secs_f64())),
        ]);
    }
    Ok(())
}

/// A prefix brought back from disk, and computed.
fn prefix() -> Result<()> {
    let data = tempfile::tempdir()?;
    model::install(data.path());
    let engine = engine(data.path())?;
    let runtime = runtime()?;
    let tokens: Vec<u32> = (0..PREFIX_TOKENS as u32 + 1).map(|index| 1000 + index * 37 % 40_000).collect();
    let (mut restored, mut computed, mut equal) = (Vec::new(), Vec::new(), true);
    let mut expected = None;
    for round in 0..WAKES as u32 {
        go_down(&runtime, &engine, Tier::Disk)?;
        // A first token that nothing cached begins with.
        let mut fresh = tokens.clone();
        fresh[0] = 100 + round;
        let (time, cached, _) = runtime.block_on(prefilled(&engine, &fresh))?;
        ensure!(cached == 0, "{cached} tokens of a new prompt were cached");
        computed.push(time);
        let (_, _, logits) = runtime.block_on(prefilled(&engine, &tokens))?;
        let first = expected.get_or_insert_with(|| logits.clone());
        equal &= *first == logits;
        go_down(&runtime, &engine, Tier::Disk)?;
        // Awake, the blocks are read when they are first wanted.
        let (time, cached, logits) = runtime.block_on(prefilled(&engine, &tokens))?;
        ensure!(cached as usize > PREFIX_TOKENS - 64, "{cached} tokens were cached");
        restored.push(time);
        equal &= *first == logits;
    }
    let file = fs::metadata(newest(&data.path().join("ready"))?)?.len();
    engine.shutdown();
    let (restored, computed) = (figures::median(&restored), figures::median(&computed));
    figures::table(
        &format!("a prefix of {PREFIX_TOKENS} tokens, model woken from disk (median of {WAKES})"),
        &["restored, ms", "computed, ms", "ratio", "bytes kept", "logits equal"],
    );
    figures::row(&[
        format!("{:.1}", restored.as_secs_f64() * 1e3),
        format!("{:.1}", computed.as_secs_f64() * 1e3),
        format!("{:.1}x", computed.as_secs_f64() / restored.as_secs_f64()),
        figures::kib(file as f64),
        equal.to_string(),
    ]);
    ensure!(equal, "a restored prefix changes the logits");
    Ok(())
}

/// Many callers of a model that sleeps.
fn callers() -> Result<()> {
    let data = tempfile::tempdir()?;
    model::install(data.path());
    let settings = data.path().join("callers.toml");
    fs::write(&settings, "[engine]\nqueue_max = 4096\n[http]\nconnections_max = 4096\n")?;
    let process = Process::with_args(data.path(), &["--config", &settings.display().to_string()]);
    ask(process.client(), "smollm2");
    go_to(process.client(), "smollm2", "disk");
    let before = wakes_of(process.client(), "smollm2");
    let start = Instant::now();
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CALLERS)
            .map(|_| {
                let client = process.client();
                scope.spawn(move || {
                    ask(client, "smollm2");
                    start.elapsed()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("every caller is answered")).collect()
    });
    let [p50, _, p99, max] = figures::spread(times).map(|micros| format!("{:.0}", micros / 1e3));
    figures::table(
        &format!("{CALLERS} callers of a model asleep on disk, one token each"),
        &["wakes", "answered", "p50 ms", "p99 ms", "max ms"],
    );
    let wakes = wakes_of(process.client(), "smollm2") - before;
    figures::row(&[wakes.to_string(), CALLERS.to_string(), p50, p99, max]);
    ensure!(wakes == 1, "{wakes} wakes for {CALLERS} callers");
    Ok(())
}

/// Two models of which one fits, each asked by callers of its own all the time.
fn turns() -> Result<()> {
    const CALLERS_EACH: usize = 4;
    let data = tempfile::tempdir()?;
    model::install(data.path());
    model::install_copy(data.path(), "second");
    let awake_bytes = {
        let process = Process::start(data.path());
        ask(process.client(), "smollm2");
        entry(process.client(), "smollm2")["awake_bytes"].as_u64().context("it has a size")?
    };
    let settings = data.path().join("turns.toml");
    fs::write(&settings, format!("[residency]\nmemory_bytes_max = {}\n", awake_bytes + awake_bytes / 2))?;
    let process = Process::with_args(data.path(), &["--config", &settings.display().to_string()]);
    let served = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let longest = std::sync::Mutex::new([Duration::ZERO; 2]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (index, name) in MODELS[..2].iter().enumerate() {
            for _ in 0..CALLERS_EACH {
                let (client, served, longest, is_over) = (process.client(), &served, &longest, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        ask(client, name);
                        served[index].fetch_add(1, Ordering::Relaxed);
                        let mut longest = longest.lock().expect("nobody panics with it");
                        longest[index] = longest[index].max(start.elapsed());
                    }
                });
            }
        }
        thread::sleep(TURNS);
        is_over.store(true, Ordering::Relaxed);
    });
    let longest = longest.into_inner().expect("nobody panicked with it");
    figures::table(
        &format!(
            "two models of which one fits, asked all the time for {TURNS:?} ({CALLERS_EACH} callers each)"
        ),
        &["model", "answered", "wakes", "answers for each wake", "longest wait, s"],
    );
    for (index, name) in MODELS[..2].iter().enumerate() {
        let (served, wakes) = (served[index].load(Ordering::Relaxed), wakes_of(process.client(), name));
        figures::row(&[
            (*name).to_owned(),
            served.to_string(),
            wakes.to_string(),
            format!("{:.0}", served as f64 / wakes.max(1) as f64),
            format!("{:.1}", longest[index].as_secs_f64()),
        ]);
        // A turn lasts residence_min, a second, and a wake.
        ensure!(wakes <= TURNS.as_secs() + 2, "{wakes} wakes in {TURNS:?} are more than a turn a second");
        ensure!(served > 0, "{name} was starved");
    }
    Ok(())
}

/// Random events, each checked: first tokens and answers. In the first half the process is killed now and
/// then; over the second its memory is watched.
fn soak(events: u64) -> Result<()> {
    const TIERS: [&str; 4] = ["memory", "disk", "cold", "awake"];
    let data = tempfile::tempdir()?;
    model::install(data.path());
    model::install_copy(data.path(), "second");
    let settings = data.path().join("soak.toml");
    // One fits, so that each wake of one evicts the other.
    fs::write(&settings, "[residency]\nmemory_bytes_max = 900000000\nresidence_min = '10ms'\n")?;
    let start_process = || Process::with_args(data.path(), &["--config", &settings.display().to_string()]);
    let mut process = start_process();
    let expected = ask(process.client(), "smollm2");
    let (mut random, mut counts) = (0x9e37_79b9_7f4a_7c15_u64, [0_u64; 4]);
    let mut next = |bound: u64| {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    // A tenth of the second half is for what is only made once.
    let watched_from = events / 2 + events / 20;
    let (mut resident_before, started) = (0, Instant::now());
    for event in 1..=events {
        if event == watched_from {
            resident_before = resident_at_rest(&process);
        }
        let name = MODELS[next(2) as usize];
        if event % KILL_EVERY == 0 && event <= events / 2 {
            // With a request and a move under way.
            let client = process.client().clone();
            let (tier, delay) = (TIERS[next(4) as usize], next(20_000));
            thread::scope(|scope| {
                scope.spawn(|| try_ask(&client, name));
                scope.spawn(|| try_move(&client, name, tier));
                (0..delay).for_each(|_| thread::yield_now());
                process.kill();
            });
            process = start_process();
            counts[3] += 1;
            continue;
        }
        match next(10) {
            0..6 => {
                let answer = ask(process.client(), name);
                ensure!(answer == expected, "event {event}: first token {answer}, not {expected}");
                counts[0] += 1;
            }
            6..8 => {
                try_move(process.client(), name, TIERS[next(4) as usize]);
                counts[1] += 1;
            }
            _ => {
                // Two at once, while the model goes somewhere.
                let client = process.client();
                let tier = TIERS[next(4) as usize];
                let same = thread::scope(|scope| {
                    scope.spawn(|| try_move(client, name, tier));
                    let threads = [(); 2].map(|()| scope.spawn(|| ask(client, name)));
                    threads.map(|thread| thread.join().expect("every request is answered") == expected)
                });
                ensure!(same == [true; 2], "event {event}: another first token while it moved to {tier}");
                counts[2] += 1;
            }
        }
    }
    let resident_after = resident_at_rest(&process);
    figures::table(
        &format!("{events} random events in {:.0} s", started.elapsed().as_secs_f64()),
        &[
            "requests",
            "moves",
            "requests during moves",
            "kill -9",
            "wrong or lost",
            "resident at rest, after 11/20, at the end",
        ],
    );
    let megabytes = |bytes: u64| format!("{} MB", bytes / 1_000_000);
    figures::row(&[
        counts[0].to_string(),
        counts[1].to_string(),
        (2 * counts[2]).to_string(),
        counts[3].to_string(),
        "0".to_owned(),
        format!("{}, {}", megabytes(resident_before), megabytes(resident_after)),
    ]);
    let growth = resident_after.saturating_sub(resident_before);
    ensure!(
        growth <= GROWTH_BYTES_MAX,
        "memory grew by {growth} bytes over {} events, at most {GROWTH_BYTES_MAX} are the allocator's",
        events - watched_from
    );
    Ok(())
}

/// Memory of a node whose models are all on disk.
fn resident_at_rest(process: &Process) -> u64 {
    for name in &MODELS[..2] {
        go_to(process.client(), name, "disk");
    }
    process.resident_bytes()
}

fn question(name: &str) -> Value {
    json!({"model": name, "prompt": "The capital of France is", "max_tokens": 1, "temperature": 0})
}

/// The first token of an answer that must come.
fn ask(client: &Client, name: &str) -> String {
    let answer = client.post("/v1/completions", &question(name)).expect(200);
    answer["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
}

/// Asks a service that may be gone before it answers.
fn try_ask(client: &Client, name: &str) {
    drop(client.post_request("/v1/completions").send_json(question(name)));
}

fn try_move(client: &Client, name: &str, tier: &str) {
    let request = client.post_request(&format!("/v1/residency/{name}"));
    drop(request.send_json(json!({"tier": tier})));
}

fn go_to(client: &Client, name: &str, tier: &str) {
    client.post(&format!("/v1/residency/{name}"), &json!({"tier": tier, "wait_ms": 60_000})).expect(200);
}

fn entry(client: &Client, name: &str) -> Value {
    let node = client.get("/v1/residency").expect(200);
    let models = node["models"].as_array().cloned().unwrap_or_default();
    models.into_iter().find(|model| model["name"] == name).unwrap_or_default()
}

fn wakes_of(client: &Client, name: &str) -> u64 {
    entry(client, name)["wakes"].as_u64().unwrap_or_default()
}

fn engine(data: &Path) -> Result<Engine> {
    let mut config = Config::new(data.join("models"));
    config.residency = dormouse_engine::Residency::new(data.join("ready"));
    config.residency.awake_idle = None;
    config.residency.memory_idle = None;
    Ok(Engine::start(config)?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?)
}

async fn first_token(engine: &Engine) -> Result<()> {
    let model = engine.open(model::NAME).await?;
    let prompt = Prompt::Tokens((0..16).map(|index| 1000 + index * 37).collect());
    let mut completion = model.generate(Request::new(prompt, 1))?;
    while completion.next().await?.is_some() {}
    Ok(())
}

/// Likelihoods, by token.
type Logits = Vec<(u32, f32)>;

/// Time from an awake model to the first token, tokens that were cached, and likelihoods of the first.
async fn prefilled(engine: &Engine, tokens: &[u32]) -> Result<(Duration, u32, Logits)> {
    let model = engine.open(model::NAME).await?;
    let start = Instant::now();
    let request = Request { logprobs: Some(20), ..Request::new(Prompt::Tokens(tokens.to_vec()), 1) };
    let mut completion = model.generate(request)?;
    let mut logits = Logits::new();
    while let Some(chunk) = completion.next().await? {
        logits.extend(chunk.logprobs.into_iter().flat_map(|token| token.top));
    }
    Ok((start.elapsed(), completion.usage().cached_tokens, logits))
}

fn go_down(runtime: &tokio::runtime::Runtime, engine: &Engine, tier: Tier) -> Result<()> {
    runtime.block_on(async {
        let mut residency = engine.watch_residency();
        engine.sleep(model::NAME, tier).await?;
        let is_there = |models: &std::sync::Arc<[dormouse_engine::ModelResidency]>| {
            models.iter().all(|model| model.tier >= tier && model.moving.is_none())
        };
        residency.wait_for(is_there).await?;
        Ok(())
    })
}

fn files(folder: &Path) -> Result<Vec<(PathBuf, fs::Metadata)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata()? {
            metadata if metadata.is_dir() => files.extend(self::files(&entry.path())?),
            metadata => files.push((entry.path(), metadata)),
        }
    }
    Ok(files)
}

fn largest(folder: &Path) -> Result<PathBuf> {
    let file = files(folder)?.into_iter().max_by_key(|(_, metadata)| metadata.len());
    Ok(file.context("the image is there")?.0)
}

fn newest(folder: &Path) -> Result<PathBuf> {
    let file = files(folder)?.into_iter().max_by_key(|(_, metadata)| metadata.modified().ok());
    Ok(file.context("the prefixes are there")?.0)
}

fn raw_read(path: &Path) -> Result<Duration> {
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut buffer)? > 0 {}
    Ok(start.elapsed())
}

/// Asks the kernel to forget a file's pages; it may not.
fn drop_cache(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Median of llama.cpp's load to first token in milliseconds, where `DORMOUSE_LLAMA_PEER` says how to
/// start it.
fn llama() -> Result<Option<f64>> {
    let Ok(command) = env::var("DORMOUSE_LLAMA_PEER") else { return Ok(None) };
    let mut words = command.split_whitespace();
    let program = words.next().context("DORMOUSE_LLAMA_PEER is empty")?;
    let mut child = Command::new(program)
        .arg(model::path())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| command.clone())?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    let mut answers = BufReader::new(child.stdout.take().context("it is piped")?).lines();
    let ready = answers.next().context("llama.cpp starts")??;
    ensure!(ready == "ready", "llama.cpp says {ready:?}");
    let mut times = Vec::new();
    for _ in 0..WAKES {
        writeln!(stdin, "load")?;
        let line = answers.next().context("llama.cpp answers")??;
        times.push(Duration::from_secs_f64(line.trim().parse::<f64>()? / 1e3));
    }
    drop(stdin);
    child.wait()?;
    Ok(Some(figures::median(&times).as_secs_f64() * 1e3))
}
