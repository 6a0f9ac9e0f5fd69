//! `dormouse serve`: the process around the service.

use std::io::{self, IsTerminal};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::Error;
use super::terminal::Terminal;
use crate::args::{Serve, Settings};
use crate::config::Config;
use crate::telemetry::Telemetry;

pub(super) fn run(settings: Settings, serve: &Serve, terminal: &mut Terminal) -> Result<(), Error> {
    let config = settings.service(serve)?;
    if serve.print_config {
        return print_config(&config, terminal);
    }
    let filter = EnvFilter::try_new(&serve.log)
        .map_err(|error| Error::Usage(format!("--log {}: {error}", serve.log)))?;
    let telemetry = serve.otlp.as_deref().map(Telemetry::start).transpose();
    let telemetry = telemetry.map_err(|error| Error::Usage(format!("--otlp: {error}")))?;
    let log = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let log = match terminal.json {
        true => log.json().with_filter(filter).boxed(),
        false => log.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(log).with(telemetry.as_ref().map(Telemetry::layer)).init();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let scheme = config.scheme();
        let on_listening = |address| {
            let url = format!("{scheme}://{address}");
            // Whoever started the service reads this to learn the port; nobody has to.
            let _ = match terminal.json {
                true => terminal.value(&json!({"url": url})),
                false => terminal.line(format_args!("dormouse listens on {url}")),
            };
        };
        Ok(crate::serve(config, stop_signal()?, on_listening).await?)
    });
    if let Some(telemetry) = telemetry {
        telemetry.stop();
    }
    served
}

/// Takes as many open files as the system lets it have: every connection is one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, current = limit.current, "can't raise the limit of open files");
    }
}

/// Completes at the first request to stop. The second ends the process at once.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked to stop twice, running predictions are lost");
            std::process::exit(1);
        });
    })
}

/// The settings in force, in the form of a settings file.
fn print_config(config: &Config, terminal: &mut Terminal) -> Result<(), Error> {
    if terminal.json {
        let mut value = serde_json::to_value(config).map_err(io::Error::from)?;
        value["token"] = config.token.as_ref().map(|_| "***").into();
        return Ok(terminal.value(&value)?);
    }
    let text = toml::to_string(config).map_err(io::Error::other)?;
    if config.token.is_some() {
        terminal.line("# token = \"***\"")?;
    }
    Ok(terminal.line(text.trim_end())?)
}
