//! Every setting and bound of the service, resolved.
//!
//! The file form is TOML with one table for each struct below. Times are written as `"30s"` or
//! `"1m 500ms"`, sizes as bytes. What happens when a bound is met stands beside it.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

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
    /// Bearer token that `/v1` and `/fn` ask for. Without it they are open. Never written out.
    #[serde(default, skip_serializing)]
    pub token: Option<Token>,
    /// Folder of everything that lasts: `dormouse.db`, `blobs/`, `cache/`, `models/`.
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
}

impl Config {
    /// Defaults, with everything that lasts under `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: default_listen(),
            public_url: None,
            token: None,
            data_dir: data_dir.into(),
            http: Http::default(),
            deploy: Deploy::default(),
            predict: Predict::default(),
            queue: Queue::default(),
            webhook: Webhook::default(),
            runtime: Runtime::default(),
            engine: Engine::default(),
            residency: Residency::default(),
        }
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

/// A secret that does not show in logs.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Bounds on connections and requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
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
            connections_max: 4096,
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
    /// Bytes of a manifest; beyond it the component is refused.
    pub manifest_bytes_max: usize,
    /// Functions on this node; beyond it the answer is 409.
    pub functions_max: usize,
    /// Revisions kept of a function; the oldest that no alias names go first.
    pub revisions_max: usize,
    /// Aliases of a function; beyond it the answer is 409.
    pub aliases_max: usize,
    /// Environment variables and models that a revision may name, each.
    pub names_max: usize,
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
            manifest_bytes_max: 1 << 20,
            functions_max: 100_000,
            revisions_max: 100,
            aliases_max: 100,
            names_max: 100,
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
    /// Time that any other prediction is kept after its end.
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
    /// Cap on the context length that a model's file names, in tokens.
    pub context_tokens_max: usize,
}

impl Default for Engine {
    fn default() -> Self {
        let engine = dormouse_engine::Config::new("");
        Self {
            threads: engine.threads,
            sequences_max: engine.sequences_max,
            queue_max: engine.queue_max,
            batch_tokens_max: engine.batch_tokens_max,
            kv_bytes_max: engine.kv_bytes_max,
            context_tokens_max: engine.context_tokens_max,
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
    /// Bytes of all ready images and kept prefixes; beyond it those that were used longest ago are removed.
    pub ready_bytes_max: u64,
}

impl Default for Residency {
    fn default() -> Self {
        let residency = dormouse_engine::Residency::new("");
        Self {
            memory_bytes_max: residency.memory_bytes_max,
            waiters_max: residency.waiters_max,
            wake_wait_max: residency.wake_wait_max,
            awake_idle: residency.awake_idle,
            memory_idle: residency.memory_idle,
            disk_idle: residency.disk_idle,
            residence_min: residency.residence_min,
            backoff_min: residency.backoff_min,
            backoff_max: residency.backoff_max,
            ready_bytes_max: residency.ready_bytes_max,
            prefix_bytes_max: residency.prefix_bytes_max,
            prefix_age_max: residency.prefix_age_max,
        }
    }
}

/// Times as people write them.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        humantime::parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Times that may be never.
mod maybe {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const NEVER: &str = "never";

    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::duration::serialize(value, to),
            None => to.serialize_str(NEVER),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        match String::deserialize(from)?.as_str() {
            NEVER => Ok(None),
            text => humantime::parse_duration(text).map(Some).map_err(D::Error::custom),
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
