//! `dormouse devices`: what models could compute on.

use dormouse_engine::{Adapter, copy_bandwidth};
use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::{Error, table::Table, terminal::Terminal};

/// Lists the adapters of this machine.
pub(super) fn list(terminal: &mut Terminal) -> Result<(), Error> {
    let measured = dormouse_engine::adapters().into_iter().map(|adapter| {
        let speed = copy_bandwidth(adapter.index);
        (adapter, speed)
    });
    let measured: Vec<_> = measured.collect();
    if terminal.json {
        let devices: Vec<Value> = measured.iter().map(|(adapter, speed)| value(adapter, speed)).collect();
        return Ok(terminal.value(&json!({"devices": devices}))?);
    }
    if measured.is_empty() {
        terminal.note("no graphics processor has a driver here; models compute on the processor");
        return Ok(());
    }
    let mut table = Table::new(["DEVICE", "NAME", "KIND", "API", "DRIVER", "MEMORY", "COPIES", "FEATURES"])
        .numeric(5)
        .numeric(6);
    for (adapter, speed) in &measured {
        table.row([
            format!("gpu:{}", adapter.index),
            adapter.name.clone(),
            adapter.kind.name().to_owned(),
            adapter.api.clone(),
            adapter.driver.clone(),
            adapter.memory_bytes.map(|bytes| BinaryBytes(bytes).to_string()).unwrap_or_default(),
            speed
                .as_ref()
                .map_or_else(ToString::to_string, |speed| format!("{}/s", BinaryBytes(*speed as u64))),
            features(adapter).join(" "),
        ]);
    }
    Ok(terminal.line(table)?)
}

fn value(adapter: &Adapter, speed: &Result<f64, dormouse_engine::Error>) -> Value {
    json!({
        "device": format!("gpu:{}", adapter.index),
        "name": adapter.name,
        "kind": adapter.kind.name(),
        "api": adapter.api,
        "driver": adapter.driver,
        "memory_bytes": adapter.memory_bytes,
        "buffer_bytes_max": adapter.buffer_bytes_max,
        "binding_bytes_max": adapter.binding_bytes_max,
        "shared_bytes": adapter.shared_bytes,
        "subgroup": adapter.subgroup.map(|(min, max)| [min, max]),
        "features": features(adapter),
        "copy_bytes_per_second": speed.as_ref().ok().map(|speed| *speed as u64),
        "error": speed.as_ref().err().map(ToString::to_string),
    })
}

fn features(adapter: &Adapter) -> Vec<&'static str> {
    let features = [
        ("subgroups", adapter.subgroup.is_some()),
        ("f16", adapter.has_f16),
        ("matrices", adapter.has_cooperative_matrix),
    ];
    features.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
}
