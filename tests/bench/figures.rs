//! Numbers as they are reported.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The value that `fraction` of the sorted values don't exceed.
pub(crate) fn percentile<T: Copy>(sorted: &[T], fraction: f64) -> T {
    assert!(!sorted.is_empty(), "nothing was measured");
    let rank = (fraction * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// `[p50, p90, p99, max]` in microseconds.
pub(crate) fn spread(mut times: Vec<Duration>) -> [f64; 4] {
    times.sort();
    [0.5, 0.9, 0.99, 1.0].map(|fraction| percentile(&times, fraction).as_secs_f64() * 1e6)
}

/// A component that no cache has seen: `wasm` with a custom section that holds `mark`.
pub(crate) fn variant(wasm: &str, mark: u32, folder: &TempDir) -> Result<String> {
    const NAME: &[u8] = b"\x04mark";
    let mut bytes = fs::read(wasm).with_context(|| wasm.to_owned())?;
    bytes.extend([0, (NAME.len() + size_of_val(&mark)) as u8]);
    bytes.extend(NAME);
    bytes.extend(mark.to_le_bytes());
    let path = folder.path().join(format!("{mark}.wasm"));
    fs::write(&path, bytes)?;
    Ok(path.display().to_string())
}

/// The middle one.
pub(crate) fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    percentile(&sorted, 0.5)
}

/// Prints a table's title and head.
pub(crate) fn table(title: &str, columns: &[&str]) {
    println!("\n**{title}**\n\n| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
}

/// Prints a row.
pub(crate) fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Kibibytes, with a sign where it is a difference.
pub(crate) fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// Bytes of all files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
