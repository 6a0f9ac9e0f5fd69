//! Models that sleep, and what wakes.

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dormouse_engine::{
    Catalog, Chunk, Config, Engine, Error, KeepAlive, KvType, Message, Model, ModelResidency, Open, Prefix,
    Prompt, Request, Tier, catalog::Digest,
};

use crate::support::{cached, continue_text, finish, idle_stats, model_path, run};

const NAME: &str = "smollm2";
const PROMPT: &str = "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is \
                      Madrid. The capital of Portugal is Lisbon. The capital of Austria is";

/// Of a block of the test model's cache: keys and values of 16 tokens, 30 layers, 3 heads of 64, bf16.
const BLOCK_BYTES: u64 = 2 * 16 * 30 * 3 * 64 * 2;

/// An engine whose catalogue has the test model, and the folder that must stay.
fn engine(change: impl FnOnce(&mut Config)) -> (Engine, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path(), NAME, false);
    let mut config = Config::new(folder.path());
    // Each test says when a model sleeps.
    config.residency.awake_idle = None;
    config.residency.residence_min = Duration::ZERO;
    change(&mut config);
    (Engine::start(config).unwrap(), folder)
}

/// Puts the test model into a catalogue, or another model that says the same.
fn install(models: &Path, name: &str, other: bool) {
    install_file(models, name, &model_path(), if other { &[0; 32] } else { &[] });
}

/// Puts a file with some bytes more into a catalogue.
fn install_file(models: &Path, name: &str, path: &Path, more: &[u8]) {
    let catalog = Catalog::open(models).unwrap();
    let file = catalog.tmp().join(name);
    fs::copy(path, &file).unwrap();
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(more).unwrap();
    let digest = Digest::of_file(&file).unwrap();
    catalog.add(name, "file", &file, &digest).unwrap();
}

fn of<'a>(models: &'a [ModelResidency], name: &str) -> &'a ModelResidency {
    models.iter().find(|model| model.name == name).unwrap()
}

/// Waits until something is so of a model.
async fn until(engine: &Engine, name: &str, is_so: impl Fn(&ModelResidency) -> bool) {
    let mut models = engine.watch_residency();
    models.wait_for(|models| is_so(of(models, name))).await.unwrap();
}

async fn sleep(engine: &Engine, name: &str, tier: Tier) {
    engine.sleep(name, tier).await.unwrap();
    until(engine, name, |model| model.tier == tier && model.moving.is_none()).await;
}

/// Greedy tokens with the logarithms of their probabilities: equal only if every logit is, to the bit.
async fn answer(model: &Model) -> Chunk {
    run(model, Request { logprobs: Some(20), ..continue_text(PROMPT, 16) }).await.chunk
}

/// Bytes of this process in memory.
fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn whatever_tier_a_model_wakes_from_its_first_tokens_are_the_same_to_the_bit() {
    let (engine, _folder) = engine(|_| ());
    let model = engine.open(NAME).await.unwrap();
    assert_eq!(model.woken_from(), Tier::Cold);
    let before = answer(&model).await;
    drop(model);
    for tier in [Tier::Memory, Tier::Disk, Tier::Memory, Tier::Cold] {
        sleep(&engine, NAME, tier).await;
        let model = engine.open(NAME).await.unwrap();
        assert_eq!(model.woken_from(), tier);
        assert!(model.wake() > Duration::ZERO);
        assert_eq!(answer(&model).await, before, "woken from {tier}");
        assert_eq!(engine.open(NAME).await.unwrap().woken_from(), Tier::Awake);
    }
    let residency = engine.residency();
    assert_eq!((of(&residency, NAME).wakes, residency.len()), (5, 1));
}

#[tokio::test]
async fn a_model_that_sleeps_gives_its_memory_back() {
    let (engine, _folder) = engine(|_| ());
    let model = engine.open(NAME).await.unwrap();
    let weights = model.info().weights_bytes as usize;
    run(&model, continue_text(&PROMPT.repeat(20), 1)).await;
    drop(model);
    let awake = resident_bytes();
    sleep(&engine, NAME, Tier::Memory).await;
    let in_memory = resident_bytes();
    assert!(awake - in_memory > 10 << 20, "{awake} bytes awake, {in_memory} in memory");
    assert_eq!(engine.memory().0, of(&engine.residency(), NAME).memory_bytes);
    sleep(&engine, NAME, Tier::Disk).await;
    let on_disk = resident_bytes();
    assert!(in_memory - on_disk > weights / 10 * 9, "{in_memory} bytes in memory, {on_disk} on disk");
    assert_eq!(engine.memory().0, 0);
}

#[tokio::test]
async fn a_busy_model_is_not_put_to_sleep_and_who_comes_meanwhile_wakes_it_again() {
    let (engine, _folder) = engine(|_| ());
    let model = engine.open(NAME).await.unwrap();
    let undisturbed = finish(model.generate(continue_text(PROMPT, 200)).unwrap()).await;
    let mut running = model.generate(continue_text(PROMPT, 200)).unwrap();
    drop(model);
    running.next().await.unwrap().unwrap();
    engine.sleep(NAME, Tier::Disk).await.unwrap();
    until(&engine, NAME, |model| model.is_draining).await;
    let late = tokio::spawn({
        let engine = engine.clone();
        async move { engine.open(NAME).await.unwrap().woken_from() }
    });
    until(&engine, NAME, |model| model.waiting == 1).await;
    assert_eq!(of(&engine.residency(), NAME).tier, Tier::Awake);
    assert_eq!(finish(running).await.usage.completion_tokens, undisturbed.usage.completion_tokens);
    assert_eq!(late.await.unwrap(), Tier::Disk);
    assert_eq!(of(&engine.residency(), NAME).wakes, 2);
}

#[tokio::test]
async fn an_idle_model_goes_down_by_itself_unless_it_is_kept_awake() {
    let (engine, folder) = engine(|config| {
        config.residency.awake_idle = Some(Duration::ZERO);
        config.residency.memory_idle = Some(Duration::ZERO);
    });
    install(folder.path(), "other", true);
    engine.pin("other", true).await.unwrap();
    drop(engine.open(NAME).await.unwrap());
    until(&engine, NAME, |model| model.tier == Tier::Disk).await;
    drop(engine.open("other").await.unwrap());
    let residency = engine.residency();
    let other = of(&residency, "other");
    assert_eq!((other.tier, other.sleeps_at, other.is_pinned), (Tier::Awake, None, true));
    // A caller may ask for more time, and for less.
    let open = |keep_alive| Open { keep_alive: Some(keep_alive), ..Open::default() };
    let hour = KeepAlive::AtLeast(Duration::from_secs(3600));
    drop(engine.open_with(NAME, open(hour)).await.unwrap());
    assert_eq!(of(&engine.residency(), NAME).tier, Tier::Awake);
    drop(engine.open_with(NAME, open(KeepAlive::Exactly(Duration::ZERO))).await.unwrap());
    until(&engine, NAME, |model| model.tier == Tier::Disk).await;
}

#[tokio::test]
async fn a_model_that_is_wanted_makes_another_sleep_that_does_not_fit_beside_it() {
    let (engine, folder) = engine(|config| {
        config.kv_bytes_max = 16 << 20;
        config.residency.memory_bytes_max = 180 << 20;
    });
    install(folder.path(), "other", true);
    let before = answer(&engine.open(NAME).await.unwrap()).await;
    assert_eq!(answer(&engine.open("other").await.unwrap()).await, before);
    let residency = engine.residency();
    assert!(of(&residency, NAME).tier > Tier::Awake);
    let (used, max) = engine.memory();
    assert!(used <= max, "{used} of {max}");
    assert_eq!(answer(&engine.open(NAME).await.unwrap()).await, before);
}

#[tokio::test]
async fn a_model_that_never_fits_is_refused_with_the_arithmetic() {
    let (engine, _folder) = engine(|config| {
        config.kv_bytes_max = 64 << 20;
        config.residency.memory_bytes_max = 100 << 20;
    });
    let expected = "model \"smollm2\" takes 167 MiB awake: 93 of weights, 74 of KV cache and buffers; this \
                    node has 100 for models (memory_bytes_max)";
    for error in [engine.open(NAME).await.map(drop), engine.check_fit(NAME).await].map(Result::unwrap_err) {
        assert!(matches!(error, Error::NoMemory(_)), "{error:?}");
        assert_eq!(error.to_string(), expected);
    }
    // What never wakes has no place among the models.
    assert_eq!(engine.residency().len(), 0);
}

#[tokio::test]
async fn a_model_that_the_system_has_no_memory_for_says_so() {
    // More than a process can address, though the node's bound allows it.
    let (engine, _folder) = engine(|config| {
        config.residency.memory_bytes_max = u64::MAX;
        config.kv_bytes_max = usize::MAX;
        (config.sequences_max, config.batch_tokens_max) = (1 << 20, 1 << 20);
    });
    for _ in 0..2 {
        let error = engine.open(NAME).await.unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        let expected = "model \"smollm2\" can't wake: the system has no memory for ";
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    assert_eq!((engine.memory().0, of(&engine.residency(), NAME).wakes), (0, 0));
}

#[tokio::test]
async fn shutdown_cancels_who_waits_for_a_wake() {
    let (engine, folder) = engine(|config| {
        config.kv_bytes_max = 16 << 20;
        config.residency.memory_bytes_max = 180 << 20;
    });
    install(folder.path(), "other", true);
    // While it is used, there is no room for the other.
    let _model = engine.open(NAME).await.unwrap();
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.open("other").await }
    });
    let is_waiting = |models: &Arc<[ModelResidency]>| models.iter().any(|model| model.waiting == 1);
    engine.watch_residency().wait_for(is_waiting).await.unwrap();
    stop(engine.clone()).await;
    assert!(matches!(waiting.await.unwrap(), Err(Error::Cancelled)));
    assert!(matches!(engine.open("other").await, Err(Error::Cancelled)));
    assert!(matches!(engine.check_fit(NAME).await, Err(Error::Cancelled)));
}

#[tokio::test]
async fn callers_of_a_sleeping_model_share_one_wake_up_to_a_bound() {
    let (engine, _folder) = engine(|config| config.residency.waiters_max = 100);
    let engine = Arc::new(engine);
    let open = |_| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.open(NAME).await })
    };
    let callers: Vec<_> = (0..400).map(open).collect();
    let (mut opened, mut refused) = (0, 0);
    for caller in callers {
        match caller.await.unwrap() {
            Ok(_) => opened += 1,
            Err(error) => {
                refused += 1;
                let expected = "overloaded: 100 callers wait for model \"smollm2\" (waiters_max)";
                assert_eq!(error.to_string(), expected);
            }
        }
    }
    assert!(opened >= 100 && opened + refused == 400, "{opened} opened, {refused} refused");
    assert_eq!(of(&engine.residency(), NAME).wakes, 1);
}

#[tokio::test]
async fn a_caller_that_can_wait_no_longer_is_told_so() {
    let (engine, _folder) = engine(|_| ());
    let at_once = Open { wait_max: Some(Duration::ZERO), ..Open::default() };
    let error = engine.open_with(NAME, at_once).await.unwrap_err();
    assert!(error.to_string().starts_with("overloaded: model \"smollm2\" did not wake within"), "{error}");
    assert_eq!(of(&engine.residency(), NAME).waiting, 0);
}

#[tokio::test]
async fn a_model_wakes_before_anyone_waits_for_it() {
    let (engine, _folder) = engine(|_| ());
    engine.summon(NAME).await.unwrap();
    until(&engine, NAME, |model| model.tier == Tier::Awake).await;
    assert_eq!(engine.open(NAME).await.unwrap().woken_from(), Tier::Awake);
}

#[tokio::test]
async fn a_model_that_was_awake_before_a_restart_wakes_from_its_ready_image() {
    let (first, folder) = engine(|_| ());
    let before = answer(&first.open(NAME).await.unwrap()).await;
    sleep(&first, NAME, Tier::Disk).await;
    stop(first).await;
    let second = Engine::start(Config::new(folder.path())).unwrap();
    let model = second.open(NAME).await.unwrap();
    assert_eq!(model.woken_from(), Tier::Disk);
    assert_eq!(answer(&model).await, before);
}

#[tokio::test]
async fn a_ready_image_that_is_broken_is_never_used_and_made_again() {
    let (engine, folder) = engine(|_| ());
    let before = answer(&engine.open(NAME).await.unwrap()).await;
    sleep(&engine, NAME, Tier::Disk).await;
    let image = ready(folder.path(), "image");
    let whole = fs::read(&image).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        flipped(30),
        flipped(whole.len() / 2),
        flipped(whole.len() - 1),
        whole[..whole.len() / 2].to_vec(),
        b"nonsense".to_vec(),
        Vec::new(),
    ];
    for damaged in damaged {
        // As a fault of the disk: what is mapped must not change.
        fs::remove_file(&image).unwrap();
        fs::write(&image, damaged).unwrap();
        let model = engine.open(NAME).await.unwrap();
        assert_eq!(answer(&model).await, before);
        drop(model);
        sleep(&engine, NAME, Tier::Disk).await;
        assert!(fs::read(&image).unwrap() == whole, "the image was not made again");
    }
}

#[tokio::test]
async fn a_model_goes_to_sleep_even_where_nothing_can_be_kept_of_it() {
    let (engine, folder) = engine(|config| config.residency.ready_bytes_max = 0);
    let before = answer(&engine.open(NAME).await.unwrap()).await;
    engine.sleep(NAME, Tier::Disk).await.unwrap();
    until(&engine, NAME, |model| model.tier == Tier::Cold).await;
    assert_eq!(fs::read_dir(folder.path().join("ready")).unwrap().count(), 0);
    assert_eq!(answer(&engine.open(NAME).await.unwrap()).await, before);
}

#[tokio::test]
async fn a_prefix_survives_sleep_and_restart() {
    let (first, folder) = engine(|_| ());
    let model = first.open(NAME).await.unwrap();
    let request = Request { logprobs: Some(20), ..continue_text(PROMPT, 16) };
    let before = run(&model, request.clone()).await;
    assert_eq!(before.usage.cached_tokens, 0);
    let full_blocks = (before.usage.prompt_tokens - 1) / 16 * 16;
    drop(model);
    for tier in [Tier::Memory, Tier::Disk] {
        sleep(&first, NAME, tier).await;
        let after = run(&first.open(NAME).await.unwrap(), request.clone()).await;
        assert_eq!((after.usage.cached_tokens, &after.chunk), (full_blocks, &before.chunk), "from {tier}");
        assert_eq!(
            idle_stats(&first).await.computed_tokens as u32,
            15 + after.usage.prompt_tokens - full_blocks
        );
    }
    // This time it is awake when the engine ends.
    stop(first).await;
    let second = Engine::start(Config::new(folder.path())).unwrap();
    let after = run(&second.open(NAME).await.unwrap(), request.clone()).await;
    assert_eq!((after.usage.cached_tokens, after.chunk), (full_blocks, before.chunk));
    second.sleep(NAME, Tier::Cold).await.unwrap();
    until(&second, NAME, |model| model.tier == Tier::Cold).await;
    let after = run(&second.open(NAME).await.unwrap(), request).await;
    assert_eq!(after.usage.cached_tokens, 0, "what is cold has kept nothing");
}

#[tokio::test]
async fn models_of_other_architectures_wake_from_their_ready_images() {
    let (engine, folder) = engine(|_| ());
    install_file(folder.path(), "minilm", &cached("all-MiniLM-L6-v2.F16.gguf"), &[]);
    install_file(folder.path(), "gemma", &cached("gemma-3-270m-q4_k_m.gguf"), &[]);
    let texts = || vec!["A cat sat on the mat.".to_owned()];
    let embedding = engine.open("minilm").await.unwrap().embed(texts()).await.unwrap();
    let text = answer(&engine.open("gemma").await.unwrap()).await;
    for name in ["minilm", "gemma"] {
        sleep(&engine, name, Tier::Disk).await;
    }
    let minilm = engine.open("minilm").await.unwrap();
    assert_eq!((minilm.woken_from(), minilm.embed(texts()).await.unwrap()), (Tier::Disk, embedding));
    let gemma = engine.open("gemma").await.unwrap();
    assert_eq!((gemma.woken_from(), answer(&gemma).await), (Tier::Disk, text));
}

#[tokio::test]
async fn a_kept_prefix_is_not_taken_for_one_of_another_type() {
    let (first, folder) = engine(|_| ());
    answer(&first.open(NAME).await.unwrap()).await;
    stop(first).await;
    for (kv_type, is_kept) in [(KvType::Q8, false), (KvType::Q8, true), (KvType::Bf16, true)] {
        let engine = Engine::start(Config { kv_type, ..Config::new(folder.path()) }).unwrap();
        let found = run(&engine.open(NAME).await.unwrap(), continue_text(PROMPT, 1)).await.usage;
        assert_eq!(found.cached_tokens > 0, is_kept, "{kv_type:?}");
        stop(engine).await;
    }
}

#[tokio::test]
async fn a_kept_prefix_that_is_broken_is_computed_again() {
    let (engine, folder) = engine(|_| ());
    let before = answer(&engine.open(NAME).await.unwrap()).await;
    sleep(&engine, NAME, Tier::Disk).await;
    let file = ready(folder.path(), "prefixes");
    let whole = fs::read(&file).unwrap();
    let cached = async || {
        let usage = run(&engine.open(NAME).await.unwrap(), continue_text(PROMPT, 1)).await.usage;
        sleep(&engine, NAME, Tier::Disk).await;
        usage.cached_tokens
    };
    let all = cached().await;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // Blocks follow the header's page.
    let second_block = 4096 + BLOCK_BYTES as usize + 1000;
    for (damaged, left) in [(flipped(second_block), 16), (flipped(100), 0), (whole[..9999].to_vec(), 0)] {
        fs::remove_file(&file).unwrap();
        fs::write(&file, damaged).unwrap();
        let model = engine.open(NAME).await.unwrap();
        let request = Request { logprobs: Some(20), ..continue_text(PROMPT, 16) };
        let after = run(&model, request).await;
        assert_eq!(after.usage.cached_tokens, left);
        assert!(after.chunk == before, "another text than before");
        drop(model);
        sleep(&engine, NAME, Tier::Disk).await;
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "what was computed is kept again");
        assert_eq!(cached().await, all);
    }
}

#[tokio::test]
async fn a_declared_prefix_is_kept_before_all_others() {
    let (engine, _folder) = engine(|config| config.residency.prefix_bytes_max = 2 * BLOCK_BYTES);
    let system = Message { role: "system".into(), content: PROMPT.into() };
    let prefix = Prefix::Messages(vec![system.clone()]);
    engine.declare_prefixes(NAME, [prefix.clone()]);
    let model = engine.open(NAME).await.unwrap();
    assert_eq!(model.prefill(&prefix).await.unwrap().cached_tokens, 0);
    for other in ["One, two, three, four", "Once upon a time"] {
        run(&model, continue_text(other, 40)).await;
    }
    drop(model);
    sleep(&engine, NAME, Tier::Disk).await;
    let user = Message { role: "user".into(), content: "And of Norway?".into() };
    let chat = Request::new(Prompt::Messages(vec![system, user]), 4);
    let after = run(&engine.open(NAME).await.unwrap(), chat).await;
    assert_eq!(after.usage.cached_tokens, 32);
}

#[tokio::test]
async fn a_declared_prefix_is_on_disk_once_it_is_kept_and_outlives_its_blocks_in_the_cache() {
    const BLOCKS: u64 = 16;
    let (engine, folder) = engine(|config| {
        config.kv_bytes_max = (BLOCKS * BLOCK_BYTES) as usize;
        config.context_tokens_max = (BLOCKS * 16) as usize;
        config.residency.prefix_bytes_max = 2 * BLOCK_BYTES;
    });
    let text = PROMPT.repeat(2);
    let begins_so = || continue_text(&text, 1);
    // It takes the whole cache.
    let other = |first: u32| Request::new(Prompt::Tokens((first..first + 250).collect()), 1);
    let prefix = Prefix::Text(text.clone());
    engine.declare_prefixes(NAME, [prefix.clone()]);
    let model = engine.open(NAME).await.unwrap();
    let tokens = model.check_prefix(&prefix).unwrap();
    let unkept = tokens / 16 - 2;
    assert!(unkept > 0, "the prefix has {tokens} tokens");
    assert_eq!(model.keep_prefixes().await.unwrap(), tokens / 16 * 16, "nothing is computed yet");
    model.prefill(&prefix).await.unwrap();
    for _ in 0..2 {
        assert_eq!(model.keep_prefixes().await.unwrap(), unkept * 16, "two blocks are all it may have");
    }
    // What is there if the process ends now.
    let second = tempfile::tempdir().unwrap();
    install(second.path(), NAME, false);
    fs::create_dir(second.path().join("ready")).unwrap();
    let file = ready(folder.path(), "prefixes");
    fs::copy(&file, second.path().join("ready").join(file.file_name().unwrap())).unwrap();
    let crashed = Engine::start(Config { context_tokens_max: 256, ..Config::new(second.path()) }).unwrap();
    let found = run(&crashed.open(NAME).await.unwrap(), begins_so()).await.usage;
    assert_eq!(found.cached_tokens, 32, "after a crash");

    run(&model, other(1000)).await;
    assert_eq!(run(&model, begins_so()).await.usage.cached_tokens, 32, "after it was evicted");
    run(&model, other(3000)).await;
    drop(model);
    sleep(&engine, NAME, Tier::Disk).await;
    let woken = engine.open(NAME).await.unwrap();
    assert_eq!(run(&woken, begins_so()).await.usage.cached_tokens, 32, "after a sleep");
    let too_long = Prefix::Text(PROMPT.repeat(10));
    assert!(matches!(woken.check_prefix(&too_long), Err(Error::TooLong { .. })));
}

#[tokio::test]
async fn an_image_whose_checksums_are_right_and_weights_are_not_is_found_by_what_the_model_says() {
    let (first, folder) = engine(|config| config.residency.probe = true);
    let before = answer(&first.open(NAME).await.unwrap()).await;
    sleep(&first, NAME, Tier::Disk).await;
    let (image, proof) = (ready(folder.path(), "image"), ready(folder.path(), "proof"));
    let whole = fs::read(&image).unwrap();
    let number = || fs::metadata(&image).unwrap().ino();
    let made = number();
    for tier in [Tier::Memory, Tier::Disk] {
        assert_eq!(answer(&first.open(NAME).await.unwrap()).await, before);
        sleep(&first, NAME, tier).await;
    }
    assert_eq!(number(), made, "an image that is right stays");
    stop(first).await;

    let replace = || {
        fs::remove_file(&image).unwrap();
        fs::write(&image, forged(&whole)).unwrap();
    };
    replace();
    let unproven = Engine::start(Config::new(folder.path())).unwrap();
    let after = answer(&unproven.open(NAME).await.unwrap()).await;
    assert!(after != before, "the forged image is not taken, or says the same");
    stop(unproven).await;
    fs::read_dir(folder.path().join("ready")).unwrap().for_each(|file| {
        let path = file.unwrap().path();
        // What was computed with it is wrong, too.
        if path.extension().is_some_and(|extension| extension == "prefixes") {
            fs::remove_file(path).unwrap();
        }
    });

    replace();
    let mut config = Config::new(folder.path());
    config.residency.probe = true;
    let engine = Engine::start(config).unwrap();
    assert!(answer(&engine.open(NAME).await.unwrap()).await == before, "it was not found out");
    sleep(&engine, NAME, Tier::Disk).await;
    assert!(fs::read(&image).unwrap() == whole, "the image was not made again");
    fs::remove_file(&proof).unwrap();
    assert_eq!(answer(&engine.open(NAME).await.unwrap()).await, before);
    assert!(proof.exists(), "what it says is kept again");
}

/// An image with other weights and the checksums of these.
fn forged(image: &[u8]) -> Vec<u8> {
    // The header's length and checksum are before it, and zeros up to the first section after it.
    const HEADER: usize = 20;
    const CHECK_BYTES: usize = 4 << 20;
    let mut image = image.to_vec();
    let length = u32::from_le_bytes(image[12..16].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&image[HEADER..HEADER + length]).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
    let sections = header["sections"].as_array_mut().unwrap();
    let first = number(&sections[0]["start"]);
    let section = sections.iter_mut().max_by_key(|section| number(&section["bytes"])).unwrap();
    let (start, bytes) = (number(&section["start"]), number(&section["bytes"]).min(CHECK_BYTES));
    image[start..start + bytes].iter_mut().for_each(|byte| *byte ^= 0x11);
    section["checks"][0] = crc32fast::hash(&image[start..start + bytes]).into();
    let text = serde_json::to_vec(&header).unwrap();
    assert!(HEADER + text.len() <= first, "the header has room");
    image[HEADER..first].fill(0);
    image[HEADER..HEADER + text.len()].copy_from_slice(&text);
    image[12..16].copy_from_slice(&(text.len() as u32).to_le_bytes());
    image[16..20].copy_from_slice(&crc32fast::hash(&text).to_le_bytes());
    image
}

/// The only file of a kind that is kept.
fn ready(models: &Path, kind: &str) -> PathBuf {
    let files = fs::read_dir(models.join("ready")).unwrap().map(|file| file.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|extension| extension == kind));
    let file = files.next().unwrap();
    assert!(files.next().is_none(), "one file");
    file
}

async fn stop(engine: Engine) {
    tokio::task::spawn_blocking(move || engine.shutdown()).await.unwrap();
}
