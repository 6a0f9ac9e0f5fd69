//! OpenAI's files and batches.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, WORKER},
    node::{Answer, Node},
};

const ENDPOINT: &str = "/v1/chat/completions";

/// Uploads a file as the clients do.
fn upload(node: &Node, field: &str, name: &str, bytes: &[u8]) -> Answer {
    let part = |disposition: &str| format!("--B\r\ncontent-disposition: form-data; {disposition}\r\n");
    let mut body = part("name=\"purpose\"").into_bytes();
    body.extend_from_slice(b"\r\nbatch\r\n");
    body.extend_from_slice(part(&format!("name=\"{field}\"; filename=\"{name}\"")).as_bytes());
    body.extend_from_slice(b"content-type: application/jsonl\r\n\r\n");
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--B--\r\n");
    node.client().send("POST", "/v1/files", &[("content-type", "multipart/form-data; boundary=B")], &body)
}

fn post(node: &Node, path: &str, body: &Value) -> Answer {
    node.client().send("POST", path, &[], body.to_string().as_bytes())
}

fn function(node: &Node, name: &str, predict: &str) {
    let schema = json!({"type": "object", "properties": {"prompt": {"type": "string"}}});
    node.deploy(name, &guest::component(predict, &guest::manifest(schema)), "");
}

fn line(id: &str, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": id}]});
    format!("{}\n", json!({"custom_id": id, "method": "POST", "url": ENDPOINT, "body": body}))
}

/// Makes a batch of these lines.
fn create(node: &Node, lines: &str) -> Value {
    let file = upload(node, "file", "in.jsonl", lines.as_bytes()).json()["id"].clone();
    let body = json!({"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h", "metadata": {"a": "b"}});
    let answer = post(node, "/v1/batches", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits for a batch's end: it is a prediction's.
fn end(node: &Node, id: &str) -> Value {
    node.follow(id).last().expect("the stream has an end");
    node.get(&format!("/v1/batches/{id}")).json()
}

fn lines(node: &Node, id: &Value) -> Vec<Value> {
    let content = node.get(&format!("/v1/files/{}/content", id.as_str().unwrap()));
    let text = String::from_utf8(content.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_file_is_kept_shown_and_removed() {
    let node = Node::start();
    let file = upload(&node, "file", "a.jsonl", b"hello\n").json();
    assert_eq!(
        (&file["object"], &file["bytes"], &file["filename"], &file["purpose"]),
        (&json!("file"), &json!(6), &json!("a.jsonl"), &json!("batch"))
    );
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(node.get(&path).json(), file);
    assert_eq!(node.get(&format!("{path}/content")).body, b"hello\n");
    assert_eq!(node.get("/v1/files?purpose=batch").json()["data"], json!([file]));
    let removed = node.client().send("DELETE", &path, &[], b"");
    assert_eq!(removed.json()["deleted"], true);
    assert_eq!(node.get(&path).error(), (404, "not_found".to_owned()));
}

#[test]
fn replicates_clients_read_their_own_form_of_a_file() {
    let node = Node::start();
    let answer = upload(&node, "content", "a.txt", b"hello\n");
    let file = answer.json();
    assert_eq!((answer.status, &file["name"], &file["size"]), (201, &json!("a.txt"), &json!(6)));
    assert!(file["urls"]["get"].as_str().unwrap().ends_with(file["id"].as_str().unwrap()));
    assert_eq!(file["checksums"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(node.get("/v1/files").json()["results"], json!([file]));
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(node.client().send("DELETE", &path, &[], b"").status, 204);
}

#[test]
fn a_file_that_would_never_expire_is_shown_with_the_rest() {
    let node = Node::start();
    let part = "--B\r\ncontent-disposition: form-data; name=";
    let body = format!(
        "{part}\"expires_after[seconds]\"\r\n\r\n{}\r\n{part}\"content\"; filename=\"a\"\r\n\r\nx\r\n--B--\r\n",
        u64::MAX
    );
    let headers = [("content-type", "multipart/form-data; boundary=B")];
    assert_eq!(node.client().send("POST", "/v1/files", &headers, body.as_bytes()).status, 201);
    assert_eq!(node.get("/v1/files").json()["results"].as_array().unwrap().len(), 1);
}

#[test]
fn files_have_bounds() {
    let node = Node::with(|config| {
        config.files.bytes_max = 10;
        config.files.count_max = 1;
    });
    assert_eq!(upload(&node, "file", "a", &[b'x'; 11]).status, 413);
    assert_eq!(upload(&node, "file", "a", b"x").status, 200);
    assert_eq!(upload(&node, "file", "a", b"x").status, 429);
    assert_eq!(upload(&node, "other", "a", b"x").status, 400);
}

#[test]
fn a_batch_answers_each_of_its_requests_once() {
    let node = Node::start();
    function(&node, "echo", ECHO);
    let input: String =
        (0..20).map(|at| line(&format!("r{at}"), if at == 7 { "absent" } else { "echo" })).collect();
    let batch = create(&node, &input);
    assert_eq!((&batch["object"], &batch["metadata"]), (&json!("batch"), &json!({"a": "b"})));
    let ended = end(&node, batch["id"].as_str().unwrap());
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!(ended["request_counts"], json!({"total": 20, "completed": 19, "failed": 1}));
    let answers = lines(&node, &ended["output_file_id"]);
    let mut ids: Vec<_> = answers.iter().map(|answer| answer["custom_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 19);
    let answer = answers.iter().find(|answer| answer["custom_id"] == "r3").unwrap();
    assert_eq!(answer["response"]["status_code"], 200);
    let content = &answer["response"]["body"]["choices"][0]["message"]["content"];
    assert_eq!(content, r#"{"prompt":"r3"}"#);
    let errors = lines(&node, &ended["error_file_id"]);
    assert_eq!((&errors[0]["custom_id"], &errors[0]["response"]["status_code"]), (&json!("r7"), &json!(404)));
    let list = node.get("/v1/batches?limit=1").json();
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&batch["id"], &json!(false)));
    assert_eq!(
        post(&node, &format!("/v1/batches/{}/cancel", batch["id"].as_str().unwrap()), &json!({})).status,
        409
    );
}

#[test]
fn an_input_that_is_wrong_fails_the_batch_and_says_where() {
    let node = Node::start();
    function(&node, "echo", ECHO);
    let batch = create(&node, &format!("{}{{\n{}", line("a", "echo"), line("a", "echo")));
    assert_eq!(batch["status"], "failed");
    let problems: Vec<_> =
        batch["errors"]["data"].as_array().unwrap().iter().map(|p| (&p["line"], &p["code"])).collect();
    assert_eq!(
        problems,
        [(&json!(2), &json!("invalid_json_line")), (&json!(3), &json!("duplicate_custom_id"))]
    );
    let file = upload(&node, "file", "in", b"x").json()["id"].clone();
    for (field, value) in
        [("endpoint", "/v1/images"), ("completion_window", "1h"), ("input_file_id", "file-absent")]
    {
        let mut body = json!({"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"});
        body[field] = json!(value);
        let answer = post(&node, "/v1/batches", &body);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(field)));
    }
}

#[test]
fn a_batch_that_is_canceled_keeps_what_it_has() {
    let node = Node::with(|config| config.batch.lines_running_max = 1);
    function(&node, "echo", ECHO);
    // Asked with more than 8 bytes, it never ends.
    function(&node, "worker", WORKER);
    let batch = create(&node, &format!("{}{}", line("a", "echo"), line("b", "worker")));
    let id = batch["id"].as_str().unwrap();
    node.wait_until_running("worker", 1);
    assert_eq!(node.get(&format!("/v1/batches/{id}")).json()["request_counts"]["completed"], 1);
    let canceled = post(&node, &format!("/v1/batches/{id}/cancel"), &json!({})).json();
    assert!(["cancelling", "cancelled"].contains(&canceled["status"].as_str().unwrap()), "{canceled}");
    let ended = end(&node, id);
    assert_eq!((&ended["status"], &ended["request_counts"]["completed"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(lines(&node, &ended["output_file_id"])[0]["custom_id"], "a");
}

#[test]
fn a_batch_that_takes_too_long_expires_with_what_it_has() {
    let node = Node::with(|config| {
        config.batch.lines_running_max = 1;
        config.batch.window = std::time::Duration::from_secs(2);
    });
    function(&node, "echo", ECHO);
    function(&node, "worker", WORKER);
    let batch = create(&node, &format!("{}{}", line("a", "echo"), line("b", "worker")));
    let ended = end(&node, batch["id"].as_str().unwrap());
    assert_eq!((&ended["status"], &ended["request_counts"]["completed"]), (&json!("expired"), &json!(1)));
    assert!(ended["expired_at"].is_u64());
}

#[test]
fn a_batch_goes_on_where_it_was_when_its_node_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let id = {
        let node = Node::on(dir.path(), |config| config.batch.lines_running_max = 1);
        function(&node, "echo", ECHO);
        function(&node, "worker", WORKER);
        let batch =
            create(&node, &format!("{}{}{}", line("a", "echo"), line("b", "worker"), line("c", "echo")));
        node.wait_until_running("worker", 1);
        batch["id"].as_str().unwrap().to_owned()
    };
    // What never ended is given up now.
    let node = Node::on(dir.path(), |config| config.predict.timeout = std::time::Duration::from_secs(2));
    let ended = end(&node, &id);
    assert_eq!(ended["request_counts"], json!({"total": 3, "completed": 2, "failed": 1}), "{ended}");
    let mut ids: Vec<_> =
        lines(&node, &ended["output_file_id"]).iter().map(|answer| answer["custom_id"].clone()).collect();
    ids.sort_by_key(Value::to_string);
    assert_eq!(ids, ["a", "c"]);
    assert_eq!(lines(&node, &ended["error_file_id"])[0]["response"]["status_code"], 504);
}
