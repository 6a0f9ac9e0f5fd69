//! Invocations that answer with JSON.

use dormouse_tests::{Client, Server};
use serde_json::{Value, json};

use crate::{deploy, guests};

#[test]
fn the_body_is_the_input_or_holds_it() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    let client = server.client();
    assert_eq!(client.output("hello", &json!({"name": "Hazel"})), "Hello, Hazel!");
    assert_eq!(client.output("hello", &json!({"input": {"name": "Hazel"}})), "Hello, Hazel!");
    deploy(&server, "counter", guests::COUNTER);
    let empty = client.post_request("/fn/counter").send_empty().unwrap();
    assert_eq!(empty.status(), 200);
}

#[test]
fn a_function_answers_on_its_own_host_too() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    let ask = |host: &str| {
        let request = server.client().post_request("/").header("host", host);
        let mut response = request.send_json(json!({"name": "host"})).unwrap();
        (response.status().as_u16(), response.body_mut().read_json::<Value>().unwrap()["output"].take())
    };
    assert_eq!(ask("hello.localhost"), (200, json!("Hello, host!")));
    assert_eq!(ask("hello--live.localhost:8080"), (200, json!("Hello, host!")));
    assert_eq!(ask("nobody.localhost").0, 404);
}

#[test]
fn every_kind_of_field_arrives_and_defaults_are_filled_in() {
    let server = Server::start();
    deploy(&server, "echo", guests::ECHO);
    let defaults = json!({"text": "hase", "small": 7, "big": -5, "fraction": 0.5, "flag": true,
        "volume": "quiet", "size": "m", "maybe": null, "list": [], "labels": {}, "place": null,
        "anything": null, "type": false});
    assert_eq!(server.client().output("echo", &json!({})), defaults);
    let given = json!({"text": "日本語 \u{2028}🐭", "small": 10, "big": i64::MIN, "fraction": 0.25,
        "flag": false, "volume": "very_loud", "size": "l", "maybe": 9, "list": ["a", "b"],
        "labels": {"x": 1}, "place": {"country": "DE", "latitude": 52.5}, "anything": [{"deep": null}],
        "type": true});
    assert_eq!(server.client().output("echo", &given), given);
}

#[test]
fn wrong_input_is_refused_field_by_field() {
    let server = Server::start();
    deploy(&server, "echo", guests::ECHO);
    let fields = |input: Value| {
        let answer = server.client().invoke("echo", &input);
        assert_eq!(answer.error(422), "invalid_input");
        let details = answer.json()["error"]["details"].take();
        let locations = details.as_array().unwrap().iter();
        let mut fields: Vec<_> = locations.map(|detail| detail["loc"].as_array().unwrap().clone()).collect();
        fields.sort_by_key(|field| json!(field).to_string());
        json!(fields)
    };
    let at = |path: &[&str]| {
        let mut location = vec!["body", "input"];
        location.extend_from_slice(path);
        json!(location)
    };
    let cases = [
        (json!({"text": ""}), at(&["text"])),
        (json!({"text": "far too long"}), at(&["text"])),
        (json!({"small": 11}), at(&["small"])),
        (json!({"small": "7"}), at(&["small"])),
        (json!({"small": 1.5}), at(&["small"])),
        (json!({"fraction": -0.1}), at(&["fraction"])),
        (json!({"volume": "loud"}), at(&["volume"])),
        (json!({"size": "xl"}), at(&["size"])),
        (json!({"list": ["a", "b", "c"]}), at(&["list"])),
        (json!({"place": {"country": "Deutschland"}}), at(&["place", "country"])),
        (json!({"place": {}}), at(&["place", "country"])),
        (json!({"nobody": 1}), at(&["nobody"])),
    ];
    for (input, location) in cases {
        assert_eq!(fields(input.clone()), json!([location]), "{input}");
    }
    assert_eq!(fields(json!({"text": "", "small": 0})), json!([at(&["small"]), at(&["text"])]));
}

#[test]
fn a_missing_field_is_named() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    let answer = server.client().invoke("hello", &json!({}));
    assert_eq!(answer.error(422), "invalid_input");
    assert_eq!(answer.json()["error"]["details"][0]["loc"], json!(["body", "input", "name"]));
}

#[test]
fn a_body_that_is_no_json_object_is_refused() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    for body in ["{", "[]", "\"text\"", "\u{1}", "{\"name\": \"a\"} x"] {
        let response =
            server.client().post_request("/fn/hello").content_type("application/json").send(body).unwrap();
        assert!([400, 422].contains(&response.status().as_u16()), "{body}: {response:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let response = server.client().post_request("/fn/hello").content_type("application/json").send(deep);
    assert!([400, 422].contains(&response.unwrap().status().as_u16()));
}

#[test]
fn an_answer_says_what_it_cost() {
    let server = Server::start();
    deploy(&server, "reporter", guests::REPORTER);
    let answer = server.client().invoke("reporter", &json!({"count": 2}));
    let body = answer.expect(200);
    assert_eq!(body["status"], "succeeded");
    assert_eq!(body["output"], json!([1, 2]));
    assert!(!body["id"].as_str().unwrap().is_empty());
    let metrics = &body["metrics"];
    for name in ["queue_ms", "cold_start_ms", "instantiate_ms", "setup_ms", "predict_ms", "total_ms"] {
        assert!(metrics[name].as_f64().is_some_and(|ms| ms >= 0.0), "{name} in {metrics}");
    }
    assert!(metrics["memory_bytes"].as_u64().unwrap() > 1 << 16, "{metrics}");
    assert_eq!(metrics["custom"], json!({"counted": 2.0}));
    let timing = answer.header("server-timing");
    for name in ["queue", "setup", "predict", "total"] {
        assert!(timing.contains(&format!("{name};dur=")), "{name} in {timing}");
    }
    assert!(!answer.header("x-request-id").is_empty());
}

#[test]
fn what_a_predictor_prints_and_logs_is_in_its_answer_and_kept() {
    let server = Server::start();
    deploy(&server, "reporter", guests::REPORTER);
    let body = server.client().invoke("reporter", &json!({})).expect(200);
    let lines: Vec<_> = body["logs"].as_str().unwrap().lines().map(str::to_owned).collect();
    for text in ["counting to 3", "on stdout", "on stderr", "stay inside", "no line end"] {
        assert!(lines.iter().any(|line| line.contains(text)), "{text} in {lines:?}");
    }
    let kept = server.client().get("/v1/functions/reporter/logs?limit=1").expect(200);
    assert_eq!(kept["predictions"][0]["id"], body["id"]);
    assert_eq!(kept["predictions"][0]["status"], "succeeded");
    assert!(kept["predictions"][0]["logs"].to_string().contains("on stdout"), "{kept}");
}

#[test]
fn nothing_is_left_for_the_next_prediction() {
    let server = Server::start();
    deploy(&server, "counter", guests::COUNTER);
    for _ in 0..3 {
        assert_eq!(server.client().output("counter", &json!({})), json!({"in_static": 1, "in_predictor": 1}));
    }
}

#[test]
fn a_predictors_own_error_comes_with_its_logs() {
    let server = Server::start();
    deploy(&server, "failing", guests::FAILING);
    let answer = server.client().invoke("failing", &json!({"number": 5}));
    assert_eq!(answer.error(500), "predictor_failed");
    let body = answer.json();
    assert_eq!(body["status"], "failed");
    assert_eq!(body["error"]["message"], "wanted 5: invalid digit found in string");
    assert!(body["logs"].as_str().unwrap().contains("about to fail"), "{body}");
    assert!(body["metrics"]["total_ms"].is_number(), "{body}");
}

#[test]
fn an_answer_that_is_no_json_is_the_predictors_fault() {
    let server = Server::start();
    deploy(&server, "liar", guests::LIAR);
    let client = server.client();
    assert_eq!(client.output("liar", &json!({"answer": "12"})), 12);
    for lie in ["", "nonsense", "{", "1 2"] {
        assert_eq!(
            client.invoke("liar", &json!({"answer": lie})).error(500),
            "predictor_bad_output",
            "{lie}"
        );
    }
}

#[test]
fn models_that_were_not_declared_stay_closed() {
    let server = Server::start();
    deploy(&server, "poacher", guests::POACHER);
    let ask = |client: &Client| client.output("poacher", &json!({"model": "smollm2"}));
    assert_eq!(ask(server.client()), "unknown model");
}
