//! What is and what is not a predictor, and how that is said.

use dormouse_runtime::Error;

use crate::{guest::Guest, node::Node};

fn refused(wasm: &[u8], says: &str) {
    refused_by(&Node::new(), wasm, says);
}

fn refused_by(node: &Node, wasm: &[u8], says: &str) {
    match node.runtime.load(wasm) {
        Err(Error::NotAPredictor(reason)) => assert!(reason.contains(says), "{reason:?} lacks {says:?}"),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("was taken for a predictor"),
    }
}

#[test]
fn a_core_module_is_told_what_to_build_for() {
    let module = Guest::default().module().unwrap();
    refused(&module, "core wasm module, not a component; build with --target wasm32-wasip2");
}

#[test]
fn bytes_that_are_no_wasm_are_refused() {
    refused(b"#!/bin/sh\n", "not wasm");
    refused(b"(component)", "not wasm");
    refused(b"", "no bytes");
    refused(b"\0asm\xff\xff\xff\xff", "unknown version");
}

#[test]
fn a_component_cut_short_is_refused() {
    let wasm = Guest::default().build();
    refused(&wasm[..wasm.len() - 7], "does not compile");
}

#[test]
fn a_missing_export_is_named() {
    refused(&Guest { world: "partial", ..Guest::default() }.build(), "does not export `predict`");
}

#[test]
fn an_export_of_another_type_is_named() {
    let mistyped = Guest { world: "mistyped", predict: "(i32.const 1)", ..Guest::default() };
    refused(&mistyped.build(), "predict");
}

#[test]
fn an_import_that_the_host_lacks_is_named() {
    let imports = r#"(import "acme:rocket/launcher@1.0.0" "launch" (func $launch))"#;
    let greedy = Guest { world: "greedy", imports, setup: "(call $launch) unreachable", ..Guest::default() };
    refused(&greedy.build(), "acme:rocket/launcher@1.0.0");
}

#[test]
fn a_component_over_the_size_limit_is_refused_uncompiled() {
    let node = Node::with(|config| config.component_bytes_max = 100);
    refused_by(&node, &Guest::default().build(), "the limit is 100");
}

#[tokio::test]
async fn describe_gives_the_manifest() {
    let manifest = r#"{"name":"echo","models":["smollm2"]}"#;
    let guest = Guest {
        describe: "(call $string (i32.const 1024) (i32.const 36))",
        texts: vec![(1024, manifest.into())],
        ..Guest::default()
    };
    let node = Node::new();
    let described = node.runtime.describe(&node.load(&guest), &crate::node::limits()).await.unwrap();
    assert_eq!(described.to_string(), manifest);
    assert_eq!(node.runtime.instances(), 0);
}
