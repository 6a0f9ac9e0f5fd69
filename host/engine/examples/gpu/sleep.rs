//! What sleeping frees and waking takes.

use std::time::Duration;

use anyhow::Result;
use dormouse_engine::{Config, Engine, Tier};

use super::{NAME, first_token};

/// A model that sleeps and wakes, with the engine around it.
pub(crate) async fn print(mut config: Config, cycles: usize) -> Result<()> {
    config.residency.residence_min = Duration::ZERO;
    let engine = Engine::start(config)?;
    let empty = device(&engine);
    let (mut first, mut wakes, mut kept, mut most) = (None, Vec::new(), Vec::new(), 0);
    for cycle in 0..=cycles {
        let model = engine.open(NAME).await?;
        wakes.push(model.wake());
        let text = first_token(&model).await?;
        let first = first.get_or_insert(text.clone());
        anyhow::ensure!(*first == text, "cycle {cycle} says {text:?}, the first said {first:?}");
        most = most.max(device(&engine).0);
        drop(model);
        engine.sleep(NAME, Tier::Disk).await?;
        let mut models = engine.watch_residency();
        models
            .wait_for(|models| models.iter().all(|model| model.tier != Tier::Awake && model.moving.is_none()))
            .await?;
        let (used, reserved) = device(&engine);
        anyhow::ensure!(used <= empty.0, "cycle {cycle}: {used} bytes are used, {} were before", empty.0);
        kept.push(reserved);
    }
    let later = &mut wakes[1..];
    later.sort();
    println!(
        "\n{cycles} times asleep and awake: {:.1} MB each time, freed to the byte, the same first token",
        most as f64 / 1e6
    );
    println!(
        "kept by the runtime to read through: {:.1} MB, at the end {:.1} MB",
        megabytes(kept[0]),
        megabytes(kept[cycles])
    );
    println!(
        "first wake {:.0} ms; from the ready image p50 {:.0} ms, at most {:.0} ms",
        wakes[0].as_secs_f64() * 1e3,
        wakes[1..][cycles / 2].as_secs_f64() * 1e3,
        wakes[cycles].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes of a device in use and reserved.
fn device(engine: &Engine) -> (u64, u64) {
    engine.devices()[0].gauge.map_or((0, 0), |gauge| (gauge.used_bytes, gauge.reserved_bytes))
}
