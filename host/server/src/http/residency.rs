//! Where the models are, and moving them.

use std::{sync::Arc, time::Duration, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use dormouse_engine::{DeviceMemory, ModelResidency, Phase, Tier};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::timeout};

use super::{Code, Error, body, functions::rfc3339, guard};
use crate::{prediction::millis, service::Service};

/// The models of a node, and the memory they share.
#[derive(Debug, Serialize)]
pub(super) struct NodeResidency {
    /// Bytes that models have in memory at most.
    memory_bytes: u64,
    memory_bytes_max: u64,
    /// What they compute on.
    devices: Vec<DeviceItem>,
    models: Vec<ModelItem>,
}

#[derive(Debug, Serialize)]
struct DeviceItem {
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Bytes that models have there at most.
    memory_bytes: u64,
    memory_bytes_max: u64,
    /// What the allocator of a device with memory of its own counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reserved_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct ModelItem {
    name: String,
    digest: String,
    tier: Tier,
    /// Where an action under way takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    moving: Option<Tier>,
    is_draining: bool,
    is_pinned: bool,
    leases: usize,
    waiting: usize,
    /// What it computes on, or sleeps in the memory of.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    memory_bytes: u64,
    awake_bytes: u64,
    /// Since it is in its tier.
    for_ms: f64,
    /// Until it goes one tier deeper, if nothing happens.
    #[serde(skip_serializing_if = "Option::is_none")]
    sleeps_in_ms: Option<f64>,
    /// When a function's schedule wakes it next.
    #[serde(skip_serializing_if = "Option::is_none")]
    prewakes_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wake: Option<WakeItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureItem>,
    wakes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_wake: Option<LastWake>,
}

/// A wake under way.
#[derive(Debug, Serialize)]
struct WakeItem {
    phase: Phase,
    from: Tier,
    bytes: u64,
    bytes_total: u64,
    /// As far as it is known from the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
struct FailureItem {
    reason: String,
    retry_in_ms: f64,
}

#[derive(Debug, Serialize)]
struct LastWake {
    from: Tier,
    wake_ms: f64,
}

/// Where a model shall go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    tier: Tier,
    /// How long the answer waits for it to get there.
    #[serde(default)]
    wait_ms: u64,
}

/// `GET /v1/residency`. Looking is no use: it keeps no model awake.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Json<NodeResidency> {
    let (memory_bytes, memory_bytes_max) = service.engine.memory();
    let now = Instant::now();
    let models = service.engine.residency();
    let models = models.iter().map(|model| {
        let prewakes_at = service.prewakes.next_of(&model.name);
        ModelItem { prewakes_at: prewakes_at.map(rfc3339), ..ModelItem::of(model, now) }
    });
    let models = models.collect();
    let engine = service.engine.clone();
    let devices = spawn_blocking(move || engine.devices()).await.expect("looking does not panic");
    let devices = devices.into_iter().map(DeviceItem::of).collect();
    Json(NodeResidency { memory_bytes, memory_bytes_max, devices, models })
}

/// `POST /v1/residency/{model}`: wakes a model, or has it sleep once nobody uses it.
pub(super) async fn set(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<NodeResidency>, Error> {
    guard::allow_all("models")?;
    let wanted: Option<Move> = body::json(body, &service.config.http).await?;
    let Some(Move { tier, wait_ms }) = wanted else {
        return Err(Error::new(Code::InvalidRequest, "body has no \"tier\""));
    };
    let engine = &service.engine;
    let mut models = engine.watch_residency();
    match tier {
        Tier::Awake => engine.summon(&name).await?,
        tier => engine.sleep(&name, tier).await?,
    }
    let is_there = |model: &ModelResidency| match tier {
        Tier::Awake => model.tier == Tier::Awake,
        tier => model.tier >= tier && model.moving.is_none(),
    };
    let has_ended = |model: &ModelResidency| {
        model.name == name && (is_there(model) || tier == Tier::Awake && model.failure.is_some())
    };
    let limit = Duration::from_millis(wait_ms).min(service.config.predict.timeout_max);
    if wait_ms > 0 {
        let arrives = models.wait_for(|models| models.iter().any(has_ended));
        if timeout(limit, arrives).await.is_err() {
            let message = format!("model \"{name}\" is not {tier} after {limit:?}");
            return Err(Error::new(Code::Timeout, message));
        }
    }
    Ok(list(State(service)).await)
}

impl DeviceItem {
    fn of(memory: DeviceMemory) -> Self {
        let DeviceMemory { device, name, models_bytes, memory_bytes_max, gauge } = memory;
        Self {
            device,
            name,
            memory_bytes: models_bytes,
            memory_bytes_max,
            used_bytes: gauge.map(|gauge| gauge.used_bytes),
            reserved_bytes: gauge.map(|gauge| gauge.reserved_bytes),
        }
    }
}

impl ModelItem {
    fn of(model: &ModelResidency, now: Instant) -> Self {
        let until = |time: Instant| millis(time.saturating_duration_since(now));
        Self {
            name: model.name.clone(),
            digest: model.digest.clone(),
            tier: model.tier,
            moving: model.moving,
            is_draining: model.is_draining,
            is_pinned: model.is_pinned,
            leases: model.leases,
            waiting: model.waiting,
            device: model.device.clone(),
            memory_bytes: model.memory_bytes,
            awake_bytes: model.awake_bytes,
            for_ms: millis(now.saturating_duration_since(model.since)),
            sleeps_in_ms: model.sleeps_at.map(until),
            prewakes_at: None,
            wake: model.progress.map(|progress| WakeItem {
                phase: progress.phase,
                from: progress.from,
                bytes: progress.bytes,
                bytes_total: progress.bytes_total,
                remaining_ms: progress.remaining(now).map(millis),
            }),
            failure: model.failure.as_ref().map(|(reason, retry_at)| FailureItem {
                reason: reason.clone(),
                retry_in_ms: until(*retry_at),
            }),
            wakes: model.wakes,
            last_wake: model.last_wake.map(|(from, took)| LastWake { from, wake_ms: millis(took) }),
        }
    }
}
