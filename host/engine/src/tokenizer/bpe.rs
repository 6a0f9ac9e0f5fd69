//! Byte-level byte pair encoding (GPT-2; arXiv 1508.07909): the bytes of a piece merge in the order
//! of the model's list.

use hashbrown::HashMap;

use super::{
    merge::{Merge, Merger, NO_TOKEN},
    pieces::Pieces,
    vocabulary::{ByteLevelCharacters, Vocabulary},
};
use crate::{Error, gguf::Metadata};

const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// Merges of a byte-level vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    pieces: Pieces,
    /// Token of each byte; a vocabulary may lack bytes that its training never saw.
    byte_tokens: Vec<Option<u32>>,
    /// What a pair of tokens becomes.
    merges: HashMap<(u32, u32), Merge>,
}

impl Bpe {
    /// Reads `tokenizer.ggml.merges`.
    pub(super) fn from_metadata(
        metadata: Metadata<'_>,
        vocabulary: &Vocabulary,
        pieces: Pieces,
    ) -> Result<Self, Error> {
        let lines: Vec<&str> = metadata.require(MERGES_KEY)?;
        let characters = ByteLevelCharacters::new();
        let mut merges = HashMap::with_capacity(lines.len());
        let mut bytes = Vec::new();
        for (line, rank) in lines.into_iter().zip(0..) {
            let (pair, token) = read_merge(line, vocabulary, &characters, &mut bytes).ok_or_else(|| {
                metadata
                    .bad(MERGES_KEY, format!("has \"{line}\" at {rank}, which joins no two tokens to one"))
            })?;
            // Of a pair listed twice, the first counts.
            merges.entry(pair).or_insert(Merge { rank, token });
        }
        let byte_tokens = (0..=u8::MAX).map(|byte| vocabulary.find(&[byte])).collect();
        Ok(Self { pieces, byte_tokens, merges })
    }

    /// Appends the tokens of a text. Bytes without a token are left out.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) {
        self.pieces.split(text, |piece| {
            if self.pieces.whole_first()
                && let Some(token) = vocabulary.find(piece.as_bytes())
            {
                ids.push(token);
                return;
            }
            for (at, &byte) in piece.as_bytes().iter().enumerate() {
                merger.push(at, at + 1, self.byte_tokens[usize::from(byte)]);
            }
            merger.run(
                |left, right| self.merges.get(&(left.token, right.token)).copied(),
                |symbol| ids.extend((symbol.token != NO_TOKEN).then_some(symbol.token)),
            );
        });
    }
}

/// The pair of tokens of a line such as `Ġ t`, and the token they make.
fn read_merge(
    line: &str,
    vocabulary: &Vocabulary,
    characters: &ByteLevelCharacters,
    bytes: &mut Vec<u8>,
) -> Option<((u32, u32), u32)> {
    let (left, right) = line.split_once(' ')?;
    bytes.clear();
    characters.decode(left, bytes);
    let middle = bytes.len();
    characters.decode(right, bytes);
    let pair = (vocabulary.find(&bytes[..middle])?, vocabulary.find(&bytes[middle..])?);
    Some((pair, vocabulary.find(bytes)?))
}
