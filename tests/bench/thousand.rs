//! A thousand functions on one model: what each costs while nobody calls it.

use std::time::{Duration, Instant};

use anyhow::Result;
use dormouse_tests::{Process, model};
use serde_json::json;

use crate::{figures, guests};

const FUNCTIONS: u32 = 1000;

pub(crate) fn run() -> Result<()> {
    figures::table(
        &format!("{FUNCTIONS} deployed copies of chat"),
        &[
            "copies",
            "idle memory each",
            "after a restart",
            "disk each",
            "deploy",
            "first text of the 1,000th, model asleep",
            "…of the 999th, model awake",
        ],
    );
    measure("the same component", false)?;
    measure("each with code of its own", true)
}

fn measure(title: &str, are_distinct: bool) -> Result<()> {
    let (data, variants) = (tempfile::tempdir()?, tempfile::tempdir()?);
    model::install(data.path());
    let process = Process::start(data.path());
    process.client().deploy("first", "", guests::CHAT).expect(201);
    let (resident, disk) = (process.resident_bytes(), figures::folder_bytes(data.path())?);

    let start = Instant::now();
    for mark in 0..FUNCTIONS {
        let own = if are_distinct { Some(figures::variant(guests::CHAT, mark, &variants)?) } else { None };
        let wasm = own.as_deref().unwrap_or(guests::CHAT);
        process.client().deploy(&format!("chat-{mark}"), "", wasm).expect(201);
    }
    let deploy = start.elapsed() / FUNCTIONS;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / f64::from(FUNCTIONS);
    let idle = each(resident, process.resident_bytes());
    let disk = each(disk, figures::folder_bytes(data.path())?);
    process.terminate();

    let empty = tempfile::tempdir()?;
    let bare = Process::start(empty.path()).resident_bytes();
    let process = Process::start(data.path());
    let restarted = each(bare, process.resident_bytes());
    let asleep = first_text(&process, FUNCTIONS - 1);
    let awake = first_text(&process, FUNCTIONS - 2);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    figures::row(&[
        title.to_owned(),
        figures::kib(idle),
        figures::kib(restarted),
        figures::kib(disk),
        ms(deploy),
        ms(asleep),
        ms(awake),
    ]);
    Ok(())
}

fn first_text(process: &Process, mark: u32) -> Duration {
    let start = Instant::now();
    let input = json!({"prompt": "Hello", "max_tokens": 8});
    process.client().stream(&format!("chat-{mark}"), &input).wait_for("output");
    start.elapsed()
}
