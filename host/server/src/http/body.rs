//! Bodies that are read whole, within bounds of size and time.

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::time::timeout;

use super::{Code, Error};
use crate::config::Http;

/// A body's bytes.
pub(super) async fn read(body: Body, bounds: &Http) -> Result<Bytes, Error> {
    let max = bounds.body_bytes_max;
    match timeout(bounds.body_timeout, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(max)),
        Ok(Err(error)) => Err(broken(&*error)),
        Err(_) => Err(too_slow(bounds.body_timeout)),
    }
}

/// Reads a body that nobody wants, within the same bounds: a client that is still sending when its
/// connection is closed sees a broken pipe instead of the answer.
pub(super) async fn discard(body: Body, bounds: &Http) {
    let mut body = Limited::new(body, bounds.body_bytes_max);
    let drain = async { while let Some(Ok(_)) = body.frame().await {} };
    // Who is too slow or sends too much has had their chance.
    let _ = timeout(bounds.body_timeout, drain).await;
}

/// A body that is a JSON object; an empty one is the default.
pub(super) async fn json<T: DeserializeOwned + Default>(body: Body, bounds: &Http) -> Result<T, Error> {
    let bytes = read(body, bounds).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // Serde takes an array for an object's fields in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Error::new(Code::InvalidRequest, "body: an array is no object"));
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::new(Code::InvalidRequest, format!("body: {error}")))
}

pub(super) fn too_large(max: usize) -> Error {
    Error::new(Code::TooLarge, format!("body is larger than {max} bytes"))
}

pub(super) fn too_slow(limit: std::time::Duration) -> Error {
    Error::new(Code::RequestTimeout, format!("body did not arrive in {limit:?}"))
}

/// A body that ended early or broke the protocol.
pub(super) fn broken(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(Code::InvalidRequest, format!("body: {error}"))
}

/// A field that may be left out, but is not null.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A body's media type in lower case, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let value = value.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(String::from_utf8_lossy(value.trim_ascii()).to_ascii_lowercase())
}
