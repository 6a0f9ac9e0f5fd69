//! Tokens to text as they are generated.

use super::Tokenizer;

/// Turns a stream of tokens into text. A character whose bytes are spread over tokens is held back
/// until it is whole: at most 3 bytes wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detokenizer {
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// A detokenizer at the start of a text, or where a prompt left off.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The text that a token completes, perhaps none. Bytes that can't be UTF-8 become U+FFFD;
    /// control tokens have no text.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        if !tokenizer.is_control(token) {
            self.pending.extend(tokenizer.token_bytes(token).unwrap_or_default());
        }
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(std::str::from_utf8(valid).expect("it is valid up to here"));
            rest = after;
            // An error without a length is a character that isn't whole yet.
            let Some(len) = error.error_len() else {
                self.pending = rest.to_vec();
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[len..];
        }
        text.push_str(std::str::from_utf8(rest).expect("the loop ends on valid text"));
        self.pending.clear();
        text
    }

    /// What is left at the end: a character that never became whole is one U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&pending).into_owned()
    }
}
