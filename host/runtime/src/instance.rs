//! One invocation: a fresh store and instance, run to its end under its limits.

use std::{fmt, sync::Arc, time::Instant};

use serde::de::IgnoredAny;
use tokio::{sync::mpsc, time::timeout};
use wasmtime::{Store, component::Instance};

use crate::{
    Component, Config, Error, Event, Limits, Metrics,
    bindings::Predictor,
    component::Start,
    fault,
    outbox::Outbox,
    snapshot::{self, Probe, Refusal},
    state::{Grants, State},
};

/// What a call may hand over besides the largest thing it has a limit for.
const CALL_SLACK_BYTES: usize = 1 << 20;

/// The export to run.
pub(crate) enum Call {
    Describe,
    /// `setup`, of a component made for being read where its state is wanted.
    Setup(Option<Arc<Probe>>),
    /// What comes before it, then `predict` with this input.
    Predict {
        input: String,
    },
}

/// What came of a call.
pub(crate) enum Answer {
    Json(String),
    /// The state that `setup` left, if it was wanted and can be copied.
    State(Option<Result<Box<snapshot::State>, Refusal>>),
}

impl Answer {
    /// The text that `describe` and `predict` answer with.
    pub(crate) fn into_json(self) -> String {
        match self {
            Self::Json(json) => json,
            Self::State(_) => unreachable!("only setup answers with a state"),
        }
    }
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Instantiate,
    Describe,
    Setup,
    Predict,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Instantiate => "instantiation",
            Self::Describe => "describe",
            Self::Setup => "setup",
            Self::Predict => "predict",
        })
    }
}

/// Runs a call in an instance of its own and gives what it answered. When the receiver of
/// `events` or the future is dropped, the guest ends where it stands and its completions are cancelled.
pub(crate) async fn run(
    config: &Config,
    engine: &dormouse_engine::Engine,
    component: &Component,
    call: Call,
    grants: Grants,
    events: mpsc::Sender<Event>,
) -> (Result<Answer, Error>, Metrics) {
    let limits = &grants.limits;
    let mut watch = Watch::start();
    let outbox = Outbox::new(events.clone(), limits);
    let state = State::new(&grants, engine, &outbox, config);
    let mut guest = Guest { config, component, store: store(component, state, limits), watch: &mut watch };

    let whole = async {
        let ended = guest.run(&call).await;
        outbox.finish();
        outbox.flush().await.map_err(|_| Error::Cancelled)?;
        ended
    };
    let result = tokio::select! {
        biased;
        ended = timeout(limits.timeout, whole) => {
            ended.unwrap_or(Err(Error::Timeout { limit: limits.timeout }))
        }
        () = events.closed() => Err(Error::Cancelled),
    };
    if matches!(result, Err(Error::Timeout { .. })) {
        // Time is up: what the caller has no room for now is lost.
        outbox.finish();
        let _ = outbox.try_flush();
    }

    let mut store = guest.store;
    let mut metrics = watch.stop();
    metrics.log_bytes_dropped = outbox.log_bytes_dropped();
    metrics.memory_bytes = store.data().memory.memory_bytes();
    metrics.custom = store.data_mut().output.take_metrics();
    let account = store.data().models.account();
    // Books the completions that the guest left open.
    drop(store);
    account.report(&mut metrics);
    (result, metrics)
}

fn store(component: &Component, state: State, limits: &Limits) -> Store<State> {
    let mut store = Store::new(component.linked.pre.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.epoch_deadline_async_yield_and_update(1);
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(limits.output_bytes.max(limits.prompt_bytes).saturating_add(CALL_SLACK_BYTES));
    store.set_max_component_handles(limits.handles_max);
    store
}

/// A store and what is going on in it.
struct Guest<'a> {
    config: &'a Config,
    component: &'a Component,
    store: Store<State>,
    watch: &'a mut Watch,
}

impl Guest<'_> {
    async fn run(&mut self, call: &Call) -> Result<Answer, Error> {
        let linked = &self.component.linked;
        let instance = linked.pre.instantiate_async(&mut self.store).await;
        let instance = instance.map_err(|error| self.fault(&error))?;
        let predictor = linked.indices.load(&mut self.store, &instance);
        let predictor = predictor.map_err(|error| self.fault(&error))?;
        match call {
            Call::Describe => self.describe(&predictor).await.map(Answer::Json),
            Call::Setup(probe) => {
                self.setup(&predictor).await?;
                match probe {
                    Some(probe) => self.read(&instance, probe).await.map(|read| Answer::State(Some(read))),
                    None => Ok(Answer::State(None)),
                }
            }
            Call::Predict { input } => {
                match &linked.start {
                    Start::Setup => self.setup(&predictor).await?,
                    Start::Image { restore: Some(restore) } => self.restore(&instance, restore).await?,
                    Start::Image { restore: None } => {}
                }
                self.predict(&predictor, input).await.map(Answer::Json)
            }
        }
    }

    /// Takes the handles that `setup` had, which may wake models.
    async fn restore(
        &mut self,
        instance: &Instance,
        restore: &wasmtime::component::ComponentExportIndex,
    ) -> Result<(), Error> {
        self.watch.enter(Stage::Setup);
        let function = instance.get_typed_func::<(), (Result<(), String>,)>(&mut self.store, restore);
        let function = function.map_err(|error| self.fault(&error))?;
        let answer = function.call_async(&mut self.store, ()).await;
        let (answer,) = answer.map_err(|error| self.fault(&error))?;
        answer.map_err(|reason| Error::Setup(fault::truncate(reason)))
    }

    /// Reads what `setup` left.
    async fn read(
        &mut self,
        instance: &Instance,
        probe: &Probe,
    ) -> Result<Result<Box<snapshot::State>, Refusal>, Error> {
        if self.store.data().drew() {
            return Ok(Err(Refusal::new(
                "setup drew random numbers, which would be the same for every prediction",
            )));
        }
        let opened = self.store.data().models.account().opened();
        let resources = self.store.data_mut().resources();
        let bytes_max = self.config.image_bytes_max;
        self.store.set_hostcall_fuel(usize::MAX);
        let read = probe.read(&mut self.store, instance, &opened, resources, bytes_max).await;
        Ok(read.map_err(|error| self.fault(&error))?.map(Box::new))
    }

    async fn describe(&mut self, predictor: &Predictor) -> Result<String, Error> {
        self.watch.enter(Stage::Describe);
        let answer = predictor.call_describe(&mut self.store).await;
        let answer = answer.map_err(|error| self.fault(&error))?;
        self.check(answer)
    }

    async fn setup(&mut self, predictor: &Predictor) -> Result<(), Error> {
        self.watch.enter(Stage::Setup);
        let answer = predictor.call_setup(&mut self.store).await;
        let answer = answer.map_err(|error| self.fault(&error))?;
        answer.map_err(|reason| Error::Setup(fault::truncate(reason)))
    }

    async fn predict(&mut self, predictor: &Predictor, input: &str) -> Result<String, Error> {
        self.watch.enter(Stage::Predict);
        let answer = predictor.call_predict(&mut self.store, input).await;
        let answer = answer.map_err(|error| self.fault(&error))?;
        let output = &self.store.data().output;
        match (answer, output.refused_bytes()) {
            (Ok(json), _) => self.check(json),
            // The guest passed on that it may not emit more.
            (Err(_), Some(bytes)) => Err(Error::OutputTooLarge { bytes, limit_bytes: output.bytes_max() }),
            (Err(reason), None) => Err(Error::Failed(fault::truncate(reason))),
        }
    }

    /// Checks that an answer is JSON and fits beside what was emitted.
    fn check(&self, json: String) -> Result<String, Error> {
        let output = &self.store.data().output;
        let bytes = output.bytes() + json.len();
        if bytes > output.bytes_max() {
            return Err(Error::OutputTooLarge { bytes, limit_bytes: output.bytes_max() });
        }
        match serde_json::from_str::<IgnoredAny>(&json) {
            Ok(_) => Ok(json),
            Err(error) => Err(Error::BadJson(format!("in {}: {error}", self.watch.stage))),
        }
    }

    fn fault(&self, error: &wasmtime::Error) -> Error {
        fault::classify(error, self.watch.stage, self.store.data(), self.config)
    }
}

/// Times the stages of an invocation, up to wherever it ends.
struct Watch {
    stage: Stage,
    since: Instant,
    metrics: Metrics,
}

impl Watch {
    fn start() -> Self {
        Self { stage: Stage::Instantiate, since: Instant::now(), metrics: Metrics::default() }
    }

    fn enter(&mut self, stage: Stage) {
        self.book();
        self.stage = stage;
    }

    fn stop(mut self) -> Metrics {
        self.book();
        self.metrics
    }

    fn book(&mut self) {
        let now = Instant::now();
        let spent = now - self.since;
        self.since = now;
        match self.stage {
            Stage::Instantiate => self.metrics.instantiate += spent,
            Stage::Setup => self.metrics.setup += spent,
            Stage::Describe | Stage::Predict => self.metrics.predict += spent,
        }
    }
}
