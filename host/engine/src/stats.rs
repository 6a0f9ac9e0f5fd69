//! Numbers for metrics.

use std::time::Duration;

/// What the engine is doing, as of the last step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// One for each loaded model.
    pub models: Vec<ModelStats>,
    /// One for each of the engine's devices, in their order.
    pub devices: Vec<DeviceStats>,
}

/// What a device is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// `cpu`, or `gpu:` and its index.
    pub name: String,
    /// Time in steps of all its models since the engine started.
    pub busy: Duration,
}

/// What a model is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStats {
    /// The name it was first opened by.
    pub name: String,
    /// What it computes on, as an index into [`Stats::devices`].
    pub device: usize,
    /// Sequences in the batch.
    pub running: usize,
    /// Sequences that wait for a place in the batch.
    pub queued: usize,
    /// KV blocks that sequences own.
    pub kv_blocks_used: usize,
    /// KV blocks in all.
    pub kv_blocks_total: usize,
    /// Steps since it was loaded.
    pub steps: u64,
    /// Prompt tokens of all sequences that ran since it was loaded.
    pub prompt_tokens: u64,
    /// Tokens that passed through a step since it was loaded: prompts without what the prefix cache
    /// had, generated ones, and what was computed again after a preemption.
    pub computed_tokens: u64,
    /// Tokens generated since it was loaded.
    pub completion_tokens: u64,
    /// Time of computing which tokens a format allows next, since it was loaded.
    pub mask: Duration,
    /// Of that, what the engine thread waited for or did itself; the rest went by beside steps.
    pub mask_wait: Duration,
}
