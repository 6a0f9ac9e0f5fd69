//! Logs, progress and metrics.

use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use crate::host;

/// Reports how far the prediction is, from 0 to 1, with a short note.
pub fn progress(fraction: f32, note: &str) {
    host::progress(fraction, note);
}

/// Records a number in the prediction's metrics; the last value of a name stays.
pub fn metric(name: &str, value: f64) {
    host::metric(name, value);
}

/// Sends what is logged through the `log` crate to the prediction's logs.
pub(crate) fn install_logger() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An author who has set another logger keeps it.
        if log::set_logger(&HostLogger).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    });
}

struct HostLogger;

impl Log for HostLogger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= LevelFilter::Debug
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            host::log(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}
