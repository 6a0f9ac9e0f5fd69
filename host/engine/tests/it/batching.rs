//! Sequences that share batches, blocks and prefixes.

use dormouse_engine::{Caller, Error, Model, Priority, Prompt, Request, Sampling};

use crate::support::{continue_text, finish, idle_stats, model, run};

const PROMPTS: [&str; 8] = [
    "The capital of France is",
    "Once upon a time, in a land far away,",
    "def fibonacci(n):",
    "The first law of thermodynamics",
    "Q: What is 12 + 30?\nA:",
    "A haiku about the sea:\n",
    "In 1969, the first humans",
    "The quick brown fox jumps over the lazy dog. The quick brown fox",
];

#[tokio::test]
async fn eight_completions_together_give_the_same_text_as_each_alone() {
    let (_engine, model) = model(|_| ()).await;
    let mut alone = Vec::new();
    for prompt in PROMPTS {
        alone.push(run(&model, continue_text(prompt, 32)).await.chunk.tokens);
    }
    let together = PROMPTS.map(|prompt| model.generate(continue_text(prompt, 32)).unwrap());
    for (completion, alone) in together.into_iter().zip(alone) {
        assert_eq!(finish(completion).await.chunk.tokens, alone);
    }
}

#[tokio::test]
async fn sequences_that_are_preempted_give_the_same_text() {
    let (_engine, roomy) = model(|_| ()).await;
    // Two or three of the eight fit at a time.
    let (engine, tight) = model(|config| {
        config.context_tokens_max = 96;
        config.sequences_max = 8;
        config.kv_bytes_max = 8 * bytes_of_block();
    })
    .await;
    let mut stats = engine.watch_stats();
    let stats = stats.wait_for(|stats| !stats.models.is_empty()).await.unwrap().clone();
    assert!(stats.models[0].kv_blocks_total <= 16, "{stats:?}");
    let together = PROMPTS.map(|prompt| tight.generate(continue_text(prompt, 64)).unwrap());
    for (completion, prompt) in together.into_iter().zip(PROMPTS) {
        let expected = run(&roomy, continue_text(prompt, 64)).await.chunk.tokens;
        assert_eq!(finish(completion).await.chunk.tokens, expected);
    }
}

/// A block of the test model with f32 keys and values, the largest of any device.
fn bytes_of_block() -> usize {
    16 * 30 * 3 * 64 * 2 * size_of::<f32>()
}

#[tokio::test]
async fn a_prompt_cut_into_chunks_gives_the_same_text() {
    let prompt = PROMPTS.concat();
    let (_engine, whole) = model(|_| ()).await;
    let (_engine, cut) = model(|config| {
        config.sequences_max = 1;
        config.batch_tokens_max = 7;
    })
    .await;
    let expected = run(&whole, continue_text(&prompt, 16)).await.chunk.tokens;
    assert_eq!(run(&cut, continue_text(&prompt, 16)).await.chunk.tokens, expected);
}

#[tokio::test]
async fn a_prefix_that_was_computed_before_is_not_computed_again() {
    let (engine, model) = model(|_| ()).await;
    let tokens = model.tokenize(&PROMPTS.concat(), false).unwrap();
    let request = Request::new(Prompt::Tokens(tokens.clone()), 8);
    let first = run(&model, request.clone()).await;
    let computed = idle_stats(&engine).await.computed_tokens;
    let second = run(&model, request).await;
    let full_blocks = (tokens.len() - 1) / 16 * 16;
    assert_eq!(first.usage.cached_tokens, 0);
    assert_eq!(second.usage.cached_tokens as usize, full_blocks);
    let computed_again = idle_stats(&engine).await.computed_tokens - computed;
    // The rest of the prompt, and each generated token but the last.
    assert_eq!(computed_again as usize, tokens.len() - full_blocks + 7);
    assert_eq!(second.chunk, first.chunk);
}

#[tokio::test]
async fn a_dropped_completion_frees_its_blocks() {
    let (engine, model) = model(|_| ()).await;
    let mut dropped = model.generate(continue_text("Once upon a time", 2000)).unwrap();
    dropped.next().await.unwrap().unwrap();
    let mut stats = engine.watch_stats();
    stats.wait_for(|stats| stats.models[0].kv_blocks_used > 0).await.unwrap();
    drop(dropped);
    let stats = idle_stats(&engine).await;
    assert_eq!(stats.kv_blocks_used, 0, "{stats:?}");
    assert!(stats.completion_tokens < 1000, "{stats:?}");
}

#[tokio::test]
async fn usage_counts_tokens_and_times() {
    let (_engine, model) = model(|_| ()).await;
    let finished = run(&model, continue_text("The capital of France is", 8)).await;
    let usage = finished.usage;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 8));
    assert!(usage.wake > std::time::Duration::ZERO);
    assert!(
        usage.device > std::time::Duration::ZERO && usage.decode > std::time::Duration::ZERO,
        "{usage:?}"
    );
    assert!(usage.device <= usage.prefill + usage.decode, "{usage:?}");
}

#[tokio::test]
async fn guesses_save_steps_and_change_no_text() {
    let (plain_engine, plain) = model(|_| ()).await;
    let (engine, guessing) = model(|config| config.guess_tokens = 8).await;
    let drawn = Sampling { temperature: 0.8, seed: Some(1), ..Sampling::default() };
    for sampling in [Sampling::default(), drawn] {
        let request = |prompt| Request { sampling: sampling.clone(), ..continue_text(prompt, 48) };
        let together = PROMPTS.map(|prompt| guessing.generate(request(prompt)).unwrap());
        for (completion, prompt) in together.into_iter().zip(PROMPTS) {
            assert_eq!(finish(completion).await.chunk, run(&plain, request(prompt)).await.chunk);
        }
    }
    // This one repeats itself.
    let (before, plain_before) = (idle_stats(&engine).await.steps, idle_stats(&plain_engine).await.steps);
    let guessed = run(&guessing, continue_text(PROMPTS[7], 96)).await.chunk.tokens;
    assert_eq!(run(&plain, continue_text(PROMPTS[7], 96)).await.chunk.tokens, guessed);
    let steps = idle_stats(&engine).await.steps - before;
    let plain_steps = idle_stats(&plain_engine).await.steps - plain_before;
    assert!(2 * steps < plain_steps, "{steps} steps instead of {plain_steps}");
}

#[tokio::test]
async fn a_request_says_for_itself_how_many_tokens_are_guessed() {
    let (engine, model) = model(|config| config.guess_tokens_max = 8).await;
    let request = |guess_tokens| Request { guess_tokens, ..continue_text(PROMPTS[7], 64) };
    let plain = run(&model, request(None)).await.chunk;
    let steps = async |model: &Model, guess_tokens| {
        let before = idle_stats(&engine).await.steps;
        assert!(run(model, request(guess_tokens)).await.chunk == plain, "guesses change no text");
        idle_stats(&engine).await.steps - before
    };
    let (without, with) = (steps(&model, None).await, steps(&model, Some(8)).await);
    assert!(4 * with < 3 * without, "{with} steps instead of {without}");
    // A caller's wish is for requests that don't say.
    let caller = Caller { guess_tokens: Some(8), ..Caller::default() };
    let eager = model.clone().on_behalf_of(caller);
    assert_eq!(steps(&eager, None).await, with);
    assert_eq!(steps(&eager, Some(0)).await, without);
    let error = model.generate(request(Some(9))).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert_eq!(error.to_string(), "guess_tokens is 9, expected at most 8 (guess_tokens_max)");
}

#[tokio::test]
async fn a_high_priority_goes_before_a_low_one_that_goes_on_later() {
    let (engine, model) = model(|config| config.sequences_max = 1).await;
    let of = |name: &str, priority| {
        model.clone().on_behalf_of(Caller { name: name.into(), priority, guess_tokens: None })
    };
    let request = continue_text("Once upon a time", 200);
    let undisturbed = run(&model, request.clone()).await.chunk.tokens;
    let before = idle_stats(&engine).await.completion_tokens;
    let mut low = of("report", Priority::Low).generate(request).unwrap();
    let first = low.next().await.unwrap().unwrap();
    let high = run(&of("chat", Priority::High), continue_text("The capital of France is", 4)).await;
    assert_eq!(high.usage.completion_tokens, 4);
    let generated = engine.stats().models[0].completion_tokens - before;
    assert!((generated as usize) < undisturbed.len(), "the high one waited for {generated} tokens");
    assert_eq!([first.tokens, finish(low).await.chunk.tokens].concat(), undisturbed);
}
