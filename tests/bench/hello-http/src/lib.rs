//! The example `hello` as a `wasi:http` proxy: the same JSON in, the same greeting out.

#![cfg(target_family = "wasm")]

use serde_json::{Value, json};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
    io::streams::StreamError,
};

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (status, answer) = match greet(&request) {
            Ok(output) => (200, json!({"status": "succeeded", "output": output})),
            Err(message) => (422, json!({"error": {"code": "invalid_input", "message": message}})),
        };
        respond(out, status, answer.to_string().as_bytes());
    }
}

fn greet(request: &IncomingRequest) -> Result<String, String> {
    let body = read(request)?;
    let input: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let name = input.get("name").unwrap_or(&Value::Null);
    let name = if name.is_null() { "world" } else { name.as_str().ok_or("name is no text")? };
    match name.chars().count() {
        1..=80 => Ok(format!("Hello, {name}!")),
        length => Err(format!("name has {length} characters, allowed are 1 to 80")),
    }
}

fn read(request: &IncomingRequest) -> Result<Vec<u8>, String> {
    const PIECE_BYTES: u64 = 8 << 10;
    let body = request.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no body")?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(PIECE_BYTES) {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn respond(out: ResponseOutparam, status: u16, answer: &[u8]) {
    let headers = Fields::from_list(&[("content-type".to_owned(), b"application/json".to_vec())]);
    let response = OutgoingResponse::new(headers.expect("the header is a good one"));
    response.set_status_code(status).expect("the status is a good one");
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("it is taken once");
    // When the caller is gone there is nobody to tell.
    let _ = stream.blocking_write_and_flush(answer);
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

wasip2::http::proxy::export!(Hello with_types_in wasip2);
