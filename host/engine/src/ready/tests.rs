//! Images that are whole, and those that are not.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{Block, Bytes, Image, Matrices, Part, Store};
use crate::{
    catalog::Digest,
    kv::BlockHash,
    quant::DType,
    testing::{check_cases, mutated},
};

const LAYOUT: &str = "test-1";

fn digest(of: u8) -> Digest {
    Digest::from_bytes(&[of; 32])
}

fn bytes(of: &[u8]) -> Bytes {
    let mut pages = memmap2::MmapMut::map_anon(of.len()).unwrap();
    pages.copy_from_slice(of);
    Bytes::of_memory(Some(pages))
}

fn part(dtype: DType, rows: usize, fill: u8, len: usize) -> Part {
    Part { dtype, rows, columns: 32, bytes: bytes(&vec![fill; len]) }
}

fn matrices() -> Matrices {
    vec![
        ("embedding".into(), vec![part(DType::Q8_0, 7, 1, 5000)]),
        ("qkv".into(), vec![part(DType::Q4_1, 3, 2, 4096), part(DType::F16, 2, 3, 10)]),
    ]
}

fn store(bytes_max: u64) -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(dir.path(), bytes_max).unwrap(), dir)
}

fn write(store: &Store, digest: &Digest) -> std::io::Result<()> {
    store.write_image(digest, LAYOUT, &matrices(), &AtomicBool::new(false))
}

fn file_in(dir: &tempfile::TempDir) -> PathBuf {
    fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path()
}

fn check(image: &Image) -> Result<(), String> {
    image.check(2, &|_| ())
}

#[test]
fn what_was_written_is_mapped_again() {
    let (store, _dir) = store(1 << 20);
    assert!(store.image(&digest(1), LAYOUT).is_none());
    write(&store, &digest(1)).unwrap();
    let image = store.image(&digest(1), LAYOUT).unwrap().unwrap();
    let read = AtomicUsize::new(0);
    let note = |bytes| _ = read.fetch_add(bytes, Ordering::Relaxed);
    image.check(3, &note).unwrap();
    assert_eq!((image.len(), read.into_inner()), (9106, 9106));
    for (name, expected) in matrices() {
        let found = image.parts(&name);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((found.dtype, found.rows, found.columns), (expected.dtype, expected.rows, 32));
            assert_eq!(found.bytes[..], expected.bytes[..]);
            assert!(found.bytes.as_ptr().addr().is_multiple_of(4096), "sections begin at a page");
        }
    }
    assert!(image.parts("output").is_empty());
    store.remove_images(&digest(1)).unwrap();
    assert!(!store.has_image(&digest(1), LAYOUT));
    check(&image).expect("a map outlives its name");
}

#[test]
fn an_image_of_another_model_or_layout_is_not_taken() {
    let (store, dir) = store(1 << 20);
    write(&store, &digest(1)).unwrap();
    assert!(store.image(&digest(1), "test-2").is_none());
    let own = file_in(&dir);
    let other = own.with_file_name(format!("{}-{LAYOUT}.image", digest(2).hex()));
    fs::copy(&own, &other).unwrap();
    let reason = store.image(&digest(2), LAYOUT).unwrap().unwrap_err();
    assert_eq!(reason, format!("it is of another model, {}", digest(1)));
    let later = own.with_file_name(format!("{}-test-2.image", digest(1).hex()));
    fs::copy(&own, &later).unwrap();
    let reason = store.image(&digest(1), "test-2").unwrap().unwrap_err();
    assert_eq!(reason, "its layout is \"test-1\", this device's is \"test-2\"");
}

#[test]
fn whatever_befalls_an_image_it_is_refused_or_as_it_was() {
    let (store, dir) = store(1 << 20);
    write(&store, &digest(1)).unwrap();
    let path = file_in(&dir);
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    check_cases(2000, &mutated(whole.clone()), |broken| {
        let changed = broken != whole;
        fs::write(&path, &broken).unwrap();
        let found = store.image(&digest(1), LAYOUT).unwrap();
        let is_good = found.is_ok_and(|image| check(&image).is_ok());
        // Only the zeros between sections are not looked at.
        let is_padding = || broken.len() == whole.len() && is_same_but_for_padding(&broken, &whole);
        assert!(is_good != changed || is_good && is_padding(), "a changed image passed as good");
    });
}

/// Sections lie at pages 1, 3 and 4; the header ends before.
fn is_same_but_for_padding(a: &[u8], b: &[u8]) -> bool {
    let header = a.iter().rposition(|byte| *byte == b'}').map_or(0, |at| at.min(4096));
    [0..header, 4096..9096, 12288..16384, 16384..16394].into_iter().all(|range| a[range.clone()] == b[range])
}

fn root() -> BlockHash {
    BlockHash::root("test")
}

fn blocks() -> Vec<Block> {
    let block = |of: u8| Block {
        hash: root().next(&[u32::from(of)]),
        bytes: bytes(&[of; 64]),
        used_at: u64::from(of),
    };
    [3, 1, 2].map(block).to_vec()
}

#[test]
fn blocks_are_found_by_their_hash_and_kept_in_order() {
    let (store, _dir) = store(1 << 20);
    assert!(store.prefixes(&digest(1), LAYOUT, root(), 64).is_none());
    store.write_prefixes(&digest(1), LAYOUT, root(), &blocks()).unwrap();
    let kept = store.prefixes(&digest(1), LAYOUT, root(), 64).unwrap().unwrap();
    let expected = blocks();
    assert!(kept.blocks().eq(expected.iter().map(|block| (block.hash, block.used_at))));
    for block in &expected {
        assert_eq!(kept.get(&block.hash).unwrap()[..], block.bytes[..]);
    }
    assert!(kept.get(&root()).is_none());
    // Other weights, another adapter or layout begin the chain elsewhere.
    let reason = store.prefixes(&digest(1), LAYOUT, BlockHash::root("other"), 64).unwrap().unwrap_err();
    assert_eq!(reason, "it is of another model or layout");
    let reason = store.prefixes(&digest(1), LAYOUT, root(), 65).unwrap().unwrap_err();
    assert_eq!(reason, "its blocks don't have 65 bytes");
}

#[test]
fn whatever_befalls_kept_blocks_they_are_lost_or_as_they_were() {
    let (store, dir) = store(1 << 20);
    store.write_prefixes(&digest(1), LAYOUT, root(), &blocks()).unwrap();
    let path = file_in(&dir);
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    check_cases(2000, &mutated(whole), |broken| {
        fs::write(&path, &broken).unwrap();
        let Ok(kept) = store.prefixes(&digest(1), LAYOUT, root(), 64).unwrap() else { return };
        for block in blocks() {
            let found = kept.get(&block.hash);
            assert!(found.is_none_or(|found| found[..] == block.bytes[..]), "a changed block passed as good");
        }
    });
}

#[test]
fn an_unfinished_image_is_not_seen_and_swept_at_the_next_start() {
    let (store, dir) = store(1 << 20);
    let stopped = store.write_image(&digest(1), LAYOUT, &matrices(), &AtomicBool::new(true)).unwrap_err();
    assert_eq!(stopped.to_string(), "it is no longer wanted");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(dir.path().join(".unfinished-1-x.image"), b"dorm").unwrap();
    Store::open(dir.path(), 1).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn images_beyond_the_bound_go_those_mapped_longest_ago_first() {
    let (store, dir) = store(40_000);
    let age = |of: u8, seconds: u64| {
        let path = dir.path().join(format!("{}-{LAYOUT}.image", digest(of).hex()));
        let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::open(path).unwrap().set_modified(at).unwrap();
    };
    for of in [1, 2] {
        write(&store, &digest(of)).unwrap();
        age(of, u64::from(of));
    }
    store.image(&digest(1), LAYOUT).unwrap().unwrap();
    write(&store, &digest(3)).unwrap();
    let has = [1, 2, 3].map(|of| store.has_image(&digest(of), LAYOUT));
    assert_eq!(has, [true, false, true]);
    let (tight, dir) = self::store(9106);
    write(&tight, &digest(2)).unwrap();
    let tight = Store::open(dir.path(), 9105).unwrap();
    let error = write(&tight, &digest(1)).unwrap_err().to_string();
    assert!(tight.has_image(&digest(2), LAYOUT), "nothing is given up for what has no room");
    assert_eq!(error, "it has 9106 bytes, all of its kind may have 9105 (ready_bytes_max)");
}
