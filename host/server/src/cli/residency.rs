//! `dormouse ps`, `wake` and `sleep`: where the models are, and moving them.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration};
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::table::Table;
use super::terminal::Terminal;
use super::{Error, output};
use crate::args::{Sleep, Wake};

/// How long `wake` and `sleep` wait for the model.
const WAIT: Duration = Duration::from_secs(120);

/// `dormouse ps`.
pub(super) fn list(client: &Client, terminal: &mut Terminal) -> Result<(), Error> {
    let node = client.get(&["v1", "residency"])?;
    if terminal.json {
        return Ok(terminal.value(&node)?);
    }
    show(&node, terminal)
}

/// `dormouse wake`.
pub(super) fn wake(client: &Client, wake: &Wake, terminal: &mut Terminal) -> Result<(), Error> {
    go(client, &wake.model, "awake", terminal)
}

/// `dormouse sleep`.
pub(super) fn sleep(client: &Client, sleep: &Sleep, terminal: &mut Terminal) -> Result<(), Error> {
    go(client, &sleep.model, &sleep.to, terminal)
}

fn go(client: &Client, model: &str, tier: &str, terminal: &mut Terminal) -> Result<(), Error> {
    let wish = json!({"tier": tier, "wait_ms": WAIT.as_millis() as u64});
    let body = wish.to_string();
    let mut node = client.json(&Call {
        method: "POST",
        path: &["v1", "residency", model],
        body: Some(("application/json", body.as_bytes())),
        ..Call::default()
    })?;
    if let Some(models) = node["models"].as_array_mut() {
        models.retain(|other| other["name"] == model);
    }
    if terminal.json {
        return Ok(terminal.value(&node)?);
    }
    show(&node, terminal)
}

fn show(node: &Value, terminal: &mut Terminal) -> Result<(), Error> {
    for device in node["devices"].as_array().map_or(&[][..], Vec::as_slice) {
        if let (Some(id), Some(name), Some(used), Some(max)) = (
            device["device"].as_str(),
            device["name"].as_str(),
            device["used_bytes"].as_u64(),
            device["memory_bytes_max"].as_u64(),
        ) {
            let [used, max] = [used, max].map(BinaryBytes);
            terminal.note(format_args!("{id} is {name}: {used} in use, models may have {max}"));
        }
    }
    let models = node["models"].as_array().map_or(&[][..], Vec::as_slice);
    if models.is_empty() {
        terminal.note("no model has been used since the service started");
        return Ok(());
    }
    let mut table = Table::new([
        "MODEL",
        "TIER",
        "ON",
        "MEMORY",
        "IN USE",
        "WAITING",
        "SLEEPS IN",
        "WAKES AT",
        "LAST WAKE",
    ])
    .numeric(3)
    .numeric(4)
    .numeric(5);
    for model in models {
        let text = |name: &str| model[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| model[name].as_u64().unwrap_or(0);
        table.row([
            text("name"),
            tier(model),
            text("device"),
            BinaryBytes(number("memory_bytes")).to_string(),
            number("leases").to_string(),
            number("waiting").to_string(),
            sleeps_in(model),
            text("prewakes_at"),
            last_wake(model),
        ]);
    }
    Ok(terminal.line(table)?)
}

/// The tier, and where it is going.
fn tier(model: &Value) -> String {
    let tier = model["tier"].as_str().unwrap_or_default();
    match (model["moving"].as_str(), &model["failure"]) {
        (Some(to), _) => format!("{tier} -> {to}"),
        (None, Value::Object(_)) => format!("{tier} (failed)"),
        _ if model["is_draining"] == true => format!("{tier}, draining"),
        _ => tier.to_owned(),
    }
}

fn sleeps_in(model: &Value) -> String {
    match model["sleeps_in_ms"].as_f64() {
        Some(ms) => HumanDuration(Duration::from_secs_f64(ms / 1000.0)).to_string(),
        None if model["is_pinned"] == true => "kept awake".to_owned(),
        None => String::new(),
    }
}

fn last_wake(model: &Value) -> String {
    let wake = &model["last_wake"];
    match (wake["from"].as_str(), wake["wake_ms"].as_f64()) {
        (Some(from), Some(ms)) => format!("{} from {from}", output::milliseconds(ms)),
        _ => String::new(),
    }
}
