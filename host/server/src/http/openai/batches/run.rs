//! A batch's run: its requests side by side, each answered as if it had come by itself.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufRead, BufReader},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};

use super::{
    super::{
        super::{Error, guard},
        Failure,
        answer::now,
        chat, completions, embeddings, responses,
    },
    document::{self, Batch},
    find,
    line::Line,
};
use crate::{
    prediction::{Record, new_id},
    service::{Phase, Service},
    store::add_line,
};

/// Requests that are read before they are run.
const AHEAD: usize = 64;
/// Statuses that say that the same may work later.
const BUSY: [u16; 2] = [429, 503];

/// How far the batches are that run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    running: Mutex<HashMap<String, Arc<Progress>>>,
}

#[derive(Debug, Default)]
struct Progress {
    completed: AtomicUsize,
    failed: AtomicUsize,
}

impl Counts {
    /// Requests of a batch that were answered, and that failed.
    pub(super) fn counts(&self, id: &str) -> (usize, usize) {
        let progress = self.lock().get(id).cloned().unwrap_or_default();
        (progress.completed.load(Ordering::Relaxed), progress.failed.load(Ordering::Relaxed))
    }

    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn begin(&self, id: &str, completed: usize, failed: usize) -> Arc<Progress> {
        let progress = Arc::new(Progress { completed: completed.into(), failed: failed.into() });
        self.lock().insert(id.to_owned(), progress.clone());
        progress
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Progress>>> {
        self.running.lock().expect("no panic holds this lock")
    }
}

/// Where answers go.
struct Output {
    completed: File,
    failed: File,
    progress: Arc<Progress>,
}

/// Runs a batch to its end, or until the node stops. Dropping it loses at most what was not answered yet.
pub(in crate::http) async fn run(service: &Arc<Service>, record: &Record) -> Result<Value, Error> {
    let ran = async {
        let batch = find(service, record.id.as_str()).await?;
        if let Some(ended) = &batch.ended {
            return Ok(json!({"status": ended.status}));
        }
        let began = Some(now());
        let (output, done) = open(service, &batch).await?;
        let lines = lines(service, &batch, done);
        let work = work(service, &batch, lines, &output);
        tokio::select! {
            done = work => done?,
            // The next start goes on with it.
            () = service.left(Phase::Serving) => return Err(Error::draining().into()),
        }
        let ended = document::end(service, &batch, "completed", began).await?;
        Ok::<_, Failure>(json!({"status": ended.ended.map(|ended| ended.status)}))
    };
    guard::as_node(ran).await.map_err(|failure| failure.error().clone())
}

/// The files that answers go to, and the requests that have one.
async fn open(service: &Service, batch: &Batch) -> Result<(Output, HashSet<String>), Failure> {
    let (files, ids) = (service.store.files.clone(), [batch.output_id(), batch.errors_id()]);
    let opened = spawn_blocking(move || -> std::io::Result<_> {
        let [completed, failed] = ids;
        Ok((files.lines(&completed)?, files.lines(&failed)?))
    });
    let opened = opened.await.map_err(Error::internal)?;
    let ((completed, answered), (failed, refused)) =
        opened.map_err(|error| Error::internal(format!("opening a batch: {error}")))?;
    let progress = service.batches.begin(&batch.id, answered.len(), refused.len());
    let id = |line: String| {
        let line: Value = serde_json::from_str(&line).ok()?;
        Some(line["custom_id"].as_str()?.to_owned())
    };
    let done = answered.into_iter().chain(refused).filter_map(id).collect();
    Ok((Output { completed, failed, progress }, done))
}

/// The requests that have no answer yet, read as they are wanted.
fn lines(service: &Service, batch: &Batch, done: HashSet<String>) -> mpsc::Receiver<Result<Line, Error>> {
    let (send, lines) = mpsc::channel(AHEAD);
    let (files, id, endpoint) =
        (service.store.files.clone(), batch.input_file_id.clone(), batch.endpoint.clone());
    spawn_blocking(move || {
        let failed = |error: std::io::Error| Error::not_found(format!("the batch's input: {error}"));
        let file = match files.read(&id) {
            Ok(file) => file,
            Err(error) => return drop(send.blocking_send(Err(failed(error)))),
        };
        for text in BufReader::new(file).lines() {
            let line = match text {
                Err(error) => Err(failed(error)),
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => Line::parse(&text, &endpoint).map_err(|(_, message)| Error::internal(message)),
            };
            if line.as_ref().is_ok_and(|line| done.contains(&line.custom_id)) {
                continue;
            }
            // A run that has ended reads no more.
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn work(
    service: &Arc<Service>,
    batch: &Batch,
    lines: mpsc::Receiver<Result<Line, Error>>,
    output: &Output,
) -> Result<(), Failure> {
    let running_max = service.config.batch.lines_running_max.max(1);
    let lines = stream::unfold(lines, |mut lines| async move { Some((lines.recv().await?, lines)) });
    let answers = lines.map(|line| async move {
        let line = line?;
        let (status, body) = answer(service, &batch.endpoint, &line.body).await?;
        Ok::<_, Error>((line.custom_id, status, body))
    });
    let mut answers = std::pin::pin!(answers.buffer_unordered(running_max));
    while let Some(answered) = answers.next().await {
        let (custom_id, status, body) = answered?;
        output.add(&custom_id, status, body)?;
    }
    Ok(())
}

impl Output {
    /// Writes an answer down. A short write to a local file, where the run is.
    fn add(&self, custom_id: &str, status: u16, body: Value) -> Result<(), Error> {
        let is_success = (200..300).contains(&status);
        let response =
            json!({"status_code": status, "request_id": format!("req_{}", new_id()), "body": body});
        let id = format!("batch_req_{}", new_id());
        let line = json!({"id": id, "custom_id": custom_id, "response": response, "error": null}).to_string();
        let (file, count) = match is_success {
            true => (&self.completed, &self.progress.completed),
            false => (&self.failed, &self.progress.failed),
        };
        tokio::task::block_in_place(|| add_line(file, &line))
            .map_err(|error| Error::internal(format!("writing a batch's answer: {error}")))?;
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Answers one request; one that the node is too busy for is tried again.
async fn answer(service: &Arc<Service>, endpoint: &str, body: &Value) -> Result<(u16, Value), Error> {
    let queue = &service.config.queue;
    let mut pause = queue.backoff.max(Duration::from_millis(1));
    for _ in 1..queue.attempts_max {
        let (status, told) = ask(service, endpoint, body).await?;
        if !BUSY.contains(&status) {
            return Ok((status, told));
        }
        sleep(pause).await;
        pause = (pause * 2).min(queue.backoff_max);
    }
    ask(service, endpoint, body).await
}

/// A status and a body, in their time.
type Asked<'a> = Pin<Box<dyn Future<Output = Result<(u16, Value), Error>> + Send + 'a>>;

/// Boxed: what answers is deep already.
fn ask<'a>(service: &Arc<Service>, endpoint: &'a str, body: &Value) -> Asked<'a> {
    let (state, body) = (State(service.clone()), Body::from(body.to_string()));
    Box::pin(async move {
        let response: Response = match endpoint {
            "/v1/chat/completions" => chat::create(state, body).await.into_response(),
            "/v1/completions" => completions::create(state, body).await.into_response(),
            "/v1/embeddings" => embeddings::create(state, body).await.into_response(),
            _ => responses::create(state, body).await.into_response(),
        };
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(Error::internal)?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).map_err(Error::internal)?))
    })
}
