//! From what wasmtime says went wrong to the one [`Error`] that says it to the caller.

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::{Config, Error, instance::Stage, state::State};

/// Why the host itself ended a guest from inside a host function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("the caller went away")]
    Cancelled,
    #[error("output has {bytes} bytes")]
    OutputTooLarge { bytes: usize },
}

/// Bytes of a message that a guest may make us keep in an error.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Names the fault that ended `stage`.
pub(crate) fn classify(error: &wasmtime::Error, stage: Stage, state: &State, config: &Config) -> Error {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match *stop {
            Stop::Cancelled => Error::Cancelled,
            Stop::OutputTooLarge { bytes } => {
                Error::OutputTooLarge { bytes, limit_bytes: state.output_bytes_max() }
            }
        };
    }
    if let Some(I32Exit(status)) = error.downcast_ref() {
        return Error::Exit(*status);
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Error::Busy { instances_max: config.instances_max };
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::StackOverflow) {
        return Error::StackOverflow { stack_bytes: config.stack_bytes };
    }
    // A guest that is refused memory gets -1 and, nearly always, aborts for it.
    if let Some(wanted_bytes) = state.memory.refused_bytes()
        && (trap.is_some() || stage == Stage::Instantiate)
    {
        return Error::OutOfMemory { wanted_bytes, limit_bytes: state.memory.limit_bytes() };
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    if too_much_in_one_call(error) && backtrace.is_none() && stage != Stage::Instantiate {
        // Outside of wasm, so it was the result that was being copied.
        return Error::OutputTooLarge {
            bytes: state.output_bytes_max() + 1,
            limit_bytes: state.output_bytes_max(),
        };
    }
    if trap.is_none() && backtrace.is_none() && stage == Stage::Instantiate {
        return Error::Host(format!("{stage}: {error:#}"));
    }
    Error::Trap(describe(error, trap, backtrace, stage))
}

/// `in STAGE: REASON; at INNERMOST < … < OUTERMOST`.
fn describe(
    error: &wasmtime::Error,
    trap: Option<&Trap>,
    backtrace: Option<&WasmBacktrace>,
    stage: Stage,
) -> String {
    let mut message = match trap {
        Some(trap) => format!("in {stage}: {}", trap.to_string().trim_start_matches("wasm trap: ")),
        None => format!("in {stage}: {}", error.root_cause()),
    };
    let names: Vec<_> =
        backtrace.iter().flat_map(|trace| trace.frames()).filter_map(|frame| frame.func_name()).collect();
    if !names.is_empty() {
        message.push_str("; at ");
        message.push_str(&names.join(" < "));
    }
    truncate(message)
}

/// Whether a call carried more than the store's host call limit. wasmtime keeps this error's type to
/// itself, so its text is all there is to go by; a test pins it.
fn too_much_in_one_call(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

/// A guest's message, cut to what an error may hold.
pub(crate) fn truncate(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}
