//! What those who look on see of a model's residency.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Tier;

/// Where a model is, and what it is doing there.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelResidency {
    /// The name that it was last opened by.
    pub name: String,
    /// `sha256:` and the hex digest of its file.
    pub digest: String,
    /// Where it is, until an action under way ends.
    pub tier: Tier,
    /// Where an action under way takes it.
    pub moving: Option<Tier>,
    /// New callers wait until those that use it are done; then it sleeps.
    pub is_draining: bool,
    /// It is kept awake.
    pub is_pinned: bool,
    /// Handles on it, and completions under way.
    pub leases: usize,
    /// Callers that wait for it.
    pub waiting: usize,
    /// What it computes on, or sleeps in the memory of; `None` when it is on disk.
    pub device: Option<String>,
    /// Bytes that it has in memory, at most.
    pub memory_bytes: u64,
    /// Bytes that it has while it is awake.
    pub awake_bytes: u64,
    /// Since when it is in its tier.
    pub since: Instant,
    /// When it goes one tier deeper, if nothing happens.
    pub sleeps_at: Option<Instant>,
    /// How far its wake is.
    pub progress: Option<Progress>,
    /// Why its last wake failed, and when the next is tried at the earliest.
    pub failure: Option<(String, Instant)>,
    /// Wakes since the engine started.
    pub wakes: u64,
    /// Where the last wake began, and how long it took.
    pub last_wake: Option<(Tier, Duration)>,
}

/// What a wake is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It waits for its turn, or for another model to make room.
    Queued,
    /// The ready image is mapped and checked.
    Reading,
    /// The model file's weights are brought into the device's layout.
    Packing,
    /// Working buffers and the KV cache are made.
    Preparing,
}

/// How far a wake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// The tier that it wakes from.
    pub from: Tier,
    /// Bytes of weights that are done.
    pub bytes: u64,
    /// Bytes of weights in all.
    pub bytes_total: u64,
    /// Since when it is under way.
    pub since: Instant,
    /// How long the last wake from there took; `None` before the first.
    pub expected: Option<Duration>,
}

impl Progress {
    /// Time that is left, as far as is known.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        Some(self.expected?.saturating_sub(now.saturating_duration_since(self.since)))
    }
}
