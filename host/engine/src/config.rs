//! The engine's bounds.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{Error, memory};

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor, with the fastest kernels that it has instructions for.
    #[default]
    Cpu,
    /// The graphics processor of this index in [`adapters`](crate::adapters).
    #[cfg(feature = "gpu")]
    Gpu(usize),
    /// Plain loops on one thread: slow, and what the others are compared with.
    Reference,
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 16 bits each.
    #[default]
    Bf16,
    /// 8 bits each, and a scale for each position of a head: half the memory, less exact, and slower where
    /// contexts are short.
    Q8,
}

/// Everything that limits the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Folder of the model catalogue.
    pub models_dir: PathBuf,
    /// What computes, at least one. Models are placed by free memory on those that have memory of their own; beside
    /// them the processor takes only models that none of them could ever hold, which are refused without it.
    pub devices: Vec<Device>,
    /// Compute threads of a step.
    pub threads: usize,
    /// Sequences that run in one batch.
    pub sequences_max: usize,
    /// Sequences that wait for a place; beyond it a request is [`Error::Overloaded`](crate::Error).
    pub queue_max: usize,
    /// Tokens of one step, prefill and decode together; at least `sequences_max`.
    pub batch_tokens_max: usize,
    /// Bytes of KV cache of one model.
    pub kv_bytes_max: usize,
    /// How it is kept.
    pub kv_type: KvType,
    /// Cap on the context length a model's file names, in tokens.
    pub context_tokens_max: usize,
    /// Whether a greedy text depends on nothing but its prompt. Otherwise what one request generated may
    /// serve another's prompt that repeats it (a chat's next turn), though a device may have rounded it
    /// differently than it would a prompt.
    pub deterministic: bool,
    /// Tokens that a step may guess for a sequence from what it repeats, and check at once: the same
    /// text in fewer steps where much is repeated. Of sequences for which nothing else is asked; 0, the
    /// default, guesses none.
    pub guess_tokens: usize,
    /// The most that may be asked for.
    pub guess_tokens_max: usize,
    /// When models sleep, and what of them is kept.
    pub residency: Residency,
}

/// What bounds models that sleep and wake. A time of `None` is never.
#[derive(Debug, Clone, PartialEq)]
pub struct Residency {
    /// Bytes that all models have in memory; for one that is wanted beyond it, others go to sleep.
    pub memory_bytes_max: u64,
    /// The same in the memory of each device that has its own; `None` takes most of what its driver says there is.
    pub device_memory_bytes_max: Option<u64>,
    /// Time that a device may take for a step; beyond it the step fails and the device is opened again.
    pub device_wait_max: Duration,
    /// Callers that wait for one model; beyond it a caller is [`Error::Overloaded`](crate::Error).
    pub waiters_max: usize,
    /// Time that a caller waits for a model to wake; beyond it, it is [`Error::Overloaded`](crate::Error).
    pub wake_wait_max: Duration,
    /// Time without use until a model goes from awake to memory.
    pub awake_idle: Option<Duration>,
    /// Time until it goes on from memory to disk.
    pub memory_idle: Option<Duration>,
    /// Time until its files that can be made again are removed.
    pub disk_idle: Option<Duration>,
    /// The three times above of models by name, where they have their own.
    pub models: BTreeMap<String, Idle>,
    /// Time that a model stays awake though another wants its room.
    pub residence_min: Duration,
    /// Time until a wake that failed is tried again; doubled with each further failure.
    pub backoff_min: Duration,
    /// Upper bound on that time.
    pub backoff_max: Duration,
    /// Folder of ready images and kept prefixes; everything in it can be made again.
    pub ready_dir: PathBuf,
    /// Bytes of prefix cache that are kept of each model that sleeps; beyond it the blocks that were used
    /// longest ago are lost.
    pub prefix_bytes_max: u64,
    /// Time without use after which a kept prefix is lost.
    pub prefix_age_max: Duration,
    /// Whether a model that woke must first say what it said when it was first awake, a few tokens to the
    /// bit; one that doesn't is made from its own file again.
    pub probe: bool,
    /// Bytes of all ready images and kept prefixes; beyond it those that were used longest ago are removed.
    pub ready_bytes_max: u64,
}

/// When one model sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Time without use until it goes from awake to memory.
    pub awake: Option<Duration>,
    /// Time until it goes on from memory to disk.
    pub memory: Option<Duration>,
    /// Time until its files that can be made again are removed.
    pub disk: Option<Duration>,
}

/// Of the machine's memory, what models may have: the rest is for predictors and the system.
const MEMORY_SHARE: (u64, u64) = (3, 4);

impl Residency {
    /// Defaults for a machine, with what is kept of sleeping models under `ready_dir`.
    pub fn new(ready_dir: impl Into<PathBuf>) -> Self {
        let (part, whole) = MEMORY_SHARE;
        Self {
            memory_bytes_max: memory::total_bytes() / whole * part,
            device_memory_bytes_max: None,
            device_wait_max: Duration::from_secs(120),
            waiters_max: 1024,
            wake_wait_max: Duration::from_secs(120),
            awake_idle: Some(Duration::from_secs(5 * 60)),
            memory_idle: Some(Duration::from_secs(30 * 60)),
            disk_idle: Some(Duration::from_secs(30 * 24 * 3600)),
            models: BTreeMap::new(),
            residence_min: Duration::from_secs(1),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            ready_dir: ready_dir.into(),
            probe: false,
            ready_bytes_max: 256 << 30,
            prefix_bytes_max: 64 << 20,
            prefix_age_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl Config {
    /// Defaults for a machine, with models under `models_dir`.
    pub fn new(models_dir: impl Into<PathBuf>) -> Self {
        let models_dir = models_dir.into();
        Self {
            residency: Residency::new(models_dir.join("ready")),
            models_dir,
            devices: vec![Device::default()],
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            sequences_max: 32,
            queue_max: 1024,
            batch_tokens_max: 256,
            kv_bytes_max: 512 << 20,
            kv_type: KvType::default(),
            context_tokens_max: 8192,
            deterministic: true,
            guess_tokens: 0,
            guess_tokens_max: 16,
        }
    }

    /// [`Error::Invalid`] names the bound that lets nothing run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let least = [
            ("threads", self.threads, 1),
            ("sequences_max", self.sequences_max, 1),
            ("queue_max", self.queue_max, 1),
            ("batch_tokens_max", self.batch_tokens_max, self.sequences_max),
            ("context_tokens_max", self.context_tokens_max, 1),
            ("waiters_max", self.residency.waiters_max, 1),
        ];
        match least.into_iter().find(|(_, found, least)| found < least) {
            Some((name, found, least)) => {
                Err(Error::Invalid(format!("{name} is {found}, expected at least {least}")))
            }
            None => {
                self.check_devices()?;
                self.check_guesses(self.guess_tokens)
            }
        }
    }

    fn check_devices(&self) -> Result<(), Error> {
        let again = self.devices.iter().enumerate().find(|(at, device)| self.devices[..*at].contains(device));
        match (self.devices.is_empty(), again) {
            (true, _) => Err(Error::Invalid("devices is empty: models compute on nothing".into())),
            (_, Some((_, device))) => Err(Error::Invalid(format!("devices has {device:?} twice"))),
            _ => Ok(()),
        }
    }

    /// [`Error::Invalid`] when more guesses are asked for than this node makes.
    pub(crate) fn check_guesses(&self, guess_tokens: usize) -> Result<(), Error> {
        let max = self.guess_tokens_max;
        match guess_tokens <= max {
            true => Ok(()),
            false => Err(Error::Invalid(format!(
                "guess_tokens is {guess_tokens}, expected at most {max} (guess_tokens_max)"
            ))),
        }
    }
}
