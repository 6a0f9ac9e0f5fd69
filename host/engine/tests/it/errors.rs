//! What is refused, and how.

use dormouse_engine::{Error, Prompt, Request};

use crate::support::{continue_text, engine, model, model_path};

#[tokio::test]
async fn a_full_queue_is_overloaded_and_takes_requests_again_later() {
    let (_engine, model) = model(|config| {
        config.sequences_max = 1;
        config.queue_max = 2;
    })
    .await;
    let mut running = model.generate(continue_text("Once upon a time", 4000)).unwrap();
    running.next().await.unwrap().unwrap();
    let waiting = [(); 2].map(|()| model.generate(continue_text("Hello", 1)).unwrap());
    let error = model.generate(continue_text("Hello", 1)).unwrap_err();
    assert!(matches!(error, Error::Overloaded(_)));
    assert_eq!(error.to_string(), "overloaded: 2 sequences wait already (queue_max)");
    drop(running);
    for mut completion in waiting {
        while completion.next().await.unwrap().is_some() {}
    }
    model.generate(continue_text("Hello", 1)).unwrap();
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_the_numbers() {
    let (_engine, model) = model(|config| config.context_tokens_max = 40).await;
    let request = Request::new(Prompt::Tokens(vec![1; 30]), 11);
    let error = model.generate(request).unwrap_err();
    assert!(matches!(error, Error::TooLong { prompt_tokens: 30, max_tokens: 11, context_tokens: 40, .. }));
    model.generate(Request::new(Prompt::Tokens(vec![1; 30]), 10)).unwrap();
    let error = model.score(vec![1; 41], 1).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { prompt_tokens: 41, .. }));
}

#[tokio::test]
async fn bad_input_is_invalid_and_named() {
    let (_engine, model) = model(|_| ()).await;
    let check = |request: Request, expected: &str| {
        let error = model.generate(request).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(continue_text("", 1), "prompt has no tokens");
    check(continue_text("a", 0), "max_tokens is 0");
    check(Request::new(Prompt::Tokens(vec![49152]), 1), "token 49152 is not below 49152");
    check(Request { adapter: Some("poet".into()), ..continue_text("a", 1) }, "adapter is \"poet\"");
    assert!(matches!(model.detokenize(&[50000]), Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_name_that_is_not_in_the_catalogue_is_unknown() {
    let error = engine(|_| ()).open("no-such-model").await.unwrap_err();
    assert!(matches!(error, Error::UnknownModel(name) if name == "no-such-model"));
}

#[tokio::test]
async fn a_file_that_is_no_model_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF but not really").unwrap();
    let error = engine(|_| ()).open_file(&path).await.unwrap_err();
    assert!(matches!(&error, Error::BadModel { path: found, .. } if *found == path), "{error:?}");
}

#[tokio::test]
async fn a_thousand_callers_share_one_load() {
    let engine = engine(|_| ());
    let opens: Vec<_> = (0..1000)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.open_file(model_path()).await.unwrap() })
        })
        .collect();
    let mut models = Vec::new();
    for open in opens {
        models.push(open.await.unwrap());
    }
    assert_eq!(engine.loaded().len(), 1);
    assert_eq!(engine.stats().models.len(), 1);
    assert!(models.iter().all(|model| model.info() == models[0].info()));
}

#[tokio::test]
async fn shutdown_cancels_what_runs() {
    let (engine, model) = model(|_| ()).await;
    let mut running = model.generate(continue_text("Once upon a time", 4000)).unwrap();
    running.next().await.unwrap().unwrap();
    tokio::task::spawn_blocking({
        let engine = engine.clone();
        move || engine.shutdown()
    })
    .await
    .unwrap();
    let end = loop {
        match running.next().await {
            Ok(Some(_)) => continue,
            end => break end,
        }
    };
    assert!(matches!(end, Err(Error::Cancelled)), "{end:?}");
    assert!(matches!(model.generate(continue_text("a", 1)), Err(Error::Cancelled)));
    assert!(matches!(engine.open("other").await, Err(Error::Cancelled)));
}

#[tokio::test]
async fn a_completion_outlives_the_handles_it_came_from() {
    let (engine, model) = model(|_| ()).await;
    let completion = model.generate(continue_text("The capital of France is", 4)).unwrap();
    drop((engine, model));
    assert_eq!(crate::support::finish(completion).await.chunk.tokens.len(), 4);
}

#[tokio::test]
async fn bounds_that_let_nothing_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = dormouse_engine::Config::new(folder.path());
    config.batch_tokens_max = 8;
    let error = dormouse_engine::Engine::start(config).unwrap_err();
    assert_eq!(error.to_string(), "batch_tokens_max is 8, expected at least 32");
    let mut config = dormouse_engine::Config::new(folder.path());
    config.guess_tokens = 20;
    let error = dormouse_engine::Engine::start(config).unwrap_err();
    assert_eq!(error.to_string(), "guess_tokens is 20, expected at most 16 (guess_tokens_max)");
}
