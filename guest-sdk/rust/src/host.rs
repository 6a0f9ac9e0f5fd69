//! The host's `output` interface. Native builds, which are tests, record it instead.

#[cfg(target_family = "wasm")]
mod component {
    use crate::bindings::dormouse::predictor::output::{self, Level};

    pub(crate) use output::{emit, metric, progress};

    pub(crate) fn log(level: log::Level, message: &str) {
        let level = match level {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug | log::Level::Trace => Level::Debug,
        };
        output::log(level, message);
    }
}

#[cfg(target_family = "wasm")]
pub(crate) use component::{emit, log, metric, progress};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::{emit, log, metric, progress};
