//! What happens when there is more to do than may be done at once, and at the end.

use std::thread;

use dormouse_tests::{Client, Events, Server};
use serde_json::json;

use crate::{deploy, eventually, guests};

/// Starts a sleeper and waits until it runs.
fn sleeper(client: &Client) -> Events {
    let mut events = client.stream("sleeper", &json!({}));
    events.wait_for("output");
    events
}

fn queued(client: &Client) -> u64 {
    client.get("/v1/functions/sleeper").expect(200)["queued"].as_u64().unwrap()
}

#[test]
fn beyond_its_concurrency_and_queue_a_function_answers_429() {
    let server = Server::start();
    let client = server.client();
    client.deploy("sleeper", "?concurrency=1&queue=1", guests::SLEEPER).expect(201);
    deploy(&server, "hello", guests::HELLO);
    let running = sleeper(client);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.invoke("sleeper", &json!({"ms": 0})));
        eventually("the second waits", || queued(client) == 1);
        let refused = client.invoke("sleeper", &json!({"ms": 0}));
        assert_eq!(refused.error(429), "overloaded");
        assert!(refused.header("retry-after").parse::<u64>().is_ok(), "{refused:?}");
        assert_eq!(client.output("hello", &json!({"name": "you"})), "Hello, you!");
        // The place that the first leaves is the second's.
        drop(running);
        assert_eq!(waiting.join().unwrap().expect(200)["output"], json!(["awake", "slept"]));
    });
}

#[test]
fn the_node_has_a_bound_of_its_own() {
    let server = Server::with(|config| {
        config.predict.running_max = 1;
        config.predict.queue_max = 0;
    });
    deploy(&server, "sleeper", guests::SLEEPER);
    deploy(&server, "hello", guests::HELLO);
    let running = sleeper(server.client());
    assert_eq!(server.client().invoke("hello", &json!({"name": "you"})).error(429), "overloaded");
    drop(running);
    eventually("the place is free again", || {
        server.client().invoke("hello", &json!({"name": "you"})).status == 200
    });
}

#[test]
fn a_caller_that_gives_up_leaves_the_queue() {
    let server = Server::start();
    let client = server.client();
    client.deploy("sleeper", "?concurrency=1&queue=1", guests::SLEEPER).expect(201);
    let _running = sleeper(client);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let request = client.post_request("/fn/sleeper").config();
            let request = request.timeout_global(Some(std::time::Duration::from_millis(300))).build();
            request.send_json(json!({}))
        });
        eventually("the second waits", || queued(client) == 1);
        assert!(waiting.join().unwrap().is_err());
    });
    eventually("the queue is empty", || queued(client) == 0);
}

#[test]
fn a_drain_lets_the_running_finish_and_takes_nothing_new() {
    let mut server = Server::start();
    let client = server.client().clone();
    deploy(&server, "sleeper", guests::SLEEPER);
    let mut events = client.stream("sleeper", &json!({"ms": 500}));
    events.wait_for("output");
    let drain = server.begin_drain();
    let done = events.wait_for("done");
    assert_eq!(done.data["output"], json!(["awake", "slept"]));
    drain.wait();
    assert!(client.post_request("/fn/sleeper").send_json(json!({})).is_err());
}

#[test]
fn a_drain_ends_what_takes_too_long() {
    let mut server = Server::with(|config| config.http.drain_timeout = std::time::Duration::from_millis(50));
    deploy(&server, "sleeper", guests::SLEEPER);
    let mut events = sleeper(server.client());
    server.begin_drain().wait();
    assert!(events.all(|event| event.kind != "done"));
}
