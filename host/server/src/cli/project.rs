//! `dormouse new` and `dormouse build`: what they print.

use std::io;
use std::path::Path;

use indicatif::DecimalBytes;
use serde_json::json;

use super::Error;
use super::terminal::{BOLD, Terminal};
use crate::args::{Build, New};
use crate::scaffold::{self, Built};

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

pub(super) fn build(build: &Build, terminal: &mut Terminal) -> Result<(), Error> {
    let built = scaffold::build(&build.project)?;
    match terminal.json {
        true => terminal.value(&json!({"name": built.name, "path": built.wasm, "bytes": built.bytes}))?,
        false => show(&built, terminal)?,
    }
    Ok(())
}

/// Where the component is and how large.
pub(super) fn show(built: &Built, terminal: &mut Terminal) -> io::Result<()> {
    terminal.field("built", format_args!("{} ({})", built.wasm.display(), DecimalBytes(built.bytes)))
}
