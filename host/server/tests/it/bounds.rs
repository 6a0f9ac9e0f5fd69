//! Sizes, times, methods and the token.

use std::{
    io::{Read, Write},
    time::Duration,
};

use serde_json::json;

use crate::{
    guest::{self, ECHO},
    node::{Node, Reader},
};

#[test]
fn a_body_beyond_its_bound_is_refused() {
    let node = Node::with(|config| {
        config.http.body_bytes_max = 1000;
        config.deploy.component_bytes_max = 20_000;
    });
    node.deploy("echo", &guest::any_input(ECHO), "");
    let post = |len| {
        node.client().send("POST", "/fn/echo", &[], format!("{{\"a\":\"{}\"}}", "x".repeat(len)).as_bytes())
    };
    assert_eq!(post(900).status, 200);
    assert_eq!(post(1000).error(), (413, "too_large".to_owned()));
    let large = node.client().send("PUT", "/v1/functions/large", &[], &[0; 20_001]);
    assert_eq!(large.error(), (413, "too_large".to_owned()));
}

#[test]
fn a_body_that_does_not_come_is_given_up() {
    let node = Node::with(|config| config.http.body_timeout = Duration::from_millis(50));
    node.deploy("echo", &guest::any_input(ECHO), "");
    let mut stream = node.client().connect();
    stream.write_all(b"POST /fn/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn a_head_that_does_not_come_closes_the_connection() {
    let node = Node::with(|config| config.http.header_timeout = Duration::from_millis(50));
    let mut stream = node.client().connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn a_head_beyond_its_bound_is_refused() {
    let node = Node::with(|config| config.http.headers_max = 10);
    let get = |count: usize, len: usize| {
        let mut stream = node.client().connect();
        let mut head = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".to_owned();
        (0..count).for_each(|index| head.push_str(&format!("x-{index}: {}\r\n", "x".repeat(len))));
        // The node may close before it has read all.
        let _ = stream.write_all(format!("{head}\r\n").as_bytes());
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        String::from_utf8(answer.to_vec()).unwrap()
    };
    assert_eq!(get(5, 10), "HTTP/1.1 200");
    assert_eq!(get(11, 10), "HTTP/1.1 431");
    assert_eq!(get(1, 100_000), "HTTP/1.1 431");
}

#[test]
fn no_more_connections_than_allowed_are_served_at_once() {
    let node = Node::with(|config| config.http.connections_max = 1);
    let get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let first = node.client().connect();
    let mut second = node.client().connect();
    second.write_all(get).unwrap();
    second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "the second waits");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(Reader::of(second).is_ok());
}

#[test]
fn a_path_or_method_that_is_not_there_is_told_as_json() {
    let node = Node::start();
    assert_eq!(node.get("/nowhere").error(), (404, "not_found".to_owned()));
    let answer = node.client().send("TRACE", "/v1/functions", &[], b"");
    assert_eq!(answer.error(), (405, "method_not_allowed".to_owned()));
    assert!(answer.header("allow").unwrap().contains("GET"), "{answer:?}");
}

#[test]
fn a_token_guards_everything_but_health() {
    let token = dormouse::config::Token("s3cret".to_owned());
    let node = Node::with(|config| config.token = Some(token));
    for (method, path, host) in [
        ("GET", "/v1/functions", "x"),
        ("PUT", "/v1/functions/f", "x"),
        ("POST", "/fn/f", "x"),
        ("POST", "/", "f.localhost"),
        ("GET", "/", "f.localhost"),
    ] {
        let with = |token| {
            let headers = [("host", host), ("authorization", token)];
            node.client().send(method, path, &headers, b"").status
        };
        assert_eq!(with("Bearer wrong"), 401, "{method} {path}");
        assert_ne!(with("Bearer s3cret"), 401, "{method} {path}");
    }
    assert_eq!(["/healthz", "/metrics", "/"].map(|path| node.get(path).status), [200; 3]);
}

#[test]
fn every_answer_names_its_request() {
    let node = Node::start();
    let id = [("x-request-id", "mine-1")];
    assert_eq!(node.client().send("GET", "/nowhere", &id, b"").header("x-request-id"), Some("mine-1"));
    assert_eq!(node.get("/healthz").header("x-request-id").unwrap().len(), 26);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = |trace| node.client().send("GET", "/healthz", &[("traceparent", trace)], b"");
    assert_eq!(traced(trace).header("traceparent"), Some(trace));
    assert_eq!(traced("odd").header("traceparent"), None);
}

#[test]
fn a_node_says_what_it_is_and_how_it_does() {
    let node = Node::start();
    assert_eq!(node.get("/").json()["name"], "dormouse");
    let health = node.get("/healthz").json();
    assert_eq!((&health["status"], &health["functions"]), (&json!("ok"), &json!(0)));
    assert_eq!(node.get("/readyz").json()["status"], "ready");
    let models =
        json!({"object": "list", "data": [], "models": [], "results": [], "next": null, "previous": null});
    assert_eq!(node.get("/v1/models").json(), models);
}

#[test]
fn idle_and_slow_connections_keep_nobody_out() {
    let node = Node::start();
    node.deploy("echo", &guest::any_input(ECHO), "");
    let idle: Vec<_> = (0..200).map(|_| node.client().connect()).collect();
    let slow: Vec<_> = (0..100)
        .map(|index| {
            let mut stream = node.client().connect();
            let head = "POST /fn/echo HTTP/1.1\r\nhost: x\r\n";
            let end = if index % 2 == 0 { "x-slow: " } else { "content-length: 9\r\n\r\n{" };
            stream.write_all(format!("{head}{end}").as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(node.invoke("echo", &json!({})).status, 200);
    drop((idle, slow));
}
