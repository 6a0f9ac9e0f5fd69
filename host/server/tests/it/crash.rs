//! `kill -9` while deploys are under way.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
};

use crate::{
    guest::{self, ECHO},
    node::{Client, Node},
};

/// Deploys that are acknowledged before the process is killed.
const ACKNOWLEDGED: usize = 20;

fn start(dir: &Path) -> (Child, Client) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--data"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().unwrap().parse().unwrap();
    (process, Client { address })
}

#[test]
fn every_acknowledged_deploy_outlives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let component = guest::any_input(ECHO);
    let acknowledged = Mutex::new(HashMap::new());
    for round in 0..3 {
        let (mut process, client) = start(dir.path());
        let (told, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (told, component, acknowledged) = (told.clone(), &component, &acknowledged);
                scope.spawn(move || {
                    for index in 0.. {
                        let name = format!("f-{round}-{thread}-{index}");
                        let path = format!("/v1/functions/{name}?queue={index}");
                        let Ok(answer) = client.try_send("PUT", &path, &[], component) else { return };
                        assert_eq!(answer.status, 201, "{answer:?}");
                        let revision = answer.json()["revision"].as_str().unwrap().to_owned();
                        acknowledged.lock().unwrap().insert(name, revision);
                        told.send(()).unwrap();
                    }
                });
            }
            heard.iter().take(ACKNOWLEDGED).for_each(drop);
            process.kill().unwrap();
            process.wait().unwrap();
        });
        let node = Node::on(dir.path(), |_| {});
        let list = node.get("/v1/functions").json();
        let found: HashMap<_, _> = list["functions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|function| (function["name"].as_str().unwrap(), function["revision"].as_str().unwrap()))
            .collect();
        for (name, revision) in acknowledged.lock().unwrap().iter() {
            assert_eq!(found.get(&**name), Some(&&**revision), "{name} in round {round}");
        }
        let blobs = std::fs::read_dir(dir.path().join("blobs")).unwrap().count();
        assert_eq!(blobs, 2, "what was under way is swept; the component and its image stay");
        let name = found.keys().next().unwrap();
        assert_eq!(node.invoke(name, &serde_json::json!({})).status, 200);
    }
}

/// Rounds of creating and killing.
const KILLS: usize = 20;

#[test]
fn every_acknowledged_prediction_outlives_kill_9_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |_| {});
    node.deploy("echo", &guest::any_input(ECHO), "");
    drop(node);
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..KILLS {
        let (mut process, client) = start(dir.path());
        let (told, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (told, acknowledged) = (told.clone(), &acknowledged);
                scope.spawn(move || {
                    for index in 0.. {
                        let id = format!("p-{round}-{thread}-{index}");
                        let body =
                            format!(r#"{{"function":"echo","input":{{"id":"{id}"}},"max_attempts":20}}"#);
                        let path = format!("/v1/predictions/{id}");
                        let Ok(answer) = client.try_send("PUT", &path, &[], body.as_bytes()) else { return };
                        assert_eq!(answer.status, 202, "{answer:?}");
                        acknowledged.lock().unwrap().push(id);
                        told.send(()).unwrap();
                    }
                });
            }
            heard.iter().take(ACKNOWLEDGED).for_each(drop);
            process.kill().unwrap();
            process.wait().unwrap();
        });
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() >= KILLS * ACKNOWLEDGED);
    let node = Node::on(dir.path(), |_| {});
    for id in &acknowledged {
        let ends = node.follow(id).filter(|event| event.name == "done").count();
        assert_eq!(ends, 1, "{id}");
        let record = node.get(&format!("/v1/predictions/{id}")).json();
        assert_eq!(
            (&record["status"], &record["output"]["id"]),
            (&"succeeded".into(), &(&**id).into()),
            "{record}"
        );
    }
    for status in ["queued", "running"] {
        let list = node.get(&format!("/v1/predictions?status={status}")).json();
        // One that was written but not acknowledged may still be on its way.
        let left =
            list["predictions"].as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap());
        left.for_each(|id| _ = node.follow(id).last().unwrap());
    }
}

#[test]
fn a_prediction_that_its_caller_named_outlives_kill_9_once_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |_| {});
    node.deploy("echo", &guest::any_input(ECHO), "");
    drop(node);
    let (mut process, client) = start(dir.path());
    let json = [("content-type", "application/json")];
    let answer = client.send("PUT", "/fn/echo/predictions/mine", &json, br#"{"input": {"a": 1}}"#);
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(answer.json()["output"], serde_json::json!({"a": 1}));
    let node = Node::on(dir.path(), |_| {});
    assert_eq!(node.get("/v1/predictions/mine").json()["output"], serde_json::json!({"a": 1}));
}
