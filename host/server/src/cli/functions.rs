//! `dormouse fn`: what is deployed.

use serde_json::{Value, json};

use super::Error;
use super::client::{Call, Client};
use super::output::{moment, short};
use super::table::Table;
use super::terminal::{BOLD, Terminal};
use crate::args::{self, Connection, Function};

pub(super) fn run(
    client: impl Fn(&Connection) -> Result<Client, args::Error>,
    function: &Function,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    match function {
        Function::Ls { connection } => list(&client(connection)?, terminal),
        Function::Show { name, connection } => show(&client(connection)?, name, terminal),
        Function::Rm { names, connection } => remove(&client(connection)?, names, terminal),
        Function::Rollback { name, to, connection } => {
            roll_back(&client(connection)?, name, to.as_deref(), terminal)
        }
        Function::Alias { name, alias, to, remove: _, connection } => {
            point_alias(&client(connection)?, name, alias, to.as_deref(), terminal)
        }
    }
}

fn list(client: &Client, terminal: &mut Terminal) -> Result<(), Error> {
    let answer = client.get(&["v1", "functions"])?;
    if terminal.json {
        return Ok(terminal.value(&answer)?);
    }
    let mut table = Table::new(["NAME", "REVISION", "DEPLOYED", "URL", "DESCRIPTION"]);
    for function in answer["functions"].as_array().into_iter().flatten() {
        table.row([
            text(&function["name"]),
            short(&text(&function["revision"])),
            moment(&function["created_at"]),
            text(&function["url"]),
            text(&function["description"]).lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    if table.is_empty() {
        terminal.note("nothing is deployed: start with `dormouse new hello`, then `dormouse push hello`");
        return Ok(());
    }
    Ok(terminal.line(table)?)
}

fn show(client: &Client, name: &str, terminal: &mut Terminal) -> Result<(), Error> {
    let function = client.get(&["v1", "functions", name])?;
    let revisions = client.get(&["v1", "functions", name, "revisions"])?;
    if terminal.json {
        let mut function = function;
        function["revisions"] = revisions["revisions"].clone();
        return Ok(terminal.value(&function)?);
    }
    terminal.line(format_args!(
        "{BOLD}{}{BOLD:#}  {}",
        text(&function["name"]),
        text(&function["description"])
    ))?;
    terminal.field("url", text(&function["url"]))?;
    terminal.field("revision", short(&text(&function["revision"])))?;
    terminal.field("component", text(&function["component_digest"]))?;
    let models: Vec<_> = function["models"].as_array().into_iter().flatten().map(text).collect();
    if !models.is_empty() {
        terminal.field("models", models.join(", "))?;
    }
    for (label, value) in function["settings"].as_object().into_iter().flatten() {
        let is_empty = value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(|object| object.is_empty());
        if !value.is_null() && !is_empty && label != "models" {
            terminal.field(label, text(value))?;
        }
    }
    terminal.line(format_args!("\n{}", inputs(&function["input_schema"])))?;
    terminal.line(format_args!("\n{}", revisions_table(&revisions)))?;
    Ok(())
}

/// The input's fields, as an author described them.
fn inputs(schema: &Value) -> Table {
    let mut table = Table::new(["INPUT", "TYPE", "DEFAULT", "DESCRIPTION"]);
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().map(text).collect();
    let mut fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(_, field)| field["x-order"].as_u64().unwrap_or(u64::MAX));
    for (name, field) in fields {
        let default = match &field["default"] {
            Value::Null if required.contains(name) => "(required)".to_owned(),
            Value::Null => String::new(),
            value => value.to_string(),
        };
        table.row([name.clone(), kind(field), default, text(&field["description"])]);
    }
    table
}

/// A field's type and bounds: `integer 1..=512`, `string`, `one of "a", "b"`.
fn kind(field: &Value) -> String {
    if let Some(choices) = field["enum"].as_array() {
        let choices: Vec<_> = choices.iter().map(Value::to_string).collect();
        return format!("one of {}", choices.join(", "));
    }
    let mut kind = field["type"].as_str().unwrap_or("any").to_owned();
    let bound = |name: &str| match &field[name] {
        Value::Null => None,
        value => Some(value.to_string()),
    };
    match (bound("minimum"), bound("maximum")) {
        (None, None) => {}
        (low, high) => {
            let high = high.map_or(String::new(), |high| format!("={high}"));
            kind.push_str(&format!(" {}..{high}", low.unwrap_or_default()));
        }
    }
    kind
}

fn revisions_table(answer: &Value) -> Table {
    let mut table = Table::new(["REVISION", "DEPLOYED", "ALIASES", "COMPONENT"]);
    for revision in answer["revisions"].as_array().into_iter().flatten() {
        let aliases: Vec<_> = revision["aliases"].as_array().into_iter().flatten().map(text).collect();
        table.row([
            short(&text(&revision["revision"])),
            moment(&revision["created_at"]),
            aliases.join(", "),
            short(&text(&revision["component_digest"])),
        ]);
    }
    table
}

fn remove(client: &Client, names: &[String], terminal: &mut Terminal) -> Result<(), Error> {
    for name in names {
        let path = ["v1", "functions", name];
        client.json(&Call { method: "DELETE", path: &path, ..Call::default() })?;
        match terminal.json {
            true => terminal.value(&json!({"removed": name}))?,
            false => terminal.line(format_args!("removed {name}"))?,
        }
    }
    Ok(())
}

fn roll_back(client: &Client, name: &str, to: Option<&str>, terminal: &mut Terminal) -> Result<(), Error> {
    let body = to.map_or(json!({}), |to| json!({"revision": to})).to_string();
    let function = client.json(&Call {
        method: "POST",
        path: &["v1", "functions", name, "rollback"],
        body: Some(("application/json", body.as_bytes())),
        ..Call::default()
    })?;
    match terminal.json {
        true => terminal.value(&function)?,
        false => terminal
            .line(format_args!("{name} is back at revision {}", short(&text(&function["revision"]))))?,
    }
    Ok(())
}

/// Points an alias at `to`, or removes it when there is no `to`.
fn point_alias(
    client: &Client,
    name: &str,
    alias: &str,
    to: Option<&str>,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let path = ["v1", "functions", name, "aliases", alias];
    let body = json!({"revision": to}).to_string();
    let answer = match to {
        Some(_) => {
            let body = Some(("application/json", body.as_bytes()));
            client.json(&Call { method: "PUT", path: &path, body, ..Call::default() })?
        }
        None => client.json(&Call { method: "DELETE", path: &path, ..Call::default() })?,
    };
    match (terminal.json, to) {
        (true, Some(_)) => terminal.value(&answer)?,
        (true, None) => terminal.value(&json!({"removed": alias}))?,
        (false, Some(to)) => terminal.line(format_args!("{name}:{alias} is {}", short(to)))?,
        (false, None) => terminal.line(format_args!("removed {name}:{alias}"))?,
    }
    Ok(())
}

/// A string without its quotes, another value as JSON, nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_their_authors_order_with_type_bounds_and_default() {
        let schema = json!({"required": ["prompt"], "properties": {
            "max_tokens": {"type": "integer", "minimum": 1, "maximum": 512, "default": 128, "x-order": 1},
            "prompt": {"type": "string", "description": "What to say", "x-order": 0},
            "tone": {"enum": ["dry", "warm"], "default": "dry", "x-order": 2},
        }});
        let text = anstream::adapter::strip_str(&inputs(&schema).to_string()).to_string();
        let words: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
            .collect();
        assert_eq!(words[1], ["prompt", "string", "(required)", "What to say"]);
        assert_eq!(words[2], ["max_tokens", "integer 1..=512", "128"]);
        assert_eq!(words[3], ["tone", "one of \"dry\", \"warm\"", "\"dry\""]);
    }
}
