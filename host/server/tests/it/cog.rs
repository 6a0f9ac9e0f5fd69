//! Cog's API of a function.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL, WORKER},
    node::{Answer, Events, Node},
    receiver::Receiver,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const ASYNC: (&str, &str) = ("prefer", "respond-async");
const SSE: (&str, &str) = ("accept", "text/event-stream");

fn node() -> Node {
    let node = Node::with(|config| config.webhook.allow_private = true);
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "stop": {"type": "array", "items": {"type": "string"}}},
        "required": ["name"],
        "additionalProperties": false,
    });
    let mut manifest = guest::manifest(schema);
    manifest["streaming"] = json!(false);
    manifest["output"] = json!({"type": "object"});
    node.deploy("echo", &guest::component(ECHO, &manifest), "");
    let mut manifest =
        guest::manifest(json!({"type": "object", "properties": {"loop": {"type": "integer"}}}));
    manifest["output"] = json!({"type": "array", "items": {}, "x-cog-array-type": "iterator"});
    node.deploy("worker", &guest::component(WORKER, &manifest), "concurrency=1&queue=0");
    node
}

fn send(node: &Node, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
    node.client().send(method, path, &headers, body.to_string().as_bytes())
}

fn post(node: &Node, function: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    send(node, "POST", &format!("/fn/{function}/predictions"), headers, body)
}

fn open(node: &Node, method: &str, path: &str, body: &Value) -> Events {
    Events::of(node.client().try_open(method, path, &[SSE, JSON], body.to_string().as_bytes()).unwrap())
}

#[test]
fn a_function_tells_where_everything_is() {
    let node = node();
    let root = node.get("/fn/echo/").json();
    assert_eq!(root["predictions_url"], "/fn/echo/predictions");
    assert_eq!(root["predictions_cancel_url"], "/fn/echo/predictions/{prediction_id}/cancel");
    let health = node.get("/fn/echo/health-check").json();
    assert_eq!((&health["status"], &health["setup"]["status"]), (&json!("READY"), &json!("succeeded")));
    let openapi = node.get("/fn/worker/openapi.json").json();
    assert_eq!(openapi["openapi"], "3.0.2");
    assert_eq!(openapi["components"]["schemas"]["Output"]["x-cog-array-type"], "iterator");
    assert_eq!(openapi["paths"]["/predictions"]["post"]["x-cog-streaming"], true);
    assert_eq!(
        node.get("/fn/echo/openapi.json").json()["components"]["schemas"]["Input"]["required"],
        json!(["name"])
    );
    for absent in ["/fn/absent/", "/fn/absent/health-check", "/fn/echo/absent"] {
        assert_eq!(node.get(absent).status, 404, "{absent}");
    }
    let answer = node.get("/fn/echo/predictions");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}

#[test]
fn a_prediction_is_answered_when_it_has_ended() {
    let node = node();
    let body = json!({"id": "mine", "input": {"name": "Ada", "nope": 1}, "created_at": "x"});
    for _ in 0..2 {
        // A name that is free again may be used again.
        let answer = post(&node, "echo", &[], &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        assert_eq!(
            (&json["id"], &json["status"], &json["output"]),
            (&json!("mine"), &json!("succeeded"), &json!({"name": "Ada"}))
        );
        assert_eq!(json["logs"], "");
        assert!(json["metrics"]["predict_time"].as_f64().unwrap() > 0.0);
    }
    let shown = node.get("/fn/echo/predictions/mine").json();
    assert_eq!((&shown["status"], &shown["input"]), (&json!("succeeded"), &json!({"name": "Ada"})));
    assert_eq!(node.get("/fn/worker/predictions/mine").status, 404, "it is another function's");
}

#[test]
fn a_failure_is_data() {
    let node = node();
    node.deploy("fail", &guest::any_input(FAIL), "");
    let answer = post(&node, "fail", &[], &json!({}));
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!((&json["status"], &json["error"]), (&json!("failed"), &json!("working")));
    assert!(json.get("output").is_none() && json["metrics"]["predict_time"].is_number());
}

#[test]
fn what_is_wrong_with_a_request_is_told_as_cog_tells_it() {
    let node = node();
    let detail = |body: Value| {
        let answer = post(&node, "echo", &[], &body);
        assert_eq!(answer.status, 422, "{answer:?}");
        answer.json()["detail"].clone()
    };
    let missing =
        json!([{"loc": ["body", "input", "name"], "msg": "Field required", "type": "value_error.missing"}]);
    assert_eq!(detail(json!({})), missing);
    assert_eq!(detail(json!({"input": null})), missing);
    let wrong = json!([{"loc": ["body", "input", "name"], "msg": "5 is not of type \"string\"", "type": "value_error"}]);
    assert_eq!(detail(json!({"input": {"name": 5}})), wrong);
    let nested = detail(json!({"input": {"name": "a", "stop": ["b", 1]}}));
    assert_eq!(nested[0]["loc"], json!(["body", "input", "stop/1"]));
    assert_eq!(detail(json!({"input": [1]}))[0]["loc"], json!(["body", "input", "__root__"]));
    assert_eq!(
        detail(json!({"input": {"name": "a"}, "webhook": "no url"}))[0]["loc"],
        json!(["body", "webhook"])
    );
    let plain = |headers: &[(&str, &str)], body: &[u8]| {
        let answer = node.client().send("POST", "/fn/echo/predictions", headers, body);
        (answer.status, answer.header("content-type").unwrap().to_owned())
    };
    let text = "text/plain; charset=utf-8".to_owned();
    assert_eq!(plain(&[JSON], b"{bad"), (400, text.clone()));
    assert_eq!(plain(&[("content-type", "text/plain")], b"{}"), (415, text));
    assert_eq!(plain(&[], b"").0, 422, "no body is an empty input");
    assert_eq!(plain(&[], br#"{"input": {"name": "a"}}"#).0, 200);
}

#[test]
fn an_asynchronous_prediction_runs_on_and_can_be_canceled() {
    let node = node();
    let path = "/fn/worker/predictions/mine";
    let put = |headers: &[(&str, &str)]| send(&node, "PUT", path, headers, &json!({"input": {"loop": 1}}));
    let answer = put(&[ASYNC]);
    assert_eq!((answer.status, answer.json()), (202, json!({"id": "mine", "status": "starting"})));
    node.wait_until_running("worker", 1);
    let again = put(&[ASYNC]);
    assert_eq!((again.status, &again.json()["status"]), (202, &json!("processing")));
    assert_eq!(again.json()["input"], json!({"loop": 1}));
    assert_eq!(node.get("/fn/worker/health-check").json()["status"], "BUSY");
    let busy = post(&node, "worker", &[], &json!({}));
    let expected = json!({"error": "At capacity - all prediction slots busy", "status": "failed"});
    assert_eq!((busy.status, busy.json()), (409, expected));
    let cancel = || node.client().send("POST", &format!("{path}/cancel"), &[], b"");
    assert_eq!((cancel().status, cancel().json()), (200, json!({})));
    node.follow("mine").last().unwrap();
    assert_eq!((cancel().status, cancel().json()), (404, json!({})));
    assert_eq!(node.get(path).json()["status"], "canceled");
    assert_eq!(node.client().send("POST", "/fn/worker/predictions/absent/cancel", &[], b"").status, 404);
    // It is not run again under the same id.
    let again = put(&[ASYNC]);
    assert_eq!((again.status, &again.json()["status"]), (200, &json!("canceled")));
}

#[test]
fn an_id_in_the_body_must_be_the_paths() {
    let node = node();
    let put = |body: Value| send(&node, "PUT", "/fn/echo/predictions/mine", &[], &body);
    let wrong = put(json!({"id": "other", "input": {"name": "a"}}));
    assert_eq!((wrong.status, &wrong.json()["detail"][0]["loc"]), (422, &json!(["body", "id"])));
    assert_eq!(put(json!({"id": "mine", "input": {"name": "a"}})).json()["output"], json!({"name": "a"}));
}

#[test]
fn events_are_cogs() {
    let node = node();
    let events: Vec<_> = open(&node, "POST", "/fn/worker/predictions", &json!({"id": "mine"})).collect();
    let names: Vec<_> = events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["start", "output", "log", "completed"]);
    assert_eq!(events[0].data, json!({"id": "mine", "status": "processing"}));
    assert_eq!(events[1].data, json!({"chunk": {"started": true}, "index": 0}));
    assert_eq!(events[2].data, json!({"source": "stdout", "data": "working\n"}));
    assert_eq!(events[3].data["output"], json!([{"started": true}]));
    assert!(events.iter().all(|event| event.id.is_empty()));
    let refused = send(&node, "POST", "/fn/echo/predictions", &[SSE], &json!({"input": {"name": "a"}}));
    assert_eq!(refused.status, 406);
}

#[test]
fn a_second_reader_sees_the_same_and_the_last_to_leave_ends_it() {
    let node = node();
    let open = || open(&node, "PUT", "/fn/worker/predictions/mine", &json!({"input": {"loop": 1}}));
    let mut first = open();
    let seen =
        |events: &mut Events| -> Vec<_> { events.take(3).map(|event| (event.name, event.data)).collect() };
    let told = seen(&mut first);
    let mut second = open();
    assert_eq!(seen(&mut second), told);
    drop(first);
    assert_eq!(node.get("/fn/worker/predictions/mine").json()["status"], "processing");
    drop(second);
    node.follow("mine").last().unwrap();
    assert_eq!(node.get("/fn/worker/predictions/mine").json()["status"], "canceled");
}

#[test]
fn a_caller_who_leaves_ends_a_prediction_that_is_answered_at_its_end() {
    let node = node();
    let body = json!({"id": "gone", "input": {"loop": 1}}).to_string();
    let request = format!(
        "POST /fn/worker/predictions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = node.client().connect();
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    node.wait_until_running("worker", 1);
    drop(stream);
    node.follow("gone").last().unwrap();
    assert_eq!(node.get("/fn/worker/predictions/gone").json()["status"], "canceled");
}

#[test]
fn webhooks_tell_what_becomes_of_a_prediction() {
    let node = node();
    let receiver = Receiver::start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [ASYNC, ("traceparent", trace)];
    post(&node, "worker", &headers, &json!({"id": "a", "input": {}, "webhook": receiver.url()}));
    let mut messages = Vec::new();
    loop {
        let message = receiver.next();
        messages.push(message.body["status"].as_str().unwrap().to_owned());
        assert_eq!(message.header("traceparent"), Some(trace));
        if message.body["status"] == "succeeded" {
            assert_eq!(message.body["output"], json!([{"started": true}]));
            break;
        }
        let output = message.body.get("output");
        assert!(output.is_none() || output == Some(&json!([{"started": true}])));
    }
    assert_eq!(messages[..2], ["processing", "processing"], "its start and its output");
    let filter =
        json!({"id": "b", "input": {}, "webhook": receiver.url(), "webhook_events_filter": ["completed"]});
    post(&node, "worker", &[ASYNC], &filter);
    let only = receiver.next().body;
    assert_eq!((&only["id"], &only["status"]), (&json!("b"), &json!("succeeded")));
}
