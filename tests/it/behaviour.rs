//! The same predictor in three languages, and what all of them must do alike.

use std::{path::Path, thread};

use dormouse_tests::{Client, Event, Server, model};
use serde_json::{Value, json};

use crate::{eventually, guests, joined, projects::build};

/// Callers at once.
const CALLERS: usize = 8;
/// Letters of a big input, of two bytes each.
const BIG: usize = 150_000;
/// Tokens of a completion.
const TOKENS: usize = 16;

#[test]
fn rust_behaves() {
    behaves(guests::BEHAVIOUR.as_ref());
}

#[test]
fn python_behaves() {
    behaves(&build("tests/behaviour/python").0);
}

#[test]
fn javascript_behaves() {
    behaves(&build("tests/behaviour/js").0);
}

#[test]
fn javascript_behaves_on_the_engine_with_the_webs_interfaces() {
    behaves(&build("tests/behaviour/js-web").0);
}

#[test]
fn the_tutorials_file_answers_as_rusts_chat_does() {
    let server = Server::start();
    model::install(server.data_dir());
    let client = server.client();
    client.deploy("chat", "", guests::CHAT).expect(201);
    client.deploy("llama-chat", "", build("examples/python/llama-chat").0).expect(201);

    let (system, prompt) = ("You are a mouse.", "Why do dormice sleep so long?");
    let chat = client.output("chat", &json!({"system": system, "prompt": prompt, "max_tokens": 100}));
    let chat = joined(&chat);
    assert!(chat.contains("sleep"), "{chat}");
    // A tutorial's file writes the whole text down, the model's control tokens among it.
    let rendered = format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    );
    let tutorial = client.output("llama-chat", &json!({"prompt": rendered}));
    let tutorial = tutorial.as_str().unwrap().strip_prefix(&rendered).expect("it begins with its prompt");
    assert_eq!(tutorial.trim_end_matches("<|im_end|>"), chat);
}

/// Everything that a predictor of any language must do.
fn behaves(wasm: &Path) {
    let server = Server::start();
    model::install(server.data_dir());
    let client = server.client();
    let suite: Value = serde_json::from_str(include_str!("../behaviour/cases.json")).unwrap();
    client.deploy("chat", "", guests::CHAT).expect(201);
    let function = client.deploy("behaviour", "", wasm).expect(201);
    assert_eq!(function["input_schema"], suite["input"]);
    let output = function["output_schema"].as_object().unwrap();
    let output: Value =
        output.iter().filter(|(key, _)| *key != "title").map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(output, suite["output"]);
    assert_eq!((&function["streaming"], &function["models"]), (&json!(true), &json!([model::NAME])));

    suite["cases"].as_array().unwrap().iter().for_each(|case| check(client, case));
    a_big_input_arrives(client);
    callers_do_not_meet(client);
    completions_are_the_models(client);
    a_caller_that_leaves_ends_it(client);
}

/// Runs a case, streamed and not.
fn check(client: &Client, case: &Value) {
    let (name, input) = (&case["name"], &case["input"]);
    let answer = client.invoke("behaviour", input);
    if let Some(fields) = case["invalid"].as_array() {
        let details = answer.expect(422)["error"]["details"].take();
        let mut refused: Vec<_> = details.as_array().unwrap().iter().map(field).collect();
        refused.sort_by_key(Value::to_string);
        assert_eq!(refused, *fields, "{name}");
        return;
    }
    let events: Vec<Event> = client.stream("behaviour", input).collect();
    let of =
        |kind: &'static str| events.iter().filter(move |event| event.kind == kind).map(|event| &event.data);
    let expected = case["output"].as_array().cloned().unwrap_or_default();
    assert_eq!(of("output").cloned().collect::<Vec<_>>(), expected, "{name}");

    let logs: Vec<_> = of("log").map(|log| json!([log["level"], log["message"]])).collect();
    for line in case["logs"].as_array().into_iter().flatten() {
        assert!(logs.contains(line), "{name}: {line} in {logs:?}");
    }
    for told in case["progress"].as_array().into_iter().flatten() {
        let progress: Vec<_> = of("progress").map(|told| json!([told["fraction"], told["note"]])).collect();
        assert!(progress.contains(told), "{name}: {progress:?}");
    }
    let last = events.last().unwrap();
    match case["error"].as_array() {
        Some(error) => {
            let told = |body: &Value| json!([body["error"]["code"], body["error"]["message"]]);
            assert_eq!(told(&last.data), json!(error), "{name}");
            assert_eq!(told(&answer.expect(500)), json!(error), "{name}");
        }
        None => {
            assert_eq!((&*last.kind, &last.data["output"]), ("done", &case["output"]), "{name}");
            assert_eq!(answer.expect(200)["output"], case["output"], "{name}");
            if let Some(metrics) = case.get("metrics") {
                assert_eq!(last.data["metrics"]["custom"], *metrics, "{name}");
            }
        }
    }
}

/// Where in the input a refusal points.
fn field(detail: &Value) -> Value {
    detail["loc"].as_array().unwrap()[2..].iter().cloned().collect()
}

fn a_big_input_arrives(client: &Client) {
    let text = "ß".repeat(BIG);
    let output = client.output("behaviour", &json!({"act": "echo", "text": text}));
    assert!(output[0]["text"] == text.as_str(), "a text of {BIG} letters came back changed");
}

fn callers_do_not_meet(client: &Client) {
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            scope.spawn(move || {
                let output = client.output("behaviour", &json!({"act": "count", "count": caller * 10}));
                let numbers: Vec<Value> = (0..caller * 10).map(Value::from).collect();
                let expected = if caller == 0 { Value::Null } else { numbers.into() };
                assert_eq!(output, expected, "caller {caller}");
            });
        }
    });
}

/// Every language gets the same words, alone and beside others, and pays for as many tokens.
fn completions_are_the_models(client: &Client) {
    let input = json!({"act": "complete", "text": "The capital of France is", "count": TOKENS});
    let answer = client.invoke("behaviour", &input).expect(200);
    let text = joined(&answer["output"]);
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(answer["metrics"]["completion_tokens"], TOKENS);

    let (system, users) = ("Answer in a word.", ["What is the capital of France?", "What do dormice eat?"]);
    let several = json!({"act": "several", "text": system, "tags": users, "count": TOKENS});
    let alone = users.map(|user| {
        let input = json!({"system": system, "prompt": user, "max_tokens": TOKENS});
        joined(&client.output("chat", &input))
    });
    assert_eq!(client.output("behaviour", &several), json!(alone));
}

fn a_caller_that_leaves_ends_it(client: &Client) {
    let mut events = client.stream("behaviour", &json!({"act": "forever"}));
    for number in 0..3 {
        assert_eq!(events.wait_for("output").data, number);
    }
    drop(events);
    eventually("the prediction is cancelled", || {
        client.get("/v1/functions/behaviour").expect(200)["running"] == 0
    });
}
