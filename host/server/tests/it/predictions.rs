//! Predictions that outlast their request.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL, WORKER},
    node::{Answer, Node},
};

fn create(node: &Node, headers: &[(&str, &str)], body: &Value) -> Answer {
    node.client().send("POST", "/v1/predictions", headers, body.to_string().as_bytes())
}

fn post(node: &Node, path: &str) -> Answer {
    node.client().send("POST", path, &[], b"")
}

/// Waits for the end by following the events.
fn end(node: &Node, id: &str) -> Value {
    node.follow(id).last().expect("the stream has an end");
    node.get(&format!("/v1/predictions/{id}")).json()
}

#[test]
fn a_prediction_is_acknowledged_and_then_runs() {
    let node = Node::start();
    node.deploy("echo", &guest::any_input(ECHO), "");
    let answer = create(&node, &[], &json!({"function": "echo", "input": {"a": 1}}));
    assert_eq!(answer.status, 202, "{answer:?}");
    let created = answer.json();
    assert_eq!((&created["status"], &created["input"]), (&json!("queued"), &json!({"a": 1})));
    let id = created["id"].as_str().unwrap();
    let url = created["urls"]["get"].as_str().unwrap();
    assert!(url.ends_with(&format!("/v1/predictions/{id}")));
    assert_eq!(answer.header("location"), Some(url));
    let ended = end(&node, id);
    assert_eq!(
        (&ended["status"], &ended["output"], &ended["error"]),
        (&json!("succeeded"), &json!({"a": 1}), &json!(null))
    );
    assert_eq!(ended["queue"]["attempts"], 1);
    assert!(ended["metrics"]["predict_ms"].as_f64().unwrap() > 0.0);
    let times = ["created_at", "started_at", "completed_at"].map(|name| ended[name].as_str().unwrap());
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn a_client_may_wait_for_the_end() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let answer = create(&node, &[("prefer", "wait=30")], &json!({"function": "worker"}));
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("succeeded")));
    let answer =
        create(&node, &[("prefer", "wait=0.05")], &json!({"function": "worker", "input": {"loop": 1}}));
    assert_eq!(answer.status, 202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    post(&node, &format!("/v1/predictions/{id}/cancel"));
    assert_eq!(end(&node, &id)["status"], "canceled");
}

#[test]
fn events_are_replayed_and_followed_and_resumed() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let id = create(&node, &[("prefer", "wait")], &json!({"function": "worker"})).json()["id"].clone();
    let names =
        |events: crate::node::Events| -> Vec<_> { events.map(|event| (event.name, event.id)).collect() };
    let all =
        [("output", "1"), ("log", "2"), ("done", "3")].map(|(name, id)| (name.to_owned(), id.to_owned()));
    let id = id.as_str().unwrap();
    assert_eq!(names(node.follow(id)), all);
    assert_eq!(names(node.follow_after(id, 1)), all[1..]);
    // One that runs: its first event comes before its end.
    let running = create(&node, &[], &json!({"function": "worker", "input": {"loop": 1}})).json();
    let mut events = node.follow(running["id"].as_str().unwrap());
    assert_eq!(events.next().unwrap().data, json!({"started": true}));
    let path = format!("/v1/predictions/{}", running["id"].as_str().unwrap());
    assert_eq!(node.get(&path).json()["status"], "running");
    post(&node, &format!("{path}/cancel"));
    assert_eq!(events.last().unwrap().data["status"], "canceled");
}

#[test]
fn the_same_request_again_is_the_same_prediction() {
    let node = Node::start();
    node.deploy("echo", &guest::any_input(ECHO), "");
    node.deploy("other", &guest::any_input(ECHO), "");
    let put =
        |body: &Value| node.client().send("PUT", "/v1/predictions/mine", &[], body.to_string().as_bytes());
    let body = json!({"function": "echo", "input": {"a": 1}});
    let first = put(&body);
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, None));
    end(&node, "mine");
    let again = put(&body);
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(again.json()["output"], json!({"a": 1}));
    for changed in [json!({"function": "other", "input": {"a": 1}}), json!({"function": "echo"})] {
        assert_eq!(put(&changed).error(), (409, "conflict".to_owned()));
    }
    assert_eq!(put(&json!({"function": "echo", "id": "yours"})).error(), (400, "invalid_request".to_owned()));
    let key = [("idempotency-key", "k-1")];
    let one = create(&node, &key, &body).json();
    let two = create(&node, &key, &body).json();
    assert_eq!(one["id"], two["id"]);
    // The key is the function's: another may use it too.
    let body = json!({"function": "other", "input": {"a": 1}});
    assert_ne!(create(&node, &key, &body).json()["id"], one["id"]);
}

#[test]
fn a_wrong_request_is_refused_before_anything_waits() {
    let node = Node::start();
    let schema = json!({"type": "object", "required": ["name"]});
    node.deploy("echo", &guest::component(ECHO, &guest::manifest(schema)), "");
    let check = |body: Value, status: u16, code: &str| {
        assert_eq!(create(&node, &[], &body).error(), (status, code.to_owned()), "{body}");
    };
    check(json!({"function": "echo"}), 422, "invalid_input");
    check(json!({"function": "absent"}), 404, "not_found");
    check(json!({"function": "echo:00000000"}), 404, "not_found");
    check(json!({"input": {}}), 400, "invalid_request");
    check(json!({"function": "echo", "priorty": 1}), 400, "invalid_request");
    check(json!({"function": "echo", "deadline": "soon"}), 400, "invalid_request");
    check(json!({"function": "echo", "id": "a/b"}), 400, "invalid_request");
    assert_eq!(node.get("/v1/predictions/absent").error(), (404, "not_found".to_owned()));
    assert_eq!(post(&node, "/v1/predictions/absent/cancel").error(), (404, "not_found".to_owned()));
    assert_eq!(node.get("/v1/predictions").json()["predictions"], json!([]));
    assert_eq!(node.get("/v1/predictions?status=odd").error(), (400, "invalid_request".to_owned()));
}

#[test]
fn the_queue_keeps_to_a_functions_places_and_its_own_bound() {
    let node = Node::with(|config| {
        config.queue.function_waiting_max = 2;
        // One runs to the end.
        config.http.drain_timeout = Duration::from_millis(50);
    });
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    let body = json!({"function": "worker", "input": {"loop": 1}});
    let ids: Vec<_> = (0..3)
        .map(|index| {
            let id = create(&node, &[], &body).json()["id"].as_str().unwrap().to_owned();
            if index == 0 {
                node.wait_until_running("worker", 1);
            }
            id
        })
        .collect();
    let refused = create(&node, &[], &body);
    assert_eq!(refused.error(), (429, "overloaded".to_owned()));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let function = node.get("/v1/functions/worker").json();
    assert_eq!((&function["running"], &function["waiting"]), (&json!(1), &json!(2)));
    // The last is canceled while it waits; the first's place goes to the second.
    for id in [&ids[2], &ids[0]] {
        let canceled = post(&node, &format!("/v1/predictions/{id}/cancel"));
        assert_eq!(canceled.status, 200);
        assert_eq!(end(&node, id)["status"], "canceled");
    }
    let mut events = node.follow(&ids[1]);
    assert_eq!(events.next().unwrap().name, "output");
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs() {
    let node = Node::with(|config| config.queue.tick = Duration::from_millis(20));
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    let soon = SystemTime::now() + Duration::from_millis(300);
    let soon = humantime::format_rfc3339_millis(soon).to_string();
    let body = json!({"function": "worker", "input": {"loop": 1}, "deadline": soon});
    let ids = [0, 1].map(|_| create(&node, &[], &body).json()["id"].as_str().unwrap().to_owned());
    for id in ids {
        let ended = end(&node, &id);
        assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("failed"), &json!("timeout")));
    }
}

#[test]
fn failures_are_tried_again_when_asked_for_and_the_dead_can_be_redriven() {
    let node = Node::with(|config| config.queue.backoff = Duration::from_millis(1));
    node.deploy("fail", &guest::any_input(FAIL), "");
    let plain = create(&node, &[("prefer", "wait")], &json!({"function": "fail"})).json();
    assert_eq!((&plain["status"], &plain["queue"]["attempts"]), (&json!("failed"), &json!(1)));
    let body = json!({"function": "fail", "max_attempts": 3, "retry_failures": true});
    let dead = create(&node, &[("prefer", "wait")], &body).json();
    assert_eq!((&dead["status"], &dead["queue"]["attempts"]), (&json!("failed"), &json!(3)));
    assert_eq!(dead["error"], json!({"code": "predictor_failed", "message": "working"}));
    let letters = node.get("/v1/dead-letters").json();
    assert_eq!(letters["predictions"].as_array().unwrap().len(), 1);
    assert_eq!(letters["predictions"][0]["id"], dead["id"]);
    let id = dead["id"].as_str().unwrap();
    node.deploy("fail", &guest::any_input(ECHO), "");
    let redrive = |body: &Value| {
        node.client().send("POST", "/v1/dead-letters/redrive", &[], body.to_string().as_bytes()).json()
    };
    assert_eq!(redrive(&json!({"function": "other"})), json!({"redriven": 0}));
    assert_eq!(redrive(&json!({"id": id})), json!({"redriven": 1}));
    // It is of the revision that it was created for.
    let again = end(&node, id);
    assert_eq!((&again["status"], &again["queue"]["attempts"]), (&json!("failed"), &json!(3)));
}

#[test]
fn what_waits_for_a_function_that_is_removed_is_canceled() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    let body = json!({"function": "worker", "input": {"loop": 1}});
    let running = create(&node, &[], &body).json()["id"].as_str().unwrap().to_owned();
    node.wait_until_running("worker", 1);
    let waiting = create(&node, &[], &body).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(node.client().send("DELETE", "/v1/functions/worker", &[], b"").status, 204);
    assert_eq!(end(&node, &waiting)["status"], "canceled");
    post(&node, &format!("/v1/predictions/{running}/cancel"));
    assert_eq!(end(&node, &running)["status"], "canceled");
}

#[test]
fn a_held_prediction_has_a_record_too() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let answer = node.invoke("worker", &json!({"a": 1})).json();
    let record = node.get(&format!("/v1/predictions/{}", answer["id"].as_str().unwrap())).json();
    for field in ["status", "output", "logs", "metrics"] {
        assert_eq!(record[field], answer[field], "{field}");
    }
    assert_eq!((&record["input"], &record["queue"]), (&json!({"a": 1}), &json!(null)));
    // One that runs can be found and canceled by its id.
    let _running = node.start_running("worker", &json!({"loop": 1}));
    let list = node.get("/v1/predictions?function=worker&limit=5").json();
    assert_eq!(list["predictions"].as_array().unwrap().len(), 1, "running ones are not on disk");
}

#[test]
fn what_was_acknowledged_runs_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |config| config.http.drain_timeout = Duration::from_millis(50));
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    let id = |input: Value| {
        let created = create(&node, &[], &json!({"function": "worker", "input": input})).json();
        created["id"].as_str().unwrap().to_owned()
    };
    let (endless, short) = (id(json!({"loop": 1})), id(json!({})));
    node.wait_until_running("worker", 1);
    drop(node);
    let node = Node::on(dir.path(), |_| {});
    // The endless one was running when the node stopped, and runs again: the attempt did not count.
    let mut events = node.follow(&endless);
    assert_eq!(events.next().unwrap().name, "output");
    let running = node.get(&format!("/v1/predictions/{endless}")).json();
    assert_eq!((&running["status"], &running["queue"]["attempts"]), (&json!("running"), &json!(1)));
    post(&node, &format!("/v1/predictions/{endless}/cancel"));
    assert_eq!(end(&node, &short)["status"], "succeeded");
}

#[test]
fn one_that_is_canceled_as_it_is_claimed_ends() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    for index in 0..100 {
        let body = json!({"function": "worker", "id": format!("p-{index}"), "input": {"loop": 1}});
        assert_eq!(create(&node, &[], &body).status, 202);
        let canceled = post(&node, &format!("/v1/predictions/p-{index}/cancel"));
        assert_eq!(canceled.status, 200);
    }
    for index in 0..100 {
        let id = format!("p-{index}");
        node.follow(&id).last().unwrap();
        assert_eq!(node.get(&format!("/v1/predictions/{id}")).json()["status"], "canceled", "{id}");
    }
}

#[test]
fn a_function_that_keeps_nothing_leaves_no_input_or_output_behind() {
    let node = Node::start();
    node.deploy("open", &guest::any_input(ECHO), "");
    node.deploy("private", &guest::any_input(ECHO), "keep=false");
    let id = |name: &str| node.invoke(name, &json!({"secret": 1})).json()["id"].as_str().unwrap().to_owned();
    let (open, private) = (id("open"), id("private"));
    let list = node.get("/v1/predictions").json();
    let ids: Vec<_> = list["predictions"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [open]);
    assert_eq!(node.get(&format!("/v1/predictions/{private}")).status, 404);
}
