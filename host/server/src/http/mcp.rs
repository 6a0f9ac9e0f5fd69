//! The Model Context Protocol, <https://modelcontextprotocol.io>: every function is a tool. One endpoint,
//! JSON answers, no sessions: `POST /mcp`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use dormouse_engine::KeepAlive;
use dormouse_runtime::Event;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Code, Error, body, error::accepted, functions, guard::Arrived, invoke, origin, prefer::Prefer,
    timing::Timing,
};
use crate::{
    function::Function,
    prediction::{Call, Input, Prediction, Record},
    service::Service,
};

/// Versions that are spoken, newest first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Tools on a page.
const PAGE: usize = 100;

/// Error codes of JSON-RPC.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;

/// A message of JSON-RPC 2.0.
#[derive(Debug, Deserialize)]
struct Message {
    jsonrpc: String,
    /// Absent in a notification.
    #[serde(default)]
    id: Option<Value>,
    /// Absent in a client's answer.
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// Why a method failed.
#[derive(Debug)]
struct Fault {
    code: i32,
    message: String,
}

impl Fault {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match error.code {
            Code::NotFound | Code::InvalidRequest | Code::Forbidden => INVALID_PARAMS,
            _ => INTERNAL_ERROR,
        };
        Self::new(code, error.message)
    }
}

/// `POST /mcp`.
pub(super) async fn answer(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    // The protocol asks for this even where there is a token.
    origin::check_page(&headers)?;
    let bytes = body::read(body, &service.config.http).await?;
    let message: Message = match serde_json::from_slice(&bytes) {
        Ok(message) => message,
        Err(error) => {
            let code = if error.is_data() { INVALID_REQUEST } else { PARSE_ERROR };
            return Ok(reply(Value::Null, Err(Fault::new(code, error.to_string()))));
        }
    };
    let (Some(id), Some(method)) = (message.id, message.method) else {
        // Notifications and answers want nothing.
        return Ok(accepted(()));
    };
    if message.jsonrpc != "2.0" {
        return Ok(reply(id, Err(Fault::new(INVALID_REQUEST, "jsonrpc is not \"2.0\""))));
    }
    let result = match &*method {
        "initialize" => Ok(initialize(&message.params)),
        "ping" => Ok(json!({})),
        "tools/list" => list(&service, &message.params),
        "tools/call" => {
            let keep_alive = Prefer::of(&headers).keep_alive;
            match call(&service, &message.params, bytes.len(), keep_alive, arrived).await {
                Ok((content, timing)) => return Ok(timing.tell(reply(id, Ok(content)))),
                Err(fault) => Err(fault),
            }
        }
        _ => Err(Fault::new(METHOD_NOT_FOUND, format!("no method \"{method}\""))),
    };
    Ok(reply(id, result))
}

fn reply(id: Value, result: Result<Value, Fault>) -> Response {
    let body = match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(Fault { code, message }) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
    };
    Json(body).into_response()
}

fn initialize(params: &Value) -> Value {
    let wanted = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS.into_iter().find(|version| *version == wanted).unwrap_or(VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {"listChanged": false}},
        "serverInfo": {"name": "dormouse", "title": "Dormouse", "version": env!("CARGO_PKG_VERSION")},
    })
}

fn list(service: &Service, params: &Value) -> Result<Value, Fault> {
    let functions = functions::visible(service);
    let from = match params["cursor"].as_str() {
        Some(last) => functions.partition_point(|function| function.name.as_str() <= last),
        None => 0,
    };
    let page = &functions[from..functions.len().min(from + PAGE)];
    let mut list = json!({"tools": page.iter().map(|function| tool(function)).collect::<Vec<_>>()});
    if from + page.len() < functions.len()
        && let Some(last) = page.last()
    {
        list["nextCursor"] = json!(last.name);
    }
    Ok(list)
}

fn tool(function: &Function) -> Value {
    let manifest = &function.live().predictor.manifest;
    let mut tool =
        json!({"name": function.name, "description": manifest.description, "inputSchema": manifest.input});
    if let Some(schema) = output_schema(&manifest.output) {
        tool["outputSchema"] = schema;
    }
    tool
}

/// Structured content is an object: one that is, or the output under a name.
fn output_schema(output: &Value) -> Option<Value> {
    if is_object(output) {
        return Some(output.clone());
    }
    // A reference would not lead where it did.
    let has_references = output.to_string().contains("\"$ref\"");
    (!has_references)
        .then(|| json!({"type": "object", "properties": {"output": output}, "required": ["output"]}))
}

fn is_object(schema: &Value) -> bool {
    schema["type"] == "object"
}

async fn call(
    service: &Arc<Service>,
    params: &Value,
    bytes: usize,
    keep_alive: Option<KeepAlive>,
    Arrived(arrived): Arrived,
) -> Result<(Value, Timing), Fault> {
    let name = params["name"].as_str().ok_or_else(|| Fault::new(INVALID_PARAMS, "params name no tool"))?;
    let function = invoke::find(service, name)?;
    let revision = function.live().clone();
    let output = revision.predictor.manifest.output.clone();
    let input = match &params["arguments"] {
        Value::Null => json!({}),
        arguments => arguments.clone(),
    };
    let input = Input::Value(input, bytes);
    let call =
        Call { function, revision, input, id: None, webhook: None, memo: Value::Null, keep_alive, arrived };
    match Prediction::prepare(service, call).await {
        Ok(prediction) => {
            let record = prediction.run().await;
            Ok((content(&record, &output), Timing::of_record(&record)))
        }
        // A model that called a tool wrongly is to see how.
        Err(error) if error.code == Code::InvalidInput => Ok((failed(&error.message), Timing::default())),
        Err(error) => Err(error.into()),
    }
}

fn content(record: &Record, schema: &Value) -> Value {
    if let Some(failure) = &record.failure {
        return failed(&failure.message);
    }
    let output = record.output().map_or(Value::Null, |output| output.to_value());
    let text = match &output {
        Value::String(text) => text.clone(),
        // What was said word by word is one text.
        Value::Array(items)
            if !items.is_empty() && is_emitted(record) && items.iter().all(Value::is_string) =>
        {
            items.iter().filter_map(Value::as_str).collect()
        }
        other => other.to_string(),
    };
    let structured = match (&output, is_object(schema)) {
        (Value::Object(_), true) => output,
        _ => json!({"output": output}),
    };
    json!({"content": [{"type": "text", "text": text}], "structuredContent": structured, "isError": false})
}

fn is_emitted(record: &Record) -> bool {
    record.events.iter().any(|event| matches!(**event, Event::Output(_)))
}

fn failed(message: &str) -> Value {
    json!({"content": [{"type": "text", "text": message}], "isError": true})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prediction::{Failure, Json as Raw, queued_record};

    #[test]
    fn a_client_gets_the_version_it_asks_for_or_the_newest() {
        let version =
            |wanted: &str| initialize(&json!({"protocolVersion": wanted}))["protocolVersion"].clone();
        assert_eq!(version("2025-03-26"), "2025-03-26");
        assert_eq!(version("1999-01-01"), VERSIONS[0]);
    }

    #[test]
    fn an_output_is_text_and_an_object() {
        let mut record = queued_record("a", "f");
        record.returned = Raw::parse(r#"{"a": 1}"#.to_owned()).ok();
        let object = content(&record, &json!({"type": "object"}));
        assert_eq!((&object["structuredContent"], &object["isError"]), (&json!({"a": 1}), &json!(false)));
        record.returned = None;
        record.events = ["\"He\"", "\"llo\""].map(|json| Arc::new(Event::Output(json.to_owned()))).to_vec();
        let text = content(&record, &json!({"type": "array"}));
        assert_eq!(text["content"], json!([{"type": "text", "text": "Hello"}]));
        assert_eq!(text["structuredContent"], json!({"output": ["He", "llo"]}));
        record.failure = Some(Failure { code: Code::PredictorFailed, message: "no".to_owned() });
        assert_eq!(content(&record, &json!({})), failed("no"));
    }

    #[test]
    fn a_schema_of_an_output_that_is_no_object_is_put_under_a_name() {
        let schema = output_schema(&json!({"type": "string"})).unwrap();
        assert_eq!(schema["properties"], json!({"output": {"type": "string"}}));
        assert_eq!(output_schema(&json!({"type": "object"})), Some(json!({"type": "object"})));
        assert_eq!(output_schema(&json!({"items": {"$ref": "#"}})), None);
    }
}
