//! The service as its users run it: the binary, which can be killed.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;

use crate::Client;

/// A running `dormouse serve`. Dropping it kills it.
pub struct Process {
    child: Child,
    client: Client,
}

impl Process {
    /// Starts the binary on a data folder and waits until it says where it listens.
    pub fn start(data: &Path) -> Self {
        Self::with_args(data, &[])
    }

    /// The same, with more arguments.
    pub fn with_args(data: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["serve", "--json", "--log", "warn", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("it is text");
        let listening: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("the service ended before it listened: {:?}, {line:?}", child.wait());
        });
        let client = Client::new(listening["url"].as_str().expect("it says where it listens"));
        Self { child, client }
    }

    /// A client of it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it has ended");
    }

    /// Asks it to stop as `kill` does, and tells whether it ended well.
    pub fn terminate(mut self) -> bool {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it is ours to stop");
        self.child.wait().expect("it ends").success()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

impl Process {
    /// Time that its threads have computed for.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it is running");
        // The second field is the name in parentheses; times are fields 14 and 15, in ticks of 10 ms.
        let (_, fields) = stat.rsplit_once(')').expect("Linux writes it so");
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `dormouse` binary of this build, brought up to date once.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // TARGET/PROFILE/deps/it-0123 or TARGET/PROFILE/bench
        let this = env::current_exe().expect("this process has a file");
        let folder = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
        let folder = folder.expect("it is in a target folder");
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        // Of the whole workspace, whose features the tests were built with too.
        cargo.args(["build", "--quiet", "--workspace", "--bin", "dormouse", "--profile", profile]);
        // What cargo told this test about its own package: ring is compiled again whenever it changes, and all that
        // stands on it.
        let of_package = |name: &str| {
            name == "OUT_DIR" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        };
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
            cargo.env_remove(name);
        }
        let status = cargo.arg("--target-dir").arg(folder.parent().expect("a target folder")).status();
        assert!(status.expect("cargo runs").success(), "the dormouse binary doesn't build");
        folder.join("dormouse")
    })
}
