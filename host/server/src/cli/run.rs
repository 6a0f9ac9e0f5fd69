//! `dormouse run`: one prediction, its output as it comes.

use std::io::BufReader;

use serde_json::{Value, json};

use super::client::{Call, Client};
use super::error::Api;
use super::events::{Event, Events};
use super::output::{Metrics, Printer};
use super::terminal::{self, Terminal};
use super::{Error, input};
use crate::args::Run;

pub(super) fn run(client: &Client, run: &Run, terminal: &mut Terminal) -> Result<(), Error> {
    let function = client.get(&["fn", &run.function])?;
    let input = input::read(&run.input, &function["input_schema"])?;
    let is_streaming = !run.no_stream && (run.stream || function["streaming"] == true);
    let body = input.to_string();
    let call = Call {
        method: "POST",
        path: &["fn", &run.function],
        body: Some(("application/json", body.as_bytes())),
        accept: Some(if is_streaming { "text/event-stream" } else { "application/json" }),
        ..Call::default()
    };
    let printer = Printer::new(&function["output_schema"]);
    let last = match is_streaming {
        true => stream(client, &call, printer, terminal)?,
        false => whole(client, &call, printer, terminal)?,
    };
    if (run.stats || terminal::is_watched()) && !terminal.json {
        let metrics = Metrics(&last["metrics"]);
        match run.stats {
            true => anstream::eprintln!("{}", metrics.table()),
            false => terminal.note(metrics.summary()),
        }
    }
    Ok(())
}

/// Waits for the answer and prints it.
fn whole(
    client: &Client,
    call: &Call<'_>,
    mut printer: Printer,
    terminal: &mut Terminal,
) -> Result<Value, Error> {
    let answer = client.json(call).inspect_err(|error| {
        if let Error::Api(api) = error {
            print_logs(&api.logs, terminal);
        }
    })?;
    if terminal.json {
        terminal.value(&answer)?;
        return Ok(answer);
    }
    print_logs(answer["logs"].as_str().unwrap_or_default(), terminal);
    printer.whole(&answer["output"], terminal)?;
    Ok(answer)
}

/// Prints each element when it comes. Returns the final object.
fn stream(
    client: &Client,
    call: &Call<'_>,
    mut printer: Printer,
    terminal: &mut Terminal,
) -> Result<Value, Error> {
    let response = client.send(call)?;
    let body = response.into_body().into_with_config().limit(u64::MAX).reader();
    for event in Events(BufReader::new(body)) {
        let event = event.map_err(|error| client.bad_answer(call, &error.to_string()))?;
        let data: Value = serde_json::from_str(&event.data)
            .map_err(|error| client.bad_answer(call, &format!("event \"{}\": {error}", event.kind)))?;
        let is_last = matches!(event.kind.as_str(), "done" | "error");
        if terminal.json {
            terminal.line(json!({"event": event.kind, "data": data}))?;
        } else {
            show(&event, &data, &mut printer, terminal)?;
        }
        if event.kind == "error" {
            return Err(Error::Api(Api::from_body(0, &event.data)));
        }
        if is_last {
            return Ok(data);
        }
    }
    printer.end(terminal)?;
    Err(client.bad_answer(call, "the stream broke off before its end"))
}

fn show(event: &Event, data: &Value, printer: &mut Printer, terminal: &mut Terminal) -> Result<(), Error> {
    match event.kind.as_str() {
        "output" => printer.element(data, terminal)?,
        "log" => {
            printer.end(terminal)?;
            terminal.note(data["message"].as_str().unwrap_or_default());
        }
        "progress" if terminal::is_watched() => {
            let percent = data["fraction"].as_f64().unwrap_or_default() * 100.0;
            terminal.note(format_args!("{percent:.0} % {}", data["note"].as_str().unwrap_or_default()));
        }
        "wake" if terminal::is_watched() => {
            let text = |key: &str| data[key].as_str().unwrap_or_default();
            let remaining = data["remaining_ms"].as_f64();
            let remaining = remaining.map(|ms| format!(", about {:.1} s left", ms / 1e3)).unwrap_or_default();
            terminal.note(format_args!("waking {}: {}{remaining}", text("model"), text("phase")));
        }
        "done" if !printer.has_printed() => printer.whole(&data["output"], terminal)?,
        "done" | "error" => printer.end(terminal)?,
        _ => {}
    }
    Ok(())
}

fn print_logs(logs: &str, terminal: &Terminal) {
    logs.lines().for_each(|line| terminal.note(line));
}
