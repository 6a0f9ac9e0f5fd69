//! The wasmtime engine that guests are compiled for and run in.

use std::{num::NonZeroUsize, thread, time::Duration};

use wasmtime::{InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::{Config, Error};

/// How often a running guest gives the thread back.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Room on an instance's stack for host functions, beside the guest's own: as much as a thread has,
/// since they tokenize and render chat templates there. Address space only, until it is used.
const HOST_STACK_BYTES: usize = 2 << 20;
/// Frames of a backtrace.
const FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not zero");

/// A component of a guest has one memory; an image that holds handles has another for what takes them.
const MEMORIES_PER_COMPONENT: u32 = 2;
/// Core instances and tables that a component of each guest language needs, measured: CPython
/// is the largest, with its adapters and libraries.
const CORE_INSTANCES_PER_COMPONENT: u32 = 20;
const TABLES_PER_COMPONENT: u32 = 6;
const TABLE_ELEMENTS_MAX: usize = 20_000;
const TABLES_PER_MODULE: u32 = 4;
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Address space of a memory where it is too scarce for a pool.
const SCARCE_RESERVATION_BYTES: u64 = 64 << 20;

/// Where instances get their memories, tables and stacks.
#[derive(Clone, Copy, PartialEq)]
enum Allocation {
    /// Reserved once, reused by every instance.
    Pool,
    /// Mapped for each instance.
    OnDemand,
}

/// Makes the engine and starts the thread that ticks it, which ends with the engine.
pub(crate) fn start(config: &Config) -> Result<wasmtime::Engine, Error> {
    let failed = |error: wasmtime::Error| Error::Host(format!("making the wasm sandbox: {error:#}"));
    let engine = match wasmtime::Engine::new(&settings(config, Allocation::Pool)) {
        Ok(engine) => engine,
        Err(reason) => {
            tracing::warn!(
                reason = format!("{reason:#}"),
                instances_max = config.instances_max,
                "no address space for a pool of instances; mapping each on demand"
            );
            wasmtime::Engine::new(&settings(config, Allocation::OnDemand)).map_err(failed)?
        }
    };
    tick(&engine)?;
    Ok(engine)
}

/// Everything that shapes compiled code or runs it, in one place: code compiled under other settings
/// does not load.
fn settings(config: &Config, allocation: Allocation) -> wasmtime::Config {
    let mut settings = wasmtime::Config::new();
    settings
        // Guests yield at ticks, so an endless loop holds a thread for one tick at a time.
        .epoch_interruption(true)
        .max_wasm_stack(config.stack_bytes)
        .async_stack_size(config.stack_bytes + HOST_STACK_BYTES)
        // The world has no async functions; without this an instance starts in 7 us instead of 9 and a
        // host call takes 0.08 us instead of 0.18.
        .concurrency_support(false)
        // Data segments are mapped from the compiled file: what makes a 33 MB guest start in 1 ms.
        .memory_init_cow(true)
        // Only function names are shown, and no foreign unwinder walks wasm frames: smaller files, and
        // none of the unwinder's registrations for each map.
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(Some(FRAMES_MAX));
    match allocation {
        Allocation::Pool => {
            settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config)));
        }
        Allocation::OnDemand => {
            settings
                .memory_reservation(SCARCE_RESERVATION_BYTES)
                .memory_reservation_for_growth(SCARCE_RESERVATION_BYTES);
        }
    }
    settings
}

/// A pool that fits the guests of every language.
fn pool(config: &Config) -> PoolingAllocationConfig {
    let n = u32::try_from(config.instances_max).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(n)
        .total_core_instances(n.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(n.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(n.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(n)
        .max_memory_size(config.memory_bytes_max)
        .max_tables_per_module(TABLES_PER_MODULE)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        // Idle slots give their pages back.
        .linear_memory_keep_resident(0);
    pool
}

/// Advances the epoch until the engine is gone.
fn tick(engine: &wasmtime::Engine) -> Result<(), Error> {
    let engine = engine.weak();
    let ticker = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    thread::Builder::new()
        .name("epoch".into())
        .spawn(ticker)
        .map_err(|error| Error::Host(format!("starting the epoch thread: {error}")))?;
    Ok(())
}
