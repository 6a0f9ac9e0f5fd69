//! Webhooks of the service's own dialect, and what is owed.

use std::{net::TcpListener, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::{
    guest::{self, FAIL, WORKER},
    node::Node,
    receiver::{Message, Receiver},
};

fn create(node: &Node, body: &serde_json::Value) -> crate::node::Answer {
    node.client().send("POST", "/v1/predictions", &[], body.to_string().as_bytes())
}

#[test]
fn a_message_is_signed_and_has_the_prediction() {
    let node = Node::with(|config| config.webhook.allow_private = true);
    node.deploy("worker", &guest::any_input(WORKER), "");
    let receiver = Receiver::start();
    let body =
        json!({"function": "worker", "id": "a", "webhook": receiver.url(), "webhook_events": ["completed"]});
    assert_eq!(create(&node, &body).status, 202);
    let message = receiver.next();
    assert_eq!(message.header("webhook-id"), Some("msg_a_completed"));
    assert!(message.header("webhook-timestamp").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(message.header("webhook-signature").unwrap(), signature(&node, &message));
    assert_eq!(message.header("content-type"), Some("application/json"));
    assert!(message.text.starts_with(b"{"));
    let shown = node.get("/v1/predictions/a").json();
    assert_eq!(message.body["status"], "succeeded");
    for field in ["id", "output", "logs", "metrics", "completed_at", "urls"] {
        assert_eq!(message.body[field], shown[field], "{field}");
    }
}

/// What <https://www.standardwebhooks.com> has a receiver compute with the node's secret.
fn signature(node: &Node, message: &Message) -> String {
    let key = node.get("/v1/webhooks/default/secret").json()["key"].as_str().unwrap().to_owned();
    let key = STANDARD.decode(key.strip_prefix("whsec_").unwrap()).unwrap();
    let mut hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    for part in ["webhook-id", "webhook-timestamp"] {
        hmac.update(message.header(part).unwrap().as_bytes());
        hmac.update(b".");
    }
    hmac.update(&message.text);
    format!("v1,{}", STANDARD.encode(hmac.finalize().into_bytes()))
}

#[test]
fn an_end_that_is_not_taken_is_told_again() {
    let node = Node::with(|config| {
        config.webhook.allow_private = true;
        config.webhook.backoff = Duration::from_millis(1);
        config.webhook.tick = Duration::from_millis(10);
    });
    node.deploy("fail", &guest::any_input(FAIL), "");
    let receiver = Receiver::answering([500, 429]);
    let body = json!({"function": "fail", "webhook": receiver.url(), "webhook_events": ["completed"]});
    create(&node, &body);
    let ids = [0, 1, 2].map(|_| receiver.next().header("webhook-id").unwrap().to_owned());
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn an_end_is_owed_until_it_is_told_even_by_the_next_run_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let change = |config: &mut dormouse::Config| {
        config.webhook.allow_private = true;
        config.webhook.backoff = Duration::from_millis(1);
        config.webhook.tick = Duration::from_millis(10);
    };
    let receiver = Receiver::answering([503]);
    let node = Node::on(dir.path(), |config| {
        change(config);
        config.webhook.tick = Duration::from_secs(3600);
    });
    node.deploy("fail", &guest::any_input(FAIL), "");
    create(&node, &json!({"function": "fail", "webhook": receiver.url(), "webhook_events": ["completed"]}));
    let first = receiver.next();
    drop(node);
    let _node = Node::on(dir.path(), change);
    let second = receiver.next();
    assert_eq!(first.body, second.body);
}

#[test]
fn an_end_that_its_own_run_could_not_tell_is_told_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", silent.local_addr().unwrap());
    let node = Node::on(dir.path(), |config| {
        config.webhook.allow_private = true;
        config.webhook.timeout = Duration::from_secs(1);
    });
    node.deploy("fail", &guest::any_input(FAIL), "");
    let body = json!({"function": "fail", "webhook": url, "webhook_events": ["completed"]}).to_string();
    let ended = node.client().send("POST", "/v1/predictions", &[("prefer", "wait")], body.as_bytes()).json();
    drop(node);
    drop(silent.accept().unwrap());
    let receiver = Receiver::on(silent, []);
    let _node = Node::on(dir.path(), |config| config.webhook.allow_private = true);
    let message = receiver.next();
    assert_eq!((&message.body["id"], &message.body["status"]), (&ended["id"], &json!("failed")));
}

#[test]
fn one_that_is_canceled_before_it_runs_is_told_too() {
    let node = Node::with(|config| {
        config.webhook.allow_private = true;
        // Another runs to the end.
        config.http.drain_timeout = Duration::from_millis(50);
    });
    node.deploy("worker", &guest::any_input(WORKER), "concurrency=1");
    create(&node, &json!({"function": "worker", "input": {"loop": 1}}));
    node.wait_until_running("worker", 1);
    let receiver = Receiver::start();
    create(&node, &json!({"function": "worker", "id": "waits", "webhook": receiver.url()}));
    node.client().send("POST", "/v1/predictions/waits/cancel", &[], b"");
    let message = receiver.next();
    assert_eq!((&message.body["id"], &message.body["status"]), (&json!("waits"), &json!("canceled")));
}

#[test]
fn a_private_address_is_refused_unless_it_is_allowed() {
    let node = Node::start();
    node.deploy("worker", &guest::any_input(WORKER), "");
    for url in
        ["http://127.0.0.1:9/", "http://[::1]/", "http://169.254.169.254/latest", "file:///etc/passwd", "x"]
    {
        let answer = create(&node, &json!({"function": "worker", "webhook": url}));
        assert_eq!(answer.error(), (422, "invalid_input".to_owned()), "{url}");
    }
}
