//! One prediction from its request to its answer.
//!
//! ```text
//! prepare   component at hand, input checked      422 before anything waits
//!           a place, waited for in order          429
//! run       a fresh instance; events to the caller as they come
//! ended     answer, history, metrics, one log line
//! ```
//!
//! Dropping a prediction at any point ends it: the place is given back, the instance and its
//! completions go, and the history says that it was cancelled.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use dormouse_runtime::{Event, Invocation, Metrics, Outcome};
use rand::RngExt;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, value::RawValue};
use tokio::sync::mpsc;

use crate::{
    dispatch::{Bounds, ColdStart, Permit, Ready},
    function::{Function, Revision},
    history::{Record, Status},
    http::{Code, Error, Frame},
    metrics::Ran,
    service::Service,
};

/// Bytes of a body that is parsed and checked where it was read; a larger one gets a thread.
const CHECK_INLINE_BYTES_MAX: usize = 64 << 10;

/// A prediction that may run.
pub(crate) struct Prediction {
    service: Arc<Service>,
    ready: Arc<Ready>,
    invocation: Invocation,
    _permit: Permit,
    entry: Entry,
    cost: Cost,
}

/// A prediction's line in the history, written when it is dropped at the latest.
struct Entry {
    service: Arc<Service>,
    function: Arc<Function>,
    revision: Arc<Revision>,
    id: String,
    started: Instant,
    started_at: SystemTime,
    logs: String,
    is_written: bool,
}

/// What a prediction cost its caller.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) queue: Duration,
    pub(crate) cold: ColdStart,
    pub(crate) cold_start: Duration,
    /// From the request's arrival to its answer.
    pub(crate) total: Duration,
    pub(crate) run: Metrics,
}

/// A prediction that ended, as its caller sees it.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Error>,
    pub(crate) id: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    logs: String,
    #[serde(rename = "metrics")]
    pub(crate) cost: Cost,
}

/// Where events go while a prediction runs.
pub(crate) type Stream = mpsc::Sender<Frame>;

impl Prediction {
    /// Finds the component, checks the input and waits for a place.
    pub(crate) async fn prepare(
        service: Arc<Service>,
        function: Arc<Function>,
        revision: Arc<Revision>,
        body: Bytes,
        arrived: Instant,
    ) -> Result<Self, Error> {
        let (ready, cold, cold_start) = service.components.get(&revision.predictor).await?;
        let problems_max = service.config.predict.problems_max;
        let input = input(&ready, body, problems_max).await?;
        let live = &function.live().effective;
        let bounds = Bounds { running_max: live.concurrency, queue_max: live.queue_max };
        let queued = Instant::now();
        let permit = service.permits.acquire(&function.name, bounds).await?;
        let queue = queued.elapsed();
        let effective = &revision.effective;
        let invocation = Invocation {
            input,
            limits: effective.limits.clone(),
            models: effective.models.clone(),
            env: effective.env.clone(),
        };
        let entry = Entry {
            service: service.clone(),
            function,
            revision,
            id: new_id(),
            started: arrived,
            started_at: SystemTime::now(),
            logs: String::new(),
            is_written: false,
        };
        let cost = Cost { queue, cold, cold_start, total: Duration::ZERO, run: Metrics::default() };
        Ok(Self { service, ready, invocation, _permit: permit, entry, cost })
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> &Cost {
        &self.cost
    }

    /// Runs to the end. Events go to `stream`, if there is one, as they happen; a caller who leaves or
    /// stops reading ends the prediction, and so does the node's stopping.
    pub(crate) async fn run(self, stream: Option<Stream>) -> Ended {
        let Self { service, ready, invocation, _permit, mut entry, mut cost } = self;
        let mut outputs = Vec::new();
        let (ended, run) = {
            let (events, inbox) = mpsc::channel(service.config.predict.events_max.max(1));
            let predict = service.runtime.predict(&ready.component, invocation, events);
            let stall_timeout = service.config.predict.stall_timeout;
            let collect = collect(inbox, stream.as_ref(), stall_timeout, &mut entry.logs, &mut outputs);
            // When the collector gives up it drops the inbox, which ends the guest.
            let work = async { tokio::join!(predict, collect).0 };
            tokio::select! {
                done = work => done,
                () = service.stopping() => (Err(dormouse_runtime::Error::Cancelled), Metrics::default()),
            }
        };
        cost.total = entry.started.elapsed();
        cost.run = run;
        service.metrics.ran(Ran {
            queue: cost.queue,
            cold: cost.cold,
            cold_start: cost.cold_start,
            metrics: &cost.run,
        });
        let output = match ended {
            Ok(outcome) => output(outcome, &outputs, &mut entry.logs).map_err(Error::internal),
            Err(error) => Err(service.explain(error, &entry.revision).await),
        };
        entry.end(output, cost)
    }
}

impl Entry {
    fn end(mut self, output: Result<Box<RawValue>, Error>, cost: Cost) -> Ended {
        let dropped = cost.run.log_bytes_dropped;
        if dropped > 0 {
            self.logs.push_str(&format!("({dropped} more bytes of logs were dropped)\n"));
        }
        let (status, output, error) = match output {
            Ok(output) => (Status::Succeeded, Some(output), None),
            Err(error) if matches!(error.code, Code::Cancelled | Code::Draining) => {
                (Status::Canceled, None, Some(error))
            }
            Err(error) => (Status::Failed, None, Some(error)),
        };
        self.write(status, error.as_ref());
        let (id, logs) = (self.id.clone(), std::mem::take(&mut self.logs));
        Ended { error, id, status, output, logs, cost }
    }

    fn write(&mut self, status: Status, error: Option<&Error>) {
        self.is_written = true;
        let took = self.started.elapsed();
        let record = Record {
            id: self.id.clone(),
            revision: self.revision.id.clone(),
            status,
            started_at: self.started_at,
            took,
            error: error.map(|error| (error.code, error.message.clone())),
            logs: self.logs.clone(),
        };
        self.service.metrics.prediction(&self.function.name, status);
        self.service.history.add(&self.function.name, record);
        let code = error.map(|error| error.code);
        tracing::debug!(function = %self.function.name, id = self.id, ?status, ?code, ?took, "prediction");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.is_written {
            self.write(Status::Canceled, None);
        }
    }
}

/// The input in a body, checked, as JSON.
async fn input(ready: &Arc<Ready>, body: Bytes, problems_max: usize) -> Result<String, Error> {
    let is_small = body.len() <= CHECK_INLINE_BYTES_MAX;
    let check = move |ready: &Ready| {
        let body = match body.trim_ascii() {
            [] => Value::Object(serde_json::Map::new()),
            text => serde_json::from_slice(text)
                .map_err(|error| Error::new(Code::InvalidRequest, format!("body is not JSON: {error}")))?,
        };
        ready.input.prepare(body, problems_max).map_err(Error::invalid_input)
    };
    if is_small {
        return check(ready);
    }
    let ready = ready.clone();
    let checked = tokio::task::spawn_blocking(move || check(&ready)).await;
    checked.unwrap_or_else(|ended| Err(Error::internal(ended)))
}

/// Takes events until there are no more: logs and outputs are kept, and all is passed on to `stream`.
/// Returns early when its reader is gone or has left it full for `stall_timeout`.
async fn collect(
    mut inbox: mpsc::Receiver<Event>,
    stream: Option<&Stream>,
    stall_timeout: Duration,
    logs: &mut String,
    outputs: &mut Vec<String>,
) {
    loop {
        let gone = async {
            match stream {
                Some(stream) => stream.closed().await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = inbox.recv() => event,
            () = gone => return,
        };
        let Some(event) = event else { return };
        if let Some(stream) = stream
            && stream.send_timeout(Frame::event(&event), stall_timeout).await.is_err()
        {
            return;
        }
        match event {
            Event::Output(element) => outputs.push(element),
            Event::Log(line) => {
                logs.push_str(&line.message);
                logs.push('\n');
            }
            Event::Progress { .. } => {}
        }
    }
}

/// A prediction's output: what `predict` returned, or the list of what it emitted where that is `null`.
fn output(
    outcome: Outcome,
    elements: &[String],
    logs: &mut String,
) -> Result<Box<RawValue>, serde_json::Error> {
    let returned = outcome.output.trim_ascii();
    if elements.is_empty() {
        return RawValue::from_string(outcome.output);
    }
    if returned == "null" {
        return RawValue::from_string(format!("[{}]", elements.join(",")));
    }
    logs.push_str("predict emitted elements and returned a value; its output is the value\n");
    RawValue::from_string(outcome.output)
}

/// 128 random bits in lower-case base 32 (RFC 4648's alphabet).
pub(crate) fn new_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bits: u128 = rand::rng().random();
    let mut id = String::with_capacity(26);
    for _ in 0..26 {
        id.push(char::from(ALPHABET[(bits & 31) as usize]));
        bits >>= 5;
    }
    id
}

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { queue, cold, cold_start, total, run } = self;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("queue_ms", &millis(*queue))?;
        map.serialize_entry("cold_start", cold)?;
        map.serialize_entry("cold_start_ms", &millis(*cold_start))?;
        map.serialize_entry("instantiate_ms", &millis(run.instantiate))?;
        map.serialize_entry("setup_ms", &millis(run.setup))?;
        map.serialize_entry("predict_ms", &millis(run.predict))?;
        map.serialize_entry("total_ms", &millis(*total))?;
        map.serialize_entry("memory_bytes", &run.memory_bytes)?;
        map.serialize_entry("prompt_tokens", &run.prompt_tokens)?;
        map.serialize_entry("cached_tokens", &run.cached_tokens)?;
        map.serialize_entry("completion_tokens", &run.completion_tokens)?;
        map.serialize_entry("wake_ms", &millis(run.wake))?;
        map.serialize_entry("device_ms", &millis(run.device))?;
        if !run.custom.is_empty() {
            let custom: serde_json::Map<_, _> =
                run.custom.iter().map(|(name, value)| (name.clone(), Value::from(*value))).collect();
            map.serialize_entry("custom", &custom)?;
        }
        map.end()
    }
}

/// Milliseconds to the microsecond.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
