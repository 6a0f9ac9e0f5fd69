//! `PUT /v1/functions/{name}`: a component and its settings, received.
//!
//! The body is the component, with settings in the query; or `multipart/form-data` with parts
//! `component` and `settings` (JSON); or JSON with the digest of a component that is here already. Bytes
//! go to a file as they come.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Path, Request, State, multipart::Field},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use dormouse_engine::Priority;
use futures_util::{Stream, StreamExt, pin_mut};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::{fs::File, io::AsyncWriteExt, sync::SemaphorePermit, task::spawn_blocking, time::timeout};

use super::{Code, Error, body, functions::Document, guard};
use crate::{
    deploy::{self, deploy as deploy_upload},
    function::{Digest, FunctionName, Problem, Settings},
    service::Service,
    store::Blobs,
};

/// Deploys what a request brings.
pub(super) async fn deploy(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    let (name, _deploy) = match admit(&service, &name) {
        Ok(admitted) => admitted,
        Err(error) => {
            body::discard(request.into_body(), &service.config.http).await;
            return Err(error);
        }
    };
    let headers = request.headers().clone();
    let started = Instant::now();
    let limit = service.config.deploy.upload_timeout;
    let received = timeout(limit, receive(&service, request)).await;
    let (upload, settings) = received.map_err(|_| body::too_slow(limit))??;
    let upload_took = started.elapsed();
    check(&service, &settings).await?;

    let deployment = deploy_upload(&service, name, upload, settings).await?;
    let function = &deployment.function;
    let mut document = Document::of(&service, function, function.live(), &headers).await;
    document.timings = Some(deploy::Timings { upload: upload_took, ..deployment.timings });
    document.warnings.extend(deployment.warnings);
    if !deployment.is_new {
        document.unchanged = Some(true);
        return Ok(Json(document).into_response());
    }
    let location = HeaderValue::try_from(&document.url);
    let mut response = (StatusCode::CREATED, Json(document)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Checks the name and takes a place among the deploys.
fn admit<'a>(service: &'a Service, name: &str) -> Result<(FunctionName, SemaphorePermit<'a>), Error> {
    let name = FunctionName::parse(name)?;
    guard::allow(&name)?;
    Ok((name, deploy::admit(service)?))
}

async fn receive(service: &Service, request: Request) -> Result<(NamedTempFile, Settings), Error> {
    let query = request.uri().query().unwrap_or_default();
    match body::media_type(request.headers()).as_deref() {
        // The third is what curl says of bytes that it was told nothing about.
        None
        | Some("" | "application/wasm" | "application/octet-stream" | "application/x-www-form-urlencoded") => {
            let settings = from_query(query)?;
            let upload = save(service, Body::into_data_stream(request.into_body())).await?;
            Ok((upload, settings))
        }
        Some("multipart/form-data") if query.is_empty() => receive_parts(service, request).await,
        Some("multipart/form-data") => {
            let message = "settings go in the query or in the part \"settings\", not in both places";
            Err(Error::new(Code::InvalidRequest, message))
        }
        Some("application/json") if query.is_empty() => receive_digest(service, request).await,
        Some(other) => {
            let message = format!("body is \"{other}\", a component is application/wasm");
            Err(Error::new(Code::UnsupportedMediaType, message))
        }
    }
}

/// A component that the node has already, perhaps for other settings.
async fn receive_digest(service: &Service, request: Request) -> Result<(NamedTempFile, Settings), Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Known {
        component: String,
        #[serde(default)]
        settings: Settings,
    }
    let bytes = body::read(request.into_body(), &service.config.http).await?;
    let Known { component, settings } = serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(Code::InvalidRequest, format!("body: {error}")))?;
    let digest = Digest::parse(&component)?;
    let blobs = service.store.blobs.clone();
    // Copied, so that it stays whole should its last function be removed meanwhile.
    let copied = spawn_blocking(move || {
        let mut upload = blobs.upload()?;
        std::io::Write::write_all(&mut upload, &blobs.read(&digest)?)?;
        Ok::<_, std::io::Error>(upload)
    });
    match copied.await.map_err(Error::internal)? {
        Ok(upload) => Ok((upload, settings.normalized())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("no component \"{component}\" on this node")))
        }
        Err(error) => Err(Error::internal(format!("copying a component: {error}"))),
    }
}

async fn receive_parts(service: &Service, request: Request) -> Result<(NamedTempFile, Settings), Error> {
    let invalid = |message: String| Error::new(Code::InvalidRequest, message);
    let parts = Multipart::from_request(request, &()).await;
    let mut parts = parts.map_err(|error| invalid(format!("body: {}", error.body_text())))?;
    let (mut upload, mut settings) = (None, None);
    while let Some(part) = parts.next_field().await.map_err(|error| body::broken(&error))? {
        match part.name() {
            Some("component") if upload.is_none() => upload = Some(save(service, part).await?),
            Some("settings") if settings.is_none() => settings = Some(from_part(service, part).await?),
            Some(name @ ("component" | "settings")) => {
                return Err(invalid(format!("body has two parts \"{name}\"")));
            }
            _ => return Err(invalid("body has a part that is no \"component\" or \"settings\"".to_owned())),
        }
    }
    let upload = upload.ok_or_else(|| invalid("body has no part \"component\"".to_owned()))?;
    Ok((upload, settings.unwrap_or_default()))
}

/// Writes a component to a file as it comes.
async fn save<E: std::error::Error + 'static>(
    service: &Service,
    chunks: impl Stream<Item = Result<Bytes, E>>,
) -> Result<NamedTempFile, Error> {
    let failed = |error: std::io::Error| Error::internal(format!("saving an upload: {error}"));
    let max = service.config.deploy.component_bytes_max;
    let (upload, file) = open(service.store.blobs.clone()).await.map_err(failed)?;
    let mut file = File::from_std(file);
    let mut received = 0;
    pin_mut!(chunks);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| body::broken(&error))?;
        received += chunk.len();
        if received <= max {
            file.write_all(&chunk).await.map_err(failed)?;
        } else if received > max.saturating_add(service.config.http.body_bytes_max) {
            // A client that hears nothing yet sends on; this is as far as it is heard out.
            break;
        }
    }
    if received > max {
        return Err(body::too_large(max));
    }
    file.flush().await.map_err(failed)?;
    Ok(upload)
}

async fn open(blobs: Blobs) -> std::io::Result<(NamedTempFile, std::fs::File)> {
    let opened = spawn_blocking(move || {
        let upload = blobs.upload()?;
        let file = upload.as_file().try_clone()?;
        Ok((upload, file))
    });
    opened.await.unwrap_or_else(|ended| Err(std::io::Error::other(ended)))
}

async fn from_part(service: &Service, mut part: Field<'_>) -> Result<Settings, Error> {
    let max = service.config.deploy.settings_bytes_max;
    let mut text = BytesMut::new();
    while let Some(chunk) = part.chunk().await.map_err(|error| body::broken(&error))? {
        if text.len() + chunk.len() > max {
            return Err(body::too_large(max));
        }
        text.extend_from_slice(&chunk);
    }
    let settings: Settings = serde_json::from_slice(&text)
        .map_err(|error| Error::invalid_input(vec![Problem::new(["settings"], error.to_string())]))?;
    Ok(settings.normalized())
}

/// Settings as `timeout_ms=1000&env=KEY=VALUE&model=a&model=b`.
fn from_query(query: &str) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let set = match &*key {
            "timeout_ms" => number(&value).map(|value| settings.timeout_ms = Some(value)),
            "memory_bytes" => number(&value).map(|value| settings.memory_bytes = Some(value)),
            "concurrency" => number(&value).map(|value| settings.concurrency = Some(value)),
            "queue" | "queue_max" => number(&value).map(|value| settings.queue_max = Some(value)),
            "priority" => priority(&value).map(|value| settings.priority = Some(value)),
            "guess_tokens" => number(&value).map(|value| settings.guess_tokens = Some(value)),
            "idle_after_ms" => number(&value).map(|value| settings.idle_after_ms = Some(value)),
            "keep_warm" => match &*value {
                "true" | "" => {
                    settings.keep_warm = true;
                    Ok(())
                }
                "false" => Ok(()),
                _ => Err("is neither true nor false"),
            },
            "keep" => match &*value {
                "true" | "false" => {
                    settings.keep = Some(value == "true");
                    Ok(())
                }
                _ => Err("is not true or false"),
            },
            "prewake" => {
                settings.prewake.push(value.into_owned());
                Ok(())
            }
            "model" => {
                settings.models.push(value.into_owned());
                Ok(())
            }
            "env" => match value.split_once('=') {
                Some((name, value)) => {
                    settings.env.insert(name.to_owned(), value.to_owned());
                    Ok(())
                }
                None => Err("is not NAME=VALUE"),
            },
            _ => Err("unknown field"),
        };
        if let Err(problem) = set {
            problems.push(Problem::new(["query", &*key], problem));
        }
    }
    match problems.is_empty() {
        true => Ok(settings.normalized()),
        false => Err(Error::invalid_input(problems)),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "is not a whole number")
}

fn priority(text: &str) -> Result<Priority, &'static str> {
    match text {
        "high" => Ok(Priority::High),
        "normal" => Ok(Priority::Normal),
        "low" => Ok(Priority::Low),
        _ => Err("is none of high, normal, low"),
    }
}

async fn check(service: &Service, settings: &Settings) -> Result<(), Error> {
    let problems = settings.problems(&service.config);
    if !problems.is_empty() {
        return Err(Error::invalid_input(problems));
    }
    let (catalog, models) = (service.catalog.clone(), settings.models.clone());
    let misnamed = spawn_blocking(move || {
        models.iter().find_map(|model| match catalog.resolve(model) {
            Err(dormouse_engine::Error::Invalid(reason)) => Some(reason),
            _ => None,
        })
    });
    match misnamed.await.map_err(Error::internal)? {
        Some(reason) => Err(Error::new(Code::UnknownModel, reason)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_query_gives_settings() {
        let query = "timeout_ms=1000&memory_bytes=65536&concurrency=2&queue=0&priority=low&guess_tokens=8&model=b&model=a&env=A=1%3D2&env=B=";
        let settings = Settings {
            timeout_ms: Some(1000),
            memory_bytes: Some(65536),
            concurrency: Some(2),
            queue_max: Some(0),
            priority: Some(Priority::Low),
            guess_tokens: Some(8),
            env: BTreeMap::from([("A", "1=2"), ("B", "")].map(|(k, v)| (k.to_owned(), v.to_owned()))),
            models: vec!["a".to_owned(), "b".to_owned()],
            ..Settings::default()
        };
        assert_eq!(from_query(query).unwrap(), settings);
        assert_eq!(from_query("").unwrap(), Settings::default());
    }

    #[test]
    fn every_wrong_key_and_value_of_a_query_is_told() {
        let error = from_query("timeout_ms=soon&colour=red&env=A&concurrency=-1&priority=1").unwrap_err();
        let error = serde_json::to_value(&error).unwrap();
        let locs: Vec<_> =
            error["details"].as_array().unwrap().iter().map(|p| p["loc"][1].as_str().unwrap()).collect();
        assert_eq!(locs, ["timeout_ms", "colour", "env", "concurrency", "priority"]);
    }
}
