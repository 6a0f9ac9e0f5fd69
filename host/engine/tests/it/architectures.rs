//! Other architectures than Llama, on real files: what llama.cpp v0.5.0 makes of them.

use dormouse_engine::{Error, Pooling, Prompt, Request};
use serde::Deserialize;

use crate::support::{cached, finish, open};

const GEMMA: &str = "gemma-3-270m-q4_k_m.gguf";
const MINILM: &str = "all-MiniLM-L6-v2.F16.gguf";

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Generated>,
}

#[derive(Deserialize)]
struct Generated {
    prompt: String,
    prompt_ids: Vec<u32>,
    /// Greedy.
    output_ids: Vec<u32>,
    /// Of each of `output_ids`.
    top1_top2_logit_gap: Vec<f32>,
}

/// Its keys have norms, its layers look back on a window or on all, its text is SentencePiece's.
#[tokio::test]
async fn gemma_3_continues_as_llama_cpp_does_where_its_choice_is_clear() {
    let (_engine, model) = open(cached(GEMMA), |_| ()).await;
    assert_eq!(model.info().architecture, "gemma3");
    let golden: Golden = serde_json::from_str(include_str!("../data/golden_gemma3.json")).unwrap();
    let (mut clear, mut all) = (0, 0);
    for case in &golden.prompts {
        let prompt = Prompt::Text(case.prompt.clone());
        assert_eq!(model.prompt_tokens(&prompt).unwrap(), case.prompt_ids, "{}", case.prompt);
        let tokens = [&case.prompt_ids[..], &case.output_ids[..case.output_ids.len() - 1]].concat();
        let scores = model.score(tokens, 1).await.unwrap().split_off(case.prompt_ids.len() - 1);
        assert_eq!(scores.len(), case.output_ids.len());
        for (at, score) in scores.iter().enumerate() {
            let is_clear = case.top1_top2_logit_gap[at] > 1.0;
            (clear, all) = (clear + usize::from(is_clear), all + 1);
            assert!(!is_clear || score[0].0 == case.output_ids[at], "{} at {at}", case.prompt);
        }
    }
    assert!(clear > all / 2, "{clear} of {all} choices are clear");
}

/// A prompt longer than the window of 512, so that what lies before it must not be seen.
#[tokio::test]
async fn gemma_3_gives_the_same_text_however_a_long_prompt_is_cut() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(70);
    let mut texts = Vec::new();
    for batch_tokens_max in [256, 33] {
        let (_engine, model) = open(cached(GEMMA), |config| {
            config.batch_tokens_max = batch_tokens_max;
            config.sequences_max = 1;
        })
        .await;
        let request = Request::new(Prompt::Text(text.clone()), 12);
        assert!(model.prompt_tokens(&request.prompt).unwrap().len() > 600);
        texts.push(finish(model.generate(request).unwrap()).await.chunk.text);
    }
    assert_eq!(texts[0], texts[1]);
    assert!(texts[0].contains("brown fox"), "{:?}", texts[0]);
}

#[derive(Deserialize)]
struct Embeddings {
    cases: Vec<Embedded>,
}

#[derive(Deserialize)]
struct Embedded {
    text: String,
    ids: Vec<u32>,
    embedding: Vec<f32>,
}

#[tokio::test]
async fn an_encoder_embeds_as_llama_cpp_does() {
    let (_engine, model) = open(cached(MINILM), |_| ()).await;
    assert_eq!((model.info().architecture.as_str(), model.info().dimension), ("bert", 384));
    let golden: Embeddings = serde_json::from_str(include_str!("../data/embeddings_minilm.json")).unwrap();
    let texts: Vec<String> = golden.cases.iter().map(|case| case.text.clone()).collect();
    // All at once, and the longest again alone.
    let together = model.embed(texts.clone()).await.unwrap();
    for (case, found) in golden.cases.iter().zip(&together) {
        assert_eq!(model.prompt_tokens(&Prompt::Text(case.text.clone())).unwrap(), case.ids, "{}", case.text);
        let cosine: f32 = case.embedding.iter().zip(found).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{}: cosine {cosine}", case.text);
    }
    let last = texts.last().unwrap().clone();
    assert_eq!(model.embed(vec![last]).await.unwrap()[0], *together.last().unwrap());
}

#[tokio::test]
async fn an_encoder_does_not_continue_text() {
    let (_engine, model) = open(cached(MINILM), |_| ()).await;
    let error = model.generate(Request::new(Prompt::Text("a".into()), 1)).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(error.to_string().ends_with("(bert) embeds texts, it doesn't continue them"), "{error}");
    assert!(matches!(model.score(vec![101, 102], 1).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn an_embedding_may_be_the_first_tokens_or_the_last_tokens_state() {
    let (_engine, model) = open(cached(MINILM), |_| ()).await;
    let mut found = Vec::new();
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        found.push(model.clone().pooled(pooling).embed(vec!["A cat sat on the mat.".into()]).await.unwrap());
    }
    assert_eq!(found[0], model.embed(vec!["A cat sat on the mat.".into()]).await.unwrap());
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2]);
}
