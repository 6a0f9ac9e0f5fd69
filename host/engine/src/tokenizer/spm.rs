//! SentencePiece's byte pair encoding: of neighbours that make a token, those of the highest score
//! merge first; characters without a token become bytes.

use super::{
    merge::{Merge, Merger, NO_TOKEN, Symbol},
    vocabulary::{Kind, Vocabulary},
};
use crate::{Error, gguf::Metadata};

const SCORES_KEY: &str = "tokenizer.ggml.scores";

/// Scores of a SentencePiece vocabulary. Texts and tokens have spaces where the file has U+2581.
#[derive(Debug)]
pub(super) struct Spm {
    /// Merge order of each token: the higher its score, the lower.
    ranks: Vec<u32>,
    /// Token of each byte.
    byte_tokens: Vec<Option<u32>>,
    /// What stands for a character when even its bytes have no token.
    unknown: Option<u32>,
    /// Whether a text, and what follows a special token, begins with a space.
    add_space: bool,
    /// Bytes of the longest token.
    token_bytes_max: usize,
}

impl Spm {
    /// Reads `tokenizer.ggml.scores`.
    pub(super) fn from_metadata(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<Self, Error> {
        let scores: Vec<f32> = metadata.require(SCORES_KEY)?;
        if scores.len() != vocabulary.len() {
            let problem = format!("has {} elements for {} tokens", scores.len(), vocabulary.len());
            return Err(metadata.bad(SCORES_KEY, problem));
        }
        let mut byte_tokens = vec![None; 256];
        let mut unknown = None;
        let mut token_bytes_max = 0;
        for id in vocabulary.tokens() {
            let bytes = vocabulary.bytes(id);
            match vocabulary.kind(id) {
                Kind::Byte => byte_tokens[usize::from(bytes[0])] = Some(id),
                Kind::Unknown => unknown = unknown.or(Some(id)),
                _ => token_bytes_max = token_bytes_max.max(bytes.len()),
            }
        }
        Ok(Self {
            ranks: scores.into_iter().map(rank_of_score).collect(),
            byte_tokens,
            unknown,
            add_space: metadata.get("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            token_bytes_max,
        })
    }

    /// Whether a text, and what follows a special token, begins with a space that isn't in it.
    pub(super) fn add_space(&self) -> bool {
        self.add_space
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        let prefix = if self.add_space { " " } else { "" };
        let text = format!("{prefix}{}", text.replace('\u{2581}', " "));
        let bytes = text.as_bytes();
        for (start, character) in text.char_indices() {
            let end = start + character.len_utf8();
            merger.push(start, end, vocabulary.find(&bytes[start..end]));
        }
        merger.run(
            |left, right| {
                let joined = &bytes[left.start as usize..right.end as usize];
                let token = (joined.len() <= self.token_bytes_max).then(|| vocabulary.find(joined))??;
                Some(Merge { rank: self.ranks[token as usize], token })
            },
            |symbol| self.push_tokens(symbol, bytes, ids),
        );
    }

    /// Appends a symbol's token, or those of its bytes.
    fn push_tokens(&self, symbol: Symbol, text: &[u8], ids: &mut Vec<u32>) {
        if symbol.token != NO_TOKEN {
            return ids.push(symbol.token);
        }
        let bytes = &text[symbol.start as usize..symbol.end as usize];
        let before = ids.len();
        ids.extend(bytes.iter().map_while(|&byte| self.byte_tokens[usize::from(byte)]));
        if ids.len() - before < bytes.len() {
            ids.truncate(before);
            ids.extend(self.unknown);
        }
    }
}

/// Maps scores to integers in the opposite order. Any bit pattern has its place, NaN at the ends.
fn rank_of_score(score: f32) -> u32 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_score_has_a_lower_rank() {
        let descending = [f32::INFINITY, 3.5, 1.0, 0.0, -0.0, -1.0, -1e9, f32::NEG_INFINITY];
        let ranks = descending.map(rank_of_score);
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }
}
