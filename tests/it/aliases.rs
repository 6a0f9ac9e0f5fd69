//! Revisions and the names for them.

use dormouse_tests::{Client, Server};
use serde_json::{Value, json};

use crate::{deploy, guests};

/// A server with two revisions of `f`: first `echo`, then `counter`. Returns their ids.
fn two_revisions() -> (Server, Value, Value) {
    let server = Server::start();
    let first = deploy(&server, "f", guests::ECHO)["revision"].take();
    let second = deploy(&server, "f", guests::COUNTER)["revision"].take();
    (server, first, second)
}

/// Which of the two answers.
fn who(client: &Client, target: &str) -> &'static str {
    if client.output(target, &json!({}))["text"].is_string() { "echo" } else { "counter" }
}

#[test]
fn a_revision_can_be_called_by_its_id_or_the_start_of_it() {
    let (server, first, second) = two_revisions();
    let (first, second) = (first.as_str().unwrap(), second.as_str().unwrap());
    assert_eq!(who(server.client(), "f"), "counter");
    assert_eq!(who(server.client(), &format!("f:{first}")), "echo");
    assert_eq!(who(server.client(), &format!("f:{}", &first[..8])), "echo");
    assert_eq!(who(server.client(), &format!("f:{}", &second[..12])), "counter");
    assert_eq!(server.client().invoke("f:no-such", &json!({})).error(404), "not_found");
    assert_eq!(server.client().invoke(&format!("f:{}", "0".repeat(64)), &json!({})).error(404), "not_found");
}

#[test]
fn rollback_moves_live_and_leaves_latest() {
    let (server, first, second) = two_revisions();
    let client = server.client();
    let rolled = client.post("/v1/functions/f/rollback", &json!({})).expect(200);
    assert_eq!(rolled["revision"], first);
    assert_eq!(who(client, "f"), "echo");
    assert_eq!(who(client, "f:latest"), "counter");
    client.post("/v1/functions/f/rollback", &json!({"revision": second})).expect(200);
    assert_eq!(who(client, "f"), "counter");
}

#[test]
fn there_is_nothing_to_roll_back_to_after_one_deploy() {
    let server = Server::start();
    deploy(&server, "f", guests::HELLO);
    assert_eq!(server.client().post("/v1/functions/f/rollback", &json!({})).error(409), "conflict");
}

#[test]
fn aliases_stay_where_they_were_put() {
    let (server, first, second) = two_revisions();
    let client = server.client();
    client.put("/v1/functions/f/aliases/stable", &json!({"revision": first})).expect(200);
    assert_eq!(who(client, "f:stable"), "echo");
    deploy(&server, "f", guests::HELLO);
    assert_eq!(who(client, "f:stable"), "echo");
    client.put("/v1/functions/f/aliases/stable", &json!({"revision": second})).expect(200);
    assert_eq!(who(client, "f:stable"), "counter");
    let aliases = client.get("/v1/functions/f/aliases").expect(200);
    assert!(aliases.to_string().contains("stable"), "{aliases}");
    assert_eq!(client.delete("/v1/functions/f/aliases/stable").status, 204);
    assert_eq!(client.invoke("f:stable", &json!({})).error(404), "not_found");
}

#[test]
fn live_can_not_be_removed_and_an_alias_needs_a_revision() {
    let (server, ..) = two_revisions();
    let client = server.client();
    assert!([400, 409].contains(&client.delete("/v1/functions/f/aliases/live").status));
    let unknown = json!({"revision": "0".repeat(64)});
    assert_eq!(client.put("/v1/functions/f/aliases/stable", &unknown).error(404), "not_found");
    let looks_like_a_revision = format!("/v1/functions/f/aliases/{}", "a".repeat(64));
    assert_eq!(client.put(&looks_like_a_revision, &json!({"revision": "live"})).status, 400);
}

#[test]
fn revisions_are_listed_newest_first_with_their_aliases() {
    let (server, first, second) = two_revisions();
    let listed = server.client().get("/v1/functions/f/revisions").expect(200);
    let revisions = listed["revisions"].as_array().unwrap();
    assert_eq!(revisions[0]["revision"], second);
    assert_eq!(revisions[1]["revision"], first);
    assert!(revisions[0]["aliases"].as_array().unwrap().contains(&json!("live")), "{listed}");
}
