//! Ollama's API, as far as it needs no model.

use dormouse::config::{Hub, Token};
use serde_json::{Value, json};

use crate::{
    fixtures::{self, Reply, Server},
    guest::{self, ECHO},
    node::{Answer, Node},
};

fn send(node: &Node, method: &str, path: &str, body: &Value) -> Answer {
    node.client().send(method, path, &[], body.to_string().as_bytes())
}

fn node() -> Node {
    let node = Node::start();
    let schema = json!({"type": "object", "properties": {"prompt": {"type": "string"}, "seed": {}}});
    node.deploy("echo", &guest::component(ECHO, &guest::manifest(schema)), "");
    node
}

#[track_caller]
fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap().to_owned())
}

#[test]
fn a_function_is_listed_shown_and_asked_with_or_without_its_tag() {
    let node = node();
    let tags = node.get("/api/tags").json();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][0]["details"]["format"]),
        (&json!("echo:latest"), &json!("wasm"))
    );
    let shown = send(&node, "POST", "/api/show", &json!({"model": "echo:latest"})).json();
    assert_eq!(shown["model_info"]["general.description"], "a test guest");
    for name in ["echo", "echo:latest"] {
        let body =
            json!({"model": name, "prompt": "Hi", "stream": false, "options": {"seed": 7, "top_k": 1}});
        let answer = send(&node, "POST", "/api/generate", &body).json();
        assert_eq!((&answer["model"], &answer["done"]), (&json!(name), &json!(true)), "{answer}");
        let told: Value = serde_json::from_str(answer["response"].as_str().unwrap()).unwrap();
        assert_eq!(told, json!({"seed": 7, "prompt": "Hi"}));
    }
}

#[test]
fn answers_are_lines_unless_the_caller_says_no() {
    let node = node();
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": "a\u{2028}b"}]});
    let answer = send(&node, "POST", "/api/chat", &body);
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = String::from_utf8(answer.body).unwrap();
    assert!(!text.contains('\u{2028}'), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["message"]["content"], "{\"prompt\":\"a\u{2028}b\"}");
    let last = lines.last().unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    assert!(last["total_duration"].as_u64().unwrap() > 0);
}

#[test]
fn without_a_prompt_nothing_is_asked() {
    let node = node();
    let load = send(&node, "POST", "/api/generate", &json!({"model": "echo"})).json();
    assert_eq!((&load["done_reason"], &load["response"]), (&json!("load"), &json!("")));
    let unload = send(&node, "POST", "/api/chat", &json!({"model": "echo", "messages": [], "keep_alive": 0}));
    assert_eq!(unload.json()["done_reason"], "unload");
    assert_eq!(node.get("/api/ps").json(), json!({"models": []}));
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let node = node();
    for path in ["/api/copy", "/api/create", "/api/push"] {
        let (status, message) = refused(&send(&node, "POST", path, &json!({"model": "echo"})));
        assert_eq!(status, 400);
        assert!(message.starts_with(&path[5..]), "{message}");
    }
    let with_images = json!({"model": "echo", "prompt": "a", "images": ["aGk="]});
    let answer = send(&node, "POST", "/api/generate", &with_images);
    assert_eq!(refused(&answer), (400, "images is not offered".to_owned()));
    let answer = send(&node, "POST", "/api/generate", &json!({"model": "echo", "keep_alive": "soon"}));
    assert_eq!(answer.status, 400);
    let absent = send(&node, "POST", "/api/chat", &json!({"model": "absent", "messages": []}));
    assert_eq!(absent.status, 404);
    for name in ["absent", "No Name"] {
        assert_eq!(send(&node, "POST", "/api/show", &json!({"model": name})).status, 404, "{name}");
        assert_eq!(send(&node, "DELETE", "/api/delete", &json!({"model": name})).status, 404, "{name}");
    }
    assert_eq!(send(&node, "DELETE", "/api/delete", &json!({"model": "echo"})).status, 400);
}

#[test]
fn a_model_is_listed_and_removed() {
    let node = node();
    let path = node.dir().join("tiny.gguf");
    std::fs::write(&path, fixtures::model(64)).unwrap();
    let catalog = dormouse_engine::Catalog::open(node.dir().join("models")).unwrap();
    let tmp = catalog.tmp().join("tiny");
    std::fs::rename(&path, &tmp).unwrap();
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    catalog.add("tiny", "file:tiny.gguf", &tmp, &digest).unwrap();
    let tags = node.get("/api/tags").json();
    let names: Vec<_> = tags["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["tiny:latest", "echo:latest"]);
    let shown = send(&node, "POST", "/api/show", &json!({"model": "tiny"})).json();
    assert_eq!(shown["model_info"]["general.architecture"], "llama");
    assert_eq!(send(&node, "DELETE", "/api/delete", &json!({"model": "tiny:latest"})).status, 200);
    assert_eq!(node.get("/api/tags").json()["models"].as_array().unwrap().len(), 1);
}

#[test]
fn a_pull_goes_only_where_the_node_would() {
    let node = node();
    for (name, status) in [("unheard-of", 404), ("/etc/passwd", 400), ("https://example.com/x.gguf", 400)] {
        assert_eq!(send(&node, "POST", "/api/pull", &json!({"model": name})).status, status, "{name}");
    }
}

#[test]
fn a_pull_asks_the_hub_of_the_settings() {
    let hub = Server::start(|_, _| Reply::new(404, ""));
    let endpoint = hub.url.parse().unwrap();
    let node = Node::with(|config| config.hub = Hub { endpoint, token: Some(Token("t".to_owned())) });
    let told = send(&node, "POST", "/api/pull", &json!({"model": "hf:me/mine/m.gguf"}));
    assert!(String::from_utf8_lossy(&told.body).contains("error"), "{told:?}");
    let asked = &hub.requests()[0];
    assert!(asked.target.starts_with("/me/mine/"), "{}", asked.target);
    assert_eq!(asked.header("authorization"), Some("Bearer t"));
}

#[test]
fn who_has_no_token_reads_so_in_the_dialects_words() {
    let node = Node::with(|config| config.token = Some(Token("s3cret".to_owned())));
    let (status, message) = refused(&node.get("/api/tags"));
    assert_eq!(status, 401);
    assert!(message.contains("Bearer"), "{message}");
}
