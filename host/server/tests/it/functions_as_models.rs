//! A function under a model's name, as OpenAI's clients ask it.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL, WORKER},
    node::{Answer, Node},
};

/// Answers with its input, which has a text.
fn echo(node: &Node, name: &str) {
    let schema = json!({
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "temperature": {"type": "number"}},
        "required": ["prompt"],
        "additionalProperties": false,
    });
    node.deploy(name, &guest::component(ECHO, &guest::manifest(schema)), "");
}

fn post(node: &Node, path: &str, body: &Value) -> Answer {
    node.client().send("POST", path, &[], body.to_string().as_bytes())
}

/// The input that an echo told as text.
#[track_caller]
fn told(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}

#[test]
fn a_chat_is_answered_by_a_function() {
    let node = Node::start();
    echo(&node, "echo");
    let body = json!({
        "model": "echo", "temperature": 0.5, "max_tokens": 5,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    });
    let answer = post(&node, "/v1/chat/completions", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["model"], &answer["object"]), (&json!("echo"), &json!("chat.completion")));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let expected = json!({"temperature": 0.5, "prompt": "Be brief.\n\nHi"});
    assert_eq!(told(&choice["message"]["content"]), expected);
    for refused in [json!({"n": 2}), json!({"logprobs": true}), json!({"tools": [{"type": "function"}]})] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(refused.as_object().unwrap().clone());
        assert_eq!(post(&node, "/v1/chat/completions", &body).status, 400, "{refused}");
    }
}

#[test]
fn what_a_function_emits_comes_as_chunks() {
    let node = Node::start();
    let schema = json!({"type": "object", "properties": {"x": {"type": "string", "maxLength": 0}}});
    node.deploy("worker", &guest::component(WORKER, &guest::manifest(schema)), "");
    let body = json!({"model": "worker", "prompt": "", "stream": true});
    let answer = post(&node, "/v1/completions", &body);
    let text = String::from_utf8(answer.body).unwrap();
    let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (done, chunks) = data.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["text"], r#"{"started":true}"#);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn responses_and_texts_are_answered_by_a_function() {
    let node = Node::start();
    echo(&node, "echo");
    let response = post(&node, "/v1/responses", &json!({"model": "echo", "input": "Hi"})).json();
    assert_eq!(response["status"], "completed", "{response}");
    assert_eq!(told(&response["output"][0]["content"][0]["text"]), json!({"prompt": "Hi"}));
    let texts = post(&node, "/v1/completions", &json!({"model": "echo", "prompt": ["a", "b"]})).json();
    assert_eq!(told(&texts["choices"][1]["text"]), json!({"prompt": "b"}));
}

#[test]
fn a_functions_failure_is_an_error() {
    let node = Node::start();
    let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    node.deploy("fail", &guest::component(FAIL, &guest::manifest(schema)), "");
    let body = json!({"model": "fail", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = post(&node, "/v1/chat/completions", &body);
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (500, &json!("working")));
    let vectors = post(&node, "/v1/embeddings", &json!({"model": "absent", "input": "a"}));
    assert_eq!(vectors.error(), (404, "model_not_found".to_owned()));
}

#[test]
fn a_function_that_makes_no_vectors_says_so() {
    let node = Node::start();
    echo(&node, "echo");
    let answer = post(&node, "/v1/embeddings", &json!({"model": "echo", "input": "a"}));
    assert_eq!(answer.status, 500);
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "function \"echo\" makes no vectors: its output is not numbers");
}

#[test]
fn functions_are_in_the_list_of_models() {
    let node = Node::start();
    echo(&node, "echo");
    let list = node.get("/v1/models").json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["owned_by"]), (&json!("echo"), &json!("function")));
    assert_eq!(node.get("/v1/models/echo").json()["object"], "model");
    assert_eq!(node.get("/v1/models/absent").error(), (404, "model_not_found".to_owned()));
}
