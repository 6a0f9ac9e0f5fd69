//! What the host keeps for one instance.

use std::sync::Arc;

use dormouse_engine::Engine;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

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
}

/// What an instance is given.
pub(crate) struct Grants {
    pub(crate) limits: Limits,
    /// Names of the models it may open.
    pub(crate) models: Arc<[String]>,
    /// Its environment variables.
    pub(crate) env: Arc<[(String, String)]>,
}

impl State {
    pub(crate) fn new(grants: &Grants, engine: &Engine, outbox: &Outbox, config: &Config) -> Self {
        let limits = &grants.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles_max);
        Self {
            memory: MemoryMeter::new(limits.memory_bytes.min(config.memory_bytes_max)),
            models: Models::new(engine.clone(), grants.models.clone(), limits),
            output: Output::new(outbox.clone(), limits),
            table,
            wasi: wasi(&grants.env, outbox),
        }
    }

    pub(crate) fn output_bytes_max(&self) -> usize {
        self.output.bytes_max()
    }
}

/// WASI 0.2 without files and sockets: their interfaces exist, so that components of every language
/// link, but there is no folder to open and every socket is denied.
fn wasi(env: &[(String, String)], outbox: &Outbox) -> WasiCtx {
    WasiCtx::builder()
        .envs(env)
        .stdout(Stdio::new(outbox.clone(), LogSource::Stdout))
        .stderr(Stdio::new(outbox.clone(), LogSource::Stderr))
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
