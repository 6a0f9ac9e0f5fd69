//! Full queues.

use std::time::Duration;

use serde_json::json;

use crate::{
    guest::{self, WORKER},
    node::Node,
};

#[test]
fn a_function_without_a_free_place_or_queue_turns_callers_away() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1&queue=0");
    node.deploy("other", &guest::any_input(WORKER), "");
    let _running = node.start_running("worker", &json!({"loop": 1}));
    let answer = node.invoke("worker", &json!({}));
    assert_eq!(answer.error(), (429, "overloaded".to_owned()));
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(node.invoke("other", &json!({})).status, 200);
}

#[test]
fn a_node_without_a_free_place_or_queue_turns_callers_away() {
    let node = Node::with(|config| (config.predict.running_max, config.predict.queue_max) = (1, 0));
    node.deploy("worker", &guest::any_input(WORKER), "");
    node.deploy("other", &guest::any_input(WORKER), "");
    let running = node.start_running("worker", &json!({"loop": 1}));
    assert_eq!(node.invoke("other", &json!({})).error(), (429, "overloaded".to_owned()));
    assert_eq!(node.get("/healthz").status, 200);
    drop(running);
}

#[test]
fn one_that_waits_too_long_is_turned_away() {
    let node = Node::with(|config| config.predict.queue_timeout = Duration::from_millis(50));
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    let _running = node.start_running("worker", &json!({"loop": 1}));
    let answer = node.invoke("worker", &json!({}));
    assert_eq!(answer.error(), (429, "overloaded".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[test]
fn many_callers_share_few_places() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=2");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| assert_eq!(node.invoke("worker", &json!({})).status, 200));
        }
    });
    let metrics = String::from_utf8(node.get("/metrics").body).unwrap();
    let count = "dormouse_predictions_total{function=\"worker\",status=\"succeeded\"} 32";
    assert!(metrics.lines().any(|line| line == count), "{metrics}");
}
