//! How a pull shows that it goes on: a bar on a terminal, lines elsewhere, to whoever asked, or nothing.

use std::cell::Cell;
use std::fmt::{self, Display};

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
    Told(Told),
    Silent,
}

/// Bytes that are there, told in steps.
struct Told {
    steps: u64,
    tell: Box<dyn Fn(u64, Option<u64>)>,
    lines: Lines,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("lines", &self.lines).finish_non_exhaustive()
    }
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

    /// Calls `tell` with the bytes that are there, and those of the whole if that is known, at each step
    /// of a transfer.
    pub fn told(steps: u64, tell: impl Fn(u64, Option<u64>) + 'static) -> Self {
        Self(Kind::Told(Told { steps, tell: Box::new(tell), lines: Lines::default() }))
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
            Kind::Told(told) => {
                told.lines.start(told.steps, done_bytes, total_bytes);
                (told.tell)(done_bytes, total_bytes);
            }
            Kind::Lines(lines) => {
                lines.start(LINES, done_bytes, total_bytes);
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
            Kind::Lines(lines) => {
                if let Some(due) = lines.advance(LINES, bytes) {
                    let total = DecimalBytes(lines.total_bytes.get().unwrap_or(0));
                    eprintln!("  {:>3} % of {total}", due * 100 / LINES);
                }
            }
            Kind::Told(told) => {
                if told.lines.advance(told.steps, bytes).is_some() {
                    (told.tell)(told.lines.done_bytes.get(), told.lines.total_bytes.get());
                }
            }
            Kind::Silent => {}
        }
    }

    /// Says something that a person may want to know, such as a retry.
    pub(super) fn note(&self, text: impl Display) {
        match &self.0 {
            Kind::Bar(bar) => bar.suspend(|| eprintln!("{text}")),
            Kind::Lines(_) => eprintln!("{text}"),
            Kind::Told(_) => tracing::info!("{text}"),
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
    fn start(&self, steps: u64, done_bytes: u64, total_bytes: Option<u64>) {
        self.total_bytes.set(total_bytes);
        self.done_bytes.set(done_bytes);
        self.lines.set(self.due(steps));
    }

    fn due(&self, steps: u64) -> u64 {
        match self.total_bytes.get() {
            Some(total) if total > 0 => self.done_bytes.get().saturating_mul(steps) / total,
            _ => 0,
        }
    }

    /// The step that these bytes complete, if they do.
    fn advance(&self, steps: u64, bytes: u64) -> Option<u64> {
        self.done_bytes.set(self.done_bytes.get() + bytes);
        let due = self.due(steps);
        (due > self.lines.replace(due)).then_some(due)
    }
}
