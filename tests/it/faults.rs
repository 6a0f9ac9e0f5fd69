//! Guests that misbehave: each gets its own error, and nobody else notices.

use dormouse_tests::Server;
use serde_json::{Value, json};

use crate::{deploy, guests};

/// Deploys a guest beside `hello`, and checks that each input fails with its code, again and again,
/// while `hello` keeps answering.
#[track_caller]
fn check(wasm: &str, query: &str, cases: &[(Value, u16, &str)]) {
    const REPEATS: usize = 3;
    let server = Server::start();
    deploy(&server, "hello", guests::HELLO);
    server.client().deploy("guest", query, wasm).expect(201);
    for (input, status, code) in cases.iter().cycle().take(cases.len() * REPEATS) {
        let answer = server.client().invoke("guest", input);
        assert_eq!((answer.status, &*answer.error(*status)), (*status, *code), "{input}");
        assert_eq!(answer.json()["status"], "failed", "{answer:?}");
        assert_eq!(server.client().output("hello", &json!({"name": "still"})), "Hello, still!");
    }
    let function = server.client().get("/v1/functions/guest").expect(200);
    assert_eq!((&function["running"], &function["queued"]), (&json!(0), &json!(0)));
}

#[test]
fn an_endless_loop_runs_into_its_time_limit() {
    check(guests::ENDLESS, "?timeout_ms=200", &[(json!({}), 504, "timeout")]);
}

#[test]
fn a_long_sleep_runs_into_its_time_limit() {
    check(guests::SLEEPER, "?timeout_ms=200", &[(json!({}), 504, "timeout")]);
}

#[test]
fn a_trap_is_told_as_one() {
    let how = |how: &str| (json!({"how": how}), 500, "predictor_trapped");
    check(guests::TRAP, "", &[how("panic"), how("unreachable"), how("out_of_bounds")]);
}

#[test]
fn a_panic_leaves_its_message_in_the_logs() {
    let server = Server::start();
    deploy(&server, "trap", guests::TRAP);
    let body = server.client().invoke("trap", &json!({})).expect(500);
    assert!(body["logs"].as_str().unwrap().contains("panicked on purpose"), "{body}");
}

#[test]
fn memory_beyond_the_limit_is_refused() {
    check(guests::HOG, "?memory_bytes=33554432", &[(json!({}), 500, "predictor_out_of_memory")]);
}

#[test]
fn memory_below_the_limit_is_given() {
    let server = Server::start();
    server.client().deploy("hog", "?memory_bytes=33554432", guests::HOG).expect(201);
    assert_eq!(server.client().output("hog", &json!({"mebibytes": 20})), 20);
}

#[test]
fn output_beyond_the_limit_is_refused() {
    let into = |into: &str| (json!({"into": into}), 500, "output_too_large");
    check(guests::FLOOD, "", &[into("output"), into("answer")]);
}

#[test]
fn logs_beyond_the_limit_are_dropped_and_counted() {
    let server = Server::start();
    deploy(&server, "flood", guests::FLOOD);
    for into in ["log", "stdout", "line"] {
        let body = server.client().invoke("flood", &json!({"into": into})).expect(200);
        assert_eq!(body["output"], "survived");
        let logs = body["logs"].as_str().unwrap();
        assert!(logs.len() <= 2 << 20 && logs.contains("dropped"), "{into}: {} bytes", logs.len());
    }
}

#[test]
fn deep_recursion_overflows_the_guests_own_stack() {
    check(guests::BOMB, "", &[(json!({}), 500, "predictor_stack_overflow")]);
}

#[test]
fn leaving_by_exit_is_told_with_the_status() {
    let exit = |status: i32| (json!({"status": status}), 500, "predictor_exited");
    check(guests::EXIT, "", &[exit(0), exit(3)]);
}
