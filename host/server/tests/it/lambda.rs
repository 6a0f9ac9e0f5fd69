//! AWS Lambda's API.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL, WORKER},
    node::{Answer, Node},
};

const FUNCTIONS: &str = "/2015-03-31/functions";

fn send(node: &Node, method: &str, path: &str, body: &Value) -> Answer {
    node.client().send(method, path, &[], body.to_string().as_bytes())
}

fn create(node: &Node, name: &str, component: &[u8], fields: Value) -> Answer {
    let mut body = json!({
        "FunctionName": name, "Role": "arn:aws:iam::000000000000:role/r", "Handler": "h", "Runtime": "provided.al2023",
        "Code": {"ZipFile": STANDARD.encode(component)},
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    send(node, "POST", FUNCTIONS, &body)
}

/// A node with the function `echo`.
fn node() -> Node {
    let node = Node::start();
    let answer = create(&node, "echo", &guest::any_input(ECHO), json!({"Timeout": 9, "MemorySize": 64}));
    assert_eq!(answer.status, 201, "{answer:?}");
    node
}

fn invoke(node: &Node, name: &str, headers: &[(&str, &str)], event: &Value) -> Answer {
    let path = format!("{FUNCTIONS}/{name}/invocations");
    node.client().send("POST", &path, headers, event.to_string().as_bytes())
}

#[track_caller]
fn refused(answer: &Answer) -> (u16, &str) {
    assert!(answer.json()["message"].is_string(), "{answer:?}");
    (answer.status, answer.header("x-amzn-errortype").unwrap())
}

/// Frames of an event stream: the type of each and its payload.
fn frames(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (total, headers) = (number(&bytes[..4]), number(&bytes[4..8]));
        let (frame, rest) = bytes.split_at(total);
        let kind = String::from_utf8_lossy(&frame[12 + 15..12 + 15 + frame[12 + 14] as usize]).into_owned();
        frames.push((kind, frame[12 + headers..total - 4].to_vec()));
        bytes = rest;
    }
    frames
}

#[test]
fn a_function_is_made_described_and_removed() {
    let node = node();
    let again = create(&node, "echo", &guest::any_input(ECHO), json!({}));
    assert_eq!(refused(&again), (409, "ResourceConflictException"));
    for name in
        ["echo", "arn:aws:lambda:us-east-1:000000000000:function:echo", "echo:$LATEST", "function%3Aecho"]
    {
        let found = node.get(&format!("{FUNCTIONS}/{name}")).json()["Configuration"].clone();
        assert_eq!((&found["FunctionName"], &found["Timeout"]), (&json!("echo"), &json!(9)), "{name}");
        assert_eq!((&found["State"], &found["MemorySize"]), (&json!("Active"), &json!(64)));
        assert_eq!(found["FunctionArn"], "arn:aws:lambda:us-east-1:000000000000:function:echo");
        assert!(found["CodeSize"].as_u64().unwrap() > 100);
    }
    // The function is one like any other.
    assert_eq!(node.invoke("echo", &json!({"a": 1})).json()["output"], json!({"a": 1}));
    assert_eq!(send(&node, "DELETE", &format!("{FUNCTIONS}/echo"), &json!({})).status, 204);
    assert_eq!(refused(&node.get(&format!("{FUNCTIONS}/echo"))), (404, "ResourceNotFoundException"));
}

#[test]
fn what_is_no_function_is_refused() {
    let node = Node::start();
    let no_code = create(&node, "f", b"#!/bin/sh", json!({}));
    assert_eq!(refused(&no_code), (400, "InvalidParameterValueException"));
    let bucket = send(&node, "POST", FUNCTIONS, &json!({"FunctionName": "f", "Code": {"S3Bucket": "b"}}));
    assert_eq!(refused(&bucket).0, 400);
    let bad_name = create(&node, "Bad_Name", &guest::any_input(ECHO), json!({}));
    assert_eq!(refused(&bad_name).0, 400);
    let broken = node.client().send("POST", FUNCTIONS, &[], b"{");
    assert_eq!(refused(&broken), (400, "InvalidRequestContentException"));
}

#[test]
fn an_invocation_answers_with_the_functions_answer() {
    let node = node();
    let answer = invoke(&node, "echo", &[("x-amz-log-type", "Tail")], &json!({"a": 1}));
    assert_eq!((answer.status, answer.json()), (200, json!({"a": 1})));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert!(answer.header("server-timing").unwrap().contains("total;dur="), "{answer:?}");
    let logs =
        String::from_utf8(STANDARD.decode(answer.header("x-amz-log-result").unwrap()).unwrap()).unwrap();
    assert!(logs.starts_with("START RequestId: ") && logs.contains("REPORT RequestId"), "{logs}");
    assert_eq!(answer.header("x-amz-function-error"), None);
    node.deploy("fail", &guest::any_input(FAIL), "");
    let failed = invoke(&node, "fail", &[], &json!({}));
    assert_eq!((failed.status, failed.header("x-amz-function-error")), (200, Some("Unhandled")));
    assert_eq!(failed.json(), json!({"errorMessage": "working", "errorType": "Error"}));
    assert_eq!(refused(&invoke(&node, "absent", &[], &json!({}))), (404, "ResourceNotFoundException"));
    let dry = invoke(&node, "echo", &[("x-amz-invocation-type", "DryRun")], &json!({}));
    assert_eq!((dry.status, dry.body.len()), (204, 0));
    let odd = invoke(&node, "echo", &[("x-amz-invocation-type", "Later")], &json!({}));
    assert_eq!(refused(&odd).0, 400);
}

#[test]
fn an_event_that_breaks_the_schema_is_the_functions_error() {
    let node = Node::start();
    let schema = json!({"type": "object", "required": ["a"]});
    node.deploy("f", &guest::component(ECHO, &guest::manifest(schema)), "");
    let answer = invoke(&node, "f", &[], &json!({}));
    assert_eq!((answer.status, answer.header("x-amz-function-error")), (200, Some("Unhandled")));
    assert_eq!(answer.json()["errorType"], "InvalidInput");
}

#[test]
fn an_answer_is_streamed_in_frames() {
    let node = node();
    node.deploy("worker", &guest::any_input(WORKER), "");
    let path = |name: &str| format!("/2021-11-15/functions/{name}/response-streaming-invocations");
    let answer = node.client().send("POST", &path("worker"), &[("x-amz-log-type", "Tail")], b"{}");
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"));
    assert!(answer.header("server-timing").unwrap().starts_with("queue;dur="), "{answer:?}");
    let frames_of = frames(&answer.body);
    assert_eq!(frames_of[0], ("PayloadChunk".to_owned(), br#"{"started":true}"#.to_vec()));
    let (kind, end) = frames_of.last().unwrap();
    let end: Value = serde_json::from_slice(end).unwrap();
    assert!(kind == "InvokeComplete" && end["LogResult"].is_string() && end["ErrorCode"].is_null(), "{end}");
    let whole = node.client().send("POST", &path("echo"), &[], br#"{"a":1}"#);
    assert_eq!(frames(&whole.body)[0].1, br#"{"a":1}"#);
    node.deploy("fail", &guest::any_input(FAIL), "");
    let failed = node.client().send("POST", &path("fail"), &[], b"{}");
    let end: Value = serde_json::from_slice(&frames(&failed.body).last().unwrap().1).unwrap();
    assert_eq!(end, json!({"ErrorCode": "Error", "ErrorDetails": "working"}));
}

/// Waits for a prediction's end.
fn end(node: &Node, id: &str) -> Value {
    node.follow(id).last().expect("the stream has an end");
    node.get(&format!("/v1/predictions/{id}")).json()
}

fn event(node: &Node, name: &str, event: &Value) -> String {
    let answer = invoke(node, name, &[("x-amz-invocation-type", "Event")], event);
    assert_eq!((answer.status, answer.body.len()), (202, 0), "{answer:?}");
    answer.header("x-amzn-requestid").unwrap().to_owned()
}

#[test]
fn an_event_is_tried_three_times_and_its_end_is_told_to_a_function() {
    let node = Node::with(|config| config.queue.backoff = std::time::Duration::from_millis(1));
    node.deploy("echo", &guest::any_input(ECHO), "");
    node.deploy("fail", &guest::any_input(FAIL), "");
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:echo";
    for (name, to) in [("fail", "OnFailure"), ("echo", "OnSuccess")] {
        let config = json!({"DestinationConfig": {to: {"Destination": if name == "echo" { "arn:aws:lambda:us-east-1:000000000000:function:fail" } else { arn }}}});
        let path = format!("/2019-09-25/functions/{name}/event-invoke-config");
        assert_eq!(send(&node, "PUT", &path, &config).status, 200);
    }
    let id = event(&node, "fail", &json!({"n": 1}));
    let ended = end(&node, &id);
    assert_eq!((&ended["status"], &ended["queue"]["attempts"]), (&json!("failed"), &json!(3)));
    assert_eq!(ended["queue"]["dead"], true);
    let told = end(&node, &format!("{id}-onfailure"));
    let message = &told["output"];
    assert_eq!(message["requestPayload"], json!({"n": 1}));
    assert_eq!(message["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(message["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(message["responsePayload"]["errorMessage"], "working");
    // What follows has events of its own: echo's success went to fail, which told echo again.
    let next = end(&node, &format!("{id}-onfailure-onsuccess"));
    assert_eq!(next["function"], "fail");
}

#[test]
fn a_dead_events_letter_goes_to_a_function() {
    let node = Node::start();
    node.deploy("echo", &guest::any_input(ECHO), "");
    node.deploy("fail", &guest::any_input(FAIL), "");
    let config =
        json!({"DeadLetterConfig": {"TargetArn": "arn:aws:lambda:us-east-1:000000000000:function:echo"}});
    assert_eq!(send(&node, "PUT", &format!("{FUNCTIONS}/fail/configuration"), &config).status, 200);
    let retries = json!({"MaximumRetryAttempts": 0});
    assert_eq!(send(&node, "PUT", "/2019-09-25/functions/fail/event-invoke-config", &retries).status, 200);
    let id = event(&node, "fail", &json!({"n": 1}));
    assert_eq!(end(&node, &id)["queue"]["attempts"], 1);
    assert_eq!(end(&node, &format!("{id}-deadletter"))["output"], json!({"n": 1}));
    let queue = json!({"DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:us-east-1:0:q"}}});
    let answer = send(&node, "PUT", "/2019-09-25/functions/fail/event-invoke-config", &queue);
    assert_eq!(refused(&answer).0, 400);
}

#[test]
fn versions_stay_as_they_are_and_aliases_move() {
    let node = node();
    let first =
        send(&node, "POST", &format!("{FUNCTIONS}/echo/versions"), &json!({"Description": "one"})).json();
    assert_eq!((&first["Version"], &first["Description"]), (&json!("1"), &json!("one")));
    let same = send(&node, "POST", &format!("{FUNCTIONS}/echo/versions"), &json!({})).json();
    assert_eq!(same["Version"], "1", "nothing has changed");
    let code = json!({"ZipFile": STANDARD.encode(guest::any_input(FAIL)), "Publish": true});
    let second = send(&node, "PUT", &format!("{FUNCTIONS}/echo/code"), &code).json();
    assert_eq!(second["Version"], "2", "{second}");
    assert_ne!(first["CodeSha256"], second["CodeSha256"]);
    let alias = json!({"Name": "PROD", "FunctionVersion": "1"});
    let made = send(&node, "POST", &format!("{FUNCTIONS}/echo/aliases"), &alias);
    assert_eq!(made.status, 201, "{made:?}");
    let executed = |name: &str| {
        let answer = invoke(&node, name, &[], &json!({"a": 1}));
        (answer.header("x-amz-executed-version").unwrap().to_owned(), answer.json()["a"] == 1)
    };
    assert_eq!(executed("echo:PROD"), ("1".to_owned(), true));
    assert_eq!(executed("echo:2"), ("2".to_owned(), false));
    assert_eq!(executed("echo"), ("$LATEST".to_owned(), false));
    let path = format!("{FUNCTIONS}/echo/aliases/PROD");
    assert_eq!(send(&node, "PUT", &path, &json!({"FunctionVersion": "2"})).json()["FunctionVersion"], "2");
    assert_eq!(executed("echo:PROD"), ("2".to_owned(), false));
    let weights = json!({"RoutingConfig": {"AdditionalVersionWeights": {"1": 1.0}}});
    send(&node, "PUT", &path, &weights);
    assert_eq!(executed("echo:PROD"), ("1".to_owned(), true));
    let absent = send(&node, "PUT", &path, &json!({"FunctionVersion": "9"}));
    assert_eq!(refused(&absent), (404, "ResourceNotFoundException"));
    let versions = node.get(&format!("{FUNCTIONS}/echo/versions?MaxItems=2")).json();
    let numbers: Vec<_> =
        versions["Versions"].as_array().unwrap().iter().map(|v| v["Version"].clone()).collect();
    assert_eq!(numbers.len(), 2);
    assert!(versions["NextMarker"].is_string());
    let used = send(&node, "DELETE", &format!("{FUNCTIONS}/echo?Qualifier=1"), &json!({}));
    assert_eq!(refused(&used), (409, "ResourceConflictException"));
    assert_eq!(send(&node, "DELETE", &path, &json!({})).status, 204);
    assert_eq!(send(&node, "DELETE", &format!("{FUNCTIONS}/echo?Qualifier=1"), &json!({})).status, 204);
}

#[test]
fn a_change_of_what_has_changed_meanwhile_is_refused() {
    let node = node();
    let path = format!("{FUNCTIONS}/echo/configuration");
    let before = node.get(&path).json()["RevisionId"].clone();
    let changed = send(&node, "PUT", &path, &json!({"Timeout": 7, "RevisionId": before}));
    assert_eq!((changed.status, &changed.json()["Timeout"]), (200, &json!(7)));
    assert_eq!(changed.json()["MemorySize"], 64, "what is not said stays");
    let late = send(&node, "PUT", &path, &json!({"Timeout": 8, "RevisionId": before}));
    assert_eq!(refused(&late), (412, "PreconditionFailedException"));
}

#[test]
fn functions_come_in_pages() {
    let node = Node::start();
    for name in ["a", "b", "c"] {
        node.deploy(name, &guest::any_input(ECHO), "");
    }
    let page = node.get(&format!("{FUNCTIONS}?MaxItems=2")).json();
    assert_eq!((page["Functions"].as_array().unwrap().len(), &page["NextMarker"]), (2, &json!("b")));
    let page = node.get(&format!("{FUNCTIONS}/?MaxItems=2&Marker=b")).json();
    assert_eq!((&page["Functions"][0]["FunctionName"], &page["NextMarker"]), (&json!("c"), &Value::Null));
}

#[test]
fn concurrency_is_reserved_and_provisioned() {
    let node = node();
    let path = "/2017-10-31/functions/echo/concurrency";
    let reserved = send(&node, "PUT", path, &json!({"ReservedConcurrentExecutions": 2}));
    assert_eq!(reserved.json(), json!({"ReservedConcurrentExecutions": 2}));
    assert_eq!(node.get("/v1/functions/echo").json()["settings"]["concurrency"], 2);
    assert_eq!(node.get("/2019-09-30/functions/echo/concurrency").json(), reserved.json());
    send(&node, "PUT", path, &json!({"ReservedConcurrentExecutions": 0}));
    let throttled = invoke(&node, "echo", &[], &json!({}));
    assert_eq!(refused(&throttled), (429, "TooManyRequestsException"));
    assert_eq!(throttled.json()["Reason"], "ReservedFunctionConcurrentInvocationLimitExceeded");
    assert_eq!(send(&node, "DELETE", path, &json!({})).status, 204);
    assert_eq!(invoke(&node, "echo", &[], &json!({})).status, 200);

    let path = "/2019-09-30/functions/echo/provisioned-concurrency";
    let wanted = json!({"ProvisionedConcurrentExecutions": 1});
    assert_eq!(refused(&send(&node, "PUT", path, &wanted)).0, 400, "not of $LATEST");
    send(&node, "POST", &format!("{FUNCTIONS}/echo/versions"), &json!({}));
    let path = format!("{path}?Qualifier=1");
    let answer = send(&node, "PUT", &path, &wanted);
    assert_eq!((answer.status, &answer.json()["Status"]), (202, &json!("IN_PROGRESS")));
    assert_eq!(node.get(&path).json()["Status"], "READY", "it has no models to wake");
    assert_eq!(send(&node, "DELETE", &path, &json!({})).status, 204);
    assert_eq!(refused(&node.get(&path)), (404, "ProvisionedConcurrencyConfigNotFoundException"));
}

#[test]
fn a_function_has_a_url_and_tags_that_outlast_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let arn = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Aecho";
    {
        let node = Node::on(dir.path(), |_| {});
        create(&node, "echo", &guest::any_input(ECHO), json!({"Tags": {"a": "1"}, "Publish": true}));
        let path = "/2021-10-31/functions/echo/url";
        assert_eq!(refused(&node.get(path)).0, 404);
        let made = send(&node, "POST", path, &json!({"AuthType": "AWS_IAM"}));
        let url = made.json()["FunctionUrl"].as_str().unwrap().to_owned();
        assert_eq!((made.status, url.ends_with("/fn/echo")), (201, true), "{url}");
        assert_eq!(refused(&send(&node, "POST", path, &json!({"AuthType": "NONE"}))).0, 409);
        assert_eq!(send(&node, "PUT", path, &json!({"AuthType": "NONE"})).json()["AuthType"], "NONE");
        let tags = format!("/2017-03-31/tags/{arn}");
        assert_eq!(send(&node, "POST", &tags, &json!({"Tags": {"b": "2", "c": "3"}})).status, 204);
        assert_eq!(send(&node, "DELETE", &format!("{tags}?tagKeys=a&tagKeys=c"), &json!({})).status, 204);
    }
    let node = Node::on(dir.path(), |_| {});
    assert_eq!(node.get(&format!("/2017-03-31/tags/{arn}")).json(), json!({"Tags": {"b": "2"}}));
    let urls = node.get("/2021-10-31/functions/echo/urls").json();
    assert_eq!(urls["FunctionUrlConfigs"][0]["AuthType"], "NONE");
    assert_eq!(invoke(&node, "echo:1", &[], &json!({})).header("x-amz-executed-version"), Some("1"));
}

#[test]
fn what_was_kept_of_a_function_is_not_its_successors() {
    let node = node();
    send(&node, "POST", "/2017-03-31/tags/function%3Aecho", &json!({"Tags": {"a": "1"}}));
    send(&node, "DELETE", "/v1/functions/echo", &json!({}));
    node.deploy("echo", &guest::any_input(ECHO), "");
    assert_eq!(node.get("/2017-03-31/tags/function%3Aecho").json(), json!({"Tags": {}}));
}

#[test]
fn a_request_that_is_not_signed_with_the_key_is_refused() {
    let node = Node::with(|config| {
        config.aws.access_key_id = Some("AKIDEXAMPLE".to_owned());
        config.aws.secret_access_key = Some(dormouse::config::Token("s3cret".to_owned()));
        config.token = Some(dormouse::config::Token("token".to_owned()));
    });
    let refused_with = |authorization: &str| {
        let headers = [("authorization", authorization), ("x-amz-date", "20200101T000000Z")];
        let answer = node.client().send("GET", FUNCTIONS, &headers, b"");
        let (status, kind) = refused(&answer);
        (status, kind.to_owned())
    };
    let signed = |key: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential={key}/20200101/us-east-1/lambda/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature=00"
        )
    };
    assert_eq!(refused_with(&signed("AKIDEXAMPLE")), (403, "InvalidSignatureException".to_owned()));
    assert_eq!(refused_with(&signed("AKIDOTHER")), (403, "UnrecognizedClientException".to_owned()));
    assert_eq!(refused_with("AWS4-HMAC-SHA256 nothing"), (403, "IncompleteSignatureException".to_owned()));
    assert_eq!(refused_with("Bearer other").0, 401);
    let token = node.client().send("GET", FUNCTIONS, &[("authorization", "Bearer token")], b"");
    assert_eq!(token.status, 200);
}
