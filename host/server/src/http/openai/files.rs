//! `/v1/files`: files that clients keep here. OpenAI's clients send a part `file` with a `purpose`;
//! Replicate's a part `content`, and read their own form of the answer.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Body,
    extract::{FromRequest, Multipart, Path, Query, Request, State, multipart::Field},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::{fs::File, io::AsyncWriteExt, task::spawn_blocking, time::timeout};

use super::{
    super::{Code, Error, body, functions, guard},
    Failure,
};
use crate::{
    prediction::new_id,
    service::Service,
    store::{Documents, Expect, Kind, Store},
};

/// What a file of Replicate's clients is for.
const REPLICATE: &str = "replicate";
/// Bytes of a part that is no file.
const FIELD_BYTES_MAX: usize = 64 << 10;
/// Bytes that are read from a file at once.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest until a file expires; more comes to this.
const EXPIRES_S_MAX: u64 = 10 * 365 * 24 * 3600;
/// Files on a page, and the most of one.
const PAGE: usize = 10_000;

/// What is kept of a file beside its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) id: String,
    pub(super) filename: String,
    pub(super) purpose: String,
    pub(super) content_type: String,
    pub(super) bytes: u64,
    /// In hex; empty where nobody asked for it.
    pub(super) sha256: String,
    pub(super) metadata: Value,
    /// Since 1970.
    pub(super) created_s: u64,
    /// Since 1970.
    pub(super) expires_s: Option<u64>,
}

/// Refuses a token that is for some functions only: files are everybody's.
pub(super) fn allow() -> Result<(), Failure> {
    Ok(guard::allow_all("files")?)
}

/// The parts of an upload, as far as they have come.
#[derive(Default)]
struct Parts {
    file: Option<(NamedTempFile, Kept)>,
    purpose: Option<String>,
    metadata: Value,
    expires_after: Option<Duration>,
}

/// `POST /v1/files`.
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Failure> {
    allow()?;
    let headers = request.headers().clone();
    let limit = service.config.files.upload_timeout;
    let parts = timeout(limit, receive(&service, request)).await.map_err(|_| body::too_slow(limit))??;
    let Some((upload, mut kept)) = parts.file else {
        return Err(Failure::invalid("file", "there is none"));
    };
    if kept.purpose != REPLICATE {
        kept.purpose = parts.purpose.ok_or_else(|| Failure::invalid("purpose", "there is none"))?;
    }
    kept.metadata = parts.metadata;
    kept.expires_s = parts.expires_after.map(|after| kept.created_s + after.as_secs().min(EXPIRES_S_MAX));
    keep(&service, upload, &kept).await?;
    let status = if kept.purpose == REPLICATE { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(document(&service, &kept, &headers))).into_response())
}

/// Makes an upload a file that lasts, unless there are too many already.
async fn keep(service: &Service, upload: NamedTempFile, kept: &Kept) -> Result<(), Failure> {
    let all = all(service).await?;
    let (count_max, total_max) = (service.config.files.count_max, service.config.files.total_bytes_max);
    if all.len() >= count_max {
        return Err(
            Error::new(Code::Overloaded, format!("this node has {count_max} files, its bound")).into()
        );
    }
    if all.iter().map(|file| file.bytes).sum::<u64>() + kept.bytes > total_max {
        let message = format!("the files of this node would have more than {total_max} bytes, its bound");
        return Err(Error::new(Code::Overloaded, message).into());
    }
    let (files, id) = (service.store.files.clone(), kept.id.clone());
    let stored = spawn_blocking(move || files.keep(upload, &id)).await.map_err(Error::internal)?;
    stored.map_err(|error| Error::internal(format!("keeping a file: {error}")))?;
    put(service, kept).await
}

/// Writes down a file whose bytes are there.
pub(super) async fn put(service: &Service, kept: &Kept) -> Result<(), Failure> {
    service.store.put(Kind::File, &kept.id, kept, Expect::Absent).await.map_err(Error::from)?;
    Ok(())
}

async fn receive(service: &Service, request: Request) -> Result<Parts, Failure> {
    let multipart = Multipart::from_request(request, &()).await;
    let mut multipart = multipart.map_err(|error| Failure::invalid("body", error.body_text()))?;
    let mut parts = Parts::default();
    while let Some(mut part) = multipart.next_field().await.map_err(|error| body::broken(&error))? {
        let name = part.name().unwrap_or_default().to_owned();
        match &*name {
            "file" | "content" if parts.file.is_none() => {
                let purpose = if name == "content" { REPLICATE } else { "" };
                parts.file = Some(save(service, part, purpose).await?);
            }
            "purpose" => parts.purpose = Some(field(&mut part).await?),
            "metadata" => {
                let text = field(&mut part).await?;
                parts.metadata = serde_json::from_str(&text).unwrap_or(Value::String(text));
            }
            "expires_after[seconds]" => {
                let seconds: u64 = field(&mut part)
                    .await?
                    .parse()
                    .map_err(|_| Failure::invalid("expires_after[seconds]", "is not a whole number"))?;
                parts.expires_after = Some(Duration::from_secs(seconds));
            }
            _ => _ = field(&mut part).await?,
        }
    }
    Ok(parts)
}

async fn field(part: &mut Field<'_>) -> Result<String, Failure> {
    let mut text = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|error| body::broken(&error))? {
        if text.len() + chunk.len() > FIELD_BYTES_MAX {
            return Err(body::too_large(FIELD_BYTES_MAX).into());
        }
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes a part to a file as it comes.
async fn save(
    service: &Service,
    mut part: Field<'_>,
    purpose: &str,
) -> Result<(NamedTempFile, Kept), Failure> {
    let failed = |error: std::io::Error| Error::internal(format!("saving a file: {error}"));
    let max = service.config.files.bytes_max;
    let files = service.store.files.clone();
    let opened = spawn_blocking(move || {
        let upload = files.upload()?;
        let file = upload.as_file().try_clone()?;
        Ok::<_, std::io::Error>((upload, file))
    });
    let (upload, file) = opened.await.map_err(Error::internal)?.map_err(failed)?;
    let mut file = File::from_std(file);
    let filename = part.file_name().unwrap_or("file").to_owned();
    let content_type = part.content_type().unwrap_or("application/octet-stream").to_owned();
    let (mut bytes, mut hash) = (0, Sha256::new());
    while let Some(chunk) = part.chunk().await.map_err(|error| body::broken(&error))? {
        bytes += chunk.len();
        if bytes > max {
            return Err(body::too_large(max).into());
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let kept = Kept {
        id: format!("file-{}", new_id()),
        filename,
        purpose: purpose.to_owned(),
        content_type,
        bytes: bytes as u64,
        sha256,
        metadata: Value::Null,
        created_s: seconds(SystemTime::now()),
        expires_s: None,
    };
    Ok((upload, kept))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    purpose: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
    order: Option<String>,
}

/// `GET /v1/files`: in the form of every dialect that asks for it here, newest first.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    allow()?;
    let mut all = all(&service).await?;
    all.retain(|file| query.purpose.as_ref().is_none_or(|purpose| file.purpose == *purpose));
    all.sort_by(|a, b| (b.created_s, &b.id).cmp(&(a.created_s, &a.id)));
    if query.order.as_deref() == Some("asc") {
        all.reverse();
    }
    if let Some(after) = &query.after {
        let at = all.iter().position(|file| file.id == *after);
        all.drain(..at.map_or(0, |at| at + 1));
    }
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let has_more = all.len() > limit;
    all.truncate(limit);
    let (theirs, ours): (Vec<_>, Vec<_>) = all.iter().partition(|file| file.purpose == REPLICATE);
    let documents = |files: Vec<&Kept>| {
        files.into_iter().map(|file| document(&service, file, &headers)).collect::<Vec<_>>()
    };
    Ok(Json(json!({
        "object": "list",
        "first_id": ours.first().map(|file| &file.id),
        "last_id": ours.last().map(|file| &file.id),
        "has_more": has_more,
        "data": documents(ours),
        "results": documents(theirs),
        "next": null,
        "previous": null,
    })))
}

/// `GET /v1/files/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    allow()?;
    Ok(Json(document(&service, &find(&service, &id).await?, &headers)))
}

/// `GET /v1/files/{id}/content`.
pub(super) async fn content(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allow()?;
    let kept = find(&service, &id).await?;
    let (files, id) = (service.store.files.clone(), kept.id.clone());
    let opened = spawn_blocking(move || files.read(&id)).await.map_err(Error::internal)?;
    let file = opened.map_err(|error| Error::internal(format!("file \"{}\": {error}", kept.id)))?;
    let mut response = Response::new(Body::from_stream(chunks(File::from_std(file))));
    let kind = HeaderValue::try_from(&kept.content_type);
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(header::CONTENT_LENGTH, kept.bytes.into());
    Ok(response)
}

fn chunks(file: File) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> {
    use tokio::io::AsyncReadExt;
    futures_util::stream::try_unfold(file, |mut file| async move {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
        let count = file.read_buf(&mut chunk).await?;
        Ok((count > 0).then(|| (chunk.freeze(), file)))
    })
}

/// `DELETE /v1/files/{id}`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    allow()?;
    let kept = find(&service, &id).await?;
    forget(&service, &kept.id).await?;
    Ok(match kept.purpose == REPLICATE {
        true => StatusCode::NO_CONTENT.into_response(),
        false => Json(json!({"id": kept.id, "object": "file", "deleted": true})).into_response(),
    })
}

/// Removes a file, its document first.
async fn forget(service: &Service, id: &str) -> Result<(), Failure> {
    service.store.delete(Kind::File, id).await.map_err(Error::from)?;
    let (files, id) = (service.store.files.clone(), id.to_owned());
    let removed = spawn_blocking(move || files.remove(&id)).await.map_err(Error::internal)?;
    Ok(removed.map_err(|error| Error::internal(format!("removing a file: {error}")))?)
}

/// What is kept of a file.
pub(super) async fn find(service: &Service, id: &str) -> Result<Kept, Failure> {
    let found = service.store.get::<Kept>(Kind::File, id).await.map_err(Error::from)?;
    let found = found.map(|found| found.value).filter(|file| !has_expired(file));
    found.ok_or_else(|| Error::not_found(format!("no file \"{id}\"")).into())
}

/// All files; those whose time is over are removed.
async fn all(service: &Service) -> Result<Vec<Kept>, Failure> {
    let all = service.store.list::<Kept>(Kind::File).await.map_err(Error::from)?;
    let (expired, all): (Vec<_>, Vec<_>) = all.into_iter().map(|(_, file)| file).partition(has_expired);
    for file in expired {
        forget(service, &file.id).await?;
    }
    Ok(all)
}

/// Removes files that nothing knows of, as a crash leaves them. Blocks for file operations; for start-up.
pub(crate) async fn sweep(store: &Store) -> Result<(), Error> {
    let files = store.list::<Kept>(Kind::File).await?;
    let unfinished = super::batches::unfinished_files(store).await?;
    let keep: HashSet<_> = files.into_iter().map(|(id, _)| id).chain(unfinished).collect();
    let swept = store.files.sweep(&keep).map_err(|error| Error::internal(format!("files: {error}")))?;
    if swept > 0 {
        tracing::info!(swept, "removed files that were never acknowledged");
    }
    Ok(())
}

fn has_expired(file: &Kept) -> bool {
    file.expires_s.is_some_and(|expires| expires <= seconds(SystemTime::now()))
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn document(service: &Service, file: &Kept, headers: &HeaderMap) -> Value {
    if file.purpose != REPLICATE {
        return json!({
            "id": file.id,
            "object": "file",
            "bytes": file.bytes,
            "created_at": file.created_s,
            "expires_at": file.expires_s,
            "filename": file.filename,
            "purpose": file.purpose,
            "status": "processed",
        });
    }
    let time = |seconds| functions::rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
    let base = functions::base_url(&service.config, headers);
    json!({
        "id": file.id,
        "name": file.filename,
        "content_type": file.content_type,
        "size": file.bytes,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": if file.metadata.is_object() { file.metadata.clone() } else { json!({}) },
        "created_at": time(file.created_s),
        "expires_at": file.expires_s.map(time),
        "urls": {"get": format!("{base}/v1/files/{}", file.id)},
    })
}
