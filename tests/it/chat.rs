//! Predictors that call a real language model.

use std::thread;

use dormouse_tests::{Event, Server, model};
use serde_json::{Value, json};

use crate::{deploy, guests, joined};

/// A server that has the model.
fn with_model() -> Server {
    let server = Server::start();
    model::install(server.data_dir());
    server
}

#[test]
fn a_chat_streams_the_models_words() {
    let server = with_model();
    let function = deploy(&server, "chat", guests::CHAT);
    assert_eq!(function["warnings"], json!([]));
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 24});
    let events: Vec<Event> = server.client().stream("chat", &input).collect();
    let pieces: Vec<_> = events.iter().filter(|event| event.kind == "output").collect();
    assert!(pieces.len() > 1, "{events:?}");
    let streamed: String = pieces.iter().map(|event| event.data.as_str().unwrap()).collect();
    assert!(streamed.contains("Paris"), "{streamed}");

    let done = events.last().unwrap();
    assert_eq!(done.kind, "done");
    let metrics = &done.data["metrics"];
    for name in ["prompt_tokens", "completion_tokens"] {
        assert!(metrics[name].as_u64().unwrap() > 0, "{name} in {metrics}");
    }
    assert!(metrics["device_ms"].as_f64().unwrap() > 0.0, "{metrics}");
    assert_eq!(joined(&server.client().output("chat", &input)), streamed);
}

#[test]
fn eight_at_once_say_the_same_as_one_alone() {
    const CALLERS: usize = 8;
    let server = with_model();
    deploy(&server, "chat", guests::CHAT);
    let input = |i: usize| json!({"prompt": format!("Count from {i} upwards."), "max_tokens": 24});
    let alone: Vec<_> = (0..CALLERS).map(|i| joined(&server.client().output("chat", &input(i)))).collect();
    let client = server.client();
    thread::scope(|scope| {
        let ask = |i| scope.spawn(move || joined(&client.output("chat", &input(i))));
        let together: Vec<_> = (0..CALLERS).map(ask).collect();
        for (i, caller) in together.into_iter().enumerate() {
            assert_eq!(caller.join().unwrap(), alone[i], "caller {i}");
        }
    });
}

#[test]
fn a_seed_makes_sampling_repeatable_and_stop_strings_end_it() {
    let server = with_model();
    deploy(&server, "chat", guests::CHAT);
    let ask = |extra: Value| {
        let mut input = json!({"prompt": "Tell me about mice.", "max_tokens": 24});
        input.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        joined(&server.client().output("chat", &input))
    };
    let sampled = json!({"temperature": 1.0, "seed": 7});
    assert_eq!(ask(sampled.clone()), ask(sampled));
    let whole = ask(json!({}));
    let word = whole.split(' ').nth(3).unwrap();
    let stopped = ask(json!({"stop": [word]}));
    assert!(whole.starts_with(&stopped) && !stopped.contains(word), "{stopped:?} of {whole:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_the_predictors_error() {
    let server = with_model();
    deploy(&server, "chat", guests::CHAT);
    let answer =
        server.client().invoke("chat", &json!({"prompt": "mouse ".repeat(5000), "max_tokens": 4096}));
    assert_eq!(answer.error(500), "predictor_failed");
    assert!(answer.text.contains("tokens"), "{}", answer.text);
}

#[test]
fn several_completions_run_side_by_side_in_one_prediction() {
    let server = with_model();
    deploy(&server, "several", guests::SEVERAL);
    let prompts = ["The capital of France is", "Two and two make", "The capital of France is"];
    let output = server.client().output("several", &json!({"prompts": prompts, "max_tokens": 8}));
    let texts = output["texts"].as_array().unwrap();
    assert_eq!(texts[0], texts[2]);
    assert!(texts[0].as_str().unwrap().contains("Paris"), "{output}");
    assert_eq!(output["round_trips"], json!(prompts));
    assert!(output["completion_tokens"].as_u64().unwrap() > 0, "{output}");
    assert!((output["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{output}");
}

#[test]
fn tickets_go_where_they_belong() {
    let server = with_model();
    deploy(&server, "triage", guests::SUPPORT_TRIAGE);
    let cases = [
        ("I was charged twice this month.", "billing"),
        ("The export button does nothing when I click it.", "bug"),
        ("I forgot my password and can't log in.", "account"),
        ("My package still hasn't arrived after two weeks.", "shipping"),
    ];
    for (ticket, category) in cases {
        let output = server.client().output("triage", &json!({"ticket": ticket}));
        assert_eq!(output["category"], category, "{output}");
        assert!((0.25..=1.0).contains(&output["confidence"].as_f64().unwrap()), "{output}");
        assert_eq!(output["reasons"].as_array().unwrap().len(), 3, "{output}");
    }
}

#[test]
fn a_model_is_open_to_those_who_declare_it_only() {
    let server = with_model();
    let ask = || server.client().output("poacher", &json!({"model": "smollm2"}));
    deploy(&server, "poacher", guests::POACHER);
    assert_eq!(ask(), "unknown model");
    server.client().deploy("poacher", "?model=smollm2", guests::POACHER).expect(201);
    assert_eq!(ask(), "opened smollm2");
}
