//! Deploys: what they answer, what they refuse, and what lasts.

use std::fs;

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, WORKER},
    node::Node,
};

#[test]
fn a_deploy_answers_with_what_the_function_is() {
    let node = Node::start();
    let input = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    let component = guest::component(ECHO, &guest::manifest(input.clone()));
    let answer = node.client().send("PUT", "/v1/functions/echo?timeout_ms=1500&env=A=1", &[], &component);
    assert_eq!(answer.status, 201, "{answer:?}");
    let document = answer.json();
    let url = format!("http://{}/fn/echo", node.address);
    assert_eq!(answer.header("location"), Some(&*url));
    assert_eq!(document["url"], url);
    assert_eq!(document["name"], "echo");
    assert_eq!(document["description"], "a test guest");
    assert_eq!(document["input_schema"], input);
    assert_eq!(document["streaming"], true);
    assert_eq!(document["settings"]["timeout_ms"], 1500);
    assert_eq!(document["settings"]["env"], json!({"A": "1"}));
    assert_eq!(document["aliases"]["live"], document["revision"]);
    assert_eq!(document["warnings"], json!([]));

    let mut shown = node.get("/v1/functions/echo").json();
    shown["timings"] = document["timings"].clone();
    assert_eq!(shown, document);
    let list = node.get("/v1/functions").json();
    assert_eq!(list["functions"][0]["url"], url);
    assert_eq!(list["functions"][0]["revision"], document["revision"]);
}

#[test]
fn the_same_bytes_and_settings_change_nothing() {
    let node = Node::start();
    let component = guest::any_input(ECHO);
    let first = node.deploy("echo", &component, "concurrency=2");
    let again = node.client().send("PUT", "/v1/functions/echo?concurrency=2", &[], &component);
    assert_eq!(again.status, 200);
    assert_eq!(again.json()["unchanged"], true);
    assert_eq!(again.json()["revision"], first["revision"]);
    let other = node.deploy("echo", &component, "concurrency=3");
    assert_ne!(other["revision"], first["revision"]);
    assert_eq!(other["component_digest"], first["component_digest"]);
}

#[test]
fn a_multipart_deploy_is_the_same_as_a_plain_one() {
    let node = Node::start();
    let component = guest::any_input(ECHO);
    let plain = node.deploy("echo", &component, "concurrency=2&env=A=1");
    let mut body = b"--x\r\ncontent-disposition: form-data; name=\"settings\"\r\n\r\n\
        {\"concurrency\":2,\"env\":{\"A\":\"1\"}}\r\n--x\r\n\
        content-disposition: form-data; name=\"component\"; filename=\"echo.wasm\"\r\n\r\n"
        .to_vec();
    body.extend_from_slice(&component);
    body.extend_from_slice(b"\r\n--x--\r\n");
    let multipart = [("content-type", "multipart/form-data; boundary=x")];
    let answer = node.client().send("PUT", "/v1/functions/echo", &multipart, &body);
    assert_eq!((answer.status, &answer.json()["revision"]), (200, &plain["revision"]));
}

#[test]
fn what_is_no_predictor_is_refused_and_leaves_nothing() {
    let node = Node::start();
    let put = |body: &[u8]| node.client().send("PUT", "/v1/functions/bad", &[], body).error();
    assert_eq!(put(b""), (422, "invalid_component".to_owned()));
    assert_eq!(put(b"not wasm"), (422, "invalid_component".to_owned()));
    assert_eq!(put(b"\0asm\x01\0\0\0"), (422, "invalid_component".to_owned()));
    let odd = guest::component(ECHO, &guest::manifest(json!({"type": "objekt"})));
    assert_eq!(put(&odd), (422, "invalid_component".to_owned()));
    assert_eq!(node.get("/v1/functions/bad").error(), (404, "not_found".to_owned()));
    assert_eq!(fs::read_dir(node.dir().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_wrong_name_type_or_setting_is_refused() {
    let node = Node::start();
    let component = guest::any_input(ECHO);
    let put = |path: &str, headers: &[(&str, &str)]| node.client().send("PUT", path, headers, &component);
    assert_eq!(put("/v1/functions/Echo", &[]).error(), (400, "invalid_request".to_owned()));
    let text = [("content-type", "text/plain")];
    assert_eq!(put("/v1/functions/echo", &text).error(), (415, "unsupported_media_type".to_owned()));
    let answer = put("/v1/functions/echo?timeout_ms=0&memory_bytes=99999999999999", &[]);
    assert_eq!(answer.error(), (422, "invalid_input".to_owned()));
    let details = &answer.json()["error"]["details"];
    assert_eq!(details[0]["loc"], json!(["settings", "timeout_ms"]));
    assert_eq!(details[1]["loc"], json!(["settings", "memory_bytes"]));
    let misnamed = put("/v1/functions/echo?model=..%2Fetc", &[]);
    assert_eq!(misnamed.error(), (422, "unknown_model".to_owned()));
}

#[test]
fn a_model_that_is_not_there_is_a_warning() {
    let node = Node::start();
    let document = node.deploy("echo", &guest::any_input(ECHO), "model=absent");
    assert_eq!(document["models"], json!(["absent"]));
    let warning = "model \"absent\" is not on this node yet; `dormouse model pull absent` brings it";
    assert_eq!(document["warnings"], json!([warning]));
}

#[test]
fn a_failure_of_a_function_whose_model_is_not_there_names_the_model() {
    let node = Node::start();
    node.deploy("fail", &guest::any_input(guest::FAIL), "model=absent");
    let answer = node.invoke("fail", &json!({}));
    assert_eq!(answer.error(), (503, "model_unavailable".to_owned()));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("dormouse model pull absent"));
}

#[test]
fn what_was_deployed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |_| {});
    node.deploy("worker", &guest::any_input(WORKER), "");
    node.deploy("echo", &guest::any_input(WORKER), "");
    let document = node.deploy("echo", &guest::any_input(ECHO), "env=A=1");
    drop(node);
    let node = Node::on(dir.path(), |_| {});
    assert_eq!(node.get("/v1/functions/echo").json()["revision"], document["revision"]);
    let answer = node.invoke("echo", &json!({"a": 1})).json();
    assert_eq!(answer["output"], json!({"a": 1}));
    assert_eq!(answer["metrics"]["cold_start"], "mapped");
    assert_eq!(node.invoke("echo", &json!({})).json()["metrics"]["cold_start"], "none");
}

#[test]
fn a_component_whose_compiled_form_is_gone_compiles_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |_| {});
    node.deploy("echo", &guest::any_input(ECHO), "");
    drop(node);
    fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let node = Node::on(dir.path(), |_| {});
    assert_eq!(node.invoke("echo", &json!({})).json()["metrics"]["cold_start"], "compiled");
}

#[test]
fn removing_the_last_function_of_a_component_removes_its_bytes() {
    let node = Node::start();
    let blobs = || fs::read_dir(node.dir().join("blobs")).unwrap().count();
    let component = guest::any_input(ECHO);
    node.deploy("one", &component, "");
    node.deploy("two", &component, "");
    let delete = |path: &str| node.client().send("DELETE", path, &[], b"").status;
    // The component's bytes and its image's.
    assert_eq!((delete("/v1/functions/one"), blobs()), (204, 2));
    assert_eq!((delete("/v1/functions/one"), blobs()), (404, 2));
    assert_eq!(node.invoke("one", &json!({})).error(), (404, "not_found".to_owned()));
    assert_eq!(node.invoke("two", &json!({})).status, 200);
    assert_eq!((delete("/v1/functions/two"), blobs()), (204, 0));
}

#[test]
fn concurrent_deploys_of_one_name_all_become_revisions() {
    let node = Node::start();
    let component = guest::any_input(ECHO);
    let revisions: Vec<_> = std::thread::scope(|scope| {
        let deploy = |index| {
            let (node, component) = (&node, &component);
            scope.spawn(move || node.deploy("echo", component, &format!("queue={index}"))["revision"].clone())
        };
        let threads: Vec<_> = (0..8).map(deploy).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let list = node.get("/v1/functions/echo/revisions").json();
    let listed: Vec<_> =
        list["revisions"].as_array().unwrap().iter().map(|item| item["revision"].clone()).collect();
    assert_eq!(listed.len(), 8);
    assert!(revisions.iter().all(|revision| listed.contains(revision)));
    assert_eq!(list["revisions"][0]["aliases"], json!(["live", "latest"]));
}

#[test]
fn a_component_that_is_here_is_deployed_by_its_digest() {
    let node = Node::start();
    let first = node.deploy("first", &guest::any_input(ECHO), "");
    let put = |body: Value| {
        let json = [("content-type", "application/json")];
        node.client().send("PUT", "/v1/functions/second", &json, body.to_string().as_bytes())
    };
    let made = put(json!({"component": first["component_digest"], "settings": {"concurrency": 2}}));
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()["settings"]["concurrency"], 2);
    assert_eq!(node.invoke("second", &json!({"a": 1})).json()["output"], json!({"a": 1}));
    assert_eq!(put(json!({"component": "0".repeat(64)})).error(), (404, "not_found".to_owned()));
    assert_eq!(put(json!({"component": "0"})).error().0, 400);
    assert_eq!(put(json!({})).error(), (400, "invalid_request".to_owned()));
}
