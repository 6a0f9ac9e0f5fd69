//! Finds tokens that a text spells out: control tokens when asked for, user-defined ones always.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::vocabulary::{Kind, Vocabulary};

/// Matchers of the tokens that are cut out of a text before it is tokenized; `None` if there are
/// no such tokens.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    all: Option<Matcher>,
    user_defined: Option<Matcher>,
}

#[derive(Debug)]
struct Matcher {
    automaton: AhoCorasick,
    /// Token of each pattern.
    tokens: Vec<u32>,
}

impl SpecialTokens {
    /// Builds the matchers; the text says why the tokens are too many for one.
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        Ok(Self {
            all: Matcher::new(vocabulary, Kind::is_special)?,
            user_defined: Matcher::new(vocabulary, |kind| kind == Kind::UserDefined)?,
        })
    }

    /// The tokens spelled in a text, from left to right, the longest where several start.
    pub(super) fn find<'a>(
        &'a self,
        text: &'a str,
        special: bool,
    ) -> impl Iterator<Item = (Range<usize>, u32)> + 'a {
        let matcher = if special { &self.all } else { &self.user_defined };
        matcher.iter().flat_map(move |matcher| {
            matcher.automaton.find_iter(text).map(|found| (found.range(), matcher.tokens[found.pattern()]))
        })
    }
}

impl Matcher {
    fn new(vocabulary: &Vocabulary, included: impl Fn(Kind) -> bool) -> Result<Option<Self>, String> {
        let tokens: Vec<u32> = vocabulary
            .tokens()
            .filter(|&id| included(vocabulary.kind(id)) && is_text(vocabulary.bytes(id)))
            .collect();
        if tokens.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|&id| vocabulary.bytes(id)))
            .map_err(|e| format!("its special tokens can't be searched for: {e}"))?;
        Ok(Some(Self { automaton, tokens }))
    }
}

/// Whether bytes are whole characters, so that what is left around them is text, too.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_ok()
}
