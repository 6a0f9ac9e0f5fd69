//! Predictors written in WebAssembly text, made components as a toolchain makes them: a core module
//! and the WIT of its world. No guest toolchain is needed.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The world of the test guests: a predictor and the parts of WASI that the tests call.
const WIT: &str = include_str!("guest.wit");

/// A predictor's parts as text; the default is `echo`, which answers with its input.
///
/// In the bodies of `predict` the input is at `$in`, `$len` bytes long. `$ok` and `$err` make an answer
/// of a text's address and length, `$string` one of `describe`. Memory below 8 KiB is the guest's:
/// results of host calls go to 256, texts of [`Guest::texts`] where they say.
pub(crate) struct Guest {
    pub(crate) world: &'static str,
    pub(crate) imports: &'static str,
    pub(crate) describe: &'static str,
    pub(crate) setup: &'static str,
    pub(crate) predict: &'static str,
    /// More functions and globals.
    pub(crate) more: &'static str,
    /// Address and content of constant texts.
    pub(crate) texts: Vec<(u32, String)>,
    /// Pages of memory to begin with.
    pub(crate) pages: u32,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            world: "guest",
            imports: "",
            describe: "(call $string (i32.const 1024) (i32.const 2))",
            setup: "(call $ok (i32.const 0) (i32.const 0))",
            predict: "(call $ok (local.get $in) (local.get $len))",
            more: "",
            texts: vec![(1024, "{}".into())],
            pages: 1,
        }
    }
}

impl Guest {
    /// The component's bytes.
    pub(crate) fn build(&self) -> Vec<u8> {
        self.try_build().expect("a test guest builds")
    }

    fn try_build(&self) -> anyhow::Result<Vec<u8>> {
        let mut resolve = Resolve::default();
        resolve.push_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit"))?;
        let package = resolve.push_str("guest.wit", WIT)?;
        let world = resolve.select_world(&[package], Some(self.world))?;
        let mut module = self.module()?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
        ComponentEncoder::default().validate(true).module(&module)?.encode()
    }

    /// The core module's bytes.
    pub(crate) fn module(&self) -> anyhow::Result<Vec<u8>> {
        let Self { imports, describe, setup, predict, more, pages, .. } = self;
        let texts: String = self.texts.iter().map(|(at, text)| data(*at, text)).collect();
        let predict_export = if self.world == "partial" { "" } else { "(export \"predict\")" };
        Ok(wat::parse_str(format!(
            r#"(module
                (type $answer (func (param i32 i32) (result i32)))
                {imports}
                (memory (export "memory") {pages})
                {texts}
                (global $heap (mut i32) (i32.const 8192))
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
                (func $err (param $at i32) (param $len i32) (result i32)
                    (call $result (i32.const 1) (local.get $at) (local.get $len)))
                (func $string (param $at i32) (param $len i32) (result i32)
                    (i32.store (i32.const 32) (local.get $at))
                    (i32.store (i32.const 36) (local.get $len))
                    (i32.const 32))
                (func $describe (export "describe") (result i32) {describe})
                (func $setup (export "setup") (result i32) {setup})
                (func $predict {predict_export} (param $in i32) (param $len i32) (result i32) {predict})
                {more})"#
        ))?)
    }
}

/// A data segment of a text, every byte escaped.
fn data(at: u32, text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{bytes}\")")
}

/// Imports of interface `output`.
pub(crate) const OUTPUT: &str = r#"
    (import "dormouse:predictor/output@0.1.0" "emit" (func $emit (param i32 i32 i32)))
    (import "dormouse:predictor/output@0.1.0" "log" (func $log (param i32 i32 i32)))
    (import "dormouse:predictor/output@0.1.0" "progress" (func $progress (param f32 i32 i32)))
    (import "dormouse:predictor/output@0.1.0" "metric" (func $metric (param i32 i32 f64)))
"#;

/// Imports of the WASI streams: `$print` writes to standard output, `$complain` to standard error.
pub(crate) const STDIO: &str = r#"
    (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
    (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
        (func $write (param i32 i32 i32 i32)))
"#;

/// Imports for waiting: `(call $block (call $after (i64.const NANOSECONDS)))`.
pub(crate) const CLOCK: &str = r#"
    (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
"#;
