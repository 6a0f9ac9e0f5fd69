//! What the host keeps for one instance.

use std::{
    convert::Infallible,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use dormouse_engine::{Caller, Engine, KeepAlive};
use rand::{Rng, TryRng, rngs::ThreadRng};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostMonotonicClock, WasiCtx, WasiCtxView, WasiView};

use crate::{
    Config, Limits, LogSource,
    host::{llm::Models, output::Output, stdio::Stdio},
    memory::MemoryMeter,
    outbox::Outbox,
};

/// Bytes that a guest may ask of the random generator at once.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// The data of a store.
pub(crate) struct State {
    pub(crate) memory: MemoryMeter,
    pub(crate) models: Models,
    pub(crate) output: Output,
    pub(crate) table: ResourceTable,
    wasi: WasiCtx,
    drew: Arc<AtomicBool>,
}

/// What an instance is given.
pub(crate) struct Grants {
    pub(crate) limits: Limits,
    /// Whom its models' work counts for.
    pub(crate) caller: Caller,
    /// Names of the models it may open.
    pub(crate) models: Arc<[String]>,
    /// Its environment variables.
    pub(crate) env: Arc<[(String, String)]>,
    /// How long models stay awake after it.
    pub(crate) keep_alive: Option<KeepAlive>,
}

impl State {
    pub(crate) fn new(grants: &Grants, engine: &Engine, outbox: &Outbox, config: &Config) -> Self {
        let limits = &grants.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles_max);
        let drew = Arc::default();
        Self {
            memory: MemoryMeter::new(limits.memory_bytes.min(config.memory_bytes_max)),
            models: Models::new(engine.clone(), grants, outbox.clone()),
            output: Output::new(outbox.clone(), limits),
            table,
            wasi: wasi(&grants.env, outbox, &drew),
            drew,
        }
    }

    /// Whether it has drawn random numbers.
    pub(crate) fn drew(&self) -> bool {
        self.drew.load(Ordering::Relaxed)
    }

    /// Number of things that the host keeps for it: models, completions, streams and the like.
    pub(crate) fn resources(&mut self) -> usize {
        self.table.iter_mut().count()
    }

    pub(crate) fn output_bytes_max(&self) -> usize {
        self.output.bytes_max()
    }
}

/// WASI 0.2 without files and sockets: their interfaces exist, so that components of every language
/// link, but there is no folder to open and every socket is denied.
fn wasi(env: &[(String, String)], outbox: &Outbox, drew: &Arc<AtomicBool>) -> WasiCtx {
    WasiCtx::builder()
        .envs(env)
        .stdout(Stdio::new(outbox.clone(), LogSource::Stdout))
        .stderr(Stdio::new(outbox.clone(), LogSource::Stderr))
        .secure_random(Random { drew: drew.clone() })
        .insecure_random(Random { drew: drew.clone() })
        .max_random_size(RANDOM_BYTES_MAX)
        .monotonic_clock(Clock)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

/// The host's random numbers, and a note that some were drawn.
struct Random {
    drew: Arc<AtomicBool>,
}

impl Random {
    fn draw(&self) -> ThreadRng {
        self.drew.store(true, Ordering::Relaxed);
        rand::rng()
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.draw().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.draw().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.draw().fill_bytes(bytes);
        Ok(())
    }
}

/// A clock that goes on from one instance to the next, so that a time taken in a `setup` long ago lies
/// before those of today's predictions.
struct Clock;

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        static START: OnceLock<(Instant, u64)> = OnceLock::new();
        let (at, since_1970) = START.get_or_init(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (Instant::now(), since.as_nanos() as u64)
        });
        since_1970 + at.elapsed().as_nanos() as u64
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
