//! What a step takes, and what its numbers mean elsewhere.

use std::{path::Path, time::Duration};

use dormouse_engine::{
    Error,
    gpu_measure::{Model, llama_3_8b_bytes},
};

use super::{ROUNDS, ROWS};

/// Time between the ends of two dispatches that depend on each other, beside their work.
const DISPATCH_SECONDS: f64 = 3e-6;
/// What is reached of a device's bandwidth.
const REACHED: f64 = 0.8;

/// Steps of both kinds in turns, and what their numbers mean elsewhere.
pub(crate) fn print(index: usize, path: &Path) -> Result<(), Error> {
    let mut models = [Some(true), Some(false)].map(|is_fused| Model::open(index, path, is_fused));
    println!("{:>10} {:>12} {:>14} {:>12}", "", "a token ms", "dispatches", format!("{ROWS} rows ms"));
    let mut best = [[Duration::MAX; 2]; 2];
    let mut dispatches = [0; 2];
    for _ in 0..ROUNDS {
        for (at, model) in models.iter_mut().enumerate() {
            let model = model.as_mut().map_err(|error| error.clone())?;
            for (rows, best) in [1, ROWS].into_iter().zip(&mut best[at]) {
                let (took, count) = model.step(rows)?;
                *best = took.min(*best);
                if rows == 1 {
                    dispatches[at] = count;
                }
            }
        }
    }
    for (at, name) in ["fused", "unfused"].into_iter().enumerate() {
        let [token, prompt] = best[at].map(|time| time.as_secs_f64() * 1e3);
        println!("{name:>10} {token:>12.1} {:>14} {prompt:>12.1}", dispatches[at]);
    }
    let ratio = |of: usize| best[1][of].as_secs_f64() / best[0][of].as_secs_f64();
    println!("unfused / fused: a token {:.2}x, {ROWS} rows {:.2}x\n", ratio(0), ratio(1));
    let bytes = models[0].as_ref().map_err(|error| error.clone())?.weight_bytes();
    println!(
        "estimates from bytes and dispatches: {REACHED} of the bandwidth, {:.0} us a dispatch",
        DISPATCH_SECONDS * 1e6
    );
    println!(
        "{:>16} {:>10} {:>12} {:>10} {:>10} {:>10}",
        "", "MB a token", "dispatches", "H100", "RTX 4090", "M3 Max"
    );
    estimate("this model", bytes, dispatches[0]);
    estimate("Llama 3 8B Q4_K", llama_3_8b_bytes(), 32 * 5 + 3);
    Ok(())
}

fn estimate(name: &str, bytes: u64, dispatches: u64) {
    let tokens = [3.35e12, 1.0e12, 0.4e12]
        .map(|bandwidth| 1.0 / (bytes as f64 / (bandwidth * REACHED) + dispatches as f64 * DISPATCH_SECONDS));
    let [h100, rtx, m3] = tokens;
    println!(
        "{name:>16} {:>10.1} {dispatches:>12} {h100:>8.0}/s {rtx:>8.0}/s {m3:>8.0}/s",
        bytes as f64 / 1e6
    );
}
