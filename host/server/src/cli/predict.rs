//! `dormouse predict`: one prediction of a project or component on this machine, without a service.

use std::fs;
use std::path::{Path, PathBuf};

use dormouse_runtime::Event;
use serde_json::{Map, Value, json};

use super::output::{Metrics, Printer};
use super::terminal::{self, Terminal};
use super::{Error, files, input, project};
use crate::args::{Predict, Serve, Settings};
use crate::function;
use crate::local::{Ended, Local};
use crate::scaffold;

pub(super) fn run(settings: Settings, predict: &Predict, terminal: &mut Terminal) -> Result<(), Error> {
    let (wasm, wanted) = component(&settings, predict, terminal)?;
    let config = settings.service(&Serve { data: predict.data.clone(), ..Serve::default() })?;
    let wanted = wishes(wanted, predict)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let local = Local::open(&config, wanted, wasm.into()).await?;
        for model in local.models_missing() {
            terminal.warn(format_args!("no model \"{model}\" here: `dormouse model pull {model}` brings it"));
        }
        let input = input::read(&predict.input, &local.manifest().input)?;
        let ended = watched(&local, input, predict, terminal).await?;
        finish(ended, predict, terminal)
    })
}

/// The component's bytes, built first if it is a project, and the settings that the project asks for.
fn component(
    settings: &Settings,
    predict: &Predict,
    terminal: &Terminal,
) -> Result<(Vec<u8>, Map<String, Value>), Error> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| Error::File { path: path.display().to_string(), error });
    let (path, wanted) = if predict.what.is_dir() {
        let built = project::component(&predict.what, &settings.tools_dir(&predict.data)?, terminal)?;
        (built.wasm, built.settings)
    } else {
        (predict.what.clone(), Map::new())
    };
    let wasm = read(&path)?;
    scaffold::check_component(&path, &wasm)?;
    Ok((wasm, wanted))
}

/// The project's settings with what was typed on top.
fn wishes(wanted: Map<String, Value>, predict: &Predict) -> Result<function::Settings, Error> {
    let mut settings: function::Settings = serde_json::from_value(wanted.into())
        .map_err(|error| Error::Usage(format!("the project's settings: {error}")))?;
    settings.env.extend(predict.env.iter().cloned());
    settings.models.extend(predict.model.iter().cloned());
    Ok(settings)
}

/// Runs the prediction and prints what it tells as it does.
async fn watched(
    local: &Local,
    input: Value,
    predict: &Predict,
    terminal: &mut Terminal,
) -> Result<Ended, Error> {
    let mut printer = Printer::new(&local.manifest().output);
    let is_shown = !terminal.json && predict.output.is_none();
    let mut broken = Ok(());
    let mut ended = local
        .predict(input, |event| {
            let shown = match event {
                Event::Output(element) if is_shown => {
                    let element = serde_json::from_str(&element).unwrap_or_default();
                    printer.element(&element, terminal)
                }
                Event::Log(line) if !terminal.json => {
                    let ended = printer.end(terminal);
                    terminal.note(line.message);
                    ended
                }
                Event::Progress { fraction, note } if terminal::is_watched() => {
                    terminal.note(format_args!("{:.0} % {note}", fraction * 100.0));
                    Ok(())
                }
                _ => Ok(()),
            };
            if broken.is_ok() {
                broken = shown;
            }
        })
        .await;
    broken?;
    if is_shown {
        match &mut ended.output {
            Ok(output) if !printer.has_printed() => printer.whole(output, terminal)?,
            _ => printer.end(terminal)?,
        }
    }
    Ok(ended)
}

fn finish(ended: Ended, predict: &Predict, terminal: &mut Terminal) -> Result<(), Error> {
    let Ended { output, metrics } = ended;
    let output = output?;
    if terminal.json {
        terminal.value(&json!({"output": output, "metrics": metrics}))?;
    } else if predict.stats {
        anstream::eprintln!("{}", Metrics(&metrics).table());
    } else if terminal::is_watched() {
        terminal.note(Metrics(&metrics).summary());
    }
    match &predict.output {
        Some(path) => write(path, &output),
        None => Ok(()),
    }
}

/// An output into a file: a file's content, a text, or JSON.
fn write(path: &PathBuf, output: &Value) -> Result<(), Error> {
    let bytes = match output {
        Value::String(text) => files::from_url(text).unwrap_or_else(|| text.clone().into_bytes()),
        other => serde_json::to_vec_pretty(other).map_err(std::io::Error::from)?,
    };
    fs::write(path, bytes).map_err(|error| Error::File { path: path.display().to_string(), error })
}
