//! How a model serves several: which function goes first, and how many tokens a step guesses.

use std::{sync::mpsc, thread};

use dormouse_tests::{Client, Server, model};
use serde_json::{Value, json};

use crate::{guests, joined};

const MODEL: &str = "smollm2";
/// A text that goes on as it began.
const REPEATS: &str = "The quick brown fox jumps over the lazy dog. The quick brown fox";

fn server(sequences_max: usize) -> Server {
    let server = Server::with(|config| config.engine.sequences_max = sequences_max);
    model::install(server.data_dir());
    server
}

/// Runs a long prediction of one function, and a short one of another once the first has begun to say
/// something. Gives when each ended.
fn race(client: &Client, long: &str, short: &str) -> [String; 2] {
    let (began, begins) = mpsc::channel();
    let ended = |done: &Value| {
        let record = client.get(&format!("/v1/predictions/{}", done["id"].as_str().unwrap())).expect(200);
        record["completed_at"].as_str().unwrap().to_owned()
    };
    thread::scope(|scope| {
        let long = scope.spawn(move || {
            let input = json!({"prompt": "Tell me a long story about a lighthouse.", "max_tokens": 300});
            let mut events = client.stream(long, &input);
            events.wait_for("output");
            began.send(()).unwrap();
            events.wait_for("done").data
        });
        begins.recv().unwrap();
        let short = client.invoke(short, &json!({"prompt": "Hi!", "max_tokens": 2})).expect(200);
        [ended(&long.join().unwrap()), ended(&short)]
    })
}

#[test]
fn a_high_priority_goes_before_a_low_one_while_the_model_is_busy() {
    // A sequence at a time.
    let server = server(1);
    let client = server.client();
    for (name, query) in [("report", "?priority=low"), ("chat", "?priority=high"), ("other", "?priority=low")]
    {
        client.deploy(name, query, guests::CHAT).expect(201);
    }
    let [report, chat] = race(client, "report", "chat");
    assert!(chat < report, "the chat ended at {chat}, after the report at {report}");
    let [report, other] = race(client, "report", "other");
    assert!(report < other, "one of the same priority ended at {other}, before the report at {report}");
}

/// Steps of the model so far.
fn steps(client: &Client) -> u64 {
    let metrics = client.get("/metrics").text;
    let steps =
        metrics.lines().find_map(|line| line.strip_prefix("dormouse_model_steps{model=\"smollm2\"} "));
    steps.map_or(0, |steps| steps.parse().unwrap())
}

/// Asks without guesses, then as asked; the texts must be the same, in three quarters of the steps at most.
#[track_caller]
fn check_guesses(client: &Client, mut ask: impl FnMut(Option<u64>) -> Value) {
    let mut run = |guess_tokens| {
        let before = steps(client);
        let text = ask(guess_tokens);
        (text, steps(client) - before)
    };
    // The first computes the prompt.
    run(None);
    let ((text, without), (guessed, with)) = (run(None), run(Some(8)));
    assert_eq!(text, guessed);
    assert!(4 * with < 3 * without, "{with} steps instead of {without}");
    // The last step may not be counted yet.
    assert!(4 * with < 3 * run(Some(0)).1);
}

#[test]
fn a_request_in_any_dialect_says_how_many_tokens_are_guessed() {
    let server = server(4);
    let client = server.client();
    check_guesses(client, |guess_tokens| {
        let body = json!({"model": MODEL, "prompt": REPEATS, "temperature": 0, "max_tokens": 60, "guess_tokens": guess_tokens});
        client.post("/v1/completions", &body).expect(200)["choices"][0]["text"].take()
    });
    check_guesses(client, |guess_tokens| {
        let options =
            json!({"temperature": 0, "repeat_penalty": 1, "num_predict": 60, "guess_tokens": guess_tokens});
        let body =
            json!({"model": MODEL, "prompt": REPEATS, "raw": true, "stream": false, "options": options});
        client.post("/api/generate", &body).expect(200)["response"].take()
    });
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let refused = "guess_tokens is 17, expected at most 16 (guess_tokens_max)";
    for (path, body, expected) in [
        ("/v1/chat/completions", json!({"messages": messages, "guess_tokens": 17}), refused),
        ("/v1/completions", json!({"prompt": "a", "guess_tokens": 17}), refused),
        ("/v1/responses", json!({"input": "a", "guess_tokens": 17}), refused),
        ("/api/chat", json!({"messages": messages, "options": {"guess_tokens": 17}}), refused),
        (
            "/v1/completions",
            json!({"prompt": "a", "guess_tokens": -1}),
            "guess_tokens: invalid value: integer `-1`",
        ),
    ] {
        let mut body = body;
        body["model"] = json!(MODEL);
        let answer = client.post(path, &body);
        assert!(answer.status == 400 && answer.text.contains(expected), "{path}: {}", answer.text);
    }
}

#[test]
fn a_function_says_how_many_tokens_are_guessed_for_it() {
    let server = server(4);
    let client = server.client();
    let prompt =
        "Repeat after me: one two three four, one two three four, one two three four, one two three four";
    let asked = |query: &str, status: u16| {
        let function = client.deploy("chat", query, guests::CHAT).expect(status);
        let ask = || joined(&client.output("chat", &json!({"prompt": prompt, "max_tokens": 80})));
        ask();
        let before = steps(client);
        (ask(), steps(client) - before, function["settings"]["guess_tokens"].clone())
    };
    let (text, without, setting) = asked("", 201);
    assert_eq!(setting, Value::Null);
    let (guessed, with, setting) = asked("?guess_tokens=8", 201);
    assert_eq!((guessed, setting), (text, json!(8)));
    assert!(with < without, "{with} steps instead of {without}");
    let refused = client.deploy("chat", "?guess_tokens=17", guests::CHAT).expect(422);
    let problem = &refused["error"]["details"][0];
    assert_eq!(problem["loc"], json!(["settings", "guess_tokens"]));
    assert_eq!(problem["msg"], "is 17, this node allows 16 (guess_tokens_max)");
    let document = client.get("/openapi.json").expect(200);
    let settings = &document["components"]["schemas"]["NewFunction"]["properties"]["settings"]["properties"];
    assert_eq!(settings["guess_tokens"]["maximum"], 16);
}
