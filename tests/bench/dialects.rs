//! What a dialect costs: `hello` by its invocation URL, and by the APIs of others.

use std::time::Duration;

use anyhow::Result;
use dormouse_tests::Process;

use crate::{
    figures, guests,
    load::{self, Ask, Load},
};

const CONNECTIONS: usize = 1;
/// Rounds, in which the dialects take turns.
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(200);
const TIME: Duration = Duration::from_secs(2);

const DIALECTS: [(&str, Ask<'static>); 5] = [
    ("invocation URL", Ask { path: "/fn/hello", body: r#"{"name":"dormouse"}"#, headers: "" }),
    ("Cog", Ask { path: "/fn/hello/predictions", body: r#"{"input":{"name":"dormouse"}}"#, headers: "" }),
    (
        "MCP",
        Ask {
            path: "/mcp",
            body: r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"hello","arguments":{"name":"dormouse"}}}"#,
            headers: "",
        },
    ),
    (
        "native, through the queue on disk",
        Ask {
            path: "/v1/predictions",
            body: r#"{"function":"hello","input":{"name":"dormouse"}}"#,
            headers: "prefer: wait\r\n",
        },
    ),
    (
        "Replicate, through the queue on disk",
        Ask {
            path: "/v1/models/dormouse/hello/predictions",
            body: r#"{"input":{"name":"dormouse"}}"#,
            headers: "prefer: wait\r\n",
        },
    ),
];

pub(crate) fn run() -> Result<()> {
    let data = tempfile::tempdir()?;
    let process = Process::start(data.path());
    process.client().deploy("hello", "", guests::HELLO).expect(201);
    let address = process.client().base().trim_start_matches("http://");
    let mut loads: [Vec<Load>; DIALECTS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, ask), loads) in DIALECTS.into_iter().zip(&mut loads) {
            loads.push(load::ask(address, ask, CONNECTIONS, WARM_UP, TIME)?);
        }
    }
    figures::table(
        &format!("hello by each dialect, one caller (median of {ROUNDS} rounds in turns)"),
        &["dialect", "p50 µs", "p99 µs", "p50 over the invocation URL"],
    );
    let median = |loads: &[Load], time: fn(&Load) -> Duration| {
        figures::median(&loads.iter().map(time).collect::<Vec<_>>()).as_secs_f64() * 1e6
    };
    let native = median(&loads[0], |load| load.p50);
    for ((name, _), loads) in DIALECTS.into_iter().zip(&loads) {
        let p50 = median(loads, |load| load.p50);
        figures::row(&[
            name.to_owned(),
            format!("{p50:.0}"),
            format!("{:.0}", median(loads, |load| load.p99)),
            format!("{:+.0} µs", p50 - native),
        ]);
    }
    Ok(())
}
