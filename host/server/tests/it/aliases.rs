//! Revisions, aliases and going back.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, TRAP},
    node::Node,
};

/// A node whose function `f` has two revisions: `first` traps, `second` echoes.
fn two_revisions() -> (Node, String, String) {
    let node = Node::start();
    let text = |document: Value| document["revision"].as_str().unwrap().to_owned();
    let first = text(node.deploy("f", &guest::any_input(TRAP), ""));
    let second = text(node.deploy("f", &guest::any_input(ECHO), ""));
    (node, first, second)
}

#[test]
fn a_revision_is_invoked_by_alias_id_or_the_start_of_its_id() {
    let (node, first, second) = two_revisions();
    let body = json!({"revision": &first[..8]}).to_string();
    let put = node.client().send("PUT", "/v1/functions/f/aliases/old", &[], body.as_bytes());
    assert_eq!(put.json()["aliases"], json!({"live": second, "latest": second, "old": first}));
    for (target, status) in [
        ("f".to_owned(), 200),
        ("f:live".to_owned(), 200),
        ("f:latest".to_owned(), 200),
        (format!("f:{second}"), 200),
        ("f:old".to_owned(), 500),
        (format!("f:{}", &first[..12]), 500),
        ("f:0000000000".to_owned(), 404),
        ("f:".to_owned(), 400),
        ("g".to_owned(), 404),
    ] {
        assert_eq!(node.invoke(&target, &json!({})).status, status, "{target}");
    }
}

#[test]
fn a_function_is_reached_by_its_host_name() {
    let (node, first, _) = two_revisions();
    let post = |host: &str| node.client().send("POST", "/", &[("host", host)], b"{}").status;
    assert_eq!(post("f.localhost:8080"), 200);
    assert_eq!(post("f--latest.localhost"), 200);
    assert_eq!(post(&format!("f--{}.localhost", &first[..8])), 500);
    assert_eq!(post("g.localhost"), 404);
    assert_eq!(post("localhost"), 404);
    let shown = node.client().send("GET", "/", &[("host", "f.localhost")], b"").json();
    assert_eq!(shown["name"], "f");
}

#[test]
fn rolling_back_goes_to_the_revision_that_was_live_before() {
    let (node, first, second) = two_revisions();
    let roll_back = |body: &str| {
        node.client().send("POST", "/v1/functions/f/rollback", &[], body.as_bytes()).json()["revision"]
            .clone()
    };
    assert_eq!(roll_back(""), *first);
    assert_eq!(node.invoke("f", &json!({})).error(), (500, "predictor_trapped".to_owned()));
    assert_eq!(roll_back(""), *second);
    assert_eq!(roll_back(&json!({"revision": first}).to_string()), *first);
    let list = node.get("/v1/functions/f/revisions").json();
    assert_eq!(list["revisions"][0]["aliases"], json!(["latest"]));
    assert_eq!(list["revisions"][1]["aliases"], json!(["live"]));
}

#[test]
fn live_and_latest_can_not_be_removed() {
    let (node, first, _) = two_revisions();
    let delete = |alias: &str| {
        node.client().send("DELETE", &format!("/v1/functions/f/aliases/{alias}"), &[], b"").status
    };
    let body = json!({"revision": first}).to_string();
    assert_eq!(node.client().send("PUT", "/v1/functions/f/aliases/old", &[], body.as_bytes()).status, 200);
    assert_eq!([delete("old"), delete("old"), delete("live"), delete("latest")], [204, 404, 409, 409]);
    let latest = node.client().send("PUT", "/v1/functions/f/aliases/latest", &[], body.as_bytes());
    assert_eq!(latest.error(), (409, "conflict".to_owned()));
}
