//! `dormouse new` and `dormouse build`: what they print.

use std::io;
use std::path::Path;
use std::time::Duration;

use indicatif::{DecimalBytes, ProgressBar};
use serde_json::json;

use super::Error;
use super::terminal::{self, BOLD, Terminal};
use crate::args::{Build, New, Settings};
use crate::scaffold::{self, Built, Told};

/// How often the sign of a build under way turns.
const SPIN: Duration = Duration::from_millis(100);

pub(super) fn new(new: &New, terminal: &mut Terminal) -> Result<(), Error> {
    let folder = new.path.as_deref().unwrap_or(Path::new(&new.name));
    scaffold::new(&new.name, folder)?;
    if terminal.json {
        return Ok(terminal.value(&json!({"name": new.name, "path": folder}))?);
    }
    let folder = folder.display();
    terminal.field("made", format_args!("{BOLD}{folder}{BOLD:#}"))?;
    terminal.field("edit", format_args!("{folder}/src/lib.rs"))?;
    Ok(terminal.field("deploy", format_args!("dormouse push {folder}"))?)
}

pub(super) fn build(settings: &Settings, build: &Build, terminal: &mut Terminal) -> Result<(), Error> {
    let built = component(&build.project, &settings.tools_dir(&build.data)?, terminal)?;
    match terminal.json {
        true => terminal.value(&json!({
            "name": built.name, "path": built.wasm, "bytes": built.bytes, "settings": built.settings,
        }))?,
        false => show(&built, terminal)?,
    }
    Ok(())
}

/// Builds a project, telling on standard error what it is doing and what it noticed.
pub(super) fn component(folder: &Path, tools_dir: &Path, terminal: &Terminal) -> Result<Built, Error> {
    let bar = if terminal::is_watched() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.enable_steady_tick(SPIN);
    let built = scaffold::build(folder, tools_dir, &mut |told| match told {
        Told::Step(step) => bar.set_message(step),
        Told::Note { is_warning, place, message } => bar.suspend(|| {
            let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
            match is_warning {
                true => terminal.warn(format_args!("{place}{message}")),
                false => terminal.note(format_args!("{place}{message}")),
            }
        }),
    });
    bar.finish_and_clear();
    Ok(built?)
}

/// Where the component is and how large.
pub(super) fn show(built: &Built, terminal: &mut Terminal) -> io::Result<()> {
    terminal.field("built", format_args!("{} ({})", built.wasm.display(), DecimalBytes(built.bytes)))
}
