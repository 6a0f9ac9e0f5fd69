//! The OpenAI dialect on the real model.

use std::io::{BufRead, BufReader};

use dormouse_tests::{Server, model};
use serde_json::{Value, json};

const MODEL: &str = "smollm2";

fn with_model() -> Server {
    let server = Server::start();
    model::install(server.data_dir());
    server
}

/// A greedy question, with `fields` beside it.
fn question(fields: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "temperature": 0, "max_tokens": 16,
        "messages": [
            {"role": "system", "content": "You are a helpful AI assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The data of a stream's events, which must end with `[DONE]`.
fn stream(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let response = server.client().post_request(path).send_json(body).unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let lines = BufReader::new(response.into_body().into_reader()).lines().map(Result::unwrap);
    let mut data: Vec<String> =
        lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect();
    assert_eq!(data.pop().as_deref(), Some("[DONE]"));
    data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn content(answer: &Value, choice: usize) -> &str {
    answer["choices"][choice]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_chat_is_answered_whole_and_in_chunks() {
    let server = with_model();
    let whole = server.client().post("/v1/chat/completions", &question(json!({}))).expect(200);
    assert!(content(&whole, 0).contains("Paris"), "{whole}");
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 16.min(usage["completion_tokens"].as_u64().unwrap()));
    assert!(usage["device_ms"].as_f64().unwrap() > 0.0, "{usage}");

    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = stream(&server, "/v1/chat/completions", &question(fields));
    let (usage_chunk, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage_chunk["choices"], json!([]));
    assert_eq!(usage_chunk["usage"]["total_tokens"], usage["total_tokens"]);
    assert!(usage_chunk["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["usage"].is_null()));
    let deltas = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), content(&whole, 0));
    let last = &chunks.last().unwrap()["choices"][0];
    assert_eq!(last["finish_reason"], whole["choices"][0]["finish_reason"]);
}

#[test]
fn choices_differ_by_their_seeds_and_come_back_by_them() {
    let server = with_model();
    let fields = json!({"n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 12});
    let ask = || server.client().post("/v1/chat/completions", &question(fields.clone())).expect(200);
    let (first, second) = (ask(), ask());
    let texts: Vec<_> = (0..3).map(|choice| content(&first, choice)).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    assert_eq!(texts, (0..3).map(|choice| content(&second, choice)).collect::<Vec<_>>());
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt < 60, "the prompt of three choices counts once: {prompt}");
}

#[test]
fn likelihoods_belong_to_the_tokens() {
    let server = with_model();
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 4});
    let answer = server.client().post("/v1/chat/completions", &question(fields)).expect(200);
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, content(&answer, 0));
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"]), (2, &token["token"]), "greedy takes the likeliest");
        assert_eq!(top[0]["bytes"], json!(token["token"].as_str().unwrap().as_bytes()));
    }
}

#[test]
fn a_schema_holds_the_answer() {
    let server = with_model();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "million_people"],
        "properties": {"city": {"type": "string", "maxLength": 20}, "million_people": {"type": "integer", "minimum": 0, "maximum": 999}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "city", "schema": schema}});
    let fields = json!({"response_format": format, "max_tokens": 80});
    let answer = server.client().post("/v1/chat/completions", &question(fields)).expect(200);
    let city: Value = serde_json::from_str(content(&answer, 0)).unwrap();
    assert!(city["city"].is_string() && city["million_people"].is_i64(), "{city}");
    let metrics = server.client().get("/metrics").text;
    let seconds =
        metrics.lines().find_map(|line| line.strip_prefix("dormouse_model_mask_seconds{model=\"smollm2\"} "));
    assert!(seconds.unwrap().parse::<f64>().unwrap() > 0.0, "{metrics}");
}

#[test]
fn a_required_call_is_made_whole_and_in_chunks() {
    let server = with_model();
    let parameters = json!({
        "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
        "additionalProperties": false,
    });
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": parameters}});
    let fields = json!({"tools": [tool], "tool_choice": "required", "max_tokens": 60});
    let whole = server.client().post("/v1/chat/completions", &question(fields.clone())).expect(200);
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "weather");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()), "{arguments}");

    let mut body = question(fields);
    body["stream"] = json!(true);
    let chunks = stream(&server, "/v1/chat/completions", &body);
    let calls: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0")).collect();
    assert_eq!(calls.len(), 1, "{chunks:?}");
    assert_eq!((&calls[0]["index"], &calls[0]["function"]), (&json!(0), call));

    // The conversation goes on with the result.
    let mut turns = question(json!({}))["messages"].as_array().unwrap().clone();
    turns.push(choice["message"].clone());
    let id = &choice["message"]["tool_calls"][0]["id"];
    turns.push(json!({"role": "tool", "tool_call_id": id, "content": "sunny"}));
    let body = question(json!({"messages": turns, "tools": [tool]}));
    let answer = server.client().post("/v1/chat/completions", &body).expect(200);
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
}

#[test]
fn texts_go_on_from_many_prompts() {
    let server = with_model();
    let body = json!({
        "model": MODEL, "prompt": ["The capital of France is", "1, 2, 3,"], "max_tokens": 6,
        "temperature": 0, "echo": true,
    });
    let answer = server.client().post("/v1/completions", &body).expect(200);
    let text = |choice: usize| answer["choices"][choice]["text"].as_str().unwrap();
    assert!(text(0).starts_with("The capital of France is") && text(0).contains("Paris"), "{answer}");
    assert!(text(1).starts_with("1, 2, 3,") && text(1).contains('4'), "{answer}");
    let mut body = body;
    body["stream"] = json!(true);
    let chunks = stream(&server, "/v1/completions", &body);
    let streamed = |choice: usize| {
        let of = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|found| found["index"] == choice);
        of.map(|choice| choice["text"].as_str().unwrap()).collect::<String>()
    };
    assert_eq!([streamed(0), streamed(1)], [text(0), text(1)]);
}

#[test]
fn embeddings_have_length_1_and_place_like_beside_like() {
    let server = with_model();
    let body = json!({"model": MODEL, "input": ["a black cat", "a white cat", "tax law"]});
    let answer = server.client().post("/v1/embeddings", &body).expect(200);
    let vector = |at: usize| -> Vec<f64> {
        let values = answer["data"][at]["embedding"].as_array().unwrap();
        values.iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let dot = |a: usize, b: usize| vector(a).iter().zip(vector(b)).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(0, 0) - 1.0).abs() < 1e-4);
    assert!(dot(0, 1) > dot(0, 2), "{} {}", dot(0, 1), dot(0, 2));
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() >= 7);
    let short = json!({"model": MODEL, "input": "a", "dimensions": 8});
    let short = server.client().post("/v1/embeddings", &short).expect(200);
    assert_eq!(short["data"][0]["embedding"].as_array().unwrap().len(), 8);
}

#[test]
fn a_response_is_an_object_or_its_events() {
    let server = with_model();
    let mut body = json!({
        "model": MODEL, "input": "What is the capital of France?", "instructions": "Be brief.",
        "temperature": 0, "max_output_tokens": 12,
    });
    let whole = server.client().post("/v1/responses", &body).expect(200);
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(["completed", "incomplete"].contains(&whole["status"].as_str().unwrap()), "{whole}");
    body["stream"] = json!(true);
    let response = server.client().post_request("/v1/responses").send_json(&body).unwrap();
    let lines = BufReader::new(response.into_body().into_reader()).lines().map(Result::unwrap);
    let events: Vec<Value> =
        lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let numbers = events.iter().map(|event| event["sequence_number"].as_u64().unwrap());
    assert!(numbers.eq(0..events.len() as u64));
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(deltas.map(|event| event["delta"].as_str().unwrap()).collect::<String>(), text);
    let last = events.last().unwrap();
    assert_eq!(last["response"]["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["response"]["id"], events[0]["response"]["id"]);
}

#[test]
fn what_is_wrong_is_named() {
    let server = with_model();
    let refused = |path: &str, body: Value, status: u16, param: &str| {
        let error = server.client().post(path, &body).expect(status)["error"].take();
        assert_eq!(error["param"], param, "{error}");
        error
    };
    let chat = "/v1/chat/completions";
    let unknown = refused(chat, question(json!({"model": "no-such"})), 404, "model");
    assert_eq!(unknown["code"], "model_not_found");
    refused(chat, question(json!({"temperature": 9})), 400, "temperature");
    refused(chat, question(json!({"messages": "nope"})), 400, "messages");
    refused(chat, question(json!({"messages": []})), 400, "messages");
    refused(chat, question(json!({"n": 0})), 400, "n");
    refused(chat, question(json!({"logit_bias": {"1": 5}})), 400, "logit_bias");
    let long = refused(chat, question(json!({"max_tokens": 100_000})), 400, "messages");
    assert_eq!(long["code"], "context_length_exceeded");
    refused("/v1/embeddings", json!({"model": MODEL, "input": "a", "dimensions": 0}), 400, "dimensions");
    let stored = json!({"model": MODEL, "input": "a", "previous_response_id": "resp_1"});
    refused("/v1/responses", stored, 400, "previous_response_id");
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
    refused(chat, question(json!({"messages": image})), 400, "messages[0].content");
}

#[test]
fn models_are_listed_for_openais_clients_too() {
    let server = with_model();
    let list = server.client().get("/v1/models").expect(200);
    assert_eq!(list["object"], "list");
    let listed = list["data"].as_array().unwrap().iter().find(|model| model["id"] == MODEL).unwrap();
    assert_eq!(&server.client().get(&format!("/v1/models/{MODEL}")).expect(200), listed);
    let missing = server.client().get("/v1/models/owner%2Fnone").expect(404);
    assert_eq!(missing["error"]["code"], "model_not_found");
}

#[test]
fn a_wrong_key_is_told_as_its_clients_read_it() {
    let server = Server::with(|config| config.token = Some(dormouse::config::Token("key".to_owned())));
    let error = server.client().with_token("wrong").get("/v1/models").expect(401)["error"].take();
    assert_eq!(error["code"], "invalid_api_key");
}
