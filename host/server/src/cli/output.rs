//! How a prediction's output and its metrics look to a person.

use std::io;

use serde_json::Value;

use super::table::Table;
use super::terminal::Terminal;

/// Prints output by its schema: elements of a text that was cut into pieces go together, others
/// each on a line.
#[derive(Debug)]
pub(super) struct Printer {
    is_text: bool,
    has_printed: bool,
    is_mid_line: bool,
}

impl Printer {
    /// For output of this schema (Cog's `x-cog-array-display` says that pieces make one text).
    pub(super) fn new(schema: &Value) -> Self {
        let is_text = schema["x-cog-array-display"] == "concatenate";
        Self { is_text, has_printed: false, is_mid_line: false }
    }

    /// Whether any element has been printed.
    pub(super) fn has_printed(&self) -> bool {
        self.has_printed
    }

    /// One element of a streamed output.
    pub(super) fn element(&mut self, element: &Value, terminal: &mut Terminal) -> io::Result<()> {
        self.has_printed = true;
        match element.as_str() {
            Some(piece) if self.is_text => {
                if !piece.is_empty() {
                    self.is_mid_line = !piece.ends_with('\n');
                }
                terminal.piece(piece)
            }
            Some(text) => terminal.line(text),
            None => terminal.line(element),
        }
    }

    /// A complete output.
    pub(super) fn whole(&mut self, output: &Value, terminal: &mut Terminal) -> io::Result<()> {
        match output {
            Value::Null => Ok(()),
            Value::String(text) => terminal.line(text),
            Value::Array(elements) if self.is_text => {
                elements.iter().try_for_each(|element| self.element(element, terminal))?;
                self.end(terminal)
            }
            other => terminal.line(serde_json::to_string_pretty(other)?),
        }
    }

    /// Ends the line that pieces of text have begun.
    pub(super) fn end(&mut self, terminal: &mut Terminal) -> io::Result<()> {
        match std::mem::take(&mut self.is_mid_line) {
            true => terminal.piece("\n"),
            false => Ok(()),
        }
    }
}

/// A prediction's `metrics` object.
#[derive(Debug)]
pub(super) struct Metrics<'a>(pub(super) &'a Value);

impl Metrics<'_> {
    /// Tokens and time on one line.
    pub(super) fn summary(&self) -> String {
        let mut parts = Vec::new();
        let count = |name: &str| self.0[name].as_u64().filter(|count| *count > 0);
        if let Some(prompt) = count("prompt_tokens") {
            let cached = count("cached_tokens").map_or(String::new(), |cached| format!(" ({cached} cached)"));
            parts.push(format!("prompt {prompt} tokens{cached}"));
        }
        if let Some(completion) = count("completion_tokens") {
            parts.push(format!("completion {completion} tokens"));
        }
        if let Some(total) = self.0["total_ms"].as_f64() {
            parts.push(milliseconds(total));
        }
        parts.join(", ")
    }

    /// Every metric on a line of its own.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(["METRIC", "VALUE"]).numeric(1);
        for (name, value) in self.0.as_object().into_iter().flatten() {
            match value {
                Value::Object(custom) => {
                    custom.iter().for_each(|(name, value)| table.row([name.clone(), text(name, value)]));
                }
                value => table.row([name.clone(), text(name, value)]),
            }
        }
        table
    }
}

fn text(name: &str, value: &Value) -> String {
    match (value.as_f64(), value.as_str()) {
        (Some(number), _) if name.ends_with("_ms") => format!("{number:.3}"),
        (Some(number), _) if number.fract() != 0.0 => format!("{number:.3}"),
        (_, Some(text)) => text.to_owned(),
        _ => value.to_string(),
    }
}

/// A time in the unit that a person would choose.
pub(super) fn milliseconds(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// `2026-11-24T06:00:00.123Z` as `2026-11-24 06:00:00`.
pub(super) fn moment(rfc3339: &Value) -> String {
    rfc3339.as_str().unwrap_or_default().chars().take(19).collect::<String>().replace('T', " ")
}

/// The start of a digest or revision, enough for a person and for the service.
pub(super) fn short(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_summary_names_what_there_is() {
        let metrics =
            json!({"prompt_tokens": 24, "cached_tokens": 20, "completion_tokens": 64, "total_ms": 1934.5});
        assert_eq!(Metrics(&metrics).summary(), "prompt 24 tokens (20 cached), completion 64 tokens, 1.93 s");
        let metrics = json!({"prompt_tokens": 0, "total_ms": 0.25});
        assert_eq!(Metrics(&metrics).summary(), "250 µs");
    }

    #[test]
    fn the_table_has_custom_metrics_beside_the_others() {
        let metrics = json!({"total_ms": 1.23456, "completion_tokens": 3, "custom": {"score": 0.5}});
        let table = anstream::adapter::strip_str(&Metrics(&metrics).table().to_string()).to_string();
        assert_eq!(
            table,
            "METRIC             VALUE\ntotal_ms           1.235\ncompletion_tokens      3\nscore              0.500"
        );
    }
}
