//! `/v1/batches`: requests in a file, answered in files. A batch is one prediction of the queue, an
//! [errand](crate::prediction::Errand) of the node's own: so it is acknowledged when it is on disk, goes on
//! after a crash where it was, and can be canceled.
//!
//! Each answer is a line that is added to the batch's output (or errors) as it comes; a run that goes on
//! leaves out what has a line already. At the end, however it comes, the lines become files.

mod document;
mod line;
mod run;

use std::{
    io::{BufRead, BufReader},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use self::{
    document::{Batch, view},
    line::Lines,
};
use super::{
    super::{Code, Error},
    Failure, answer,
    answerer::named,
    files::{self, allow},
    request,
};
use crate::{
    prediction::{Errand, PredictionId, Submission, new_id},
    service::Service,
    store::{Documents, Expect, Kind, Store},
};

pub(crate) use run::Counts;
pub(in crate::http) use run::run;

/// Where a batch's requests may go.
const ENDPOINTS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];
/// The one window that clients may ask for.
const WINDOW: &str = "24h";
/// Batches on a page, where the client doesn't say, and the most of one.
const PAGES: (usize, usize) = (20, 100);
/// Problems of an input that a batch tells.
const PROBLEMS_MAX: usize = 20;
/// Pairs of metadata, as OpenAI has them.
const METADATA_MAX: usize = 16;

#[derive(Debug, Deserialize)]
struct Create {
    input_file_id: String,
    endpoint: String,
    completion_window: String,
    metadata: Option<Map<String, Value>>,
}

/// `POST /v1/batches`.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Json<Value>, Failure> {
    allow()?;
    let create: Create = request::parse(&request::read(body, &service.config.http).await?)?;
    if !ENDPOINTS.contains(&&*create.endpoint) {
        let message = format!("\"{}\" is not one of {}", create.endpoint, ENDPOINTS.join(", "));
        return Err(Failure::invalid("endpoint", message));
    }
    if create.completion_window != WINDOW {
        return Err(Failure::invalid("completion_window", format!("is not \"{WINDOW}\"")));
    }
    let metadata = create.metadata.unwrap_or_default();
    if metadata.len() > METADATA_MAX {
        return Err(Failure::invalid("metadata", format!("has more than {METADATA_MAX} pairs")));
    }
    files::find(&service, &create.input_file_id)
        .await
        .map_err(|error| Failure::invalid("input_file_id", error.error().message.clone()))?;
    make_room(&service).await?;
    let problems = check(&service, &create.input_file_id, &create.endpoint).await?;
    let now = answer::now();
    let mut batch = Batch {
        id: format!("batch_{}", new_id()),
        endpoint: create.endpoint,
        input_file_id: create.input_file_id,
        metadata,
        created_s: now,
        expires_s: now + service.config.batch.window.as_secs(),
        total: 0,
        problems: Vec::new(),
        cancelling_s: None,
        ended: None,
    };
    match problems {
        Ok(total) => batch.total = total,
        Err(problems) => {
            batch.problems = problems;
            batch.ended =
                Some(document::Ended { status: "failed".to_owned(), at_s: now, ..Default::default() });
        }
    }
    service.store.put(Kind::Batch, &batch.id, &batch, Expect::Absent).await.map_err(Error::from)?;
    if batch.ended.is_none() {
        submit(&service, &batch).await?;
    }
    Ok(Json(view(&service, &batch).await?))
}

/// Queues a batch; asking again changes nothing.
async fn submit(service: &Arc<Service>, batch: &Batch) -> Result<(), Failure> {
    let deadline = SystemTime::UNIX_EPOCH + Duration::from_secs(batch.expires_s);
    let submission = Submission {
        deadline: Some(deadline),
        attempts_max: Some(service.config.queue.attempts_max),
        ..Submission::default()
    };
    let id = PredictionId::parse(&batch.id).map_err(Error::from)?;
    service.predictions.send(service, Errand::Batch, id, json!({"batch": batch.id}), submission).await?;
    Ok(())
}

/// Counts the requests of an input, or tells what is wrong with them. Functions are looked up as the caller
/// may use them; models are when their turn comes.
async fn check(
    service: &Service,
    file: &str,
    endpoint: &str,
) -> Result<Result<usize, Vec<document::Problem>>, Failure> {
    let (files, id, endpoint) = (service.store.files.clone(), file.to_owned(), endpoint.to_owned());
    let bounds = service.config.batch.clone();
    let read = spawn_blocking(move || {
        let mut lines = Lines::new(endpoint, bounds);
        let reader = BufReader::new(files.read(&id)?);
        for text in reader.lines() {
            if !lines.read(&text?) {
                break;
            }
        }
        Ok::<_, std::io::Error>(lines)
    });
    let lines = read
        .await
        .map_err(Error::internal)?
        .map_err(|error| Failure::invalid("input_file_id", error.to_string()))?;
    let (total, models, mut problems) = lines.finish();
    for (line, model) in models {
        // A model that isn't here fails its own lines.
        if let Err(error) = named(service, &model).await {
            problems.push(document::Problem::new(
                "model_not_allowed",
                error.error().message.clone(),
                Some(line),
            ));
        }
    }
    problems.truncate(PROBLEMS_MAX);
    Ok(if problems.is_empty() { Ok(total) } else { Err(problems) })
}

/// Drops batches whose time is over; refuses another where there are too many.
async fn make_room(service: &Service) -> Result<(), Failure> {
    let (keep, kept_max) = (service.config.batch.keep.as_secs(), service.config.batch.kept_max);
    let now = answer::now();
    let mut count = 0;
    for batch in all(service).await? {
        match &batch.ended {
            Some(ended) if ended.at_s + keep < now => {
                service.store.delete(Kind::Batch, &batch.id).await.map_err(Error::from)?;
            }
            _ => count += 1,
        }
    }
    if count >= kept_max {
        let message = format!("this node has {count} batches, its bound");
        return Err(Error::new(Code::Overloaded, message).into());
    }
    Ok(())
}

/// All batches, newest first.
async fn all(service: &Service) -> Result<Vec<Batch>, Failure> {
    let all = service.store.list::<Batch>(Kind::Batch).await.map_err(Error::from)?;
    let mut all: Vec<_> = all.into_iter().map(|(_, batch)| batch).collect();
    all.sort_by(|a, b| (b.created_s, &b.id).cmp(&(a.created_s, &a.id)));
    Ok(all)
}

/// Files of answers of batches that have not ended.
pub(super) async fn unfinished_files(store: &Store) -> Result<Vec<String>, Error> {
    let all = store.list::<Batch>(Kind::Batch).await?;
    let unfinished = all.into_iter().map(|(_, batch)| batch).filter(|batch| batch.ended.is_none());
    Ok(unfinished.flat_map(|batch| [batch.output_id(), batch.errors_id()]).collect())
}

async fn find(service: &Service, id: &str) -> Result<Batch, Failure> {
    let found = service.store.get::<Batch>(Kind::Batch, id).await.map_err(Error::from)?;
    Ok(found.ok_or_else(|| Error::not_found(format!("no batch \"{id}\"")))?.value)
}

/// `GET /v1/batches/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    allow()?;
    let batch = find(&service, &id).await?;
    Ok(Json(view(&service, &batch).await?))
}

/// `POST /v1/batches/{id}/cancel`: requests that are answered stay so.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Failure> {
    allow()?;
    let batch = find(&service, &id).await?;
    if batch.ended.is_some() {
        let message = format!("batch \"{id}\" has ended");
        return Err(Error::new(Code::Conflict, message).into());
    }
    document::change(&service, &id, |batch| {
        batch.cancelling_s.get_or_insert(answer::now());
    })
    .await?;
    service.predictions.cancel(&PredictionId::parse(&id).map_err(Error::from)?).await?;
    let batch = find(&service, &id).await?;
    Ok(Json(view(&service, &batch).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/batches`: newest first.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, Failure> {
    allow()?;
    let mut all = all(&service).await?;
    if let Some(after) = &query.after {
        let at = all.iter().position(|batch| batch.id == *after);
        all.drain(..at.map_or(0, |at| at + 1));
    }
    let limit = query.limit.unwrap_or(PAGES.0).clamp(1, PAGES.1);
    let has_more = all.len() > limit;
    all.truncate(limit);
    let mut data = Vec::with_capacity(all.len());
    for batch in &all {
        data.push(view(&service, batch).await?);
    }
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "first_id": all.first().map(|batch| &batch.id),
        "last_id": all.last().map(|batch| &batch.id),
        "has_more": has_more,
    })))
}
