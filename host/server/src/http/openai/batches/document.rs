//! What is kept of a batch, and how clients see it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::{
    super::{
        super::{Code, Error},
        Failure, answer, files,
    },
    WINDOW, find,
};
use crate::{
    prediction::{PredictionId, Record, Status},
    service::Service,
    store::{Documents, Expect, Kind},
};

/// Attempts to change a batch that somebody else changes meanwhile.
const ATTEMPTS: usize = 5;

/// Time within which a batch is queued, or never is.
const QUEUED_S: u64 = 60;

/// A batch. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) id: String,
    pub(super) endpoint: String,
    pub(super) input_file_id: String,
    pub(super) metadata: Map<String, Value>,
    pub(super) created_s: u64,
    pub(super) expires_s: u64,
    /// Requests.
    pub(super) total: usize,
    pub(super) problems: Vec<Problem>,
    pub(super) cancelling_s: Option<u64>,
    pub(super) ended: Option<Ended>,
}

/// How a batch ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) status: String,
    pub(super) at_s: u64,
    pub(super) began_s: Option<u64>,
    pub(super) completed: usize,
    pub(super) failed: usize,
}

/// What is wrong with an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) message: String,
    /// From 1.
    pub(super) line: Option<usize>,
}

impl Problem {
    pub(super) fn new(code: &str, message: String, line: Option<usize>) -> Self {
        Self { code: code.to_owned(), message, line }
    }
}

impl Batch {
    /// The file of requests that were answered.
    pub(super) fn output_id(&self) -> String {
        format!("file-{}-output", self.id)
    }

    /// The file of those that failed.
    pub(super) fn errors_id(&self) -> String {
        format!("file-{}-errors", self.id)
    }
}

/// Changes what is kept of a batch.
pub(super) async fn change(
    service: &Service,
    id: &str,
    change: impl Fn(&mut Batch),
) -> Result<Batch, Failure> {
    for _ in 0..ATTEMPTS {
        let found = service.store.get::<Batch>(Kind::Batch, id).await.map_err(Error::from)?;
        let mut found = found.ok_or_else(|| Error::not_found(format!("no batch \"{id}\"")))?;
        change(&mut found.value);
        let expect = Expect::Version(found.version);
        let written = service.store.put(Kind::Batch, id, &found.value, expect).await;
        if written.map_err(Error::from)?.is_some() {
            return Ok(found.value);
        }
    }
    Err(Error::new(Code::Conflict, format!("batch \"{id}\" is being changed by others")).into())
}

/// A batch as clients see it. One whose prediction has ended is ended here, should its run not have.
pub(super) async fn view(service: &Service, batch: &Batch) -> Result<Value, Failure> {
    if let Some(ended) = &batch.ended {
        return Ok(document(batch, "", (ended.completed, ended.failed), None));
    }
    let record = match service.predictions.find(&PredictionId::parse(&batch.id).map_err(Error::from)?).await {
        Ok(record) => record,
        // It is just being queued.
        Err(error) if error.code == Code::NotFound && answer::now() < batch.created_s + QUEUED_S => {
            return Ok(document(batch, "validating", (0, 0), None));
        }
        // It was not queued before the node went down, or is forgotten.
        Err(error) if error.code == Code::NotFound => {
            let ended = end(service, batch, "failed", None).await?;
            return Ok(document(&ended, "", (0, 0), None));
        }
        Err(error) => return Err(error.into()),
    };
    let began = record.started_at.map(files::seconds);
    if record.is_ended() {
        let ended = end(service, batch, status_of(&record), began).await?;
        let counts = ended.ended.as_ref().map_or((0, 0), |ended| (ended.completed, ended.failed));
        return Ok(document(&ended, "", counts, None));
    }
    let status = match (batch.cancelling_s, record.status) {
        (Some(_), _) => "cancelling",
        (None, Status::Queued) => "validating",
        (None, _) => "in_progress",
    };
    Ok(document(batch, status, service.batches.counts(&batch.id), began))
}

/// What a prediction's end is to a batch.
fn status_of(record: &Record) -> &'static str {
    match (record.status, &record.failure) {
        (Status::Succeeded, _) => "completed",
        (Status::Canceled, _) => "cancelled",
        (_, Some(failure)) if failure.code == Code::Timeout => "expired",
        _ => "failed",
    }
}

/// Ends a batch: what was answered so far becomes files. Doing it again changes nothing.
pub(super) async fn end(
    service: &Service,
    batch: &Batch,
    status: &str,
    began_s: Option<u64>,
) -> Result<Batch, Failure> {
    let now = answer::now();
    let mut counts = [0; 2];
    for (count, id) in counts.iter_mut().zip([batch.output_id(), batch.errors_id()]) {
        let (files, file) = (service.store.files.clone(), id.clone());
        let sealed = spawn_blocking(move || -> std::io::Result<_> {
            let (_, lines) = files.lines(&file)?;
            let bytes = files.seal(&file)?;
            if lines.is_empty() {
                files.remove(&file)?;
            }
            Ok((lines.len(), bytes))
        });
        let sealed = sealed.await.map_err(Error::internal)?;
        let (lines, bytes) = sealed.map_err(|error| Error::internal(format!("ending a batch: {error}")))?;
        *count = lines;
        if lines > 0 {
            let kept = files::Kept {
                filename: format!("{id}.jsonl"),
                id,
                purpose: "batch_output".to_owned(),
                content_type: "application/jsonl".to_owned(),
                bytes,
                sha256: String::new(),
                metadata: Value::Null,
                created_s: now,
                expires_s: None,
            };
            files::put(service, &kept).await?;
        }
    }
    let [completed, failed] = counts;
    let ended = Ended { status: status.to_owned(), at_s: now, began_s, completed, failed };
    change(service, &batch.id, |batch| _ = batch.ended.get_or_insert(ended.clone())).await?;
    service.batches.forget(&batch.id);
    find(service, &batch.id).await
}

fn document(batch: &Batch, status: &str, (completed, failed): (usize, usize), began_s: Option<u64>) -> Value {
    let ended = batch.ended.as_ref();
    let status = ended.map_or(status, |ended| &ended.status);
    let at = |name: &str| ended.filter(|ended| ended.status == name).map(|ended| ended.at_s);
    let has = |count: fn(&Ended) -> usize| ended.is_some_and(|ended| count(ended) > 0);
    let problem = |problem: &Problem| json!({"code": problem.code, "message": problem.message, "line": problem.line, "param": null});
    let errors: Vec<_> = batch.problems.iter().map(problem).collect();
    json!({
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": if errors.is_empty() { Value::Null } else { json!({"object": "list", "data": errors}) },
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": status,
        "output_file_id": has(|ended| ended.completed).then(|| batch.output_id()),
        "error_file_id": has(|ended| ended.failed).then(|| batch.errors_id()),
        "created_at": batch.created_s,
        "in_progress_at": ended.and_then(|ended| ended.began_s).or(began_s),
        "expires_at": batch.expires_s,
        "finalizing_at": at("completed"),
        "completed_at": at("completed"),
        "failed_at": at("failed"),
        "expired_at": at("expired"),
        "cancelling_at": batch.cancelling_s,
        "cancelled_at": at("cancelled"),
        "request_counts": {"total": batch.total, "completed": completed, "failed": failed},
        "metadata": batch.metadata,
    })
}
