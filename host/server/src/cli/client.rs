//! The service over HTTP, as the commands need it.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{Request, Response, header};
use ureq::{Agent, Body};
use url::Url;

use super::Error;
use super::error::Api;
use crate::args::Server;
use crate::pull::is_loopback;

/// Time for a connection. What comes after it is bounded by the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that is read whole.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A service and the token for it.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    server: Server,
}

/// A request's method, body and what answer it wants.
#[derive(Debug, Default)]
pub(super) struct Call<'a> {
    /// `GET` if empty.
    pub(super) method: &'a str,
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, String)],
    pub(super) body: Option<(&'a str, &'a [u8])>,
    pub(super) accept: Option<&'a str>,
}

impl Client {
    pub(super) fn new(server: Server) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .user_agent(concat!("dormouse/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT));
        if is_loopback(&server.url) {
            config = config.proxy(None);
        }
        Self { agent: config.build().into(), server }
    }

    /// `GET` of a JSON document.
    pub(super) fn get(&self, path: &[&str]) -> Result<Value, Error> {
        self.json(&Call { path, ..Call::default() })
    }

    /// A call with a JSON answer; null where there is no content.
    pub(super) fn json(&self, call: &Call<'_>) -> Result<Value, Error> {
        let mut response = self.send(call)?;
        let body = self.text(call, &mut response)?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&body).map_err(|error| self.bad_answer(call, &error.to_string()))
    }

    /// A call whose answer is read by the caller. An error status is an error here.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Response<Body>, Error> {
        let url = self.url(call);
        let method = if call.method.is_empty() { "GET" } else { call.method };
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(token) = &self.server.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(accept) = call.accept {
            request = request.header(header::ACCEPT, accept);
        }
        let fail = |error: ureq::Error| self.failed(call, error);
        let mut response = match call.body {
            Some((content_type, body)) => {
                let request = request.header(header::CONTENT_TYPE, content_type).body(body);
                self.agent.run(request.map_err(|error| fail(error.into()))?)
            }
            None => self.agent.run(request.body(()).map_err(|error| fail(error.into()))?),
        }
        .map_err(fail)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.text(call, &mut response)?;
        Err(Error::Api(Api::from_body(response.status().as_u16(), &body)))
    }

    fn text(&self, call: &Call<'_>, response: &mut Response<Body>) -> Result<String, Error> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| self.bad_answer(call, &error.to_string()))?;
        String::from_utf8(body).map_err(|error| self.bad_answer(call, &error.to_string()))
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.server.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        url
    }

    fn failed(&self, call: &Call<'_>, error: ureq::Error) -> Error {
        use ureq::Error as E;
        match error {
            E::Io(_) | E::HostNotFound | E::ConnectionFailed | E::Timeout(_) => {
                let url = self.server.url.as_str().trim_end_matches('/').to_owned();
                Error::NoServer { url, reason: error.to_string() }
            }
            other => self.bad_answer(call, &other.to_string()),
        }
    }

    pub(super) fn bad_answer(&self, call: &Call<'_>, reason: &str) -> Error {
        Error::BadAnswer { url: self.url(call).into(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_kept_below_a_prefix() {
        let server = Server { url: Url::parse("http://h/prefix/").unwrap(), token: None };
        let call =
            Call { path: &["fn", "a/b:c d"], query: &[("limit", "1&2".to_owned())], ..Call::default() };
        assert_eq!(Client::new(server).url(&call).as_str(), "http://h/prefix/fn/a%2Fb:c%20d?limit=1%262");
    }
}
