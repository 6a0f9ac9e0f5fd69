//! `kill -9` while deploys are under way, and what is left of the acknowledged ones.

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{Client, Process};

/// Callers that deploy at once, each to a function of its own.
const CALLERS: usize = 4;

/// How one round went.
#[derive(Debug, Default)]
pub struct Report {
    /// Deploys that were answered with success before the kill.
    pub acknowledged: usize,
    /// Those that the restarted service does not run, with what it says instead.
    pub lost: Vec<String>,
}

/// Starts the service on `data`, deploys `wasm` with ever new settings, up to `deploys` times, kills the
/// service somewhere along the way (`seed` says where), starts it again, and calls every revision that
/// was acknowledged.
pub fn kill_during_deploys(data: &Path, wasm: &str, deploys: usize, seed: u64) -> Report {
    let process = Process::start(data);
    let client = process.client().clone();
    let acknowledged = Mutex::new(Vec::new());
    let count = AtomicUsize::new(0);
    // Fibonacci hashing spreads consecutive seeds over the whole range.
    let kill_at = 1 + (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % (deploys - 1);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (client, acknowledged, count) = (&client, &acknowledged, &count);
            scope.spawn(move || {
                for i in 0..deploys / CALLERS {
                    let name = format!("f{caller}");
                    let Some(revision) = deploy(client, &name, &format!("{seed}-{i}"), wasm) else { return };
                    acknowledged.lock().expect("nobody panics with it").push((name, revision));
                    count.fetch_add(1, Ordering::Release);
                }
            });
        }
        while count.load(Ordering::Acquire) < kill_at {
            thread::yield_now();
        }
        // The other callers are in the middle of something.
        process.kill();
    });
    let acknowledged = acknowledged.into_inner().expect("nobody panicked with it");
    let process = Process::start(data);
    let lost = acknowledged.iter().filter_map(|(name, revision)| check(process.client(), name, revision));
    Report { acknowledged: acknowledged.len(), lost: lost.collect() }
}

/// The new revision, if the service lived to acknowledge it.
fn deploy(client: &Client, name: &str, mark: &str, wasm: &str) -> Option<String> {
    let bytes = std::fs::read(wasm).expect("build.rs has built it");
    let request = client.put_request(&format!("/v1/functions/{name}?env=MARK={mark}"));
    let mut response = request.content_type("application/wasm").send(&bytes[..]).ok()?;
    let body: Value = response.body_mut().read_json().ok()?;
    assert_eq!(response.status(), 201, "{body}");
    Some(body["revision"].as_str().expect("a revision").to_owned())
}

/// What is wrong with an acknowledged revision.
fn check(client: &Client, name: &str, revision: &str) -> Option<String> {
    let answer = client.invoke(&format!("{name}:{revision}"), &json!({"name": "survivor"}));
    (answer.status != 200).then(|| format!("{name}:{revision}: {} {}", answer.status, answer.text))
}
