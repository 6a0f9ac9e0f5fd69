//! The service, driven over HTTP with real components.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod access;
mod aliases;
mod behaviour;
mod chat;
mod deploy;
mod durable;
mod faults;
mod idle;
mod invoke;
mod limits;
mod ollama;
mod openai;
mod projects;
mod residency;
mod setup;
mod sharing;
mod stream;

/// Paths of the components, by name. One that no test names fails the build.
#[deny(dead_code)]
mod guests {
    include!(concat!(env!("OUT_DIR"), "/guests.rs"));
}

/// Deploys `wasm` as `name`, which must work.
#[track_caller]
fn deploy(server: &dormouse_tests::Server, name: &str, wasm: &str) -> serde_json::Value {
    server.client().deploy(name, "", wasm).expect(201)
}

/// Waits until `is_so`, which something under way is about to make true.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 60, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// The text of a stream of pieces.
fn joined(pieces: &serde_json::Value) -> String {
    pieces.as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect()
}
