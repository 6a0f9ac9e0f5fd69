//! The service's HTTP, as a client sees it.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{HeaderMap, Response},
    typestate::WithBody,
};

use crate::Events;

/// A call that takes longer hangs; the test that made it fails.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The largest answer read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A client of one server. Every method panics when there is no answer at all.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: Option<String>,
    agent: Agent,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Client {
    /// A client of the server at `base`, such as `http://127.0.0.1:8080`.
    pub fn new(base: impl Into<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections_per_host(64);
        Self { base: base.into(), token: None, agent: config.build().into() }
    }

    /// The same client, sending a bearer token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Answer {
        let request = self.authorized(self.agent.get(self.url(path)));
        answer(request.call())
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Answer {
        let request = self.authorized(self.agent.delete(self.url(path)));
        answer(request.call())
    }

    /// `PUT path` with JSON.
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        answer(self.put_request(path).send_json(body))
    }

    /// `POST path` with JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.post_request(path).send_json(body))
    }

    /// `POST path` with JSON and more headers.
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let request = self.post_request(path);
        let add =
            |request: RequestBuilder<WithBody>, (name, value): &(&str, &str)| request.header(*name, *value);
        answer(headers.iter().fold(request, add).send_json(body))
    }

    /// `PUT path` with bytes.
    pub fn put_bytes(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        answer(self.put_request(path).content_type(content_type).send(body))
    }

    /// A `PUT` to add headers to.
    pub fn put_request(&self, path: &str) -> RequestBuilder<WithBody> {
        self.authorized(self.agent.put(self.url(path)))
    }

    /// A `POST` to add headers to.
    pub fn post_request(&self, path: &str) -> RequestBuilder<WithBody> {
        self.authorized(self.agent.post(self.url(path)))
    }

    /// Deploys a component under `name`; `query` is empty or starts with `?`.
    pub fn deploy(&self, name: &str, query: &str, wasm: impl AsRef<Path>) -> Answer {
        let bytes = fs::read(wasm).expect("build.rs has built it");
        self.put_bytes(&format!("/v1/functions/{name}{query}"), "application/wasm", &bytes)
    }

    /// Invokes `name` or `name:reference`.
    pub fn invoke(&self, target: &str, input: &Value) -> Answer {
        self.post(&format!("/fn/{target}"), input)
    }

    /// The output of an invocation that must succeed.
    pub fn output(&self, target: &str, input: &Value) -> Value {
        self.invoke(target, input).expect(200)["output"].take()
    }

    /// Invokes and streams. Dropping the events closes the connection.
    pub fn stream(&self, target: &str, input: &Value) -> Events {
        let request = self.post_request(&format!("/fn/{target}")).header("accept", "text/event-stream");
        let response = request.send_json(input).expect("the server answers");
        if response.status() != 200 {
            panic!("not a stream: {:?}", answer(Ok(response)));
        }
        Events::new(response)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }
}

impl Answer {
    /// The body as JSON; panics when the status is another.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// The code of an error; panics when the status is another.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        let body = self.expect(status);
        let code = body["error"]["code"].as_str();
        code.unwrap_or_else(|| panic!("no error code in {body}")).to_owned()
    }

    /// The body as JSON, null when it is empty.
    pub fn json(&self) -> Value {
        if self.text.is_empty() {
            return json!(null);
        }
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {:?}", self.text))
    }

    /// A header's text, empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Reads an answer to its end.
pub(crate) fn answer(response: Result<Response<Body>, ureq::Error>) -> Answer {
    let (head, mut body) = response.expect("the server answers").into_parts();
    let text = body.with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    Answer { status: head.status.as_u16(), headers: head.headers, text: text.expect("the answer is whole") }
}
