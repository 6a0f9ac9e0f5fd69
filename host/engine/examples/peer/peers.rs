//! The other sides: processes that answer a line with a line.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// A peer's driver (`tests/bench/llama_peer.c`, `tests/bench/candle-peer`).
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(name: &'static str, driver: &mut Command) -> Result<Self> {
        driver.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = driver.spawn().with_context(|| format!("can't start {driver:?}"))?;
        let commands = process.stdin.take().context("stdin is piped")?;
        let answers = BufReader::new(process.stdout.take().context("stdout is piped")?);
        let mut peer = Self { name, process, commands, answers };
        let line = peer.line()?;
        ensure!(line == "ready", "{name} said {line:?}");
        Ok(peer)
    }

    /// Its answer to a line.
    pub(crate) fn ask(&mut self, command: &str) -> Result<f64> {
        writeln!(self.commands, "{command}")?;
        self.line()?.parse().with_context(|| format!("{}'s answer to {command:?}", self.name))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
