//! How a pull shows that it goes on: a bar on a terminal, lines elsewhere, or nothing.

use std::cell::Cell;
use std::fmt::Display;

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

/// Lines of a whole download, where no terminal shows a bar.
const LINES: u64 = 10;

/// Shows one pull on standard error.
#[derive(Debug)]
pub struct Progress(Kind);

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines(Lines),
    Silent,
}

#[derive(Debug, Default)]
struct Lines {
    total_bytes: Cell<Option<u64>>,
    done_bytes: Cell<u64>,
    lines: Cell<u64>,
}

impl Progress {
    /// A bar that redraws itself.
    pub fn bar() -> Self {
        let style = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is well formed");
        Self(Kind::Bar(ProgressBar::no_length().with_style(style)))
    }

    /// A line for each tenth.
    pub fn lines() -> Self {
        Self(Kind::Lines(Lines::default()))
    }

    /// Nothing.
    pub fn silent() -> Self {
        Self(Kind::Silent)
    }

    /// Announces a transfer of which `done_bytes` are already there.
    pub(super) fn start(&self, what: impl Display, done_bytes: u64, total_bytes: Option<u64>) {
        match &self.0 {
            Kind::Bar(bar) => {
                bar.set_message(what.to_string());
                if let Some(total) = total_bytes {
                    bar.set_length(total);
                }
                bar.set_position(done_bytes);
                bar.reset_eta();
            }
            Kind::Lines(lines) => {
                lines.total_bytes.set(total_bytes);
                lines.done_bytes.set(done_bytes);
                lines.lines.set(lines.due());
                match total_bytes {
                    Some(total) => eprintln!("{what}: {}", DecimalBytes(total)),
                    None => eprintln!("{what}: size unknown"),
                }
            }
            Kind::Silent => {}
        }
    }

    /// Counts bytes that have arrived.
    pub(super) fn advance(&self, bytes: u64) {
        match &self.0 {
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines(lines) => lines.advance(bytes),
            Kind::Silent => {}
        }
    }

    /// Says something that a person may want to know, such as a retry.
    pub(super) fn note(&self, text: impl Display) {
        match &self.0 {
            Kind::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Kind::Lines(_) => eprintln!("{text}"),
            Kind::Silent => {}
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Kind::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn due(&self) -> u64 {
        match self.total_bytes.get() {
            Some(total) if total > 0 => self.done_bytes.get().saturating_mul(LINES) / total,
            _ => 0,
        }
    }

    fn advance(&self, bytes: u64) {
        self.done_bytes.set(self.done_bytes.get() + bytes);
        let due = self.due();
        if due > self.lines.replace(due) {
            eprintln!(
                "  {:>3} % of {}",
                due * 100 / LINES,
                DecimalBytes(self.total_bytes.get().unwrap_or(0))
            );
        }
    }
}
