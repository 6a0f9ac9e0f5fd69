//! `dormouse logs`: the last predictions of a function, oldest first.

use super::Error;
use super::client::{Call, Client};
use super::output::{milliseconds, moment, short};
use super::terminal::{DIM, RED, Terminal};
use crate::args::Logs;

pub(super) fn run(client: &Client, logs: &Logs, terminal: &mut Terminal) -> Result<(), Error> {
    let answer = client.json(&Call {
        path: &["v1", "functions", &logs.name, "logs"],
        query: &[("limit", logs.limit.to_string())],
        ..Call::default()
    })?;
    if terminal.json {
        return Ok(terminal.value(&answer)?);
    }
    let predictions = answer["predictions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if predictions.is_empty() {
        terminal.note(format_args!("{} has no predictions that are still kept", logs.name));
    }
    for prediction in predictions.iter().rev() {
        let text = |key: &str| prediction[key].as_str().unwrap_or_default();
        terminal.line(format_args!(
            "{}  {}  {:<9}  {:>8}  {DIM}{}{DIM:#}",
            moment(&prediction["started_at"]),
            text("id"),
            text("status"),
            prediction["duration_ms"].as_f64().map_or_else(String::new, milliseconds),
            short(text("revision")),
        ))?;
        for line in text("logs").lines() {
            terminal.line(format_args!("  {line}"))?;
        }
        let error = &prediction["error"];
        if let Some(message) = error["message"].as_str().or_else(|| error.as_str()) {
            terminal.line(format_args!("  {RED}{message}{RED:#}"))?;
        }
    }
    Ok(())
}
