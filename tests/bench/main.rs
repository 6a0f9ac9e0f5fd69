//! Measures the service over HTTP: `bench [NAME]…`, all of them by default: http, cold, setup, hibernate, thousand,
//! languages, python, dialects, creates, crowd, faults, kill.
//!
//! Every measurement starts the real binary on a folder of its own and prints a Markdown table.

mod cog;
mod cold;
mod creates;
mod crowd;
mod dialects;
mod faults;
mod figures;
mod hibernate;
mod http;
mod kill;
mod languages;
mod load;
mod python;
mod setup;
mod thousand;

use std::env;

use anyhow::{Result, bail};

/// Paths of the components, by name.
#[allow(dead_code)]
mod guests {
    include!(concat!(env!("OUT_DIR"), "/guests.rs"));
}

type Measurement = (&'static str, fn() -> Result<()>);

const ALL: [Measurement; 12] = [
    ("http", http::run),
    ("cold", cold::run),
    ("setup", setup::run),
    ("hibernate", hibernate::run),
    ("thousand", thousand::run),
    ("languages", languages::run),
    ("python", python::run),
    ("dialects", dialects::run),
    ("creates", creates::run),
    ("crowd", crowd::run),
    ("faults", faults::run),
    ("kill", kill::run),
];

fn main() -> Result<()> {
    let asked: Vec<String> = env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|name| ALL.iter().all(|(known, _)| known != name)) {
        bail!("no measurement {unknown:?}; there are {}", ALL.map(|(name, _)| name).join(", "));
    }
    for (name, run) in ALL {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            run()?;
        }
    }
    Ok(())
}
