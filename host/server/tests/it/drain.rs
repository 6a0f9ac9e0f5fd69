//! Stopping.

use std::{net::TcpStream, time::Duration};

use serde_json::json;

use crate::{
    guest::{self, WORKER},
    node::Node,
};

#[test]
fn a_prediction_that_outlasts_the_drain_is_told_why_it_ends() {
    let mut node = Node::with(|config| config.http.drain_timeout = Duration::from_millis(50));
    node.deploy("worker", &guest::any_input(WORKER), "");
    let mut streaming = node.start_running("worker", &json!({"loop": 1}));
    let client = node.client();
    let waiting = client.send_in_thread("/fn/worker", br#"{"loop":1}"#);
    node.wait_until_running("worker", 2);
    node.ask_to_stop();
    let last = streaming.by_ref().last().unwrap();
    assert_eq!((&*last.name, &last.data["error"]["code"]), ("error", &json!("draining")));
    assert_eq!(waiting.join().unwrap().error(), (503, "draining".to_owned()));
}

#[test]
fn a_node_that_has_stopped_takes_no_connections() {
    let node = Node::start();
    let address = node.address;
    drop(node);
    assert!(TcpStream::connect(address).is_err());
}
