//! Ollama's API on the real model, and functions under models' names.

use dormouse_tests::{Server, model};
use serde_json::{Value, json};

use crate::{deploy, eventually, guests};

const MODEL: &str = "smollm2";

fn with_model() -> Server {
    let server = Server::start();
    model::install(server.data_dir());
    server
}

/// A greedy question, with `fields` beside it.
fn question(fields: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "options": {"temperature": 0, "repeat_penalty": 1, "num_predict": 16},
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn lines(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let answer = server.client().post(path, body);
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/x-ndjson"),
        "{}",
        answer.text
    );
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn awake(server: &Server) -> Vec<Value> {
    server.client().get("/api/ps").expect(200)["models"].as_array().unwrap().clone()
}

#[test]
fn a_chat_is_answered_in_lines_and_whole() {
    let server = with_model();
    let lines = lines(&server, "/api/chat", &question(json!({})));
    let (last, pieces) = lines.split_last().unwrap();
    let text: String = pieces.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert!(text.contains("Paris"), "{text}");
    assert!(pieces.iter().all(|line| line["done"] == false));
    assert!(last["eval_count"].as_u64().unwrap() > 0 && last["eval_duration"].as_u64().unwrap() > 0);
    let whole = server.client().post("/api/chat", &question(json!({"stream": false}))).expect(200);
    assert_eq!(whole["message"]["content"], text.as_str());
    assert_eq!(whole["load_duration"], 0, "it was awake");
}

#[test]
fn a_text_goes_on_raw_and_a_schema_holds_it() {
    let server = with_model();
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false});
    let fields = json!({"prompt": "How many legs has a dog?", "stream": false, "format": schema});
    let answer = server.client().post("/api/generate", &question(fields)).expect(200);
    let json: Value = serde_json::from_str(answer["response"].as_str().unwrap()).unwrap();
    assert!(json["n"].is_i64(), "{answer}");
    let raw = question(json!({"prompt": "Once upon a", "raw": true, "stream": false}));
    let answer = server.client().post("/api/generate", &raw).expect(200);
    assert!(answer["response"].as_str().unwrap().starts_with(" time"), "{answer}");
    assert!(answer["prompt_eval_count"].as_u64().unwrap() < 8, "no template stands around it: {answer}");
}

#[test]
fn a_model_is_loaded_listed_and_unloaded() {
    let server = with_model();
    assert_eq!(awake(&server), [Value::Null; 0]);
    let load = json!({"model": "smollm2:latest", "keep_alive": "10m"});
    let loaded = server.client().post("/api/generate", &load).expect(200);
    assert_eq!((&loaded["done_reason"], &loaded["done"]), (&json!("load"), &json!(true)));
    let models = awake(&server);
    assert_eq!(
        (&models[0]["name"], &models[0]["details"]["family"]),
        (&json!("smollm2:latest"), &json!("llama"))
    );
    assert!(models[0]["size"].as_u64().unwrap() > 50_000_000);
    let unloaded =
        server.client().post("/api/generate", &json!({"model": MODEL, "keep_alive": 0})).expect(200);
    assert_eq!(unloaded["done_reason"], "unload");
    eventually("the model sleeps", || awake(&server).is_empty());
    // Asked with no time to stay, it answers and sleeps again.
    server.client().post("/api/chat", &question(json!({"stream": false, "keep_alive": 0}))).expect(200);
    eventually("the model sleeps again", || awake(&server).is_empty());
}

#[test]
fn texts_become_vectors() {
    let server = with_model();
    let body = json!({"model": MODEL, "input": ["a cat", "a cat", "tax law"]});
    let answer = server.client().post("/api/embed", &body).expect(200);
    let vectors: Vec<Vec<f32>> = serde_json::from_value(answer["embeddings"].clone()).unwrap();
    assert_eq!(vectors[0], vectors[1]);
    assert_ne!(vectors[0], vectors[2]);
    assert!((vectors[2].iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3);
    let older =
        server.client().post("/api/embeddings", &json!({"model": MODEL, "prompt": "a cat"})).expect(200);
    assert_eq!(older["embedding"].as_array().unwrap().len(), vectors[0].len());
    let long = json!({"model": MODEL, "input": "word ".repeat(20_000), "dimensions": 8});
    let cut = server.client().post("/api/embed", &long).expect(200);
    assert_eq!(cut["embeddings"][0].as_array().unwrap().len(), 8);
}

#[test]
fn a_function_on_a_model_answers_chats() {
    let server = with_model();
    deploy(&server, "chat", guests::CHAT);
    let body = json!({
        "model": "chat", "temperature": 0, "max_tokens": 16,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    });
    let answer = server.client().post("/v1/chat/completions", &body).expect(200);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("Paris"), "{answer}");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 1, "{answer}");
    let lines = lines(&server, "/api/chat", &question(json!({"model": "chat:latest"})));
    assert!(lines.len() > 3, "pieces come as they are emitted: {lines:?}");
    let said: String = lines.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(said, text);
}
