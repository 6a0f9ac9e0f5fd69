//! `kill -9` during deploys: whether anything acknowledged is lost.

use anyhow::{Result, ensure};
use dormouse_tests::kill_during_deploys;

use crate::{figures, guests};

const DEPLOYS: usize = 200;
const KILLS: u64 = 20;

pub(crate) fn run() -> Result<()> {
    let data = tempfile::tempdir()?;
    let (mut acknowledged, mut lost) = (0, Vec::new());
    for seed in 0..KILLS {
        let report = kill_during_deploys(data.path(), guests::HELLO, DEPLOYS, seed);
        acknowledged += report.acknowledged;
        lost.extend(report.lost);
    }
    figures::table(
        &format!("kill -9 somewhere in {DEPLOYS} deploys, {KILLS} times on the same data"),
        &["acknowledged deploys", "lost"],
    );
    figures::row(&[acknowledged.to_string(), lost.len().to_string()]);
    ensure!(lost.is_empty(), "lost:\n{}", lost.join("\n"));
    Ok(())
}
