//! What every request passes: an id, a span, the drain, the token, a log line and a count.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;
use tracing::Instrument;

use super::{Code, Error, body, invoke, openai};
use crate::{
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
    let path = request.uri().path();
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), %method, path);
    let mut response = async {
        let response = match check(&service, &request) {
            Ok(()) => next.run(request).await,
            Err(error) => {
                let is_openai = openai::is_route(request.uri().path());
                body::discard(request.into_body(), &service.config.http).await;
                if is_openai { openai::Failure::from(error).into_response() } else { error.into_response() }
            }
        };
        let (status, took_ms) = (response.status().as_u16(), millis(arrived.elapsed()));
        tracing::info!(status, took_ms, "answered");
        response
    }
    .instrument(span)
    .await;
    service.metrics.request(&method, route, response.status());
    response.headers_mut().insert(REQUEST_ID, id);
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

/// Refuses who has no token, and everything but health while draining.
fn check(service: &Service, request: &Request) -> Result<(), Error> {
    if is_open(request) {
        return Ok(());
    }
    if service.phase() != Phase::Serving {
        return Err(Error::draining());
    }
    match &service.config.token {
        Some(token) if !bears(request.headers(), &token.0) => {
            Err(Error::new(Code::Unauthorized, "this needs the header \"authorization: Bearer TOKEN\""))
        }
        _ => Ok(()),
    }
}

/// Whether anyone may ask this at any time: whether the node is well, and what it is.
fn is_open(request: &Request) -> bool {
    match request.uri().path() {
        "/healthz" | "/metrics" => true,
        "/" => *request.method() != Method::POST && invoke::host_target(request.headers()).is_none(),
        _ => false,
    }
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    match given.split_at_checked(7) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            given.trim_ascii().ct_eq(token.as_bytes()).into()
        }
        _ => false,
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
    fn a_token_must_be_the_very_one() {
        let bears = |value: &str| bears(&headers("authorization", value), "s3cret");
        assert!(bears("Bearer s3cret") && bears("bearer  s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "Bearer", "s3cret", "Basic s3cret", ""] {
            assert!(!bears(wrong), "{wrong:?}");
        }
        assert!(!super::bears(&HeaderMap::new(), "s3cret"));
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
