//! Text that must match a JSON Schema: which tokens may come next.
//!
//! A schema becomes a grammar over bytes; `llguidance` walks the vocabulary's trie along it. Compiling
//! runs on the caller's thread, masks beside the forward pass (`ahead`). Both are bounded by `llguidance`'s
//! limits on grammar size, lexer states and work per mask (some 15 ms at most, 0.1 typically).

mod ahead;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use llguidance::{
    JsonCompileOptions, Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};

use crate::{Error, tokenizer::Tokenizer};
use ahead::{Ahead, Masks};

/// The most bytes of a schema.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Compiles schemas for one vocabulary.
pub(crate) struct Formats {
    factory: ParserFactory,
    masks: Masks,
}

/// How far a text has come in its format.
pub(crate) struct Format {
    ahead: Ahead,
    /// Since the last [`Format::times`].
    waiting: Duration,
}

/// What masks took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MaskTimes {
    /// Their computation, on whichever thread.
    pub(crate) computing: Duration,
    /// Of this or of waiting for it, what the engine thread spent.
    pub(crate) waiting: Duration,
}

impl Formats {
    /// The vocabulary's trie: some 50 ms for 50,000 tokens, so it is made when a format is first
    /// asked for.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let eos = tokenizer.eos().ok_or_else(|| {
            Error::Invalid("format is set, but the model has no end token to close it with".into())
        })?;
        let count = tokenizer.vocabulary() as u32;
        let spelling = |id| {
            let bytes = tokenizer.token_bytes(id).expect("ids below the vocabulary's size have bytes");
            match tokenizer.is_control(id) {
                // No text of a grammar spells a control token.
                true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                false => bytes.to_vec(),
            }
        };
        let words: Vec<Vec<u8>> = (0..count).map(spelling).collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, eos), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices);
        let mut factory = factory.map_err(|error| Error::Failed(format!("format: {error:#}")))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { factory, masks: Masks::start()? })
    }

    /// The start of a text that matches a JSON Schema; [`Error::Invalid`] says what is wrong with the
    /// schema.
    pub(crate) fn compile(&self, schema: &str) -> Result<Format, Error> {
        let ahead = Ahead::new(self.matcher(schema)?, self.masks.clone());
        Ok(Format { ahead, waiting: Duration::ZERO })
    }

    fn matcher(&self, schema: &str) -> Result<Matcher, Error> {
        let invalid = |reason: String| Error::Invalid(format!("format: {reason}"));
        if schema.len() > SCHEMA_BYTES_MAX {
            return Err(invalid(format!("{} bytes, expected at most {SCHEMA_BYTES_MAX}", schema.len())));
        }
        let mut schema: serde_json::Value =
            serde_json::from_str(schema).map_err(|error| invalid(format!("not JSON: {error}")))?;
        if !schema.is_object() {
            return Err(invalid("a schema is a JSON object".into()));
        }
        spacing().apply_to(&mut schema);
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(invalid(error)),
            None => Ok(matcher),
        }
    }
}

impl Format {
    /// Makes every token impossible that can't come next.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), Error> {
        let began = Instant::now();
        let allowed = self.ahead.take();
        self.waiting += began.elapsed();
        let allowed = allowed?;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token >= allowed.len() || !allowed.get(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on by a token that the mask allowed. True when nothing can follow.
    pub(crate) fn push(&mut self, token: u32) -> Result<bool, Error> {
        self.ahead.push(token)
    }

    /// Has the next mask computed meanwhile.
    pub(crate) fn look_ahead(&self) {
        self.ahead.ask();
    }

    /// What masks took since the last call.
    pub(crate) fn times(&mut self) -> MaskTimes {
        MaskTimes { computing: self.ahead.computing(), waiting: std::mem::take(&mut self.waiting) }
    }
}

/// The spacing of Python's `json.dumps`: what models have seen most, and no run of blanks that a
/// greedy model could get stuck in.
fn spacing() -> JsonCompileOptions {
    JsonCompileOptions {
        item_separator: ", ".into(),
        key_separator: ": ".into(),
        whitespace_flexible: false,
        ..JsonCompileOptions::default()
    }
}

/// The schema asks for more work than the limits allow.
fn failed(error: impl fmt::Display) -> Error {
    Error::Invalid(format!("format: {error}"))
}

impl fmt::Debug for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Formats").finish_non_exhaustive()
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Format").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gguf::Gguf, testing};

    pub(super) const SCHEMA: &str =
        r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}"#;

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_gguf(&Gguf::open(testing::model()).unwrap()).unwrap()
    }

    #[test]
    fn only_tokens_that_continue_the_format_stay_possible() {
        let tokenizer = tokenizer();
        let mut format = Formats::new(&tokenizer).unwrap().compile(SCHEMA).unwrap();
        let text = tokenizer.encode(r#"{"a": 12}"#, false).unwrap();
        let other = tokenizer.encode("Sure", false).unwrap()[0];
        for (at, token) in text.iter().enumerate() {
            let mut logits = vec![0.0; tokenizer.vocabulary()];
            format.mask(&mut logits).unwrap();
            assert_eq!(logits[*token as usize], 0.0, "token {at}");
            assert_eq!(logits[other as usize], f32::NEG_INFINITY, "token {at}");
            let is_done = format.push(*token).unwrap();
            assert_eq!(is_done, at + 1 == text.len(), "token {at}");
        }
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_invalid() {
        let formats = Formats::new(&tokenizer()).unwrap();
        let check = |schema: &str, expected: &str| {
            let error = formats.compile(schema).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error:?}");
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check("{", "format: not JSON");
        check("true", "format: a schema is a JSON object");
        check(r#"{"type": "banana"}"#, "format: ");
        check(&" ".repeat(70_000), "format: 70000 bytes, expected at most 65536");
    }
}
