//! What tests share.

use std::path::PathBuf;

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

/// The file of SmolLM2-135M-Instruct, Q4_1. Fails where it is missing: a test that needs the model
/// doesn't pass without it.
pub(crate) fn model() -> PathBuf {
    let cache = || match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let path = std::env::var_os("DORMOUSE_TEST_MODEL")
        .map(PathBuf::from)
        .unwrap_or_else(|| cache().join("dormouse/SmolLM2-135M-Instruct.Q4_1.gguf"));
    assert!(
        path.is_file(),
        "no test model at {}: run `make test`, or set DORMOUSE_TEST_MODEL",
        path.display()
    );
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
