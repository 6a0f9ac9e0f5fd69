//! Predictors written in WebAssembly text, so that no guest toolchain is needed.

use serde_json::{Value, json};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where the manifest lies in a guest's memory.
const MANIFEST_AT: u32 = 2048;

/// Emits `{"started":true}` and logs a line. Then it answers with its input; but of an input of more
/// than 8 bytes, such as `{"loop":1}`, it makes an endless loop.
pub(crate) const WORKER: &str = r#"
    (call $emit (i32.const 1024) (i32.const 16) (i32.const 256))
    (call $log (i32.const 1) (i32.const 1040) (i32.const 7))
    (if (i32.gt_u (local.get $len) (i32.const 8)) (then (loop $forever (br $forever))))
    (call $ok (i32.const 1047) (i32.const 4))"#;

/// Answers with its input.
pub(crate) const ECHO: &str = "(call $ok (local.get $in) (local.get $len))";

/// Emits `{"started":true}` for ever; answers at once when its input is `{}`.
pub(crate) const FLOOD: &str = r#"
    (if (i32.gt_u (local.get $len) (i32.const 2))
        (then (loop $forever
            (call $emit (i32.const 1024) (i32.const 16) (i32.const 256)) (br $forever))))
    (call $ok (local.get $in) (local.get $len))"#;

/// Logs a line and traps.
pub(crate) const TRAP: &str = r#"
    (call $log (i32.const 3) (i32.const 1040) (i32.const 7))
    unreachable"#;

/// Returns the error `working`.
pub(crate) const FAIL: &str = r#"(call $result (i32.const 1) (i32.const 1040) (i32.const 7))"#;

/// A manifest with this input schema.
pub(crate) fn manifest(input: Value) -> Value {
    json!({
        "interface": "dormouse:predictor@0.1.0",
        "name": "guest",
        "description": "a test guest",
        "input": input,
        "output": {},
        "streaming": true,
    })
}

/// A component whose `predict` has this body: the input is at `$in`, `$len` bytes long.
pub(crate) fn component(predict: &str, manifest: &Value) -> Vec<u8> {
    let manifest = manifest.to_string();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("predictor")).unwrap();
    let mut module = module(predict, &manifest);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// A component that takes any object.
pub(crate) fn any_input(predict: &str) -> Vec<u8> {
    component(predict, &manifest(json!({"type": "object"})))
}

fn module(predict: &str, manifest: &str) -> Vec<u8> {
    let heap = (MANIFEST_AT as usize + manifest.len()).next_multiple_of(4096);
    let text = format!(
        r#"(module
            (import "dormouse:predictor/output@0.1.0" "emit" (func $emit (param i32 i32 i32)))
            (import "dormouse:predictor/output@0.1.0" "log" (func $log (param i32 i32 i32)))
            (memory (export "memory") 2)
            (data (i32.const 1024) "{{\"started\":true}}workingnull")
            (data (i32.const {MANIFEST_AT}) "{escaped}")
            (global $heap (mut i32) (i32.const {heap}))
            (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
                (global.set $heap (i32.add (local.get $at) (local.get $size)))
                (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16)))
                    (then (drop (memory.grow
                        (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1))))))
                (local.get $at))
            (func $result (param $tag i32) (param $at i32) (param $len i32) (result i32)
                (i32.store8 (i32.const 16) (local.get $tag))
                (i32.store (i32.const 20) (local.get $at))
                (i32.store (i32.const 24) (local.get $len))
                (i32.const 16))
            (func $ok (param $at i32) (param $len i32) (result i32)
                (call $result (i32.const 0) (local.get $at) (local.get $len)))
            (func (export "describe") (result i32)
                (i32.store (i32.const 32) (i32.const {MANIFEST_AT}))
                (i32.store (i32.const 36) (i32.const {len}))
                (i32.const 32))
            (func (export "setup") (result i32) (call $ok (i32.const 0) (i32.const 0)))
            (func (export "predict") (param $in i32) (param $len i32) (result i32) {predict}))"#,
        escaped = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect::<String>(),
        len = manifest.len(),
    );
    wat::parse_str(text).unwrap()
}
