//! `hello` over HTTP, beside `wasmtime serve` running the same greeting as a `wasi:http` proxy.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dormouse_tests::Process;

use crate::{figures, guests, load};

const CONNECTIONS: [usize; 2] = [1, 32];
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(5);
const BODY: &str = r#"{"name":"dormouse"}"#;

pub(crate) fn run() -> Result<()> {
    let data = tempfile::tempdir()?;
    let dormouse = Process::start(data.path());
    dormouse.client().deploy("hello", "", guests::HELLO).expect(201);
    let address = dormouse.client().base().trim_start_matches("http://").to_owned();
    let wasmtime = Wasmtime::start()?;

    figures::table(
        "hello over HTTP: a fresh instance for every request (median of 3 rounds)",
        &["server", "connections", "requests/s", "p50 µs", "p99 µs"],
    );
    for connections in CONNECTIONS {
        measure("dormouse", &address, "/fn/hello", connections)?;
        measure("wasmtime serve", &wasmtime.address, "/", connections)?;
    }
    Ok(())
}

fn measure(server: &str, address: &str, path: &str, connections: usize) -> Result<()> {
    let mut rounds = (0..ROUNDS)
        .map(|_| load::run(address, path, BODY, connections, WARM_UP, TIME))
        .collect::<Result<Vec<_>>>()?;
    rounds.sort_by(|a, b| a.requests_per_second.total_cmp(&b.requests_per_second));
    let median = &rounds[ROUNDS / 2];
    figures::row(&[
        server.to_owned(),
        connections.to_string(),
        format!("{:.0}", median.requests_per_second),
        median.p50.as_micros().to_string(),
        median.p99.as_micros().to_string(),
    ]);
    Ok(())
}

/// A running `wasmtime serve`; dropping it ends it.
struct Wasmtime {
    child: Child,
    address: String,
}

impl Wasmtime {
    fn start() -> Result<Self> {
        let mut command = Command::new(wasmtime()?);
        command.args(["serve", "-Scli", "--addr", "127.0.0.1:0"]).arg(component()?);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        log.read_line(&mut line)?;
        let address = line.split_once("http://").map(|(_, address)| address.trim_end().trim_end_matches('/'));
        let address = address.with_context(|| format!("wasmtime serve says {line:?}"))?.to_owned();
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(Self { child, address })
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The wasmtime command line, fetched where it is missing.
fn wasmtime() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/wasmtime.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "wasmtime could not be fetched");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// The `wasi:http` component, built from `hello-http`.
fn component() -> Result<PathBuf> {
    let target = Path::new(env!("OUT_DIR")).join("guests");
    let status = Command::new("cargo")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--profile", "guest", "--target", "wasm32-wasip2", "-p", "hello-http"])
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    ensure!(status.success(), "hello-http doesn't build");
    Ok(target.join("wasm32-wasip2/guest/hello_http.wasm"))
}
