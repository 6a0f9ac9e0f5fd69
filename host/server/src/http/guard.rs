//! What every request passes: an id, a span, the drain, the token, a log line and a count.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    Code, Error, body, invoke, lambda, ollama, openai, origin, replicate,
    trace::{self, Trace},
};
use crate::{
    auth::{self, Grant},
    function::FunctionName,
    prediction::{millis, new_id},
    service::{Phase, Service},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a caller's own request id; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// When a request's head had been read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived(pub(super) Instant);

/// Leads a request to its handler and its answer back.
pub(super) async fn pass(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    request.extensions_mut().insert(Arrived(arrived));
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map(MatchedPath::as_str);
    // The key in a stream's path is all that protects it.
    let path = match request.uri().path() {
        path if replicate::is_capability(path) => route.unwrap_or_default(),
        path => path,
    };
    let trace = Trace::of(request.headers());
    let trace_id = trace.as_ref().map(Trace::id);
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), trace_id, %method, path);
    if let Some(trace) = &trace {
        // An error says that no traces are sent.
        let _ = span.set_parent(trace.context());
    }
    span.set_attribute("http.request.method", method.to_string());
    route.iter().for_each(|route| span.set_attribute("http.route", (*route).to_owned()));
    let mut response = async {
        let response = match admit(&service, request).await {
            Ok((grant, request)) => GRANT.scope(grant, next.run(request)).await,
            Err(refusal) => refusal,
        };
        let (status, took_ms) = (response.status().as_u16(), millis(arrived.elapsed()));
        tracing::info!(status, took_ms, "answered");
        response
    }
    .instrument(span.clone())
    .await;
    span.set_attribute("http.response.status_code", i64::from(response.status().as_u16()));
    service.metrics.request(&method, route, response.status());
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some(trace) = trace {
        response.headers_mut().insert(trace::PARENT, trace.into_header());
    }
    if service.phase() != Phase::Serving {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Answers a path that leads nowhere.
pub(super) async fn no_route(request: Request) -> Error {
    Error::not_found(format!("no such path: {}", shortened(request.uri().path())))
}

/// Answers a method that a path doesn't take; the router adds `Allow`.
pub(super) async fn no_method(request: Request) -> Error {
    let (method, path) = (request.method(), shortened(request.uri().path()));
    Error::new(Code::MethodNotAllowed, format!("{path} does not take {}", shortened(method.as_str())))
}

tokio::task_local! {
    /// What the caller may do, for as long as a handler has the request.
    static GRANT: Grant;
}

/// Keeps what the caller may do with work that goes on while its answer is sent.
pub(super) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let grant = GRANT.try_with(Grant::clone).unwrap_or(Grant::Nothing);
    GRANT.scope(grant, work)
}

/// Whether the caller may use a function.
pub(super) fn may_use(function: &FunctionName) -> bool {
    GRANT.try_with(|grant| grant.may_use(function)).unwrap_or(false)
}

/// Refuses a caller whose token is not for a function.
pub(super) fn allow(function: &FunctionName) -> Result<(), Error> {
    match may_use(function) {
        true => Ok(()),
        false => Err(Error::new(Code::Forbidden, format!("this token is not for function \"{function}\""))),
    }
}

/// Refuses a caller whose token is for some functions only what is everybody's, such as models.
pub(super) fn allow_all(what: &str) -> Result<(), Error> {
    match limited_to() {
        None => Ok(()),
        Some(_) => Err(Error::new(Code::Forbidden, format!("this token is for functions, not for {what}"))),
    }
}

/// Runs what the node does of its own accord, which nobody has to allow.
pub(super) async fn as_node<T>(work: impl Future<Output = T>) -> T {
    GRANT.scope(Grant::All, work).await
}

/// The functions that the caller's token is for, if it is not for all.
pub(super) fn limited_to() -> Option<Vec<String>> {
    GRANT.try_with(Grant::limited_to).unwrap_or(Some(Vec::new()))
}

/// Lets a request in with what its caller may do, or answers it in the words of the dialect that was asked.
async fn admit(service: &Service, request: Request) -> Result<(Grant, Request), Response> {
    let is_lambda = lambda::is_route(request.uri().path());
    // Where there is no key, a signature says nothing; the rest of the rules holds.
    if is_lambda && lambda::is_signed(request.headers()) && service.config.aws.secret_access_key.is_some() {
        if service.phase() != Phase::Serving {
            return Err(lambda::Refusal::from(Error::draining()).into_response());
        }
        let verified = lambda::verify(service, request).await;
        return verified.map(|request| (Grant::All, request)).map_err(IntoResponse::into_response);
    }
    match check(service, &request) {
        Ok(grant) => Ok((grant, request)),
        Err(error) => {
            let (head, body) = request.into_parts();
            body::discard(body, &service.config.http).await;
            let path = head.uri.path();
            Err(if is_lambda {
                lambda::Refusal::from(error).into_response()
            } else if ollama::is_route(path) {
                ollama::Refusal::from(error).into_response()
            } else if openai::is_route(path) {
                openai::Failure::from(error).into_response()
            } else {
                error.into_response()
            })
        }
    }
}

/// Refuses who may not do this, and everything but health while draining.
fn check(service: &Service, request: &Request) -> Result<Grant, Error> {
    if service.tokens.trusts_all() && !is_health(request) {
        origin::check(request.headers(), service.config.public_url.as_deref())?;
    }
    if is_open(request) {
        // What is open to all may show more to some.
        return Ok(service.tokens.grant(request.headers(), SystemTime::now()).unwrap_or(Grant::Nothing));
    }
    if service.phase() != Phase::Serving {
        return Err(Error::draining());
    }
    let (method, path) = (request.method(), request.uri().path());
    let grant = service.tokens.grant(request.headers(), SystemTime::now()).ok_or_else(|| {
        Error::new(Code::Unauthorized, "this needs the header \"authorization: Bearer TOKEN\"")
    })?;
    let scope = auth::needed(method, path);
    if !grant.has(scope) {
        let message = format!("this needs a token with scope {}", scope.as_str());
        return Err(Error::new(Code::Forbidden, message));
    }
    Ok(grant)
}

/// What a supervisor asks, by whatever name it knows the node.
fn is_health(request: &Request) -> bool {
    matches!(request.uri().path(), "/healthz" | "/readyz")
}

/// Whether anyone may ask this at any time: whether the node is well, and what it is.
fn is_open(request: &Request) -> bool {
    match request.uri().path() {
        "/metrics" | "/openapi.json" | "/docs" => true,
        path if replicate::is_capability(path) => true,
        "/" => *request.method() != Method::POST && invoke::host_target(request.headers()).is_none(),
        _ => is_health(request),
    }
}

/// The caller's own id where it is fit for logs, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_fit = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match headers.get(REQUEST_ID).filter(is_fit) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(new_id()).expect("letters and digits fit a header"),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_callers_request_id_is_kept_when_it_is_fit_for_logs() {
        let id = |value: &str| request_id(&headers("x-request-id", value));
        assert_eq!(id("a-1"), "a-1");
        for unfit in ["", "a b", &"x".repeat(129)] {
            assert_ne!(id(unfit), unfit);
            assert_eq!(id(unfit).len(), 26);
        }
    }
}
