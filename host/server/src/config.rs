//! Every setting and bound of the service, resolved.
//!
//! The file form is TOML with one table for each struct below. Times are written as `"30s"` or
//! `"1m 500ms"`, sizes as bytes. What happens when a bound is met stands beside it.

mod written;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use dormouse_engine::KvType;
use serde::{Deserialize, Serialize};
use url::Url;

pub use crate::device::Devices;

pub(crate) use written::url_text;
use written::{duration, maybe};

/// The public model hub.
const HUB: &str = "https://huggingface.co";

/// What `dormouse serve` runs with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// What stands before `/fn/NAME` in invocation URLs. Without it the request's `Host` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// A token that is good for everything. Never written out. Without it and others, made by `dormouse
    /// token create`, the service listens on loopback only and is open to whoever is there.
    #[serde(default, skip_serializing)]
    pub token: Option<Token>,
    /// Whose the functions are to clients of Replicate, as in `OWNER/NAME`.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// What the service proves itself with; without it, it speaks plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Folder of everything that lasts: `dormouse.db`, `blobs/`, `cache/`, `files/`,
    /// `models/`, `ready/`.
    pub data_dir: PathBuf,
    /// Connections and requests.
    #[serde(default)]
    pub http: Http,
    /// Deploys.
    #[serde(default)]
    pub deploy: Deploy,
    /// Predictions.
    #[serde(default)]
    pub predict: Predict,
    /// Predictions that nobody waits for on the line, and what is kept of all.
    #[serde(default)]
    pub queue: Queue,
    /// Webhooks.
    #[serde(default)]
    pub webhook: Webhook,
    /// The sandbox.
    #[serde(default)]
    pub runtime: Runtime,
    /// The inference engine.
    #[serde(default)]
    pub engine: Engine,
    /// When models sleep.
    #[serde(default)]
    pub residency: Residency,
    /// Files that clients keep here.
    #[serde(default)]
    pub files: Files,
    /// Batches of requests.
    #[serde(default)]
    pub batch: Batch,
    /// What AWS Lambda's clients are told and how they sign.
    #[serde(default)]
    pub aws: Aws,
    /// Where `hf:` sources of models come from.
    #[serde(default)]
    pub hub: Hub,
}

impl Config {
    /// Defaults, with everything that lasts under `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: default_listen(),
            public_url: None,
            token: None,
            owner: default_owner(),
            tls: None,
            data_dir: data_dir.into(),
            http: Http::default(),
            deploy: Deploy::default(),
            predict: Predict::default(),
            queue: Queue::default(),
            webhook: Webhook::default(),
            runtime: Runtime::default(),
            engine: Engine::default(),
            residency: Residency::default(),
            files: Files::default(),
            batch: Batch::default(),
            aws: Aws::default(),
            hub: Hub::default(),
        }
    }

    /// How the service's URLs begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Folder of the model catalogue.
    pub fn models_dir(&self) -> PathBuf {
        self.data_dir.join("models")
    }
}

/// Loopback only: opening the service to a network is a decision.
fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn default_owner() -> String {
    "dormouse".to_owned()
}

/// A secret that does not show in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Files of TLS, in PEM. They are read at start and at every SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, then those that it is signed with.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// A model hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hub {
    /// Root of its URLs.
    #[serde(with = "url_text")]
    pub endpoint: Url,
    /// Sent to the endpoint's host only. Never written out.
    #[serde(skip_serializing)]
    pub token: Option<Token>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { endpoint: Url::parse(HUB).expect("the default is a URL"), token: None }
    }
}

/// Bounds on connections and requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Tokens; beyond it the answer is 409.
    pub tokens_max: usize,
    /// Connections open at once; more wait in the listen backlog.
    pub connections_max: usize,
    /// Bytes of a request's head; beyond it the answer is 431.
    pub header_bytes_max: usize,
    /// Headers of a request; beyond it the answer is 431.
    pub headers_max: usize,
    /// Time for a request's whole head, from the connection's start or the last answer: what a slow
    /// sender and an idle connection get before they are closed.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Time for the body of an invocation or of a settings change; beyond it the answer is 408.
    #[serde(with = "duration")]
    pub body_timeout: Duration,
    /// Time that a connection may take none of the bytes written to it; then it is closed.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// Bytes of a body that is not a component; beyond it the answer is 413.
    pub body_bytes_max: usize,
    /// Upper bound on the time that an answer is held back for a prediction of the queue to end.
    #[serde(with = "duration")]
    pub wait_max: Duration,
    /// Time between comments that keep an event stream open.
    #[serde(with = "duration")]
    pub keep_alive: Duration,
    /// Time that running predictions get to finish after the signal to stop; then they are ended.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// Time that ended predictions get to tell their callers, at the end of a drain.
    #[serde(with = "duration")]
    pub flush_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            tokens_max: 10_000,
            connections_max: 16_384,
            header_bytes_max: 64 << 10,
            headers_max: 100,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            body_bytes_max: 8 << 20,
            wait_max: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            flush_timeout: Duration::from_secs(2),
        }
    }
}

/// Bounds on deploys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// Bytes of a component; beyond it the answer is 413.
    pub component_bytes_max: usize,
    /// Bytes of the settings part of a multipart deploy; beyond it the answer is 413.
    pub settings_bytes_max: usize,
    /// Deploys under way at once; beyond it the answer is 429.
    pub deploys_max: usize,
    /// Components that compile at once; more wait.
    pub compiles_max: usize,
    /// Time for a component to arrive; beyond it the answer is 408.
    #[serde(with = "duration")]
    pub upload_timeout: Duration,
    /// Time that `describe` may take.
    #[serde(with = "duration")]
    pub describe_timeout: Duration,
    /// Time of the `setup` that runs at deploy.
    #[serde(with = "duration")]
    pub setup_timeout: Duration,
    /// Memory that it may leave for an image to be made of it; with more, it runs at each start.
    pub image_bytes_max: u64,
    /// Bytes of a manifest; beyond it the component is refused.
    pub manifest_bytes_max: usize,
    /// Functions on this node; beyond it the answer is 409.
    pub functions_max: usize,
    /// Revisions kept of a function; the oldest that no alias names go first.
    pub revisions_max: usize,
    /// Aliases of a function; beyond it the answer is 409.
    pub aliases_max: usize,
    /// Environment variables, models and prefixes that a revision may name, each.
    pub names_max: usize,
    /// Bytes of a declared prefix; beyond it the deploy is refused.
    pub prefix_bytes_max: usize,
    /// Times at which a revision's models wake; beyond it the deploy is refused.
    pub prewakes_max: usize,
    /// Changes that wait for the store's writer; more wait in their requests.
    pub writes_max: usize,
}

impl Default for Deploy {
    fn default() -> Self {
        Self {
            component_bytes_max: 64 << 20,
            settings_bytes_max: 1 << 20,
            deploys_max: 64,
            compiles_max: 2,
            upload_timeout: Duration::from_secs(300),
            describe_timeout: Duration::from_secs(10),
            setup_timeout: Duration::from_secs(120),
            image_bytes_max: 256 << 20,
            manifest_bytes_max: 1 << 20,
            functions_max: 100_000,
            revisions_max: 100,
            aliases_max: 100,
            names_max: 100,
            prefix_bytes_max: 256 << 10,
            prewakes_max: 16,
            writes_max: 256,
        }
    }
}

/// Bounds on predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Predict {
    /// Predictions that run at once on this node; more wait.
    pub running_max: usize,
    /// Predictions that wait on this node; beyond it the answer is 429.
    pub queue_max: usize,
    /// Predictions of one function that run at once, where its settings don't say.
    pub function_running: usize,
    /// Predictions of one function that wait, where its settings don't say.
    pub function_queue: usize,
    /// Time in the queue; beyond it the answer is 429.
    #[serde(with = "duration")]
    pub queue_timeout: Duration,
    /// Time of a prediction, where its settings don't say.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Upper bound on a function's own time limit.
    #[serde(with = "duration")]
    pub timeout_max: Duration,
    /// Memory of an instance, where a function's settings don't say.
    pub memory_bytes: usize,
    /// Emitted elements and the result of a prediction together; beyond it the prediction fails.
    pub output_bytes_max: usize,
    /// Log text of a prediction; what goes beyond is counted and dropped.
    pub log_bytes_max: usize,
    /// Completions that a prediction has open at once; beyond it the predictor gets an error.
    pub completions_max: usize,
    /// Events between an instance and its prediction's log; then the instance waits.
    pub events_max: usize,
    /// Failures of validation that one answer lists.
    pub problems_max: usize,
    /// Components that are mapped and ready at once; the least recently used goes first.
    pub components_max: usize,
}

impl Default for Predict {
    fn default() -> Self {
        Self {
            running_max: 256,
            queue_max: 4096,
            function_running: 64,
            function_queue: 1024,
            queue_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(300),
            timeout_max: Duration::from_secs(3600),
            memory_bytes: 256 << 20,
            output_bytes_max: 16 << 20,
            log_bytes_max: 1 << 20,
            completions_max: 64,
            events_max: 64,
            problems_max: 20,
            components_max: 4096,
        }
    }
}

/// Bounds on the queue of predictions that nobody waits for on the line, and on what is kept of those
/// that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Predictions that wait in the queue; beyond it the answer is 429.
    pub waiting_max: usize,
    /// Predictions of one function that wait in the queue; beyond it the answer is 429.
    pub function_waiting_max: usize,
    /// Predictions of the queue that run at once. They take the same places as others.
    pub running_max: usize,
    /// Time for which a running prediction is its node's; it is prolonged while the node lives.
    #[serde(with = "duration")]
    pub lease: Duration,
    /// Runs of a prediction that the node fails, where its caller doesn't say.
    pub attempts: u32,
    /// Upper bound on a caller's own number of attempts.
    pub attempts_max: u32,
    /// Time before the second attempt; it doubles with every further one.
    #[serde(with = "duration")]
    pub backoff: Duration,
    /// Upper bound on the time between attempts.
    #[serde(with = "duration")]
    pub backoff_max: Duration,
    /// Time between looks for deadlines that passed, leases that ran out and records to remove.
    #[serde(with = "duration")]
    pub tick: Duration,
    /// Time that a prediction of the queue is kept after its end.
    #[serde(with = "duration")]
    pub keep: Duration,
    /// Time that any other prediction is kept after its end; 0 keeps none, nor its input and output.
    #[serde(with = "duration")]
    pub keep_answered: Duration,
    /// Bytes of all predictions that are kept; the oldest that ended go first.
    pub kept_bytes_max: u64,
    /// Predictions whose caller has been answered and that are not on disk yet; beyond it the newest is
    /// not kept.
    pub unwritten_max: usize,
    /// Bytes of them.
    pub unwritten_bytes_max: usize,
    /// Predictions on one page of a list.
    pub page_max: usize,
    /// Bytes of a page; it ends early when they are reached.
    pub page_bytes_max: usize,
    /// Reads of predictions that run at once; more wait.
    pub readers_max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting_max: 1_000_000,
            function_waiting_max: 100_000,
            running_max: 256,
            lease: Duration::from_secs(30),
            attempts: 3,
            attempts_max: 20,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            tick: Duration::from_secs(1),
            keep: Duration::from_secs(24 * 3600),
            keep_answered: Duration::from_secs(3600),
            kept_bytes_max: 1 << 30,
            unwritten_max: 4096,
            unwritten_bytes_max: 64 << 20,
            page_max: 100,
            page_bytes_max: 8 << 20,
            readers_max: 4,
        }
    }
}

/// Bounds on webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// Whether they may go to addresses that only this node or its neighbours reach.
    pub allow_private: bool,
    /// Messages under way at once; more wait.
    pub running_max: usize,
    /// Time of a message, answer included.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Time between messages about a prediction's logs (and output, except for Cog's clients).
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Attempts to tell a prediction's end; then it is given up.
    pub attempts_max: u32,
    /// Time before the second attempt; it doubles with every further one.
    #[serde(with = "duration")]
    pub backoff: Duration,
    /// Upper bound on the time between attempts.
    #[serde(with = "duration")]
    pub backoff_max: Duration,
    /// Time after which an end that its own run has not told is told by others.
    #[serde(with = "duration")]
    pub grace: Duration,
    /// Time between looks for ends to tell.
    #[serde(with = "duration")]
    pub tick: Duration,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            allow_private: false,
            running_max: 32,
            timeout: Duration::from_secs(10),
            interval: Duration::from_millis(500),
            attempts_max: 12,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(3600),
            grace: Duration::from_secs(60),
            tick: Duration::from_secs(1),
        }
    }
}

/// Bounds of the sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Instances live at once on this node.
    pub instances_max: usize,
    /// Upper bound on the memory of an instance.
    pub memory_bytes_max: usize,
    /// Wasm stack of an instance.
    pub stack_bytes: usize,
}

impl Default for Runtime {
    fn default() -> Self {
        let runtime = dormouse_runtime::Config::new("");
        Self {
            instances_max: runtime.instances_max,
            memory_bytes_max: runtime.memory_bytes_max,
            stack_bytes: runtime.stack_bytes,
        }
    }
}

/// Bounds of the inference engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// What models compute on: `"cpu"`, `"gpu"` (every graphics processor there is), `"gpu:1"` for one of several, or
    /// some of them with commas between them. Models are placed by free memory; beside graphics processors the
    /// processor takes only what fits on none of them. `"auto"` is `"gpu,cpu"`, or `"cpu"` where there is no other.
    pub device: Devices,
    /// Compute threads of a step.
    pub threads: usize,
    /// Sequences that run in one batch.
    pub sequences_max: usize,
    /// Sequences that wait for a place; beyond it a predictor gets an error.
    pub queue_max: usize,
    /// Tokens of one step, prefill and decode together.
    pub batch_tokens_max: usize,
    /// Bytes of KV cache of one model.
    pub kv_bytes_max: usize,
    /// How it is kept: `"bf16"`, or `"q8"` in half the memory, less exact.
    pub kv_type: KvType,
    /// Cap on the context length that a model's file names, in tokens.
    pub context_tokens_max: usize,
    /// Whether a greedy text depends on nothing but its prompt. Otherwise what one request generated may
    /// serve another's prompt, rounded differently than the prompt would have been.
    pub deterministic: bool,
    /// Tokens that a step may guess for a sequence from what it repeats, and check at once: the same text
    /// in fewer steps where much is repeated. For requests and functions that don't say; 0 guesses none.
    pub guess_tokens: usize,
    /// The most that a request or a function may ask for.
    pub guess_tokens_max: usize,
}

impl Default for Engine {
    fn default() -> Self {
        let engine = dormouse_engine::Config::new("");
        Self {
            device: Devices::default(),
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
        }
    }
}

/// Bounds on models that sleep and wake. A time may be `"never"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Residency {
    /// Bytes that all models have in memory, three quarters of the machine's where it isn't said; for one
    /// that is wanted beyond it, others go to sleep.
    pub memory_bytes_max: u64,
    /// The same in the memory of each graphics processor; most of what its driver says there is where it isn't said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes_max: Option<u64>,
    /// Time that a graphics processor may take for a step; beyond it the step fails, and the device is opened again.
    #[serde(with = "duration")]
    pub device_wait_max: Duration,
    /// Callers that wait for one model to wake; beyond it a predictor gets an error.
    pub waiters_max: usize,
    /// Time that a caller waits for a model to wake; beyond it a predictor gets an error.
    #[serde(with = "duration")]
    pub wake_wait_max: Duration,
    /// Time without use until a model goes from awake to memory.
    #[serde(with = "maybe")]
    pub awake_idle: Option<Duration>,
    /// Time until it goes on from memory to disk.
    #[serde(with = "maybe")]
    pub memory_idle: Option<Duration>,
    /// Time until those of its files are removed that can be made again.
    #[serde(with = "maybe")]
    pub disk_idle: Option<Duration>,
    /// The three times above of models by name; one that isn't said is the node's.
    pub models: BTreeMap<String, ModelIdle>,
    /// Models that don't sleep.
    pub keep_warm: Vec<String>,
    /// Time that a model stays awake though another wants its room.
    #[serde(with = "duration")]
    pub residence_min: Duration,
    /// Time until a wake that failed is tried again; doubled with each further failure.
    #[serde(with = "duration")]
    pub backoff_min: Duration,
    /// Upper bound on that time.
    #[serde(with = "duration")]
    pub backoff_max: Duration,
    /// Bytes of prefix cache that are kept of each model that sleeps; beyond it the blocks that were used
    /// longest ago are lost.
    pub prefix_bytes_max: u64,
    /// Time without use after which a kept prefix is lost.
    #[serde(with = "duration")]
    pub prefix_age_max: Duration,
    /// Whether a model that woke must first say what it said when it was first awake, a few tokens to the
    /// bit; one that doesn't is made from its own file again.
    pub probe: bool,
    /// Bytes of all ready images and kept prefixes; beyond it those that were used longest ago are removed.
    pub ready_bytes_max: u64,
}

impl Default for Residency {
    fn default() -> Self {
        let residency = dormouse_engine::Residency::new("");
        Self {
            memory_bytes_max: residency.memory_bytes_max,
            device_memory_bytes_max: residency.device_memory_bytes_max,
            device_wait_max: residency.device_wait_max,
            waiters_max: residency.waiters_max,
            wake_wait_max: residency.wake_wait_max,
            awake_idle: residency.awake_idle,
            memory_idle: residency.memory_idle,
            disk_idle: residency.disk_idle,
            models: BTreeMap::new(),
            keep_warm: Vec::new(),
            residence_min: residency.residence_min,
            backoff_min: residency.backoff_min,
            backoff_max: residency.backoff_max,
            probe: residency.probe,
            ready_bytes_max: residency.ready_bytes_max,
            prefix_bytes_max: residency.prefix_bytes_max,
            prefix_age_max: residency.prefix_age_max,
        }
    }
}

/// When one model sleeps. A time may be `"never"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelIdle {
    /// Time without use until it goes from awake to memory.
    #[serde(skip_serializing_if = "Option::is_none", with = "own")]
    pub awake_idle: Option<Option<Duration>>,
    /// Time until it goes on from memory to disk.
    #[serde(skip_serializing_if = "Option::is_none", with = "own")]
    pub memory_idle: Option<Option<Duration>>,
    /// Time until those of its files are removed that can be made again.
    #[serde(skip_serializing_if = "Option::is_none", with = "own")]
    pub disk_idle: Option<Option<Duration>>,
}

/// Times that may be never, where they are said.
mod own {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<Duration>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        super::maybe::serialize(&value.flatten(), to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<Duration>>, D::Error> {
        super::maybe::deserialize(from).map(Some)
    }
}

/// Bounds on files that clients keep here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// Bytes of a file; beyond it the answer is 413.
    pub bytes_max: usize,
    /// Bytes of all files; beyond it the answer is 429.
    pub total_bytes_max: u64,
    /// Files; beyond it the answer is 429.
    pub count_max: usize,
    /// Time for a file to arrive; beyond it the answer is 408.
    #[serde(with = "duration")]
    pub upload_timeout: Duration,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            bytes_max: 200 << 20,
            total_bytes_max: 10 << 30,
            count_max: 10_000,
            upload_timeout: Duration::from_secs(300),
        }
    }
}

/// Bounds on batches of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Requests of a batch; one with more fails.
    pub lines_max: usize,
    /// Batches that run at once; more wait.
    pub running_max: usize,
    /// Requests of a batch that run at once.
    pub lines_running_max: usize,
    /// Time for a batch; what is not answered then never is.
    #[serde(with = "duration")]
    pub window: Duration,
    /// Batches that are kept; beyond it the answer is 429.
    pub kept_max: usize,
    /// Time that a batch is kept after its end. Its files are kept until they are removed.
    #[serde(with = "duration")]
    pub keep: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            lines_max: 50_000,
            running_max: 2,
            lines_running_max: 16,
            window: Duration::from_secs(24 * 3600),
            kept_max: 1000,
            keep: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// What AWS Lambda's clients are told, and the key that they sign with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Aws {
    /// Region in the names of functions.
    pub region: String,
    /// Account in the names of functions.
    pub account: String,
    /// Name of the key; good for everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The key's secret. Without it a signature says nothing, and a token is asked for. Never written out.
    #[serde(skip_serializing)]
    pub secret_access_key: Option<Token>,
    /// How far a signature's time may be off.
    #[serde(with = "duration")]
    pub clock_skew_max: Duration,
    /// Bytes of a body that may have code in it, in base64; beyond it the answer is 413.
    pub body_bytes_max: usize,
}

impl Default for Aws {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
            access_key_id: None,
            secret_access_key: None,
            clock_skew_max: Duration::from_secs(300),
            body_bytes_max: 96 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_form_gives_back_what_it_was_made_from() {
        let config = Config::new("/data");
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn a_file_names_only_what_it_changes() {
        let config: Config =
            toml::from_str("data_dir = '/data'\n[http]\nheader_timeout = '1m 500ms'").unwrap();
        let mut expected = Config::new("/data");
        expected.http.header_timeout = Duration::from_millis(60_500);
        assert_eq!(config, expected);
    }

    #[test]
    fn a_model_may_never_sleep() {
        let text = "data_dir = '/data'\n[residency]\nawake_idle = 'never'\nmemory_idle = '1h'";
        let config: Config = toml::from_str(text).unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!((config.residency.awake_idle, config.residency.memory_idle), (None, Some(hour)));
    }

    #[test]
    fn a_model_may_have_times_of_its_own() {
        let text = "data_dir = '/data'\n[residency]\nkeep_warm = ['a']\n\
            [residency.models.b]\nawake_idle = 'never'\ndisk_idle = '1h'";
        let config: Config = toml::from_str(text).unwrap();
        let hour = Duration::from_secs(3600);
        let expected = ModelIdle { awake_idle: Some(None), memory_idle: None, disk_idle: Some(Some(hour)) };
        assert_eq!(config.residency.models["b"], expected);
        assert_eq!(config.residency.keep_warm, ["a"]);
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let error = toml::from_str::<Config>("data_dir = '/data'\n[http]\nconections_max = 1").unwrap_err();
        assert!(error.to_string().contains("conections_max"), "{error}");
    }

    #[test]
    fn a_token_is_never_written_out() {
        let config = Config { token: Some(Token("s3cret".to_owned())), ..Config::new("/data") };
        assert!(!toml::to_string(&config).unwrap().contains("s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
