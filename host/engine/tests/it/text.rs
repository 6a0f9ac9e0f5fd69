//! What a completion's text and numbers look like.

use dormouse_engine::{Finish, Message, Prompt, Request, Sampling};

use crate::support::{continue_text, finish, model, run};

fn chat(text: &str, max_tokens: usize) -> Request {
    let message = Message { role: "user".into(), content: text.into() };
    Request::new(Prompt::Messages(vec![message]), max_tokens)
}

#[tokio::test]
async fn text_is_cut_before_a_stop_string_that_spans_tokens() {
    let (_engine, model) = model(|_| ()).await;
    let whole = run(&model, continue_text("The capital of France is", 24)).await;
    assert_eq!(whole.finish, Finish::Length);
    // From within the third token to within the sixth.
    let start_of = |token: usize| model.detokenize(&whole.chunk.tokens[..token]).unwrap().len();
    let (start, end) = (start_of(2) + 1, start_of(5) + 1);
    let mut request = continue_text("The capital of France is", 24);
    request.stop = vec!["never".into(), whole.chunk.text[start..end].into()];
    let cut = run(&model, request).await;
    assert_eq!((cut.chunk.text.as_str(), cut.finish), (&whole.chunk.text[..start], Finish::Stop));
    assert_eq!(cut.chunk.tokens, whole.chunk.tokens[..6]);
    assert_eq!(cut.usage.completion_tokens, 6);
}

#[tokio::test]
async fn text_held_back_for_a_stop_string_comes_at_the_end() {
    let (_engine, model) = model(|_| ()).await;
    let plain = run(&model, continue_text("The capital of France is", 8)).await;
    let mut request = continue_text("The capital of France is", 8);
    request.stop = vec![format!("{}#", plain.chunk.text)];
    let mut completion = model.generate(request).unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = completion.next().await.unwrap() {
        chunks.push(chunk);
    }
    assert_eq!(completion.finish(), Some(Finish::Length));
    let (last, before) = chunks.split_last().unwrap();
    assert!(before.iter().all(|chunk| chunk.text.is_empty()), "{chunks:?}");
    assert_eq!(last.text, plain.chunk.text);
    assert_eq!(chunks.iter().map(|chunk| chunk.tokens.len()).sum::<usize>(), 8);
}

#[tokio::test]
async fn a_chat_ends_with_its_end_token_which_is_not_emitted() {
    let (_engine, model) = model(|_| ()).await;
    let finished = run(&model, chat("Say hello.", 200)).await;
    assert_eq!(finished.finish, Finish::Stop);
    assert!(!finished.chunk.text.is_empty() && !finished.chunk.text.contains("<|im_end|>"));
    assert_eq!(model.detokenize(&finished.chunk.tokens).unwrap(), finished.chunk.text);
}

#[tokio::test]
async fn a_character_of_several_tokens_is_never_split() {
    let (_engine, model) = model(|_| ()).await;
    let mut completion = model.generate(continue_text("日本語の歌: 桜、桜、桜、", 24)).unwrap();
    let mut text = String::new();
    while let Some(chunk) = completion.next().await.unwrap() {
        assert!(!chunk.text.contains('\u{fffd}'), "{:?}", chunk.text);
        text += &chunk.text;
        if text.chars().any(|c| c.len_utf8() == 3) {
            return;
        }
    }
    panic!("no character of three bytes in {text:?}");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_and_another_seed_another() {
    let (_engine, model) = model(|_| ()).await;
    let request = |seed| Request {
        sampling: Sampling { temperature: 1.2, top_p: 0.95, seed: Some(seed), ..Sampling::default() },
        ..continue_text("Once upon a time", 24)
    };
    let first = run(&model, request(1)).await.chunk.tokens;
    assert_eq!(run(&model, request(1)).await.chunk.tokens, first);
    assert_ne!(run(&model, request(2)).await.chunk.tokens, first);
}

#[tokio::test]
async fn log_probabilities_come_with_each_token_likeliest_first() {
    let (_engine, model) = model(|_| ()).await;
    let request = Request { logprobs: Some(3), ..continue_text("The capital of France is", 4) };
    let finished = run(&model, request).await;
    assert_eq!(finished.chunk.logprobs.len(), 4);
    for (token, logprob) in finished.chunk.tokens.iter().zip(&finished.chunk.logprobs) {
        // Greedy: the drawn token is the likeliest.
        assert_eq!((logprob.token, logprob.top[0]), (*token, (*token, logprob.logprob)));
        assert_eq!(logprob.top.len(), 3);
        assert!(logprob.logprob < 0.0 && logprob.top.is_sorted_by(|a, b| a.1 >= b.1), "{logprob:?}");
    }
    // The f32 reference says -0.258 for " Paris".
    assert!((finished.chunk.logprobs[0].logprob + 0.258).abs() < 0.1, "{:?}", finished.chunk.logprobs[0]);
}

#[tokio::test]
async fn embeddings_have_unit_length_and_tell_topics_apart() {
    let (_engine, model) = model(|_| ()).await;
    let inputs = ["A cat sat on the mat.", "A kitten sat on a rug.", "Quarterly revenue grew by 4 %."];
    let found = model.embed(inputs.map(String::from).to_vec()).await.unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for embedding in &found {
        assert_eq!(embedding.len(), model.info().dimension);
        assert!((dot(embedding, embedding) - 1.0).abs() < 1e-5);
    }
    assert!(dot(&found[0], &found[1]) > dot(&found[0], &found[2]));
    assert_eq!(model.embed(vec![inputs[1].into()]).await.unwrap()[0], found[1]);
}

/// Schemas of which each bounds the length of its texts.
const SCHEMAS: [&str; 4] = [
    r#"{
        "type": "object",
        "properties": {
            "category": {"enum": ["billing", "bug", "other"]},
            "urgent": {"type": "boolean"},
            "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3}
        },
        "required": ["category", "urgent", "words"],
        "additionalProperties": false
    }"#,
    r##"{
        "$defs": {
            "place": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"}, "km": {"$ref": "#/$defs/km"}},
                "required": ["name", "km"],
                "additionalProperties": false
            },
            "km": {"type": "integer", "minimum": 3, "maximum": 250}
        },
        "type": "array",
        "items": {"$ref": "#/$defs/place"},
        "minItems": 2,
        "maxItems": 2
    }"##,
    r#"{
        "anyOf": [
            {"type": "object", "properties": {"error": {"const": "none"}}, "required": ["error"],
             "additionalProperties": false},
            {"type": "string", "maxLength": 20},
            {"type": "null"}
        ]
    }"#,
    r#"{
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "parts": {
                "type": "array",
                "prefixItems": [{"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.25}, {"type": "boolean"}],
                "items": false,
                "minItems": 2
            },
            "note": {"type": ["string", "null"], "maxLength": 8}
        },
        "required": ["when", "parts"],
        "additionalProperties": false
    }"#,
];

#[tokio::test]
async fn every_answer_under_a_schema_parses_and_validates() {
    let (_engine, model) = model(|_| ()).await;
    for schema in SCHEMAS {
        let validator = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        let request = |seed| Request {
            format: Some(schema.into()),
            sampling: Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() },
            ..chat("Classify this ticket: I was charged twice!", 200)
        };
        let completions: Vec<_> = (0..8).map(|seed| model.generate(request(seed)).unwrap()).collect();
        for completion in completions {
            let finished = finish(completion).await;
            let text = finished.chunk.text;
            assert_eq!(finished.finish, Finish::Stop, "{text}");
            let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            validator.validate(&value).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}
