//! Interface `output`: where a predictor's output, logs and numbers go while it runs.

use serde::de::IgnoredAny;
use wasmtime::component::HasData;

use crate::{
    EVENT_BYTES, Level, Limits,
    bindings::dormouse::predictor::output::{self, Host},
    fault::Stop,
    outbox::Outbox,
};

/// What one instance has said, and how much more it may say.
pub(crate) struct Output {
    outbox: Outbox,
    /// Charged for elements so far.
    bytes: usize,
    bytes_max: usize,
    /// What an element that was refused would have made it.
    refused_bytes: Option<usize>,
    metrics: Vec<(String, f64)>,
    metrics_max: usize,
    note_bytes_max: usize,
}

impl Output {
    pub(crate) fn new(outbox: Outbox, limits: &Limits) -> Self {
        Self {
            outbox,
            bytes: 0,
            bytes_max: limits.output_bytes,
            refused_bytes: None,
            metrics: Vec::new(),
            metrics_max: limits.metrics_max,
            note_bytes_max: limits.note_bytes,
        }
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Output charged so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the output would have been with the element that was refused, if one was.
    pub(crate) fn refused_bytes(&self) -> Option<usize> {
        self.refused_bytes
    }

    /// The recorded numbers, in order of first use.
    pub(crate) fn take_metrics(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.metrics)
    }
}

impl HasData for Output {
    type Data<'a> = &'a mut Output;
}

impl Host for Output {
    /// Refuses what is too much once, so that a guest can end well, and ends a guest that goes on.
    async fn emit(&mut self, json: String) -> wasmtime::Result<Result<(), String>> {
        let bytes = self.bytes.saturating_add(json.len() + EVENT_BYTES);
        if bytes > self.bytes_max {
            if self.refused_bytes.replace(bytes).is_some() {
                return Err(Stop::OutputTooLarge { bytes }.into());
            }
            return Ok(Err(format!("output has {bytes} bytes, the limit is {}", self.bytes_max)));
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(&json) {
            return Ok(Err(format!("not JSON: {error}")));
        }
        self.bytes = bytes;
        self.outbox.send(json).await?;
        Ok(Ok(()))
    }

    async fn progress(&mut self, fraction: f32, mut note: String) -> wasmtime::Result<()> {
        // A NaN clamps to NaN, and max makes that 0.
        let fraction = fraction.clamp(0.0, 1.0).max(0.0);
        note.truncate(note.floor_char_boundary(self.note_bytes_max));
        self.outbox.progress(fraction, note);
        Ok(self.outbox.flush().await?)
    }

    async fn log(&mut self, level: output::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            output::Level::Debug => Level::Debug,
            output::Level::Info => Level::Info,
            output::Level::Warn => Level::Warn,
            output::Level::Error => Level::Error,
        };
        self.outbox.log(level, &message);
        Ok(self.outbox.flush().await?)
    }

    /// A number that is not finite is no JSON, and is dropped as a name too long or too many is.
    fn metric(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        if name.is_empty() || name.len() > self.note_bytes_max || !value.is_finite() {
            return Ok(());
        }
        if let Some((_, last)) = self.metrics.iter_mut().find(|(known, _)| *known == name) {
            *last = value;
        } else if self.metrics.len() < self.metrics_max {
            self.metrics.push((name, value));
        }
        Ok(())
    }
}
