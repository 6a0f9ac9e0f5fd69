//! One call into an instance: what goes in and what comes out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dormouse_engine::{Caller, KeepAlive, ModelResidency, Phase, Tier};

/// What a guest may use. Each is enforced by the runtime; each has an error of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time of the whole invocation, host calls included.
    pub timeout: Duration,
    /// Linear memory and tables of the instance.
    pub memory_bytes: usize,
    /// Emitted elements and the result together; each element counts [`EVENT_BYTES`] more than its text.
    pub output_bytes: usize,
    /// Log lines and progress notes kept, each counting [`EVENT_BYTES`] more than its text; what goes
    /// beyond is counted and dropped.
    pub log_bytes: usize,
    /// A log line; longer ones are split.
    pub log_line_bytes: usize,
    /// A progress note or a metric's name; notes are cut, metrics of longer names dropped.
    pub note_bytes: usize,
    /// Text (or tokens, at four bytes each) of one prompt with its stop strings and format, of one
    /// tokenization, or of all inputs of one embedding.
    pub prompt_bytes: usize,
    /// Inputs of one embedding.
    pub embed_inputs_max: usize,
    /// Completions open at once.
    pub completions_max: usize,
    /// Distinct metric names; further ones are dropped.
    pub metrics_max: usize,
    /// Handles open at once: models, completions, and WASI's streams and pollables.
    pub handles_max: usize,
}

/// What an event costs its holder besides its text, so that empty lines and elements are bounded too.
pub const EVENT_BYTES: usize = 32;

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            memory_bytes: 256 << 20,
            output_bytes: 16 << 20,
            log_bytes: 1 << 20,
            log_line_bytes: 4 << 10,
            note_bytes: 256,
            prompt_bytes: 1 << 20,
            embed_inputs_max: 256,
            completions_max: 64,
            metrics_max: 64,
            handles_max: 4096,
        }
    }
}

/// One prediction to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Input as JSON, already validated.
    pub input: String,
    /// What the guest may use.
    pub limits: Limits,
    /// Whom its models' work counts for.
    pub caller: Caller,
    /// Names of the models it may open.
    pub models: Arc<[String]>,
    /// Environment variables it sees.
    pub env: Arc<[(String, String)]>,
    /// How long models stay awake after it; `None` takes each model's own time.
    pub keep_alive: Option<KeepAlive>,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Where a log line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// `output.log`.
    Log,
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
}

/// A line of a prediction's logs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// Where it came from.
    pub source: LogSource,
    /// How much it matters; stdout is info, stderr is warn.
    pub level: Level,
    /// The text without its line end.
    pub message: String,
}

/// What a guest tells while it runs, in order. Sent over a bounded channel; a slow reader makes the
/// guest wait in `emit`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An emitted element, as JSON.
    Output(String),
    /// A log line.
    Log(LogLine),
    /// Progress from 0 to 1 with a note.
    Progress {
        /// In [0, 1].
        fraction: f32,
        /// Short text.
        note: String,
    },
    /// It waits for a model to wake.
    Wake(Wake),
}

/// How far the wake of a model is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Wake {
    /// The name it was opened by.
    pub model: String,
    /// What the wake is doing.
    pub phase: Phase,
    /// The tier that it wakes from.
    pub from: Tier,
    /// Bytes of weights that are done.
    pub bytes: u64,
    /// Bytes of weights in all.
    pub bytes_total: u64,
    /// Time that is left, as far as it is known from the last time.
    pub remaining: Option<Duration>,
}

impl Wake {
    /// The wake under way of the model of this name, if there is one.
    pub fn of(models: &[ModelResidency], name: &str) -> Option<Self> {
        let progress = models.iter().find(|model| model.name == name)?.progress?;
        Some(Self {
            model: name.to_owned(),
            phase: progress.phase,
            from: progress.from,
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
            remaining: progress.remaining(Instant::now()),
        })
    }
}

/// What an invocation cost.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Making the store and instantiating.
    pub instantiate: Duration,
    /// `setup`.
    pub setup: Duration,
    /// `predict`, host calls included.
    pub predict: Duration,
    /// Linear memory at its largest.
    pub memory_bytes: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Of these, from the prefix cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Waiting for models to wake; the longest.
    pub wake: Duration,
    /// The deepest tier that a model was woken from; `None` when it opened none.
    pub woken_from: Option<Tier>,
    /// Share of the device's time.
    pub device: Duration,
    /// Log bytes dropped beyond the limit.
    pub log_bytes_dropped: u64,
    /// What the guest recorded by `output.metric`, in order of first use.
    pub custom: Vec<(String, f64)>,
}

/// How an invocation ended well.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What `predict` returned, checked to be JSON.
    pub output: String,
}
