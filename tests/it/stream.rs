//! Invocations that answer as server-sent events.

use dormouse_tests::{Event, Server};
use serde_json::json;

use crate::{deploy, eventually, guests};

#[test]
fn events_come_in_the_order_things_happened() {
    let server = Server::start();
    deploy(&server, "reporter", guests::REPORTER);
    let events: Vec<Event> = server.client().stream("reporter", &json!({"count": 2})).collect();
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=events.len() as u64).collect::<Vec<_>>());

    let told: Vec<_> = events.iter().filter(|event| ["output", "progress"].contains(&&*event.kind)).collect();
    let told: Vec<_> = told.iter().map(|event| event.data.clone()).collect();
    let expected = [
        json!(1),
        json!({"fraction": 0.5, "note": "counting"}),
        json!(2),
        json!({"fraction": 1.0, "note": "counting"}),
    ];
    assert_eq!(told, expected);

    let logs: Vec<_> = events.iter().filter(|event| event.kind == "log").map(|event| &event.data).collect();
    assert_eq!(*logs[0], json!({"source": "log", "level": "debug", "message": "counting to 2"}));
    assert!(
        logs.contains(&&json!({"source": "stdout", "level": "info", "message": "on stdout"})),
        "{logs:?}"
    );
    assert!(
        logs.contains(&&json!({"source": "stderr", "level": "warn", "message": "on stderr"})),
        "{logs:?}"
    );
    let separators = "line separators \u{2028} and \u{85} stay inside";
    assert!(logs.iter().any(|log| log["message"] == separators), "{logs:?}");

    let done = events.last().unwrap();
    assert_eq!(done.kind, "done");
    assert_eq!(done.data["status"], "succeeded");
    assert_eq!(done.data["metrics"]["custom"], json!({"counted": 2.0}));
}

#[test]
fn an_element_arrives_while_the_predictor_still_runs() {
    let server = Server::start();
    deploy(&server, "sleeper", guests::SLEEPER);
    let mut events = server.client().stream("sleeper", &json!({}));
    // The sleeper sleeps for ten minutes after it has said this.
    assert_eq!(events.wait_for("output").data, "awake");
    let function = server.client().get("/v1/functions/sleeper").expect(200);
    assert_eq!(function["running"], 1);
}

#[test]
fn a_caller_that_goes_away_ends_the_prediction() {
    let server = Server::start();
    deploy(&server, "sleeper", guests::SLEEPER);
    let mut events = server.client().stream("sleeper", &json!({}));
    events.wait_for("output");
    drop(events);
    eventually("the prediction is cancelled", || {
        server.client().get("/v1/functions/sleeper").expect(200)["running"] == 0
    });
}

#[test]
fn a_failure_is_the_last_event() {
    let server = Server::start();
    deploy(&server, "failing", guests::FAILING);
    let events: Vec<Event> = server.client().stream("failing", &json!({})).collect();
    let last = events.last().unwrap();
    assert_eq!(last.kind, "error");
    assert_eq!(last.data["error"]["code"], "predictor_failed");
    assert!(events.iter().all(|event| event.kind != "done"));
}

#[test]
fn an_answer_without_elements_is_in_the_last_event() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    let done = server.client().stream("hello", &json!({"name": "stream"})).wait_for("done");
    assert_eq!(done.data["output"], "Hello, stream!");
}

#[test]
fn wrong_input_is_refused_before_the_stream_begins() {
    let server = Server::start();
    deploy(&server, "reporter", guests::REPORTER);
    let request = server.client().post_request("/fn/reporter").header("accept", "text/event-stream");
    assert_eq!(request.send_json(json!({"count": 0})).unwrap().status(), 422);
}
