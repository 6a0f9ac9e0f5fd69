//! Invocations answered with events.

use std::io::Read;

use serde_json::json;

use crate::{
    guest::{self, FLOOD, TRAP, WORKER},
    node::Node,
};

#[test]
fn events_come_in_order_and_the_last_is_the_whole_answer() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let events: Vec<_> = node.stream("worker", &json!({})).collect();
    let names: Vec<_> = events.iter().map(|event| (&*event.name, &*event.id)).collect();
    assert_eq!(names, [("output", "1"), ("log", "2"), ("done", "3")]);
    assert_eq!(events[0].data, json!({"started": true}));
    assert_eq!(events[1].data, json!({"source": "log", "level": "info", "message": "working"}));
    assert_eq!(events[2].data["output"], json!([{"started": true}]));
    assert_eq!(events[2].data["status"], "succeeded");
}

#[test]
fn a_fault_is_the_last_event() {
    let node = Node::start();
    node.deploy("trap", &guest::any_input(TRAP), "");
    let events: Vec<_> = node.stream("trap", &json!({})).collect();
    assert_eq!(events.last().unwrap().name, "error");
    assert_eq!(events.last().unwrap().data["error"]["code"], "predictor_trapped");
    assert_eq!(events.last().unwrap().data["logs"], "working\n");
}

#[test]
fn an_event_comes_while_the_prediction_still_runs() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let events = node.start_running("worker", &json!({"loop": 1}));
    assert_eq!(node.get("/v1/functions/worker").json()["running"], 1);
    drop(events);
}

#[test]
fn a_caller_who_leaves_ends_the_prediction() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    // The one place comes free only when the endless prediction is ended.
    drop(node.start_running("worker", &json!({"loop": 1})));
    assert_eq!(node.invoke("worker", &json!({})).status, 200);
    let mut waiting = node.client().connect();
    let request = "POST /fn/worker HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{\"loop\":1}";
    std::io::Write::write_all(&mut waiting, request.as_bytes()).unwrap();
    drop(waiting);
    assert_eq!(node.invoke("worker", &json!({})).status, 200);
}

#[test]
fn a_caller_who_stops_reading_loses_the_prediction() {
    let node = Node::with(|config| {
        config.http.write_timeout = std::time::Duration::from_millis(100);
        config.predict.output_bytes_max = 1 << 30;
    });
    node.deploy("flood", &guest::any_input(FLOOD), "concurrency=1");
    let mut stream = node.client().connect();
    let request = "POST /fn/flood HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\
        content-length: 10\r\n\r\n{\"loop\":1}";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 100]).unwrap();
    // Nothing is read any more: the connection is closed, and the place comes free.
    assert_eq!(node.invoke("flood", &json!({})).status, 200);
}
