//! `dormouse token`: who may use the service.

use std::time::SystemTime;

use serde_json::json;

use super::client::{Call, Client};
use super::table::Table;
use super::terminal::Terminal;
use super::{Error, output::moment};
use crate::args::{self, Connection, Token};

pub(super) fn run(
    client: impl Fn(&Connection) -> Result<Client, args::Error>,
    command: &Token,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    match command {
        Token::Create { name, scope, function, expires, connection } => {
            let expires_at =
                expires.map(|time| humantime::format_rfc3339_seconds(SystemTime::now() + time).to_string());
            let functions = (!function.is_empty()).then_some(function);
            let body =
                json!({"name": name, "scopes": scope, "functions": functions, "expires_at": expires_at});
            let body = body.to_string();
            let made = client(connection)?.json(&Call {
                method: "POST",
                path: &["v1", "tokens"],
                body: Some(("application/json", body.as_bytes())),
                ..Call::default()
            })?;
            if terminal.json {
                return Ok(terminal.value(&made)?);
            }
            terminal.note("It is shown once; the service keeps a digest.");
            Ok(terminal.line(made["token"].as_str().unwrap_or_default())?)
        }
        Token::Ls { connection } => {
            let list = client(connection)?.json(&Call { path: &["v1", "tokens"], ..Call::default() })?;
            if terminal.json {
                return Ok(terminal.value(&list)?);
            }
            let texts = |value: &serde_json::Value| {
                let texts = value.as_array().into_iter().flatten().filter_map(|text| text.as_str());
                texts.collect::<Vec<_>>().join(" ")
            };
            let mut table = Table::new(["ID", "NAME", "SCOPES", "FUNCTIONS", "CREATED", "EXPIRES"]);
            for token in list["tokens"].as_array().into_iter().flatten() {
                let functions =
                    if token["functions"].is_null() { "all".to_owned() } else { texts(&token["functions"]) };
                let expires = if token["expires_at"].is_null() {
                    "never".to_owned()
                } else {
                    moment(&token["expires_at"])
                };
                let text = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
                table.row([
                    text("id"),
                    text("name"),
                    texts(&token["scopes"]),
                    functions,
                    moment(&token["created_at"]),
                    expires,
                ]);
            }
            Ok(terminal.line(table)?)
        }
        Token::Revoke { ids, connection } => {
            let client = client(connection)?;
            for id in ids {
                client.send(&Call { method: "DELETE", path: &["v1", "tokens", id], ..Call::default() })?;
                terminal.note(format_args!("revoked {id}"));
            }
            Ok(())
        }
    }
}
