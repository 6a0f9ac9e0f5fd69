//! Who may do what.

use dormouse::config::Token;
use dormouse_tests::Server;
use serde_json::json;

use crate::guests;

#[test]
fn with_a_token_only_those_who_have_it_get_in() {
    let server = Server::with(|config| config.token = Some(Token("s3cret".to_owned())));
    let (stranger, liar) = (server.client(), server.client().with_token("s3cre"));
    let friend = server.client().with_token("s3cret");
    for client in [stranger, &liar] {
        assert_eq!(client.deploy("hello", "", guests::HELLO).error(401), "unauthorized");
        assert_eq!(client.get("/v1/functions").error(401), "unauthorized");
        assert_eq!(client.invoke("hello", &json!({})).error(401), "unauthorized");
    }
    friend.deploy("hello", "", guests::HELLO).expect(201);
    assert_eq!(friend.output("hello", &json!({"name": "friend"})), "Hello, friend!");
    assert_eq!(stranger.get("/healthz").status, 200);
    assert_eq!(stranger.get("/metrics").status, 200);
}

#[test]
fn a_request_id_is_taken_over_when_it_is_sane() {
    let server = Server::start();
    let ask = |id: &str| {
        let response = server.client().post_request("/fn/none").header("x-request-id", id).send_empty();
        response.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("abc-123"), "abc-123");
    assert_ne!(ask(&"x".repeat(5000)), "x".repeat(5000));
}
