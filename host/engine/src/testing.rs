//! What tests share.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    path::PathBuf,
};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

/// Longer than anything takes on a device that the processor stands in for.
#[cfg(feature = "gpu")]
pub(crate) const LONG: std::time::Duration = std::time::Duration::from_secs(600);

/// The file of SmolLM2-135M-Instruct, Q4_1.
pub(crate) fn model() -> PathBuf {
    match std::env::var_os("DORMOUSE_TEST_MODEL") {
        Some(path) => path.into(),
        None => cached("SmolLM2-135M-Instruct.Q4_1.gguf"),
    }
}

/// A file that `make test` fetches. Fails where it is missing: a test that needs a model doesn't pass
/// without it.
pub(crate) fn cached(name: &str) -> PathBuf {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let path = cache.join("dormouse").join(name);
    assert!(path.is_file(), "no test model at {}: run `make test`", path.display());
    path
}

/// Runs a property on `cases` values, the same in every run.
pub(crate) fn check_cases<S: Strategy>(cases: u32, values: &S, property: impl Fn(S::Value)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(values, |value| {
        property(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// Texts made of what pre-tokenizers tell apart.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    const PARTS: [&str; 44] = [
        "a",
        "B",
        "the",
        " the",
        "ing",
        "word",
        "é",
        "e\u{301}",
        "ß",
        "Д",
        "日本",
        "한",
        "ह",
        "🙂",
        "👩\u{200d}👧",
        "1",
        "23",
        "4567",
        "½",
        "ⅷ",
        "٣",
        " ",
        "  ",
        "     ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{2003}",
        "\u{3000}",
        "\u{200b}",
        "'s",
        "'LL",
        "'",
        "\u{17f}",
        "'\u{17f}",
        ".",
        "!?",
        "_",
        "<|im_end|>",
        "</s>",
        "\u{2581}",
        "\u{0}",
    ];
    prop::collection::vec(select(PARTS.as_slice()), 0..40).prop_map(|parts| parts.concat())
}

/// A change to a file.
#[derive(Debug, Clone)]
enum Mutation {
    Set { at: usize, byte: u8 },
    Word { at: usize, word: u64 },
    Cut { at: usize, len: usize },
    Double { at: usize, len: usize },
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len().max(1);
        match *self {
            _ if bytes.is_empty() => {}
            Self::Set { at, byte } => bytes[at % len] = byte,
            Self::Word { at, word } => {
                let at = at % len;
                let end = (at + 8).min(len);
                bytes[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
            }
            Self::Cut { at, len: cut } => {
                let at = at % len;
                bytes.drain(at..(at + cut).min(len));
            }
            Self::Double { at, len: double } => {
                let at = at % len;
                let copy = bytes[at..(at + double).min(len)].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// A file with one to three changes.
pub(crate) fn mutated(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let at = || any::<u16>().prop_map(usize::from);
    // Numbers where arithmetic goes wrong.
    let word = prop_oneof![
        0u64..300,
        any::<u64>(),
        (0u32..64, any::<bool>()).prop_map(|(bit, less)| (1u64 << bit) - u64::from(less)),
        Just(u64::MAX),
    ];
    let mutation = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set { at, byte }),
        (at(), word).prop_map(|(at, word)| Mutation::Word { at, word }),
        (at(), 1usize..40).prop_map(|(at, len)| Mutation::Cut { at, len }),
        (at(), 1usize..40).prop_map(|(at, len)| Mutation::Double { at, len }),
    ];
    prop::collection::vec(mutation, 1..4).prop_map(move |mutations| {
        let mut file = file.clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut file));
        file
    })
}

/// The system's allocator, which counts.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has allocated so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
// SAFETY: every call is the system allocator's own, whose contract is the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}
