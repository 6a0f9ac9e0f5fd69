//! Everything that a request may need, made once at start.

use std::{fs, path::Path, sync::Arc};

use dormouse_engine::{Catalog, Engine};
use dormouse_runtime::Runtime;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::spawn_blocking,
};

use crate::{
    Config, Error,
    auth::Tokens,
    config, device,
    dispatch::{Bounds, Components, Permits},
    function::{Digest, FunctionName, Revision},
    http::{self, Code},
    metrics::{Levels, Metrics},
    prediction::{Dispatcher, Record},
    prewake::Prewakes,
    residence::Residence,
    store::Store,
};

/// The service's parts.
pub(crate) struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) runtime: Runtime,
    pub(crate) engine: Engine,
    pub(crate) catalog: Catalog,
    pub(crate) components: Components,
    pub(crate) permits: Permits,
    pub(crate) predictions: Dispatcher,
    pub(crate) metrics: Metrics,
    pub(crate) tokens: Tokens,
    pub(crate) residence: Residence,
    pub(crate) prewakes: Prewakes,
    /// What Lambda's clients keep of functions.
    pub(crate) lambda: http::States,
    /// How far batches are.
    pub(crate) batches: http::Counts,
    /// Deploys that may still begin.
    pub(crate) deploys: Semaphore,
    phase: watch::Sender<Phase>,
}

/// How far the service is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It takes requests.
    Serving,
    /// It takes none, and finishes those it has.
    Draining,
    /// It ends those that are still running.
    Stopping,
}

impl Service {
    /// Opens the store and starts the engine and the runtime. Blocks, on a thread that a tokio runtime keeps for
    /// that.
    pub(crate) fn start(config: Config) -> Result<Self, Error> {
        let config = Arc::new(config);
        let store = Store::open(config.clone())?;
        let models_dir = config.models_dir();
        make_dir(&models_dir)?;
        let catalog = Catalog::open(&models_dir)?;
        let engine = Engine::start(engine_config(&config)?)?;
        let runtime = Runtime::new(runtime_config(&config), engine.clone())?;
        let predict = &config.predict;
        let components = Components::new(runtime.clone(), store.blobs.clone(), predict.components_max);
        let opened = Handle::current().block_on(Dispatcher::open(&store, &config));
        let tokens = Handle::current().block_on(Tokens::open(store.clone(), &config));
        let tokens = tokens.map_err(|error| Error::Store(error.to_string()))?;
        let swept = Handle::current().block_on(http::sweep_files(&store));
        swept.map_err(|error| Error::Store(error.message))?;
        let predictions = opened.map_err(|error| Error::Store(error.to_string()))?;
        let node = Bounds { running_max: predict.running_max.max(1), queue_max: predict.queue_max };
        Ok(Self {
            permits: Permits::new(node, predict.queue_timeout),
            predictions,
            tokens,
            lambda: http::States::default(),
            batches: http::Counts::default(),
            metrics: Metrics::new(),
            residence: Residence::default(),
            prewakes: Prewakes::default(),
            deploys: Semaphore::new(config.deploy.deploys_max.max(1)),
            phase: watch::Sender::new(Phase::Serving),
            config,
            store,
            runtime,
            engine,
            catalog,
            components,
        })
    }

    /// How far the service is from its end.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits for [`Phase::Stopping`].
    pub(crate) async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    }

    /// Waits for another phase than this one.
    pub(crate) async fn left(&self, before: Phase) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != before).await;
    }

    /// A prediction has ended, wherever it ran.
    pub(crate) fn ended(&self, record: &Record) {
        self.metrics.prediction(&record.function, record.status);
        let code = record.failure.as_ref().map(|failure| failure.code);
        let (function, id, status) = (&record.function, &record.id, record.status);
        tracing::debug!(%function, %id, %status, ?code, took = ?record.took(), "prediction ended");
    }

    /// What a prediction's failure means to its caller.
    pub(crate) async fn explain(&self, error: dormouse_runtime::Error, revision: &Revision) -> http::Error {
        use dormouse_runtime::Error as Runtime;
        match error {
            Runtime::Cancelled if self.phase() == Phase::Stopping => http::Error::draining(),
            // A predictor that did not expect it panics.
            Runtime::Failed(_) | Runtime::Setup(_) | Runtime::Trap(_)
                if !revision.effective.models.is_empty() =>
            {
                match self.missing_models(&revision.effective.models).await.first() {
                    Some(model) => model_unavailable(model),
                    None => match self.check_fit(&revision.effective.models).await {
                        Err(too_large) => too_large,
                        Ok(()) => error.into(),
                    },
                }
            }
            error => error.into(),
        }
    }

    /// Those of the models that the catalogue doesn't have.
    pub(crate) async fn missing_models(&self, models: &Arc<[String]>) -> Vec<String> {
        let (catalog, models) = (self.catalog.clone(), models.clone());
        let missing = spawn_blocking(move || {
            models.iter().filter(|model| catalog.resolve(model).is_err()).cloned().collect()
        });
        missing.await.unwrap_or_default()
    }

    /// Refuses models that could never be awake on this node, with the numbers.
    pub(crate) async fn check_fit(&self, models: &[String]) -> Result<(), http::Error> {
        for model in models {
            // What else is wrong with one shows when it wakes.
            if let Err(error @ dormouse_engine::Error::NoMemory(_)) = self.engine.check_fit(model).await {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Lets go of what is known of a function that was removed, and of what waits for it.
    pub(crate) async fn forget(&self, function: &FunctionName) {
        if let Err(error) = self.predictions.cancel_all(function).await {
            tracing::warn!(%function, message = error.message, "can't cancel what waits for it");
        }
        self.metrics.forget(function);
        self.lambda.forget(self, function.as_str()).await;
    }

    /// Lets go of the code of components that nothing uses any more.
    pub(crate) fn release(&self, components: Vec<Digest>) {
        if components.is_empty() {
            return;
        }
        let runtime = self.runtime.clone();
        components.iter().for_each(|digest| self.components.forget(digest));
        spawn_blocking(move || {
            for digest in components {
                if let Err(error) = runtime.forget(digest.as_str()) {
                    tracing::warn!(%digest, %error, "can't remove compiled code");
                }
            }
        });
    }

    /// What the metrics show as levels.
    pub(crate) fn levels(&self) -> Levels {
        let (running, queued) = self.permits.load();
        let (queue_waiting, queue_running) = self.predictions.worker.load();
        Levels {
            running,
            queued,
            queue_waiting,
            queue_running,
            instances: self.runtime.instances(),
            components: self.components.len(),
            functions: self.store.registry.len(),
            models: self.engine.stats(),
            residency: self.engine.residency(),
            memory: self.engine.memory(),
        }
    }
}

fn model_unavailable(model: &str) -> http::Error {
    let message = format!("model \"{model}\" is not on this node; `dormouse model pull {model}` brings it");
    http::Error::new(Code::ModelUnavailable, message)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Data { path: path.to_owned(), source })
}

pub(crate) fn runtime_config(config: &Config) -> dormouse_runtime::Config {
    dormouse_runtime::Config {
        instances_max: config.runtime.instances_max,
        memory_bytes_max: config.runtime.memory_bytes_max,
        stack_bytes: config.runtime.stack_bytes,
        component_bytes_max: config.deploy.component_bytes_max,
        manifest_bytes_max: config.deploy.manifest_bytes_max,
        compiles_max: config.deploy.compiles_max,
        image_bytes_max: config.deploy.image_bytes_max,
        ..dormouse_runtime::Config::new(config.data_dir.join("cache"))
    }
}

pub(crate) fn engine_config(config: &Config) -> Result<dormouse_engine::Config, device::Error> {
    let engine = &config.engine;
    Ok(dormouse_engine::Config {
        devices: engine.device.resolve()?,
        threads: engine.threads,
        sequences_max: engine.sequences_max,
        queue_max: engine.queue_max,
        batch_tokens_max: engine.batch_tokens_max,
        kv_bytes_max: engine.kv_bytes_max,
        kv_type: engine.kv_type,
        context_tokens_max: engine.context_tokens_max,
        deterministic: engine.deterministic,
        guess_tokens: engine.guess_tokens,
        guess_tokens_max: engine.guess_tokens_max,
        residency: residency(config),
        ..dormouse_engine::Config::new(config.models_dir())
    })
}

/// When a model with times of its own sleeps.
fn idle(node: &config::Residency, own: config::ModelIdle) -> dormouse_engine::Idle {
    dormouse_engine::Idle {
        awake: own.awake_idle.unwrap_or(node.awake_idle),
        memory: own.memory_idle.unwrap_or(node.memory_idle),
        disk: own.disk_idle.unwrap_or(node.disk_idle),
    }
}

fn residency(config: &Config) -> dormouse_engine::Residency {
    let residency = &config.residency;
    dormouse_engine::Residency {
        memory_bytes_max: residency.memory_bytes_max,
        device_memory_bytes_max: residency.device_memory_bytes_max,
        device_wait_max: residency.device_wait_max,
        waiters_max: residency.waiters_max,
        wake_wait_max: residency.wake_wait_max,
        awake_idle: residency.awake_idle,
        memory_idle: residency.memory_idle,
        disk_idle: residency.disk_idle,
        models: residency.models.iter().map(|(name, own)| (name.clone(), idle(residency, *own))).collect(),
        residence_min: residency.residence_min,
        backoff_min: residency.backoff_min,
        backoff_max: residency.backoff_max,
        probe: residency.probe,
        ready_bytes_max: residency.ready_bytes_max,
        prefix_bytes_max: residency.prefix_bytes_max,
        prefix_age_max: residency.prefix_age_max,
        ..dormouse_engine::Residency::new(config.data_dir.join("ready"))
    }
}
