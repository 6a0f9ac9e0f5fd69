//! Invocations answered with JSON.

use serde_json::json;

use crate::{
    guest::{self, ECHO, FAIL, TRAP, WORKER},
    node::Node,
};

fn with_schema() -> Node {
    let node = Node::start();
    let input = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "times": {"type": "integer", "minimum": 1, "default": 1}},
        "required": ["name"],
        "additionalProperties": false,
    });
    node.deploy("echo", &guest::component(ECHO, &guest::manifest(input)), "");
    node
}

#[test]
fn an_input_is_completed_checked_and_answered() {
    let node = with_schema();
    for body in [json!({"name": "Ada"}), json!({"input": {"name": "Ada"}})] {
        let answer = node.invoke("echo", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        assert_eq!(json["status"], "succeeded");
        assert_eq!(json["output"], json!({"name": "Ada", "times": 1}));
        assert_eq!(json["logs"], "");
        assert!(json["metrics"]["predict_ms"].as_f64().unwrap() > 0.0);
        let timing = answer.header("server-timing").unwrap();
        assert!(timing.starts_with("queue;dur=") && timing.contains(", total;dur="), "{timing}");
    }
}

#[test]
fn an_input_that_breaks_the_schema_is_refused_by_field() {
    let node = with_schema();
    let answer = node.invoke("echo", &json!({"times": 0, "colour": "red"}));
    assert_eq!(answer.error(), (422, "invalid_input".to_owned()));
    let mut details = answer.json()["error"]["details"].as_array().unwrap().clone();
    details.sort_by_key(|detail| detail["loc"].to_string());
    let expected = json!([
        {"loc": ["body", "input", "colour"], "msg": "unknown field"},
        {"loc": ["body", "input", "name"], "msg": "field required"},
        {"loc": ["body", "input", "times"], "msg": "value is less than the minimum of 1"},
    ]);
    assert_eq!(json!(details), expected);
}

#[test]
fn what_is_not_json_is_refused() {
    let node = with_schema();
    let post =
        |headers: &[(&str, &str)], body: &[u8]| node.client().send("POST", "/fn/echo", headers, body).error();
    assert_eq!(post(&[], b"{"), (400, "invalid_request".to_owned()));
    assert_eq!(post(&[], b"\xff"), (400, "invalid_request".to_owned()));
    assert_eq!(post(&[], &vec![b'['; 100_000]), (400, "invalid_request".to_owned()));
    assert_eq!(post(&[], b""), (422, "invalid_input".to_owned()));
    let text = [("content-type", "text/plain")];
    assert_eq!(post(&text, b"{}"), (415, "unsupported_media_type".to_owned()));
}

#[test]
fn emitted_elements_are_the_output_of_one_that_returns_nothing() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let answer = node.invoke("worker", &json!({})).json();
    assert_eq!(answer["output"], json!([{"started": true}]));
    assert_eq!(answer["logs"], "working\n");
}

#[test]
fn each_fault_of_a_predictor_has_its_own_code() {
    let node = Node::start();
    let check = |predict: &str, query: &str, status: u16, code: &str| {
        node.deploy("f", &guest::any_input(predict), query);
        let answer = node.invoke("f", &json!({"loop": 1}));
        assert_eq!(answer.error(), (status, code.to_owned()));
        let json = answer.json();
        assert_eq!(json["status"], "failed");
        assert!(json["id"].is_string() && json["metrics"].is_object());
        json
    };
    assert_eq!(check(TRAP, "", 500, "predictor_trapped")["logs"], "working\n");
    assert_eq!(check(FAIL, "", 500, "predictor_failed")["error"]["message"], "working");
    check(WORKER, "timeout_ms=50", 504, "timeout");
    check("(call $ok (i32.const 1040) (i32.const 7))", "", 500, "predictor_bad_output");
    let hog = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    check(hog, "memory_bytes=1000000", 500, "predictor_out_of_memory");
}

#[test]
fn the_last_predictions_of_a_function_are_remembered() {
    let node = Node::with(|config| config.queue.page_max = 2);
    node.deploy("worker", &guest::any_input(WORKER), "timeout_ms=50");
    node.deploy("trap", &guest::any_input(TRAP), "");
    let first = node.invoke("worker", &json!({})).json();
    node.invoke("trap", &json!({}));
    let second = node.invoke("worker", &json!({"loop": 1})).json();
    let third = node.invoke("worker", &json!({})).json();
    let logs = node.get("/v1/functions/worker/logs").json();
    let predictions = logs["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 2);
    assert_eq!((&predictions[0]["id"], &predictions[1]["id"]), (&third["id"], &second["id"]));
    assert_eq!(predictions[0]["logs"], "working\n");
    assert_eq!(predictions[1]["error"]["code"], "timeout");
    assert_ne!(first["id"], second["id"]);
    let one = node.get("/v1/functions/worker/logs?limit=1").json();
    assert_eq!(one["predictions"].as_array().unwrap().len(), 1);
    assert_eq!(node.get("/v1/functions/absent/logs").status, 404);
    assert_eq!(node.get("/v1/functions/worker/logs?limit=x").status, 400);
}
