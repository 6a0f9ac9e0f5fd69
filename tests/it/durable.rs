//! What was acknowledged survives: restarts, and `kill -9`.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use dormouse_tests::{Process, Server, kill_during_deploys};
use serde_json::json;

use crate::{deploy, guests};

#[test]
fn a_restart_forgets_nothing() {
    let mut server = Server::start();
    let first = deploy(&server, "f", guests::HELLO);
    let second = server.client().deploy("f", "?timeout_ms=1000&env=A=b", guests::COUNTER).expect(201);
    let alias = json!({"revision": first["revision"]});
    server.client().put("/v1/functions/f/aliases/stable", &alias).expect(200);
    server.restart();

    let client = server.client();
    let after = client.get("/v1/functions/f").expect(200);
    for field in ["revision", "component_digest", "settings", "input_schema", "created_at"] {
        assert_eq!(after[field], second[field], "{field}");
    }
    assert_eq!(client.output("f:stable", &json!({"name": "you"})), "Hello, you!");
    let body = client.invoke("f", &json!({})).expect(200);
    assert_eq!(body["output"]["in_static"], 1);
    assert_eq!(body["metrics"]["cold_start"], "mapped");
    assert_eq!(client.invoke("f", &json!({})).expect(200)["metrics"]["cold_start"], "none");
}

#[test]
fn a_lost_or_damaged_cache_is_compiled_again() {
    let mut server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    server.stop();
    let cache = server.data_dir().join("cache");
    for file in fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()) {
        if file.is_dir() {
            fs::remove_dir_all(&file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
    }
    server.restart();
    let body = server.client().invoke("hello", &json!({"name": "you"})).expect(200);
    assert_eq!(body["output"], "Hello, you!");
    assert_eq!(body["metrics"]["cold_start"], "compiled");
}

#[test]
fn what_is_removed_stays_removed() {
    let mut server = Server::start();
    deploy(&server, "f", guests::HELLO);
    assert_eq!(server.client().delete("/v1/functions/f").status, 204);
    server.restart();
    assert_eq!(server.client().get("/v1/functions").expect(200)["functions"], json!([]));
    deploy(&server, "f", guests::HELLO);
}

#[test]
fn two_services_dont_share_a_data_folder() {
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    let second = std::process::Command::new(dormouse_tests::binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(server.data_dir())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn the_binary_ends_well_when_it_is_told_to() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path());
    process.client().deploy("hello", "", guests::HELLO).expect(201);
    assert_eq!(process.client().output("hello", &json!({"name": "you"})), "Hello, you!");
    assert!(process.terminate());
}

#[test]
fn kill_9_during_deploys_loses_nothing_acknowledged() {
    const DEPLOYS: usize = 20;
    const KILLS: u64 = 3;
    let data = tempfile::tempdir().unwrap();
    for seed in 0..KILLS {
        let report = kill_during_deploys(data.path(), guests::HELLO, DEPLOYS, seed);
        assert_eq!(report.lost, Vec::<String>::new(), "seed {seed}");
        assert!(report.acknowledged > 0, "seed {seed}");
    }
}

#[test]
fn kill_9_during_predictions_leaves_the_function_in_place() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path());
    process.client().deploy("hello", "", guests::HELLO).expect(201);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = process.client().clone();
        scope.spawn(|| {
            let client = client;
            while !is_over.load(Ordering::Relaxed) {
                // Ends with an error when the service does.
                let _ = client.post_request("/fn/hello").send_json(json!({"name": "you"}));
            }
        });
        process.client().output("hello", &json!({"name": "you"}));
        process.kill();
        is_over.store(true, Ordering::Relaxed);
    });
    let process = Process::start(data.path());
    assert_eq!(process.client().output("hello", &json!({"name": "you"})), "Hello, you!");
}
