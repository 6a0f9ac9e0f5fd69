//! Functions: pushing, listing, describing and removing them.

use std::fs;

use dormouse_tests::{Answer, Server};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{deploy, guests};

#[test]
fn a_deploy_answers_with_all_that_a_caller_needs() {
    let server = Server::start();
    let function = deploy(&server, "greeter", guests::HELLO);
    let digest: String =
        Sha256::digest(fs::read(guests::HELLO).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(function["name"], "greeter");
    assert_eq!(function["component_digest"], json!(digest));
    assert_eq!(function["url"], json!(format!("{}/fn/greeter", server.client().base())));
    assert_eq!(function["input_schema"]["required"], json!(["name"]));
    assert_eq!(function["output_schema"], json!({"type": "string"}));
    assert_eq!(function["description"], "Greets someone by name");
    assert_eq!(function["streaming"], false);
    assert_eq!(function["models"], json!([]));
    assert_eq!(function["warnings"], json!([]));
    assert!(function["timings"]["compile_ms"].as_f64().unwrap() > 0.0, "{function}");
    let revision = function["revision"].as_str().unwrap();
    assert!(revision.len() == 64 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()), "{revision}");
}

#[test]
fn the_same_component_and_settings_again_change_nothing() {
    let server = Server::start();
    let first = deploy(&server, "hello", guests::HELLO);
    let second = server.client().deploy("hello", "", guests::HELLO).expect(200);
    assert_eq!(second["unchanged"], true);
    assert_eq!(second["revision"], first["revision"]);
    let other = server.client().deploy("hello", "?timeout_ms=1000", guests::HELLO).expect(201);
    assert_ne!(other["revision"], first["revision"]);
    assert_eq!(other["component_digest"], first["component_digest"]);
    let listed = server.client().get("/v1/functions/hello/revisions").expect(200);
    assert_eq!(listed["revisions"].as_array().unwrap().len(), 2);
}

#[test]
fn functions_are_listed_shown_and_removed() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(client.get("/v1/functions").expect(200)["functions"], json!([]));
    deploy(&server, "hello", guests::HELLO);
    let echo = deploy(&server, "echo", guests::ECHO);

    let list = client.get("/v1/functions").expect(200);
    let mut names: Vec<_> = list["functions"].as_array().unwrap().iter().map(|f| f["name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["echo", "hello"]);
    let shown = client.get("/v1/functions/echo").expect(200);
    assert_eq!(shown["revision"], echo["revision"]);
    assert_eq!(shown["input_schema"], echo["input_schema"]);
    assert_eq!(shown["aliases"]["live"], echo["revision"]);
    assert_eq!(shown["running"], 0);
    assert_eq!(client.get("/fn/echo").expect(200)["input_schema"], echo["input_schema"]);

    assert_eq!(client.delete("/v1/functions/echo").status, 204);
    assert_eq!(client.get("/v1/functions/echo").error(404), "not_found");
    assert_eq!(client.invoke("echo", &json!({})).error(404), "not_found");
    assert_eq!(client.output("hello", &json!({"name": "world"})), "Hello, world!");
}

#[test]
fn settings_come_by_query_or_in_a_multipart_body() {
    let server = Server::start();
    let query = "?timeout_ms=1234&memory_bytes=50000000&concurrency=3&queue=5&priority=low&env=A=b%3Dc&model=a&model=b";
    let by_query = server.client().deploy("hello", query, guests::HELLO).expect(201);
    let settings = json!({"timeout_ms": 1234, "memory_bytes": 50_000_000, "concurrency": 3, "queue_max": 5, "priority": "low",
        "env": {"A": "b=c"}, "models": ["a", "b"]});
    let by_parts = put_parts(&server, "hello", &settings, &fs::read(guests::HELLO).unwrap()).expect(200);
    assert_eq!(by_parts["unchanged"], true);
    assert_eq!(by_parts["revision"], by_query["revision"]);
    for (name, value) in settings.as_object().unwrap() {
        assert_eq!(by_query["settings"][name], *value, "{name}");
    }
}

fn put_parts(server: &Server, name: &str, settings: &Value, wasm: &[u8]) -> Answer {
    let mut body = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"settings\"\r\n\r\n{settings}\r\n\
         --edge\r\ncontent-disposition: form-data; name=\"component\"; filename=\"x.wasm\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(wasm);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    server.client().put_bytes(&format!("/v1/functions/{name}"), "multipart/form-data; boundary=edge", &body)
}

#[test]
fn what_the_manifest_wishes_for_holds_until_settings_say_otherwise() {
    let server = Server::start();
    let wished = deploy(&server, "failing", guests::FAILING);
    assert_eq!(wished["settings"]["timeout_ms"], 5000);
    assert_eq!(wished["settings"]["memory_bytes"], 33_554_432);
    let told = server.client().deploy("failing", "?timeout_ms=7000", guests::FAILING).expect(201);
    assert_eq!(told["settings"]["timeout_ms"], 7000);
}

#[test]
fn what_is_no_predictor_is_refused() {
    let server = Server::start();
    let client = server.client();
    let put = |bytes: &[u8]| client.put_bytes("/v1/functions/bad", "application/wasm", bytes);
    let truncated = &fs::read(guests::HELLO).unwrap()[..1000];
    let empty_module = b"\0asm\x01\0\0\0";
    let empty_component = b"\0asm\x0d\0\x01\0";
    for bytes in [b"".as_slice(), b"hello", truncated, empty_module, empty_component] {
        let answer = put(bytes);
        assert!(answer.status == 422 || bytes.is_empty() && answer.status == 400, "{answer:?}");
    }
    assert_eq!(client.deploy("bad", "", guests::MUTE).error(422), "invalid_component");
    assert_eq!(client.get("/v1/functions").expect(200)["functions"], json!([]));
}

#[test]
fn a_name_that_is_no_dns_label_is_refused() {
    let server = Server::start();
    for name in ["Hello", "-a", "a-", "a_b", &"a".repeat(64)] {
        assert_eq!(server.client().deploy(name, "", guests::HELLO).error(400), "invalid_request", "{name}");
    }
}

#[test]
fn a_body_above_the_limit_is_refused() {
    let server = Server::with(|config| config.deploy.component_bytes_max = 1000);
    assert_eq!(server.client().deploy("hello", "", guests::HELLO).error(413), "too_large");
}

#[test]
fn a_model_that_is_not_here_is_a_warning_now_and_an_error_when_it_is_needed() {
    let server = Server::start();
    let chat = deploy(&server, "chat", guests::CHAT);
    assert_eq!(chat["models"], json!(["smollm2"]));
    assert_eq!(chat["streaming"], true);
    assert!(chat["warnings"][0].as_str().unwrap().contains("smollm2"), "{chat}");
    let answer = server.client().invoke("chat", &json!({"prompt": "hi"}));
    assert_eq!(answer.error(503), "model_unavailable");
    assert!(answer.text.contains("dormouse model pull smollm2"), "{}", answer.text);
}

#[test]
fn methods_and_paths_that_are_not_there_say_so() {
    let server = Server::start();
    let answer = server.client().delete("/v1/functions");
    assert_eq!(answer.status, 405);
    assert!(answer.header("allow").contains("GET"), "{answer:?}");
    assert_eq!(server.client().get("/v1/nothing").error(404), "not_found");
    assert_eq!(server.client().get("/healthz").expect(200)["status"], "ok");
    let metrics = server.client().get("/metrics");
    assert!(metrics.status == 200 && metrics.text.contains("# TYPE"), "{metrics:?}");
}
