//! WordPiece, BERT's (arXiv 1810.04805): text is lower-cased and stripped of accents, cut into words and
//! signs, and each word into the longest pieces there are, from left to right.

use icu_normalizer::DecomposingNormalizerBorrowed;
use unicode_general_category::{GeneralCategory, get_general_category};

use super::vocabulary::Vocabulary;

/// Characters of the longest word that is cut into pieces; a longer one is unknown.
const WORD_CHARS_MAX: usize = 100;

/// A WordPiece tokenizer. Pieces that begin a word begin with a space in the vocabulary.
#[derive(Debug)]
pub(super) struct WordPiece {
    /// Stands for a word that no pieces make up.
    unknown: u32,
    /// Bytes of the longest piece.
    piece_bytes_max: usize,
}

impl WordPiece {
    /// The tokenizer of a vocabulary; `unknown` stands for words that it can't spell.
    pub(super) fn new(vocabulary: &Vocabulary, unknown: u32) -> Self {
        let lengths = vocabulary.tokens().map(|id| vocabulary.bytes(id).len());
        Self { unknown, piece_bytes_max: lengths.max().unwrap_or(0) }
    }

    /// Appends the tokens of a text.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
        let mut word = String::new();
        for part in parts(text) {
            if let Part::Letter(letter) = part {
                word.push(letter);
                continue;
            }
            self.push_word(vocabulary, &word, ids);
            word.clear();
            if let Part::Sign(sign) = part {
                self.push_word(vocabulary, sign.encode_utf8(&mut [0; 4]), ids);
            }
        }
        self.push_word(vocabulary, &word, ids);
    }

    fn push_word(&self, vocabulary: &Vocabulary, word: &str, ids: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        let before = ids.len();
        let text = format!(" {word}");
        let mut start = 0;
        while start < text.len() {
            let longest = (start + self.piece_bytes_max).min(text.len());
            // The space alone is no piece.
            let ends = (start + 1..=longest).rev().filter(|end| text.is_char_boundary(*end) && *end > 1);
            let piece = ends
                .map(|end| (end, vocabulary.find(&text.as_bytes()[start..end])))
                .find_map(|(end, id)| id.map(|id| (end, id)));
            match piece {
                Some((end, id)) if word.chars().count() <= WORD_CHARS_MAX => {
                    ids.push(id);
                    start = end;
                }
                _ => {
                    ids.truncate(before);
                    return ids.push(self.unknown);
                }
            }
        }
    }
}

/// What text is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Of a word, in lower case.
    Letter(char),
    /// A word by itself: punctuation or an ideograph.
    Sign(char),
    /// Between words.
    Space,
}

/// The parts of a text: decomposed, without accents and control characters, in lower case.
fn parts(text: &str) -> impl Iterator<Item = Part> {
    let decomposed = DecomposingNormalizerBorrowed::new_nfd().normalize_iter(text.chars());
    decomposed.flat_map(|character| {
        let part = part(character);
        let letters = part.is_none().then(|| character.to_lowercase()).into_iter().flatten();
        part.flatten().into_iter().chain(letters.map(Part::Letter))
    })
}

/// A character as a sign or a space, or as nothing; `None` if it is a letter.
fn part(character: char) -> Option<Option<Part>> {
    use GeneralCategory::{
        ClosePunctuation, ConnectorPunctuation, Control, DashPunctuation, FinalPunctuation, Format,
        InitialPunctuation, NonspacingMark, OpenPunctuation, OtherPunctuation, PrivateUse,
    };
    if character.is_whitespace() {
        return Some(Some(Part::Space));
    }
    if character.is_ascii_punctuation() || is_ideograph(character) {
        return Some(Some(Part::Sign(character)));
    }
    match get_general_category(character) {
        Control | Format | PrivateUse | NonspacingMark => Some(None),
        ClosePunctuation | ConnectorPunctuation | DashPunctuation | FinalPunctuation | InitialPunctuation
        | OpenPunctuation | OtherPunctuation => Some(Some(Part::Sign(character))),
        _ if character == '\u{FFFD}' => Some(None),
        _ => None,
    }
}

/// The blocks that BERT's own tokenizer counts as Chinese characters.
fn is_ideograph(character: char) -> bool {
    matches!(character,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{20000}'..='\u{2A6DF}'
        | '\u{2A700}'..='\u{2B73F}' | '\u{2B740}'..='\u{2B81F}' | '\u{2B820}'..='\u{2CEAF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{2F800}'..='\u{2FA1F}')
}
