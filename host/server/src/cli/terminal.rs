//! What commands print: text or JSON to standard output, notes to standard error. Colour shows on
//! a terminal only, and not where `NO_COLOR` is set.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// Labels and what is less important.
pub(super) const DIM: Style = Style::new().dimmed();
/// Names and headings.
pub(super) const BOLD: Style = Style::new().bold();
/// What went wrong.
pub(super) const RED: Style = AnsiColor::Red.on_default().bold();
/// What someone should look at.
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

/// Standard output and standard error of one command.
#[derive(Debug)]
pub(super) struct Terminal {
    /// Whether output is for machines.
    pub(super) json: bool,
    out: anstream::Stdout,
}

impl Terminal {
    pub(super) fn new(json: bool) -> Self {
        Self { json, out: anstream::stdout() }
    }

    /// A line of text.
    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Text as it comes, shown at once.
    pub(super) fn piece(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// A value for machines: indented on a terminal, on one line elsewhere.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = if io::stdout().is_terminal() {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(text?)
    }

    /// Label and value, the values under each other.
    pub(super) fn field(&mut self, label: &str, value: impl Display) -> io::Result<()> {
        writeln!(self.out, "{DIM}{label:<12}{DIM:#} {value}")
    }

    /// A note beside the output.
    pub(super) fn note(&self, text: impl Display) {
        anstream::eprintln!("{DIM}{text}{DIM:#}");
    }

    /// Something that someone should look at.
    pub(super) fn warn(&self, text: impl Display) {
        anstream::eprintln!("{YELLOW}warning:{YELLOW:#} {text}");
    }
}

/// Whether a person watches standard error.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}
