//! Functions as tools of the Model Context Protocol.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL},
    node::{Answer, Node},
};

fn node() -> Node {
    let node = Node::start();
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    let mut manifest = guest::manifest(schema);
    manifest["output"] = json!({"type": "object"});
    node.deploy("echo", &guest::component(ECHO, &manifest), "");
    node.deploy("fail", &guest::any_input(FAIL), "");
    node
}

fn send(node: &Node, message: &Value) -> Answer {
    node.client().send(
        "POST",
        "/mcp",
        &[("content-type", "application/json")],
        message.to_string().as_bytes(),
    )
}

fn call(node: &Node, method: &str, params: Value) -> Value {
    let answer = send(node, &json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &json!(7)));
    body
}

#[test]
fn a_client_begins_lists_and_calls() {
    let node = node();
    let begun = call(&node, "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}}));
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25");
    let notified = send(&node, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    assert_eq!(notified.status, 202);
    let tools = call(&node, "tools/list", json!({}))["result"]["tools"].clone();
    assert_eq!((tools[0]["name"].as_str(), tools[1]["name"].as_str()), (Some("echo"), Some("fail")));
    assert_eq!(tools[0]["inputSchema"]["required"], json!(["name"]));
    let result =
        call(&node, "tools/call", json!({"name": "echo", "arguments": {"name": "Ada"}}))["result"].clone();
    assert_eq!((&result["structuredContent"], &result["isError"]), (&json!({"name": "Ada"}), &json!(false)));
    assert_eq!(
        serde_json::from_str::<Value>(result["content"][0]["text"].as_str().unwrap()).unwrap(),
        json!({"name": "Ada"})
    );
    let params = json!({"name": "echo", "arguments": {"name": "Ada"}});
    let called = send(&node, &json!({"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": params}));
    assert!(called.header("server-timing").unwrap().contains("total;dur="), "{called:?}");
}

#[test]
fn what_a_tool_does_not_take_or_can_not_do_is_told_to_the_model() {
    let node = node();
    let wrong = call(&node, "tools/call", json!({"name": "echo", "arguments": {}}))["result"].clone();
    assert_eq!(wrong["isError"], true);
    assert!(wrong["content"][0]["text"].as_str().unwrap().contains("name"));
    let failed = call(&node, "tools/call", json!({"name": "fail"}))["result"].clone();
    assert_eq!((&failed["isError"], &failed["content"][0]["text"]), (&json!(true), &json!("working")));
}

#[test]
fn what_is_no_call_is_an_error_of_the_protocol() {
    let node = node();
    let code = |method: &str, params: Value| call(&node, method, params)["error"]["code"].clone();
    assert_eq!(code("no/such", json!({})), -32601);
    assert_eq!(code("tools/call", json!({"name": "absent"})), -32602);
    assert_eq!(code("tools/call", json!({})), -32602);
    let broken = node.client().send("POST", "/mcp", &[], b"{").json();
    assert_eq!(broken["error"]["code"], -32700);
    assert_eq!(node.client().send("POST", "/mcp", &[], b"[]").json()["error"]["code"], -32600);
    assert_eq!(node.get("/mcp").status, 405);
    let foreign = node.client().send("POST", "/mcp", &[("origin", "http://evil.example")], b"{}");
    assert_eq!(foreign.error(), (403, "forbidden".to_owned()));
}
