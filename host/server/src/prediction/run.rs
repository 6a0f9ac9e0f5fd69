//! What every run of a prediction is made of: a checked input, a place, and the runtime.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use dormouse_engine::{Caller, KeepAlive};
use dormouse_runtime::{Event, Invocation, Level, LogLine, LogSource};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Failure, Json, Live, Metrics, PredictionId, Record, Status, millis};
use crate::{
    dispatch::{Bounds, ColdStart, Permit, Ready},
    function::{Function, FunctionName, Revision},
    http::{Code, Error},
    metrics::Ran,
    service::Service,
    webhook::Webhook,
};

/// Bytes of an input that is parsed and checked where it was read; a larger one gets a thread.
const CHECK_INLINE_BYTES_MAX: usize = 64 << 10;

/// What a caller wants run.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: Arc<Function>,
    pub(crate) revision: Arc<Revision>,
    pub(crate) input: Input,
    /// The client's own name for it.
    pub(crate) id: Option<PredictionId>,
    /// Whom to tell what becomes of it.
    pub(crate) webhook: Option<Box<Webhook>>,
    /// What the dialect wants back with the record.
    pub(crate) memo: Value,
    /// How long models stay awake after it; the function's own time where it isn't said.
    pub(crate) keep_alive: Option<KeepAlive>,
    /// When the request came in.
    pub(crate) arrived: Instant,
}

/// An input before it is checked.
#[derive(Debug)]
pub(crate) enum Input {
    /// A body: the input, or `{"input": …}` around it.
    Body(Bytes),
    /// The input itself, of a body that had so many bytes.
    Value(Value, usize),
}

impl Input {
    /// One that was checked before.
    pub(super) fn stored(json: &Json) -> Self {
        Self::Value(json.to_value(), json.as_str().len())
    }
}

/// An input that fits the schema.
pub(super) struct Checked {
    pub(super) given: Json,
    /// With defaults, as the predictor sees it.
    pub(super) filled: String,
}

/// A component at hand and what having it cost.
pub(super) struct Loaded {
    pub(super) ready: Arc<Ready>,
    pub(super) cold: ColdStart,
    pub(super) cold_start: Duration,
}

/// A run that has its place.
pub(super) struct Run {
    pub(super) function: FunctionName,
    pub(super) revision: Arc<Revision>,
    pub(super) loaded: Loaded,
    pub(super) filled: String,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) permit: Permit,
    /// Time that it waited for the place.
    pub(super) queued: Duration,
    /// When whoever wants it began to wait.
    pub(super) since: Instant,
}

/// How a run ended.
pub(super) struct Outcome {
    pub(super) returned: Result<Json, Failure>,
    pub(super) metrics: Option<Box<Metrics>>,
}

impl Loaded {
    pub(super) async fn of(service: &Service, revision: &Revision) -> Result<Self, Error> {
        let (ready, cold, cold_start) = service.components.get(revision).await?;
        Ok(Self { ready, cold, cold_start })
    }

    /// Checks an input against the component's schema.
    pub(super) async fn check(&self, service: &Service, input: Input) -> Result<Checked, Error> {
        let problems_max = service.config.predict.problems_max;
        let bytes = match &input {
            Input::Body(body) => body.len(),
            Input::Value(_, bytes) => *bytes,
        };
        if bytes <= CHECK_INLINE_BYTES_MAX {
            return check(&self.ready, input, problems_max);
        }
        let ready = self.ready.clone();
        let checked = tokio::task::spawn_blocking(move || check(&ready, input, problems_max)).await;
        checked.unwrap_or_else(|ended| Err(Error::internal(ended)))
    }
}

fn check(ready: &Ready, input: Input, problems_max: usize) -> Result<Checked, Error> {
    let input = match input {
        Input::Value(value, _) => value,
        Input::Body(body) => ready.input.unwrap(parse(&body)?),
    };
    let given = Json::of(&input);
    let filled = ready.input.prepare(input, problems_max).map_err(Error::invalid_input)?;
    Ok(Checked { given, filled })
}

fn parse(body: &[u8]) -> Result<Value, Error> {
    match body.trim_ascii() {
        [] => Ok(Value::Object(serde_json::Map::new())),
        text => serde_json::from_slice(text)
            .map_err(|error| Error::new(Code::InvalidRequest, format!("body is not JSON: {error}"))),
    }
}

/// Takes a place for a prediction; waits for it in order.
pub(super) async fn permit(service: &Service, function: &Function) -> Result<(Permit, Duration), Error> {
    let live = &function.live().effective;
    let bounds = Bounds { running_max: live.concurrency, queue_max: live.queue_max };
    let queued = Instant::now();
    let permit = service.permits.acquire(&function.name, bounds).await?;
    Ok((permit, queued.elapsed()))
}

impl Run {
    /// Runs to the end, or until someone cancels it or the node stops. What it tells goes to `live`.
    pub(super) async fn execute(self, service: &Service, live: &Live) -> Outcome {
        let Self { function, revision, loaded, filled, keep_alive, permit: _permit, queued, since } = self;
        let effective = &revision.effective;
        let invocation = Invocation {
            input: filled,
            limits: effective.limits.clone(),
            caller: Caller {
                name: function.as_str().into(),
                priority: effective.priority,
                guess_tokens: effective.guess_tokens,
            },
            models: effective.models.clone(),
            env: effective.env.clone(),
            keep_alive: keep_alive.or(effective.keep_alive),
        };
        live.start(SystemTime::now());
        let (ended, run) = {
            let (events, inbox) = mpsc::channel(service.config.predict.events_max.max(1));
            let predict = service.runtime.predict(&loaded.ready.component, invocation, events);
            // Dropping the work drops the inbox too, which ends the guest.
            let work = async { tokio::join!(predict, collect(inbox, live)).0 };
            tokio::select! {
                done = work => done,
                () = live.canceled() => (Err(dormouse_runtime::Error::Cancelled), Default::default()),
                () = service.stopping() => (Err(dormouse_runtime::Error::Cancelled), Default::default()),
            }
        };
        let Loaded { cold, cold_start, .. } = loaded;
        service.metrics.ran(Ran { queue: queued, cold, cold_start, metrics: &run });
        if run.log_bytes_dropped > 0 {
            remark(live, format!("({} more bytes of logs were dropped)", run.log_bytes_dropped));
        }
        let returned = match ended {
            Ok(outcome) => Json::parse(outcome.output).map_err(Error::internal),
            Err(error) => Err(service.explain(error, &revision).await),
        };
        Outcome {
            returned: returned.map_err(Failure::from),
            metrics: Some(Box::new(Metrics {
                queue_ms: millis(queued),
                cold_start: cold,
                cold_start_ms: millis(cold_start),
                total_ms: millis(since.elapsed()),
                ..Metrics::from(run)
            })),
        }
    }
}

/// Passes on what a run tells until there is no more.
async fn collect(mut inbox: mpsc::Receiver<Event>, live: &Live) {
    while let Some(event) = inbox.recv().await {
        live.tell(event);
    }
}

/// A log line of the host's own.
fn remark(live: &Live, message: String) {
    live.tell(Event::Log(LogLine { source: LogSource::Log, level: Level::Warn, message }));
}

impl Outcome {
    /// One that never came to run.
    pub(super) fn failed(error: Error) -> Self {
        Self { returned: Err(error.into()), metrics: None }
    }

    /// The record of a prediction that ends so.
    pub(super) fn record(self, live: &Live) -> Record {
        let so_far = live.snapshot().expect("what has run was created");
        let is_odd = |json: &Json| !json.is_null() && so_far.elements().next().is_some();
        if self.returned.as_ref().is_ok_and(is_odd) {
            remark(live, "predict emitted elements and returned a value; its output is the value".to_owned());
        }
        let so_far = live.snapshot().expect("what has run was created");
        let (status, returned, failure) = match self.returned {
            Ok(returned) => (Status::Succeeded, Some(returned), None),
            Err(failure) if matches!(failure.code, Code::Cancelled | Code::Draining) => {
                (Status::Canceled, None, Some(failure))
            }
            Err(failure) => (Status::Failed, None, Some(failure)),
        };
        Record {
            status,
            ended_at: Some(SystemTime::now()),
            returned,
            failure,
            metrics: self.metrics,
            ..Record::clone(&so_far)
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: error.code, message: error.message }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message)
    }
}

impl From<dormouse_runtime::Metrics> for Metrics {
    fn from(run: dormouse_runtime::Metrics) -> Self {
        Self {
            instantiate_ms: millis(run.instantiate),
            setup_ms: millis(run.setup),
            predict_ms: millis(run.predict),
            memory_bytes: run.memory_bytes,
            prompt_tokens: run.prompt_tokens,
            cached_tokens: run.cached_tokens,
            completion_tokens: run.completion_tokens,
            wake_ms: millis(run.wake),
            tier: run.woken_from,
            device_ms: millis(run.device),
            custom: run.custom.into_iter().collect(),
            ..Self::default()
        }
    }
}
