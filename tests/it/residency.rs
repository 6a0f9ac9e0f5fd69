//! Models that sleep and wake, as clients of the service see it.

use std::{process::Command, time::Duration};

use dormouse_tests::{Server, binary, model};
use serde_json::{Value, json};

use crate::{deploy, eventually, guests};

/// A server with the model and a function that calls it, where nothing sleeps by itself.
fn server() -> Server {
    let server = Server::with(|config| config.residency.awake_idle = None);
    model::install(server.data_dir());
    deploy(&server, "chat", guests::CHAT);
    server
}

fn ask(server: &Server) -> Value {
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 16});
    server.client().invoke("chat", &input).expect(200)
}

/// The model's entry in the node's residency.
fn residency(server: &Server) -> Value {
    server.client().get("/v1/residency").expect(200)["models"][0].clone()
}

fn go_to(server: &Server, tier: &str) {
    let wish = json!({"tier": tier, "wait_ms": 60_000});
    let node = server.client().post("/v1/residency/smollm2", &wish).expect(200);
    assert_eq!(node["models"][0]["tier"], tier, "{node}");
}

#[test]
fn a_prediction_wakes_its_model_and_tells_from_where() {
    let server = server();
    let first = ask(&server);
    assert_eq!(first["metrics"]["tier"], "cold");
    for tier in ["memory", "disk"] {
        go_to(&server, tier);
        let woken = ask(&server);
        assert_eq!(woken["output"], first["output"]);
        assert_eq!(woken["metrics"]["tier"], tier);
        assert!(woken["metrics"]["wake_ms"].as_f64().unwrap() > 0.0, "{woken}");
    }
    let awake = ask(&server);
    assert_eq!((&awake["metrics"]["tier"], &awake["metrics"]["wake_ms"]), (&json!("awake"), &json!(0.0)));
    let model = residency(&server);
    assert_eq!((&model["wakes"], &model["last_wake"]["from"]), (&json!(3), &json!("disk")));
    let metrics = server.client().get("/metrics").text;
    for line in [
        "dormouse_model_tier{model=\"smollm2\",tier=\"awake\"} 1",
        "dormouse_wake_seconds_count{from=\"cold\"} 1",
        "dormouse_wake_seconds_count{from=\"memory\"} 1",
        "dormouse_model_wakes{model=\"smollm2\"} 3",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[test]
fn looking_at_a_model_does_not_keep_it_awake() {
    let server = Server::with(|config| {
        config.residency.awake_idle = Some(Duration::ZERO);
        config.residency.memory_idle = Some(Duration::ZERO);
    });
    model::install(server.data_dir());
    deploy(&server, "chat", guests::CHAT);
    ask(&server);
    eventually("the model goes to disk", || {
        server.client().get("/healthz").expect(200);
        server.client().get("/metrics");
        server.client().get("/v1/models").expect(200);
        residency(&server)["tier"] == "disk"
    });
    assert_eq!(residency(&server)["wakes"], 1);
}

#[test]
fn a_move_that_makes_no_sense_is_refused() {
    let server = server();
    let post = |model: &str, body: Value| server.client().post(&format!("/v1/residency/{model}"), &body);
    assert_eq!(post("nobody", json!({"tier": "disk"})).error(404), "not_found");
    assert_eq!(post("smollm2", json!({"tier": "bed"})).error(400), "invalid_request");
    assert_eq!(post("smollm2", json!({})).error(400), "invalid_request");
    assert_eq!(server.client().get("/v1/residency").expect(200)["memory_bytes"], 0);
}

#[test]
fn the_command_line_shows_and_moves_models() {
    let server = server();
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.args(args).args(["--server", server.client().base()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&["ps"]), "");
    let woken = run(&["wake", "smollm2"]);
    assert!(woken.starts_with("MODEL ") && woken.contains("awake"), "{woken}");
    assert!(run(&["sleep", "smollm2", "--to", "memory"]).contains("memory"));
    let node: Value = serde_json::from_str(&run(&["ps", "--json"])).unwrap();
    assert_eq!(node["models"][0]["tier"], "memory");
    assert_eq!(node["models"][0]["memory_bytes"], node["memory_bytes"]);
}
