//! How much memory this process may use.

use std::fs;

/// Where Linux says how much a container may use.
const CGROUP_MAX: &str = "/sys/fs/cgroup/memory.max";
/// Where Linux says how much there is.
const MEMINFO: &str = "/proc/meminfo";

/// What counts as there where the system doesn't say; more than any machine has.
const UNKNOWN_BYTES: u64 = 1 << 62;

/// Bytes of memory of the machine, or of the container if that has fewer.
pub(crate) fn total_bytes() -> u64 {
    let machine = fs::read_to_string(MEMINFO).ok().and_then(|text| meminfo_bytes(&text));
    let container = fs::read_to_string(CGROUP_MAX).ok().and_then(|text| text.trim().parse().ok());
    [machine, container].into_iter().flatten().min().unwrap_or(UNKNOWN_BYTES)
}

/// `MemTotal:       24567890 kB`.
fn meminfo_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_kib() {
        let text = "MemTotal:       24567890 kB\nMemFree:        1 kB\n";
        assert_eq!(meminfo_bytes(text), Some(24_567_890 * 1024));
        assert_eq!(meminfo_bytes("MemFree: 1 kB"), None);
        assert_eq!(meminfo_bytes("MemTotal: many"), None);
    }
}
