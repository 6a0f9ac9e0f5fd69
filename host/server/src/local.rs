//! A predictor on this machine, run without a service: no functions, no queue, no HTTP.

use std::sync::Arc;
use std::time::Instant;

use dormouse_engine::{Caller, Catalog, Engine};
use dormouse_runtime::{Event, Invocation, Load, Runtime};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::dispatch::ColdStart;
use crate::function::{Effective, InputSchema, Manifest, Problem, Settings};
use crate::prediction::{self, Json, Metrics, millis};
use crate::{Config, service};

/// A predictor that is ready to answer.
pub(crate) struct Local {
    engine: Engine,
    runtime: Runtime,
    component: dormouse_runtime::Component,
    manifest: Manifest,
    input: InputSchema,
    effective: Effective,
    models_missing: Vec<String>,
    problems_max: usize,
    events_max: usize,
    load: Load,
}

/// Why a predictor did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The sandbox refused the component, or the prediction failed in it.
    #[error(transparent)]
    Runtime(#[from] dormouse_runtime::Error),
    /// What models shall compute on is not there.
    #[error(transparent)]
    Device(#[from] crate::device::Error),
    /// The inference engine could not start.
    #[error("engine: {0}")]
    Engine(#[from] dormouse_engine::Error),
    /// What the component says about itself is no manifest.
    #[error("{0}")]
    Manifest(String),
    /// The settings break a rule, or the input does not match its schema: what and where.
    #[error("{what} is invalid{}", list(.problems))]
    Invalid {
        /// `input` or `settings`.
        what: &'static str,
        /// Name and fault of each field.
        problems: Vec<(String, String)>,
    },
}

/// A prediction that ended.
pub(crate) struct Ended {
    /// What it answered, or why it did not.
    pub(crate) output: Result<Value, LocalError>,
    /// What it cost, as the service's `metrics` have it.
    pub(crate) metrics: Value,
}

impl Local {
    /// Starts the engine and the sandbox, compiles or maps the component and asks for its manifest.
    pub(crate) async fn open(
        config: &Config,
        settings: Settings,
        wasm: Arc<[u8]>,
    ) -> Result<Self, LocalError> {
        refuse("settings", settings.problems(config))?;
        let engine = Engine::start(service::engine_config(config)?)?;
        let runtime = Runtime::new(service::runtime_config(config), engine.clone())?;
        let loader = runtime.clone();
        let loaded = tokio::task::spawn_blocking(move || loader.load(&wasm)).await;
        let (component, load) = loaded.expect("loading does not panic")?;
        let limits = dormouse_runtime::Limits {
            timeout: config.deploy.describe_timeout,
            ..dormouse_runtime::Limits::default()
        };
        let described = runtime.describe(&component, &limits).await?;
        let manifest = Manifest::read(described, &config.deploy).map_err(LocalError::Manifest)?;
        let input = InputSchema::compile(&manifest.input).map_err(LocalError::Manifest)?;
        let effective = settings.resolve(&manifest, config);
        let catalog = Catalog::open(config.models_dir())?;
        let missing = effective.models.iter().filter(|model| catalog.resolve(model).is_err());
        Ok(Self {
            models_missing: missing.cloned().collect(),
            problems_max: config.predict.problems_max,
            events_max: config.predict.events_max.max(1),
            engine,
            runtime,
            component,
            manifest,
            input,
            effective,
            load,
        })
    }

    /// What the predictor says about itself.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Models it may open that the catalogue doesn't have.
    pub(crate) fn models_missing(&self) -> &[String] {
        &self.models_missing
    }

    /// Runs one prediction; `on_event` sees what it tells, as it does.
    pub(crate) async fn predict(&self, input: Value, mut on_event: impl FnMut(Event)) -> Ended {
        let started = Instant::now();
        let input = match self.input.prepare(input, self.problems_max) {
            Ok(input) => input,
            Err(problems) => {
                let output = refuse("input", problems).map(|()| Value::Null);
                return Ended { output, metrics: Value::Null };
            }
        };
        let invocation = Invocation {
            input,
            limits: self.effective.limits.clone(),
            caller: Caller::default(),
            models: self.effective.models.clone(),
            env: self.effective.env.clone(),
            keep_alive: None,
        };
        let (events, mut inbox) = mpsc::channel(self.events_max);
        let mut elements = Vec::new();
        let listen = async {
            while let Some(event) = inbox.recv().await {
                if let Event::Output(element) = &event {
                    elements.push(element.clone());
                }
                on_event(event);
            }
        };
        let run = self.runtime.predict(&self.component, invocation, events);
        let ((ended, run), ()) = tokio::join!(run, listen);
        let (cold, cold_start) = match self.load {
            Load::Compiled(time) => (ColdStart::Compiled, time),
            Load::Mapped(time) => (ColdStart::Mapped, time),
        };
        let metrics = Metrics {
            cold_start: cold,
            cold_start_ms: millis(cold_start),
            total_ms: millis(started.elapsed()),
            ..Metrics::from(run)
        };
        let output = ended.map_err(LocalError::from).map(|outcome| {
            let returned = Json::parse(outcome.output).ok();
            let output = prediction::output(returned.as_ref(), elements.iter().map(String::as_str));
            output.map_or(Value::Null, |json| json.to_value())
        });
        Ended { output, metrics: serde_json::to_value(metrics).unwrap_or_default() }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.engine.shutdown();
    }
}

fn refuse(what: &'static str, problems: Vec<Problem>) -> Result<(), LocalError> {
    if problems.is_empty() {
        return Ok(());
    }
    // A user typed the name, not the body around it.
    let place = |problem: &Problem| {
        let steps = problem
            .loc
            .iter()
            .skip_while(|step| matches!(step.to_string().as_str(), "body" | "input" | "settings"));
        steps.map(ToString::to_string).collect::<Vec<_>>().join(".")
    };
    let problems = problems.into_iter().map(|problem| (place(&problem), problem.msg)).collect();
    Err(LocalError::Invalid { what, problems })
}

fn list(problems: &[(String, String)]) -> String {
    problems.iter().map(|(place, fault)| format!("\n  {place}: {fault}")).collect()
}
