//! Traces for a collector.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    fixtures::{Reply, Server},
    node::Client,
};

#[test]
fn a_requests_span_goes_to_the_collector_as_one_of_the_callers_trace() {
    let collector = Server::start(|_, _| Reply::new(200, ""));
    let dir = tempfile::tempdir().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--otlp", &collector.url, "--data"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let client = Client { address: line.trim().rsplit("http://").next().unwrap().parse().unwrap() };
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(client.send("GET", "/v1/functions", &[("traceparent", trace)], b"").status, 200);
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    assert!(process.wait().unwrap().success());

    let requests = collector.requests();
    let sent = requests.iter().find(|request| request.target == "/v1/traces").unwrap();
    assert_eq!(sent.header("content-type"), Some("application/x-protobuf"));
    let has = |part: &[u8]| sent.body.windows(part.len()).any(|window| window == part);
    let id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    assert!(has(&id) && has(&0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()));
    assert!(has(b"/v1/functions") && has(b"service.name") && has(b"dormouse"));
}
