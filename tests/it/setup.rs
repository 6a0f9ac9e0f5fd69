//! `setup` runs once, at deploy.

use dormouse_tests::{Server, model};
use serde_json::json;

use crate::{deploy, guests};

#[test]
fn what_setup_built_is_there_at_every_start() {
    let mut server = Server::start();
    let deployed = deploy(&server, "table", guests::TABLE);
    assert_eq!(deployed["setup"]["is_image"], true, "{deployed}");
    for _ in 0..2 {
        for _ in 0..2 {
            let answer = server.client().invoke("table", &json!({"start": 27})).expect(200);
            assert_eq!((&answer["output"], &answer["metrics"]["setup_ms"]), (&json!(111), &json!(0.0)));
        }
        server.restart();
    }
    let shown = server.client().get("/v1/functions/table").expect(200);
    assert_eq!(shown["setup"], deployed["setup"]);
}

#[test]
fn nothing_that_a_prediction_does_stays_in_an_image() {
    let server = Server::start();
    assert_eq!(deploy(&server, "counter", guests::COUNTER)["setup"]["is_image"], true);
    for _ in 0..3 {
        let counts = server.client().output("counter", &json!({}));
        assert_eq!(counts, json!({"in_static": 1, "in_predictor": 1}));
    }
}

#[test]
fn functions_whose_setup_sees_the_same_share_an_image() {
    let server = Server::start();
    let deploy = |name: &str, query: &str| {
        server.client().deploy(name, query, guests::TABLE).expect(201)["setup"]["image_digest"].take()
    };
    let first = deploy("first", "");
    assert!(first.is_string());
    assert_eq!(deploy("second", "?timeout_ms=1234"), first);
    assert_ne!(deploy("third", "?env=A=B"), json!(null));
    let answer = server.client().invoke("second", &json!({"start": 27})).expect(200);
    assert_eq!(answer["output"], 111);
}

#[test]
fn a_setup_that_fails_fails_the_deploy_and_tells_why() {
    let server = Server::start();
    let answer = server.client().deploy("failing", "?env=FAIL_SETUP=so%20be%20it", guests::FAILING);
    assert!(answer.text.contains("setup failed: told to: so be it"), "{}", answer.text);
    assert_eq!(answer.error(422), "invalid_component");
    assert_eq!(server.client().get("/v1/functions/failing").error(404), "not_found");
}

#[test]
fn models_that_setup_opened_are_opened_again() {
    let server = Server::start();
    model::install(server.data_dir());
    let deployed = deploy(&server, "chat", guests::CHAT);
    assert_eq!(deployed["setup"]["is_image"], true, "{deployed}");
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 16});
    let output = server.client().output("chat", &input);
    assert_eq!(server.client().output("chat", &input), output);
    assert!(crate::joined(&output).contains("Paris"), "{output}");
}

#[test]
fn a_setup_without_its_model_runs_at_each_start() {
    let server = Server::start();
    let deployed = deploy(&server, "chat", guests::CHAT);
    assert_eq!(deployed["setup"]["is_image"], false);
    let reason = deployed["setup"]["reason"].as_str().unwrap();
    assert!(reason.contains("\"smollm2\" was not on this node"), "{reason}");
    model::install(server.data_dir());
    server.client().output("chat", &json!({"prompt": "Hi", "max_tokens": 1}));
    let again = server.client().deploy("chat", "", guests::CHAT).expect(201);
    assert_eq!(again["setup"]["is_image"], true, "pushed again, with its model there: {again}");
    server.client().output("chat", &json!({"prompt": "Hi", "max_tokens": 1}));
    assert_eq!(server.client().deploy("chat", "", guests::CHAT).expect(200)["unchanged"], true);
}
