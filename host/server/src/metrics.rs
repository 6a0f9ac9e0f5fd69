//! Numbers for Prometheus: what the bounds bound, and how long things took.

use std::{
    fmt,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use dormouse_engine::{ModelResidency, ModelStats, Stats, Tier};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{dispatch::ColdStart, function::FunctionName, prediction::Status};

/// What [`Metrics::render`] gives is.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The service's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    predictions: Family<PredictionLabels, Counter>,
    predict: Histogram,
    queue: Histogram,
    cold_start: Family<ColdLabels, Histogram, fn() -> Histogram>,
    wake: Family<WakeLabels, Histogram, fn() -> Histogram>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    completion_tokens: Counter,
    certificate_reads: Family<ReadLabels, Counter>,
    /// Connections open now.
    pub(crate) connections: Gauge,
    /// Held while a scrape sets them.
    levels: Mutex<LevelGauges>,
}

/// What is looked at when it is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels {
    /// Predictions that run and wait.
    pub(crate) running: usize,
    pub(crate) queued: usize,
    /// Predictions of the queue that wait and run.
    pub(crate) queue_waiting: usize,
    pub(crate) queue_running: usize,
    /// Instances live now.
    pub(crate) instances: usize,
    /// Components at hand.
    pub(crate) components: usize,
    pub(crate) functions: usize,
    pub(crate) models: Stats,
    pub(crate) residency: Arc<[ModelResidency]>,
    /// Bytes that models have in memory, and their bound.
    pub(crate) memory: (u64, u64),
}

/// What a prediction that ran cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran<'a> {
    pub(crate) queue: Duration,
    pub(crate) cold: ColdStart,
    pub(crate) cold_start: Duration,
    pub(crate) metrics: &'a dormouse_runtime::Metrics,
}

#[derive(Debug, Default)]
struct LevelGauges {
    running: Gauge,
    queued: Gauge,
    queue_waiting: Gauge,
    queue_running: Gauge,
    instances: Gauge,
    components: Gauge,
    functions: Gauge,
    models: Gauge,
    memory: Gauge,
    memory_max: Gauge,
    model_tier: Family<TierLabels, Gauge>,
    model_memory: Family<ModelLabels, Gauge>,
    model_wakes: Family<ModelLabels, Gauge>,
    model_running: Family<ModelLabels, Gauge>,
    model_queued: Family<ModelLabels, Gauge>,
    kv_blocks_used: Family<ModelLabels, Gauge>,
    kv_blocks: Family<ModelLabels, Gauge>,
    /// Counted by the engine; here is what was told of it.
    device: Family<DeviceLabels, Counter<f64, AtomicU64>>,
    steps: Family<ModelLabels, Gauge>,
    mask: Family<ModelLabels, Seconds>,
    mask_wait: Family<ModelLabels, Seconds>,
}

/// A level in seconds.
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    /// The route's pattern, so that names don't make new series.
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PredictionLabels {
    function: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ColdLabels {
    from: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    model: String,
    tier: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WakeLabels {
    from: String,
}

/// 50 µs to 27 minutes, in factors of two.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 26))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("dormouse");
        let r = &mut registry;
        let levels = LevelGauges::default();
        register(r, "predictions_running", "Predictions that run", &levels.running);
        register(r, "predictions_queued", "Predictions that wait for a place", &levels.queued);
        register(r, "queue_waiting", "Predictions that wait in the durable queue", &levels.queue_waiting);
        register(r, "queue_running", "Predictions of the durable queue that run", &levels.queue_running);
        register(r, "instances", "Wasm instances that are live", &levels.instances);
        register(r, "components_mapped", "Components whose code is mapped", &levels.components);
        register(r, "functions", "Functions deployed", &levels.functions);
        register(r, "models_awake", "Models that are awake", &levels.models);
        register(r, "models_memory_bytes", "Bytes that models have in memory at most", &levels.memory);
        register(r, "models_memory_bytes_max", "Bytes that models may have", &levels.memory_max);
        register(r, "model_tier", "1 for the tier that a model is in", &levels.model_tier);
        register(r, "model_memory_bytes", "Bytes a model has in memory at most", &levels.model_memory);
        register(r, "model_wakes", "Times that a model woke since the service started", &levels.model_wakes);
        register(r, "model_sequences_running", "Sequences in a model's batch", &levels.model_running);
        register(r, "model_sequences_queued", "Sequences that wait for a batch", &levels.model_queued);
        register(r, "model_kv_blocks_used", "KV blocks that sequences own", &levels.kv_blocks_used);
        register(r, "model_kv_blocks", "KV blocks in all", &levels.kv_blocks);
        r.register_with_unit("device", "Time that models computed", Unit::Seconds, levels.device.clone());
        register(r, "model_steps", "Steps since the model was loaded", &levels.steps);
        let help = "Time of computing which tokens a format allows next, since the model was loaded";
        r.register_with_unit("model_mask", help, Unit::Seconds, levels.mask.clone());
        let help = "Of that, time that the engine waited for it; the rest went by beside steps";
        r.register_with_unit("model_mask_wait", help, Unit::Seconds, levels.mask_wait.clone());
        let (requests, predictions, certificate_reads, connections) = Default::default();
        register(r, "requests", "HTTP requests answered", &requests);
        register(r, "predictions", "Predictions that ended", &predictions);
        register(r, "certificate_reads", "Times that the certificate was read again", &certificate_reads);
        register(r, "connections", "HTTP connections that are open", &connections);
        let (predict, queue) = (seconds(), seconds());
        let cold_start = Family::new_with_constructor(seconds as fn() -> Histogram);
        let mut timed = |name: &str, help: &str, metric: &Histogram| {
            r.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        timed("predict", "Time in a predictor's predict, host calls included", &predict);
        timed("queue_wait", "Time that predictions waited for a place", &queue);
        r.register_with_unit(
            "cold_start",
            "Time that predictions waited for a component's code, where it was not at hand",
            Unit::Seconds,
            cold_start.clone(),
        );
        let wake = Family::new_with_constructor(seconds as fn() -> Histogram);
        r.register_with_unit(
            "wake",
            "Time that predictions waited for a model to wake, where it was not awake",
            Unit::Seconds,
            wake.clone(),
        );
        let (prompt_tokens, cached_tokens, completion_tokens) = Default::default();
        register(r, "prompt_tokens", "Tokens of prompts", &prompt_tokens);
        register(r, "cached_tokens", "Tokens of prompts that the prefix cache had", &cached_tokens);
        register(r, "completion_tokens", "Tokens generated", &completion_tokens);
        Self {
            registry,
            requests,
            predictions,
            predict,
            queue,
            cold_start,
            wake,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            certificate_reads,
            connections,
            levels: Mutex::new(levels),
        }
    }

    /// A request was answered.
    pub(crate) fn request(&self, method: &Method, route: Option<&str>, status: StatusCode) {
        let labels = RequestLabels {
            method: known(method),
            route: route.unwrap_or("none").to_owned(),
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// A prediction ended.
    pub(crate) fn prediction(&self, function: &FunctionName, status: Status) {
        self.predictions.get_or_create(&prediction_labels(function, status)).inc();
    }

    /// A prediction ran, whatever came of it.
    pub(crate) fn ran(&self, ran: Ran<'_>) {
        self.queue.observe(ran.queue.as_secs_f64());
        self.predict.observe(ran.metrics.predict.as_secs_f64());
        let from = match ran.cold {
            ColdStart::None => None,
            ColdStart::Mapped => Some("mapped"),
            ColdStart::Compiled => Some("compiled"),
        };
        if let Some(from) = from {
            self.cold_start.get_or_create(&ColdLabels { from }).observe(ran.cold_start.as_secs_f64());
        }
        let Ran { metrics, .. } = ran;
        if let Some(from) = metrics.woken_from.filter(|from| *from != Tier::Awake) {
            let labels = WakeLabels { from: from.to_string() };
            self.wake.get_or_create(&labels).observe(metrics.wake.as_secs_f64());
        }
        self.tokens(metrics.prompt_tokens, metrics.cached_tokens, metrics.completion_tokens);
    }

    /// A model read a prompt, of which the prefix cache had some tokens, and generated others.
    pub(crate) fn tokens(&self, prompt: u64, cached: u64, completion: u64) {
        self.prompt_tokens.inc_by(prompt);
        self.cached_tokens.inc_by(cached);
        self.completion_tokens.inc_by(completion);
    }

    /// The certificate was read again, or couldn't be.
    pub(crate) fn certificate_read(&self, is_used: bool) {
        let result = if is_used { "used" } else { "refused" };
        self.certificate_reads.get_or_create(&ReadLabels { result }).inc();
    }

    /// Drops a function's series.
    pub(crate) fn forget(&self, function: &FunctionName) {
        for status in [Status::Succeeded, Status::Failed, Status::Canceled] {
            self.predictions.remove(&prediction_labels(function, status));
        }
    }

    /// Everything in Prometheus's text format, [`CONTENT_TYPE`].
    pub(crate) fn render(&self, levels: &Levels) -> String {
        let gauges = self.levels.lock().expect("no panic holds this lock");
        gauges.set(levels);
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes what is written");
        classic(&text)
    }
}

/// OpenMetrics text in the older format, which every reader takes. There, a counter's description
/// names its sample, and there are no units and no end.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let names_counter = is_counter(line) || lines.peek().is_some_and(|next| is_counter(next));
        match line.splitn(4, ' ').collect::<Vec<_>>().as_slice() {
            ["#", "UNIT", ..] | ["#", "EOF"] => continue,
            ["#", keyword @ ("HELP" | "TYPE"), name, rest] if names_counter => {
                text.push_str(&format!("# {keyword} {name}_total {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

impl LevelGauges {
    fn set(&self, levels: &Levels) {
        let set = |gauge: &Gauge, value: usize| _ = gauge.set(value as i64);
        set(&self.running, levels.running);
        set(&self.queued, levels.queued);
        set(&self.queue_waiting, levels.queue_waiting);
        set(&self.queue_running, levels.queue_running);
        set(&self.instances, levels.instances);
        set(&self.components, levels.components);
        set(&self.functions, levels.functions);
        set(&self.models, levels.models.models.len());
        set(&self.memory, levels.memory.0 as usize);
        set(&self.memory_max, levels.memory.1 as usize);
        self.set_residency(&levels.residency);
        for device in &levels.models.devices {
            let busy = self.device.get_or_create(&DeviceLabels { device: device.name.clone() });
            // Two scrapes may come with their looks out of order.
            busy.inc_by((device.busy.as_secs_f64() - busy.get()).max(0.0));
        }
        let families =
            [&self.model_running, &self.model_queued, &self.kv_blocks_used, &self.kv_blocks, &self.steps];
        families.iter().for_each(|family| family.clear());
        [&self.mask, &self.mask_wait].iter().for_each(|family| family.clear());
        for model in &levels.models.models {
            let ModelStats { running, queued, kv_blocks_used, kv_blocks_total, steps, .. } = *model;
            let values = [running, queued, kv_blocks_used, kv_blocks_total, steps as usize];
            for (family, value) in families.iter().zip(values) {
                set(&family.get_or_create(&ModelLabels { model: model.name.clone() }), value);
            }
            let times = [(&self.mask, model.mask), (&self.mask_wait, model.mask_wait)];
            for (family, time) in times {
                family.get_or_create(&ModelLabels { model: model.name.clone() }).set(time.as_secs_f64());
            }
        }
    }

    fn set_residency(&self, models: &[ModelResidency]) {
        self.model_tier.clear();
        self.model_memory.clear();
        self.model_wakes.clear();
        for model in models {
            let tier = TierLabels { model: model.name.clone(), tier: model.tier.to_string() };
            self.model_tier.get_or_create(&tier).set(1);
            let labels = ModelLabels { model: model.name.clone() };
            self.model_memory.get_or_create(&labels).set(model.memory_bytes as i64);
            self.model_wakes.get_or_create(&labels).set(model.wakes as i64);
        }
    }
}

fn register<M>(registry: &mut Registry, name: &str, help: &str, metric: &M)
where
    M: prometheus_client::registry::Metric + Clone + fmt::Debug,
{
    registry.register(name, help, metric.clone());
}

fn prediction_labels(function: &FunctionName, status: Status) -> PredictionLabels {
    PredictionLabels { function: function.as_str().to_owned(), status: status.as_str() }
}

/// The methods that have a series of their own.
fn known(method: &Method) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use dormouse_engine::DeviceStats;

    use super::*;

    fn model(name: &str) -> ModelStats {
        ModelStats {
            name: name.to_owned(),
            device: 0,
            running: 2,
            queued: 0,
            kv_blocks_used: 3,
            kv_blocks_total: 4,
            steps: 9,
            prompt_tokens: 0,
            computed_tokens: 0,
            completion_tokens: 0,
            mask: Duration::from_millis(3500),
            mask_wait: Duration::from_millis(250),
        }
    }

    fn stats() -> Stats {
        let busy = |name: &str, busy| DeviceStats { name: name.into(), busy: Duration::from_millis(busy) };
        Stats { models: vec![model("m")], devices: vec![busy("cpu", 1500), busy("gpu:0", 250)] }
    }

    #[test]
    fn counts_and_levels_are_written_out() {
        let metrics = Metrics::new();
        let function = FunctionName::parse("f").unwrap();
        metrics.request(&Method::POST, Some("/fn/{target}"), StatusCode::OK);
        metrics.request(&"BREW".parse().unwrap(), None, StatusCode::NOT_FOUND);
        metrics.prediction(&function, Status::Succeeded);
        let cost = dormouse_runtime::Metrics { completion_tokens: 5, ..Default::default() };
        let (queue, cold_start) = (Duration::from_millis(1), Duration::from_millis(3));
        metrics.ran(Ran { queue, cold: ColdStart::Mapped, cold_start, metrics: &cost });
        let levels = Levels { queued: 7, models: stats(), ..Levels::default() };
        let text = metrics.render(&levels);
        for line in [
            "dormouse_requests_total{method=\"POST\",route=\"/fn/{target}\",status=\"200\"} 1",
            "dormouse_requests_total{method=\"other\",route=\"none\",status=\"404\"} 1",
            "dormouse_predictions_total{function=\"f\",status=\"succeeded\"} 1",
            "dormouse_predictions_queued 7",
            "dormouse_completion_tokens_total 5",
            "dormouse_device_seconds_total{device=\"cpu\"} 1.5",
            "dormouse_device_seconds_total{device=\"gpu:0\"} 0.25",
            "# TYPE dormouse_device_seconds_total counter",
            "dormouse_cold_start_seconds_sum{from=\"mapped\"} 0.003",
            "dormouse_model_kv_blocks_used{model=\"m\"} 3",
            "dormouse_model_steps{model=\"m\"} 9",
            "dormouse_model_mask_seconds{model=\"m\"} 3.5",
            "dormouse_model_mask_wait_seconds{model=\"m\"} 0.25",
            "# HELP dormouse_requests_total HTTP requests answered.",
            "# TYPE dormouse_requests_total counter",
            "# TYPE dormouse_cold_start_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let total = "dormouse_device_seconds_total{device=\"cpu\"} 1.5\n";
        assert!(metrics.render(&levels).contains(total), "it is a total");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn a_function_or_model_that_is_gone_has_no_series() {
        let metrics = Metrics::new();
        let function = FunctionName::parse("f").unwrap();
        metrics.prediction(&function, Status::Failed);
        metrics.render(&Levels { models: stats(), ..Levels::default() });
        metrics.forget(&function);
        let text = metrics.render(&Levels::default());
        assert!(!text.contains("function=\"f\"") && !text.contains("model=\"m\""), "{text}");
    }
}
