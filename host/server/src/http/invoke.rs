//! Invocation URLs: `/fn/NAME`, `/fn/NAME:REFERENCE`, and a host `NAME.localhost`.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::Response,
};
use serde_json::Value;

use super::{
    Code, Error, answer, body,
    guard::{self, Arrived},
    prefer::Prefer,
    sse,
    timing::Timing,
};
use crate::{
    function::{Alias, Function, FunctionName, Reference, Revision},
    prediction::{Call, Input, Prediction},
    service::Service,
};

/// What ends a host name whose first label is a function.
const HOST_SUFFIX: &str = ".localhost";
/// What stands between a function and a reference in a host name.
const HOST_SEPARATOR: &str = "--";

/// `POST /fn/{target}`.
pub(super) async fn by_path(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path(target): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let (function, revision) = path_target(&service, &target)?;
    invoke(service, function, revision, arrived, headers, body).await
}

/// `POST /` of a function's host.
pub(super) async fn by_host(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let label = host_target(&headers).ok_or_else(|| {
        Error::not_found(format!("POST / goes to a function's host, such as NAME{HOST_SUFFIX}"))
    })?;
    let (function, revision) = label_target(&service, label)?;
    invoke(service, function, revision, arrived, headers, body).await
}

/// The first label of a function's host name.
pub(super) fn host_target(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host.strip_suffix(HOST_SUFFIX).filter(|label| !label.is_empty())
}

/// What `NAME` or `NAME:REFERENCE` names.
pub(super) fn path_target(service: &Service, target: &str) -> Result<(Arc<Function>, Arc<Revision>), Error> {
    let (name, reference) = match target.split_once(':') {
        Some((name, reference)) => (name, Some(reference)),
        None => (target, None),
    };
    let function = find(service, name)?;
    let revision = revision(&function, reference)?;
    Ok((function, revision))
}

/// What `NAME` or `NAME--REFERENCE` names; a function whose name has the separator goes first.
pub(super) fn label_target(service: &Service, label: &str) -> Result<(Arc<Function>, Arc<Revision>), Error> {
    let label = label.to_ascii_lowercase();
    let (function, reference) = match (find(service, &label), label.rsplit_once(HOST_SEPARATOR)) {
        (Err(_), Some((name, reference))) => (find(service, name)?, Some(reference)),
        (found, _) => (found?, None),
    };
    let revision = revision(&function, reference)?;
    Ok((function, revision))
}

/// The function of this name, or the answer that there is none.
pub(super) fn find(service: &Service, name: &str) -> Result<Arc<Function>, Error> {
    match service.store.registry.find(name) {
        Some(function) => guard::allow(&function.name).map(|()| function),
        None => {
            let name = FunctionName::parse(name)?;
            Err(Error::not_found(format!("no function \"{name}\"")))
        }
    }
}

fn revision(function: &Function, reference: Option<&str>) -> Result<Arc<Revision>, Error> {
    match reference {
        None | Some(Alias::LIVE) => Ok(function.live().clone()),
        Some(reference) => Ok(function.resolve(&Reference::parse(reference)?)?.clone()),
    }
}

async fn invoke(
    service: Arc<Service>,
    function: Arc<Function>,
    revision: Arc<Revision>,
    Arrived(arrived): Arrived,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    check_media_type(&headers)?;
    let input = Input::Body(body::read(body, &service.config.http).await?);
    let keep_alive = Prefer::of(&headers).keep_alive;
    let call =
        Call { function, revision, input, id: None, webhook: None, memo: Value::Null, keep_alive, arrived };
    let prediction = Prediction::prepare(&service, call).await?;
    match wants_events(&headers) {
        true => Ok(stream(&service, prediction)),
        false => Ok(answer::brief(&*prediction.run().await)),
    }
}

/// Input is JSON. Bodies without a type and those that `curl -d` sends are taken for it.
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), Error> {
    match body::media_type(headers).as_deref() {
        None | Some("" | "application/json" | "application/x-www-form-urlencoded") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        Some(other) => {
            let message = format!("body is \"{other}\", input is application/json");
            Err(Error::new(Code::UnsupportedMediaType, message))
        }
    }
}

pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).into_iter();
    accepts.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(|range| {
        let range = range.split(|byte| *byte == b';').next().unwrap_or_default();
        range.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Runs a prediction in a task of its own, which a reader who leaves ends.
fn stream(service: &Service, prediction: Prediction) -> Response {
    let timing = Timing::of_start(&prediction);
    let events = sse::follow(prediction.spawn(), answer::events(0));
    timing.tell(sse::response(events, service.config.http.keep_alive))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_host_names_a_function_by_its_first_label() {
        let target = |host| host_target(&headers(header::HOST, host)).map(str::to_owned);
        assert_eq!(target("chat.localhost:8080").as_deref(), Some("chat"));
        assert_eq!(target("chat--beta.localhost").as_deref(), Some("chat--beta"));
        for other in ["localhost:8080", "127.0.0.1:8080", ".localhost", "chat.example.com", "[::1]:80"] {
            assert_eq!(target(other), None, "{other}");
        }
    }

    #[test]
    fn an_event_stream_is_asked_for_by_name() {
        let wants = |accept| wants_events(&headers(header::ACCEPT, accept));
        assert!(wants("text/event-stream") && wants("application/json, Text/Event-Stream;q=0.9"));
        assert!(!wants("*/*") && !wants("application/json") && !wants_events(&HeaderMap::new()));
    }

    #[test]
    fn input_is_json_by_any_of_its_names() {
        let check = |media_type| check_media_type(&headers(header::CONTENT_TYPE, media_type)).is_ok();
        assert!(check("application/json; charset=utf-8") && check("application/ld+json"));
        assert!(check("application/x-www-form-urlencoded") && check_media_type(&HeaderMap::new()).is_ok());
        assert!(!check("text/plain") && !check("multipart/form-data; boundary=x"));
    }
}
