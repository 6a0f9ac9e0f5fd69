//! Text to token ids and back, from the vocabulary that a model's file carries.
//!
//! `special` cuts out the tokens that are spelled in the text as such; `pieces` and `bpe`, or `spm`,
//! turn the rest into tokens, both by the merge loop of `merge`, or `wordpiece` does. [`Detokenizer`]
//! goes the other way one token at a time. Ids are those that llama.cpp finds.

mod bpe;
mod detokenizer;
mod merge;
mod pieces;
mod special;
mod spm;
mod vocabulary;
mod wordpiece;

#[cfg(test)]
mod tests;

use crate::{
    Error,
    gguf::{Gguf, Metadata},
};
use bpe::Bpe;
use merge::Merger;
use pieces::Pieces;
use special::SpecialTokens;
use spm::Spm;
use vocabulary::{Kind, Spelling, Vocabulary};
use wordpiece::WordPiece;

pub(crate) use detokenizer::Detokenizer;

/// The most bytes of one text. The merge loop takes up to 40 bytes of memory for each.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Tokens that end a generation, as llama.cpp lists them: files often name only one of several in
/// their metadata.
const END_TOKENS: [&str; 15] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    // These begin another file in models of code.
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<reponame>",
    "<|file_sep|>",
];

/// A model's tokenizer. Immutable; every method may be called from any thread.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    ends: Vec<u32>,
}

/// How text between special tokens becomes tokens.
#[derive(Debug)]
enum Algorithm {
    /// `gpt2`: byte-level byte pair encoding.
    Bpe(Bpe),
    /// `llama`: SentencePiece's BPE.
    Spm(Spm),
    /// `bert`.
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// Builds the tokenizer of a file; [`Error::BadModel`] when its metadata lack something or
    /// contradict each other, or name a kind of tokenizer that this engine doesn't have.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let metadata = gguf.metadata();
        let model: &str = metadata.require("tokenizer.ggml.model")?;
        let (vocabulary, algorithm, bos_by_default) = match model {
            "gpt2" => {
                let pieces = Pieces::of_name(metadata.require("tokenizer.ggml.pre")?)
                    .map_err(|e| metadata.bad("tokenizer.ggml.pre", e))?;
                let vocabulary = Vocabulary::from_metadata(metadata, Spelling::ByteLevel)?;
                let bos = pieces.bos_by_default();
                let bpe = Bpe::from_metadata(metadata, &vocabulary, pieces)?;
                (vocabulary, Algorithm::Bpe(bpe), bos)
            }
            "llama" => {
                let vocabulary = Vocabulary::from_metadata(metadata, Spelling::SentencePiece)?;
                let spm = Spm::from_metadata(metadata, &vocabulary)?;
                (vocabulary, Algorithm::Spm(spm), true)
            }
            "bert" => {
                let vocabulary = Vocabulary::from_metadata(metadata, Spelling::SentencePiece)?;
                let key = "tokenizer.ggml.unknown_token_id";
                let unknown = token_id(metadata, key, vocabulary.len())?.or(vocabulary.find_any("[UNK]"));
                let unknown =
                    unknown.ok_or_else(|| metadata.bad(key, "is missing, and no token is [UNK]"))?;
                let wordpiece = WordPiece::new(&vocabulary, unknown);
                (vocabulary, Algorithm::WordPiece(wordpiece), true)
            }
            other => {
                let problem =
                    format!("names tokenizer \"{other}\", this engine has \"gpt2\", \"llama\" and \"bert\"");
                return Err(metadata.bad("tokenizer.ggml.model", problem));
            }
        };
        let token = |key| token_id(metadata, key, vocabulary.len());
        let is_bert = matches!(algorithm, Algorithm::WordPiece(_));
        let [bos_key, eos_key] = match is_bert {
            true => ["tokenizer.ggml.cls_token_id", "tokenizer.ggml.seperator_token_id"],
            false => ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"],
        };
        let (mut bos, mut eos) = (token(bos_key)?, token(eos_key)?);
        if is_bert {
            // Older files name the tokens around a text as those that begin and end it.
            bos = bos.or(token("tokenizer.ggml.bos_token_id")?);
            eos = eos.or(token("tokenizer.ggml.eos_token_id")?);
        }
        let mut ends: Vec<u32> = END_TOKENS.iter().flat_map(|text| vocabulary.find_any(text)).collect();
        ends.extend(eos);
        ends.extend(token("tokenizer.ggml.eot_token_id")?);
        ends.extend(token("tokenizer.ggml.eom_token_id")?);
        ends.sort_unstable();
        ends.dedup();
        Ok(Self {
            special: SpecialTokens::new(&vocabulary).map_err(|e| gguf.bad(e))?,
            add_bos: metadata.get("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default),
            add_eos: metadata.get("tokenizer.ggml.add_eos_token")?.unwrap_or(is_bert),
            vocabulary,
            algorithm,
            bos,
            eos,
            ends,
        })
    }

    /// The tokens of a text, without begin or end tokens. `special` reads control tokens spelled in
    /// it as such; user-defined tokens always are. Time grows as `n log n` whatever the text.
    ///
    /// A byte that a byte-level vocabulary has no token for is left out.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        if text.len() > TEXT_BYTES_MAX {
            let len = text.len();
            return Err(Error::Invalid(format!(
                "text has {len} bytes, at most {TEXT_BYTES_MAX} are tokenized at once"
            )));
        }
        let mut ids = Vec::new();
        let mut merger = Merger::default();
        let mut at = 0;
        for (range, token) in self.special.find(text, special) {
            self.encode_ordinary(&text[at..range.start], &mut merger, &mut ids);
            ids.push(token);
            at = range.end;
        }
        self.encode_ordinary(&text[at..], &mut merger, &mut ids);
        Ok(ids)
    }

    /// [`Tokenizer::encode`] for a whole prompt: begins and ends with the tokens that the model
    /// wants there, unless the text spells them already.
    pub(crate) fn encode_prompt(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let mut ids = self.encode(text, special)?;
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        if let Some(eos) = self.eos.filter(|eos| self.add_eos && ids.last() != Some(eos)) {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// The text of tokens, control tokens spelled out; bytes that are not UTF-8 become U+FFFD. The
    /// space that SPM puts before a text is taken off again, so this undoes [`Tokenizer::encode`].
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        let space = match &self.algorithm {
            Algorithm::Spm(spm) => spm.add_space(),
            Algorithm::WordPiece(_) => true,
            Algorithm::Bpe(_) => false,
        };
        let mut bytes = Vec::new();
        let mut strip = space;
        for &id in ids {
            let token = self.token_bytes(id).ok_or_else(|| self.no_such_token(id))?;
            let is_special = self.vocabulary.kind(id).is_special();
            bytes.extend(if strip && !is_special {
                token.strip_prefix(b" ").unwrap_or(token)
            } else {
                token
            });
            strip = space && is_special;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes a token stands for; `None` beyond the vocabulary.
    pub(crate) fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.vocabulary.len()).then(|| self.vocabulary.bytes(id))
    }

    /// Whether a token steers the model and is no text: begin, end, turns, unknown.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        (id as usize) < self.vocabulary.len()
            && matches!(self.vocabulary.kind(id), Kind::Control | Kind::Unknown)
    }

    /// Whether a token ends a generation: end of text, of turn or of message.
    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The begin token, if the file names one.
    pub(crate) fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end token, if the file names one.
    pub(crate) fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Number of token ids.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary.len()
    }

    fn encode_ordinary(&self, text: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&self.vocabulary, text, merger, ids),
            Algorithm::Spm(spm) => spm.encode(&self.vocabulary, text, merger, ids),
            Algorithm::WordPiece(wordpiece) => wordpiece.encode(&self.vocabulary, text, ids),
        }
    }

    fn no_such_token(&self, id: u32) -> Error {
        Error::Invalid(format!("token {id} is beyond the vocabulary of {}", self.vocabulary.len()))
    }
}

/// A token that the metadata name, checked against the vocabulary.
fn token_id(metadata: Metadata<'_>, key: &str, vocabulary: usize) -> Result<Option<u32>, Error> {
    match metadata.get::<u32>(key)? {
        Some(id) if id as usize >= vocabulary => {
            Err(metadata.bad(key, format!("is {id}, the vocabulary has {vocabulary} tokens")))
        }
        id => Ok(id),
    }
}
