//! What goes to sleep by itself: models by their own times and their functions', and the code of functions
//! that are not called.

use std::time::Duration;

use dormouse::config::ModelIdle;
use dormouse_tests::{Server, model};
use serde_json::{Value, json};

use crate::{deploy, eventually, guests};

fn residency(server: &Server, name: &str) -> Value {
    let node = server.client().get("/v1/residency").expect(200);
    let models = node["models"].as_array().unwrap();
    models.iter().find(|model| model["name"] == name).cloned().unwrap_or_default()
}

fn ask(server: &Server, name: &str) {
    let question = json!({"model": name, "prompt": "Hi", "max_tokens": 1});
    server.client().post("/v1/completions", &question).expect(200);
}

#[test]
fn a_functions_own_time_keeps_its_model_awake_after_its_predictions() {
    let server = Server::with(|config| config.residency.awake_idle = Some(Duration::ZERO));
    model::install(server.data_dir());
    let input = json!({"prompt": "Hi", "max_tokens": 1});
    deploy(&server, "chat", guests::CHAT);
    server.client().output("chat", &input);
    eventually("it sleeps at once", || residency(&server, "smollm2")["tier"] == "memory");
    let deployed = server.client().deploy("patient", "?idle_after_ms=3600000", guests::CHAT).expect(201);
    assert_eq!(deployed["settings"]["idle_after_ms"], 3_600_000);
    server.client().output("patient", &input);
    let left = || {
        eventually("nobody uses it", || residency(&server, "smollm2")["leases"] == 0);
        let model = residency(&server, "smollm2");
        assert_eq!(model["tier"], "awake", "{model}");
        model["sleeps_in_ms"].as_f64().unwrap()
    };
    assert!((3_000_000.0..=3_600_000.0).contains(&left()));
    // Who wants less does not end it.
    server.client().output("chat", &input);
    assert!((3_000_000.0..=3_600_000.0).contains(&left()));
}

#[test]
fn a_model_sleeps_by_its_own_times_where_it_has_some() {
    let server = Server::with(|config| {
        config.residency.awake_idle = Some(Duration::ZERO);
        config.residency.memory_idle = None;
        let never = ModelIdle { awake_idle: Some(None), ..ModelIdle::default() };
        let deep = ModelIdle { memory_idle: Some(Some(Duration::ZERO)), ..ModelIdle::default() };
        config.residency.models = [("second".to_owned(), never), ("third".to_owned(), deep)].into();
    });
    model::install(server.data_dir());
    for name in ["second", "third"] {
        model::install_copy(server.data_dir(), name);
    }
    for name in ["second", "third", "smollm2"] {
        ask(&server, name);
    }
    for (name, tier) in [("third", "disk"), ("smollm2", "memory")] {
        eventually(name, || residency(&server, name)["tier"] == tier);
        assert_eq!(residency(&server, name)["sleeps_in_ms"].is_null(), tier == "memory", "{name}");
    }
    let second = residency(&server, "second");
    assert_eq!((&second["tier"], &second["sleeps_in_ms"]), (&json!("awake"), &Value::Null));
}

#[test]
fn the_code_of_functions_that_were_not_called_longest_is_let_go_and_mapped_again() {
    const FUNCTIONS: [(&str, &str); 3] =
        [("echo", guests::ECHO), ("counter", guests::COUNTER), ("table", guests::TABLE)];
    let server = Server::with(|config| config.predict.components_max = 2);
    for (name, wasm) in FUNCTIONS {
        deploy(&server, name, wasm);
    }
    let call = |name: &str| {
        let input = if name == "table" { json!({"start": 27}) } else { json!({}) };
        let answer = server.client().invoke(name, &input).expect(200);
        let mapped = server.client().get("/metrics").text;
        let line = mapped.lines().find(|line| line.starts_with("dormouse_components_mapped ")).unwrap();
        let count: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(count <= 2, "{count} are mapped");
        answer["metrics"]["cold_start"].as_str().unwrap().to_owned()
    };
    let expected = [
        ("echo", "mapped"),
        ("counter", "mapped"),
        ("echo", "none"),
        // In place of the counter, which was called before echo was.
        ("table", "mapped"),
        ("echo", "none"),
        ("counter", "mapped"),
    ];
    for (name, cold_start) in expected {
        assert_eq!(call(name), cold_start, "{name}");
    }
}
