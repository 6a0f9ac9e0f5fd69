//! Compiled once, mapped ever after, and never mapped unless whole.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use dormouse_runtime::{Load, Runtime};

use crate::{guest::Guest, node::Node};

fn is_compiled(runtime: &Runtime, wasm: &[u8]) -> bool {
    matches!(runtime.load(wasm).unwrap().1, Load::Compiled(_))
}

/// The only compiled file.
fn compiled_file(node: &Node) -> PathBuf {
    let files: Vec<_> = fs::read_dir(node.cache_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// A node after a restart, with one compiled component that `spoil` was done to.
fn spoilt(spoil: impl FnOnce(&PathBuf)) -> (Node, Vec<u8>) {
    let node = Node::new();
    let wasm = Guest::default().build();
    assert!(is_compiled(&node.runtime, &wasm));
    spoil(&compiled_file(&node));
    (node.restart(), wasm)
}

#[tokio::test]
async fn a_component_is_compiled_once() {
    let node = Node::new();
    let wasm = Guest::default().build();
    assert!(is_compiled(&node.runtime, &wasm));
    assert!(!is_compiled(&node.runtime, &wasm));
    let node = node.restart();
    assert!(!is_compiled(&node.runtime, &wasm), "nor after a restart");
    node.answers().await;
}

#[test]
fn callers_of_one_component_share_one_compilation() {
    let node = Node::new();
    let wasm = Guest::default().build();
    let compiled = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..8).map(|_| scope.spawn(|| node.runtime.load(&wasm).unwrap())).collect();
        // Kept until all have theirs, so that all are in use at once.
        let loaded: Vec<_> = loads.into_iter().map(|load| load.join().unwrap()).collect();
        loaded.iter().filter(|(_, load)| matches!(load, Load::Compiled(_))).count()
    });
    assert_eq!(compiled, 1);
}

#[tokio::test]
async fn a_cached_component_is_mapped_by_its_digest_alone() {
    let node = Node::new();
    let component = node.load(&Guest::default());
    let digest = component.digest().to_owned();
    drop(component);
    let node = node.restart();
    let (component, load) = node.runtime.load_cached(&digest).unwrap().unwrap();
    assert!(matches!(load, Load::Mapped(_)));
    assert_eq!(component.digest(), digest);
    let run = node.invoke(&component, crate::node::invocation("5")).await;
    assert_eq!(run.output(), "5");
}

#[test]
fn a_component_in_use_is_shared() {
    let node = Node::new();
    let component = node.load(&Guest::default());
    let digest = component.digest().to_owned();
    // Where it is not taken from any more.
    fs::remove_file(compiled_file(&node)).unwrap();
    assert!(node.runtime.load_cached(&digest).unwrap().is_some());
    drop(component);
    assert!(node.runtime.load_cached(&digest).unwrap().is_none(), "and let go with its last user");
}

#[test]
fn what_is_not_a_digest_or_not_there_is_absent() {
    let node = Node::new();
    for digest in ["", "../../../etc/passwd", &"0".repeat(64), &"G".repeat(64)] {
        assert!(node.runtime.load_cached(digest).unwrap().is_none(), "{digest}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_compiled_again() {
    for keep_bytes in [0, 10, 1000] {
        let (node, wasm) = spoilt(|file| {
            OpenOptions::new().write(true).open(file).unwrap().set_len(keep_bytes).unwrap();
        });
        assert!(is_compiled(&node.runtime, &wasm), "cut to {keep_bytes}");
        assert!(!is_compiled(&node.runtime, &wasm));
        node.answers().await;
    }
}

#[tokio::test]
async fn a_file_with_a_flipped_bit_is_compiled_again() {
    let (node, wasm) = spoilt(|path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&bytes).unwrap();
    });
    assert!(is_compiled(&node.runtime, &wasm));
    node.answers().await;
}

#[test]
fn a_whole_file_of_another_component_is_not_mapped() {
    let node = Node::new();
    let (mine, other) =
        (Guest::default().build(), Guest { predict: "unreachable", ..Guest::default() }.build());
    assert!(is_compiled(&node.runtime, &other));
    let foreign = compiled_file(&node);
    let kept = node.folder.path().join("foreign");
    fs::rename(&foreign, &kept).unwrap();
    assert!(is_compiled(&node.runtime, &mine));
    fs::rename(&kept, compiled_file(&node)).unwrap();
    let node = node.restart();
    assert!(is_compiled(&node.runtime, &mine));
}

#[test]
fn a_spoilt_file_is_absent_when_there_is_no_wasm_to_compile() {
    let node = Node::new();
    let digest = node.load(&Guest::default()).digest().to_owned();
    fs::write(compiled_file(&node), b"\x7fELF not").unwrap();
    let node = node.restart();
    assert!(node.runtime.load_cached(&digest).unwrap().is_none());
}

#[test]
fn a_forgotten_component_is_compiled_again() {
    let node = Node::new();
    let wasm = Guest::default().build();
    let digest = node.runtime.load(&wasm).unwrap().0.digest().to_owned();
    node.runtime.forget(&digest).unwrap();
    node.runtime.forget(&digest).unwrap();
    assert!(is_compiled(&node.runtime, &wasm));
}

#[test]
fn the_folder_is_this_users_alone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = Node::at(folder);
    assert_eq!(fs::metadata(folder.cache_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    let fresh = Node::new();
    assert_eq!(fs::metadata(fresh.cache_dir()).unwrap().permissions().mode() & 0o777, 0o700);
}
