//! `dormouse model`: the catalogue of models on this machine.

use std::time::{Duration, Instant, SystemTime};

use dormouse_engine::catalog::{Catalog, Entry, ModelFacts, inspect};
use indicatif::DecimalBytes;
use serde_json::{Value, json};

use super::output::short;
use super::table::Table;
use super::terminal::{self, BOLD, Terminal};
use super::{Error, output};
use crate::args::{Model, Pull, Settings};
use crate::pull::{Limits, Progress, Puller, Request};

/// How long a partial download is kept for the pull that goes on with it.
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn run(settings: &Settings, model: &Model, terminal: &mut Terminal) -> Result<(), Error> {
    let (Model::Pull(Pull { data, .. })
    | Model::Ls { data }
    | Model::Rm { data, .. }
    | Model::Info { data, .. }) = model;
    let catalog = Catalog::open(settings.models_dir(data)?)?;
    match model {
        Model::Pull(pull) => self::pull(&catalog, settings, pull, terminal),
        Model::Ls { .. } => list(&catalog, terminal),
        Model::Rm { names, .. } => remove(&catalog, names, terminal),
        Model::Info { name, .. } => info(&catalog, name, terminal),
    }
}

fn pull(catalog: &Catalog, settings: &Settings, pull: &Pull, terminal: &mut Terminal) -> Result<(), Error> {
    let request = Request::new(&pull.what, pull.name.as_deref(), pull.sha256.as_deref())?;
    if let Some(before) = SystemTime::now().checked_sub(PARTIAL_KEPT) {
        catalog.sweep(before)?;
    }
    let progress = match terminal::is_watched() {
        true => Progress::bar(),
        false => Progress::lines(),
    };
    let started = Instant::now();
    let (hub, limits) = (settings.hub(&pull.hub), Limits::default());
    let pulled = Puller { catalog, hub: &hub, limits: &limits, progress: &progress }.pull(&request)?;
    if terminal.json {
        return Ok(terminal.value(&json!({"models": pulled.entries, "was_present": pulled.was_present}))?);
    }
    let names: Vec<_> = pulled.entries.iter().map(|entry| entry.record.name.as_str()).collect();
    let what = match pulled.was_present {
        true => "is here already".to_owned(),
        false => format!("pulled in {}", output::milliseconds(started.elapsed().as_secs_f64() * 1000.0)),
    };
    let record = &pulled.entries[0].record;
    terminal.line(format_args!(
        "{BOLD}{}{BOLD:#} {what} ({})",
        names.join(", "),
        DecimalBytes(record.bytes)
    ))?;
    Ok(terminal.field("digest", &record.digest)?)
}

fn list(catalog: &Catalog, terminal: &mut Terminal) -> Result<(), Error> {
    let mut models = Vec::new();
    for entry in catalog.list()? {
        let facts = inspect(&entry.path)?;
        models.push((entry, facts));
    }
    if terminal.json {
        let models: Vec<_> = models.iter().map(|(entry, facts)| to_json(entry, facts)).collect();
        return Ok(terminal.value(&json!({"models": models}))?);
    }
    if models.is_empty() {
        terminal.note("no models: `dormouse model pull smollm2` brings a small one");
        return Ok(());
    }
    let mut table =
        Table::new(["NAME", "SIZE", "ARCHITECTURE", "QUANTIZATION", "PARAMETERS", "DIGEST"]).numeric(1);
    for (entry, facts) in models {
        table.row([
            entry.record.name,
            DecimalBytes(entry.record.bytes).to_string(),
            facts.architecture,
            facts.quantization,
            count(facts.parameters),
            short(entry.record.digest.hex()),
        ]);
    }
    Ok(terminal.line(table)?)
}

fn remove(catalog: &Catalog, names: &[String], terminal: &mut Terminal) -> Result<(), Error> {
    for name in names {
        catalog.remove(name)?;
        match terminal.json {
            true => terminal.value(&json!({"removed": name}))?,
            false => terminal.line(format_args!("removed {name}"))?,
        }
    }
    Ok(())
}

fn info(catalog: &Catalog, name: &str, terminal: &mut Terminal) -> Result<(), Error> {
    let entry = catalog.resolve(name)?;
    let facts = inspect(&entry.path)?;
    if terminal.json {
        return Ok(terminal.value(&to_json(&entry, &facts))?);
    }
    let unknown = || "not said".to_owned();
    terminal.line(format_args!("{BOLD}{name}{BOLD:#}  {}", facts.title.as_deref().unwrap_or_default()))?;
    terminal.field("architecture", &facts.architecture)?;
    terminal.field("quantization", &facts.quantization)?;
    terminal.field("parameters", count(facts.parameters))?;
    terminal
        .field("context", facts.context_length.map_or_else(unknown, |tokens| format!("{tokens} tokens")))?;
    terminal
        .field("vocabulary", facts.vocabulary.map_or_else(unknown, |tokens| format!("{tokens} tokens")))?;
    terminal.field(
        "template",
        if facts.chat_template.is_some() { "chat" } else { "none: prompts are plain text" },
    )?;
    if let Some(license) = &facts.license {
        terminal.field("license", license)?;
    }
    terminal.field("size", DecimalBytes(entry.record.bytes))?;
    terminal.field("digest", &entry.record.digest)?;
    terminal.field("source", &entry.record.source)?;
    Ok(terminal.field("path", entry.path.display())?)
}

fn to_json(entry: &Entry, facts: &ModelFacts) -> Value {
    let mut value = json!(entry);
    if let (Some(value), Value::Object(facts)) = (value.as_object_mut(), json!(facts)) {
        value.extend(facts);
    }
    value
}

/// A count as models are named: `135 M`, `7.2 B`.
fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} M", n as f64 / 1e6),
        _ => format!("{:.1} B", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_like_the_names_of_models() {
        let counts = [999, 1_500, 134_515_008, 7_241_732_096].map(count);
        assert_eq!(counts, ["999", "1.5 K", "135 M", "7.2 B"]);
    }
}
