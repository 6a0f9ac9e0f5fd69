//! The tokens of a model: the bytes each stands for, and which token some bytes are.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{Error, gguf::Metadata};

const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const KINDS_KEY: &str = "tokenizer.ggml.token_type";

/// The most tokens of a vocabulary; the largest known has 262,208.
const TOKENS_MAX: usize = 1 << 22;

/// How a file spells the bytes of ordinary tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// U+2581 for a space, and tokens of kind byte as `<0x0A>`.
    SentencePiece,
}

/// What a token is for, `llama_token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Stands for what the vocabulary can't spell.
    Unknown,
    /// Steers the model; not text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never produced by training.
    Unused,
    /// One byte, where no other token fits.
    Byte,
}

impl Kind {
    fn read(id: i32) -> Option<Self> {
        match id {
            1 => Some(Self::Normal),
            2 => Some(Self::Unknown),
            3 => Some(Self::Control),
            4 => Some(Self::UserDefined),
            5 => Some(Self::Unused),
            6 => Some(Self::Byte),
            _ => None,
        }
    }

    /// Whether tokens of this kind are cut out of a text before anything else.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// The tokens of a model. Their bytes lie in one buffer, and the table holds only ids, so that a
/// large vocabulary is built without an allocation for each token.
#[derive(Debug)]
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Ids of tokens that merges can make, by their bytes.
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Vocabulary {
    /// Reads `tokenizer.ggml.tokens` and their types.
    pub(super) fn from_metadata(metadata: Metadata<'_>, spelling: Spelling) -> Result<Self, Error> {
        let texts: Vec<&str> = metadata.require(TOKENS_KEY)?;
        if texts.is_empty() || texts.len() > TOKENS_MAX {
            let problem = format!("has {} tokens, 1 to {TOKENS_MAX} are read", texts.len());
            return Err(metadata.bad(TOKENS_KEY, problem));
        }
        let mut vocabulary = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(texts.len()),
            kinds: read_kinds(metadata, texts.len())?,
            ids: HashTable::with_capacity(texts.len()),
            hasher: DefaultHashBuilder::default(),
        };
        let characters = ByteLevelCharacters::new();
        for (text, id) in texts.into_iter().zip(0..) {
            let kind = vocabulary.kinds[id as usize];
            spell(text, kind, spelling, &characters, &mut vocabulary.bytes)
                .map_err(|problem| metadata.bad(TOKENS_KEY, problem))?;
            let end = u32::try_from(vocabulary.bytes.len())
                .map_err(|_| metadata.bad(TOKENS_KEY, "has more than 4 GiB of text"))?;
            vocabulary.ends.push(end);
            let is_merged = match kind {
                Kind::Normal | Kind::Unused => true,
                // SentencePiece only cuts them out whole; a byte-level list of merges may have them.
                Kind::UserDefined => spelling == Spelling::ByteLevel,
                Kind::Unknown | Kind::Control | Kind::Byte => false,
            };
            if is_merged {
                vocabulary.insert(id);
            }
        }
        Ok(vocabulary)
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes a token stands for. Panics beyond the vocabulary.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..self.ends[id] as usize]
    }

    /// What a token is for. Panics beyond the vocabulary.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    /// Every token id.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.len() as u32
    }

    /// The token that merges can make of some bytes; of several with the same bytes, the first.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(bytes), |&id| self.bytes(id) == bytes).copied()
    }

    /// The token that stands for this text, whatever its kind.
    pub(super) fn find_any(&self, text: &str) -> Option<u32> {
        let is_it = |id: &u32| self.kind(*id).is_special() && self.bytes(*id) == text.as_bytes();
        self.find(text.as_bytes()).or_else(|| self.tokens().find(is_it))
    }

    /// Makes a token findable unless another has its bytes.
    fn insert(&mut self, id: u32) {
        let Self { bytes, ends, ids, hasher, .. } = self;
        let bytes_of = |id: u32| {
            let start = if id == 0 { 0 } else { ends[id as usize - 1] };
            &bytes[start as usize..ends[id as usize] as usize]
        };
        let own = bytes_of(id);
        if own.is_empty() || ids.find(hasher.hash_one(own), |&other| bytes_of(other) == own).is_some() {
            return;
        }
        ids.insert_unique(hasher.hash_one(own), id, |&id| hasher.hash_one(bytes_of(id)));
    }
}

fn read_kinds(metadata: Metadata<'_>, tokens: usize) -> Result<Vec<Kind>, Error> {
    let Some(ids) = metadata.get::<Vec<i32>>(KINDS_KEY)? else {
        return Ok(vec![Kind::Normal; tokens]);
    };
    if ids.len() != tokens {
        return Err(metadata.bad(KINDS_KEY, format!("has {} elements for {tokens} tokens", ids.len())));
    }
    ids.into_iter()
        .map(|id| Kind::read(id).ok_or_else(|| metadata.bad(KINDS_KEY, format!("has unknown type {id}"))))
        .collect()
}

/// Appends the bytes that a token of the file stands for.
fn spell(
    text: &str,
    kind: Kind,
    spelling: Spelling,
    characters: &ByteLevelCharacters,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    match (kind, spelling) {
        (Kind::Unknown | Kind::Control, _) | (Kind::UserDefined, Spelling::ByteLevel) => {
            bytes.extend(text.as_bytes());
        }
        (Kind::Byte, _) => match parse_byte(text) {
            Some(byte) => bytes.push(byte),
            None => return Err(format!("has byte token \"{text}\", expected <0x00> to <0xFF>")),
        },
        (Kind::Normal | Kind::Unused, Spelling::ByteLevel) => characters.decode(text, bytes),
        (Kind::Normal | Kind::Unused | Kind::UserDefined, Spelling::SentencePiece) => {
            for (i, part) in text.split('\u{2581}').enumerate() {
                bytes.extend(if i == 0 { "" } else { " " }.as_bytes());
                bytes.extend(part.as_bytes());
            }
        }
    }
    Ok(())
}

/// The byte of a token such as `<0x0A>`.
fn parse_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's `bytes_to_unicode`: printable Latin-1 bytes are themselves, the others are U+0100 and up.
pub(super) struct ByteLevelCharacters {
    byte_of: [Option<u8>; 0x144],
}

impl ByteLevelCharacters {
    pub(super) fn new() -> Self {
        let mut byte_of = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            let character = match byte {
                b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => usize::from(byte),
                _ => {
                    next += 1;
                    next - 1
                }
            };
            byte_of[character] = Some(byte);
        }
        Self { byte_of }
    }

    /// Appends the bytes of a token. One with other characters isn't byte-level: it stands for itself.
    pub(super) fn decode(&self, text: &str, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        for character in text.chars() {
            match self.byte_of.get(character as usize).copied().flatten() {
                Some(byte) => bytes.push(byte),
                None => {
                    bytes.truncate(start);
                    bytes.extend(text.as_bytes());
                    return;
                }
            }
        }
    }
}
