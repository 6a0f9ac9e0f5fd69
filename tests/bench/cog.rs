//! Cog's own server, without its container, on the file that the Python component is built from.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dormouse_tests::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// How often it is asked whether it is ready.
const POLL: Duration = Duration::from_millis(1);

/// A running server; dropping it ends it.
pub(crate) struct Cog {
    child: Child,
    client: Client,
}

impl Cog {
    /// Starts it on the project in `folder` and waits until it answers a prediction.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let programs = programs()?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([programs.clone()].into_iter().chain(env::split_paths(&path)))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(programs.join("python"));
        command.args(["-m", "cog.server.http", "--host", "127.0.0.1"]).current_dir(folder).env("PATH", path);
        command.env("COG_PREDICT_TYPE_STUB", "predict.py:Predictor").env("PORT", port.to_string());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let cog = Self { child, client: Client::new(format!("http://127.0.0.1:{port}")) };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(POLL);
        }
        loop {
            let health = cog.client.get("/health-check").expect(200);
            match health["status"].as_str() {
                Some("STARTING") => thread::sleep(POLL),
                status => break ensure!(status == Some("READY"), "cog is not ready: {health}"),
            }
        }
        let answer = cog.client.post("/predictions", &json!({"input": {"name": "you"}})).expect(200);
        ensure!(answer["output"] == "Hello, you!", "cog answers {answer}");
        Ok(cog)
    }

    /// Starts it as often as this and returns how long each took to its first answer.
    pub(crate) fn starts(folder: &Path, times: u32) -> Result<Vec<Duration>> {
        let measure = || {
            let start = Instant::now();
            Self::start(folder).map(|_| start.elapsed())
        };
        (0..times).map(|_| measure()).collect()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Resident memory of the server and its worker, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let ids = children.split_whitespace().map(str::to_owned).chain([id.to_string()]);
        ids.map(|id| resident_bytes(&id)).sum()
    }
}

impl Drop for Cog {
    fn drop(&mut self) {
        // Asked to, it ends its worker as well.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn resident_bytes(id: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("Linux tells it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// The folder with its programs, fetched where it is missing.
fn programs() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/cog.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "Cog could not be fetched");
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
