//! Pre-tokenizers: cut a text into the pieces that byte-level BPE merges within.
//!
//! The models' own regexes end in `\s+(?!\S)|\s+`. The look-ahead is done by hand, so that an
//! automaton without backtracking matches the rest and time is linear whatever the text.

use regex_automata::{Anchored, Input, meta::Regex};

/// GPT-2's words. Whitespace before a word goes to the piece before, but for one space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// Llama 3's words: up to three digits, line ends kept together.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);

/// Qwen 2's words: Llama 3's with single digits.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);

/// A pre-tokenizer.
#[derive(Debug)]
pub(super) struct Pieces {
    style: Style,
    words: Regex,
}

/// How a family of models cuts text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Gpt2,
    /// GPT-2's, after every digit is cut out.
    Smollm,
    Llama3,
    Qwen2,
}

impl Pieces {
    /// The pre-tokenizer that `tokenizer.ggml.pre` names. Files that say `default` don't know which
    /// one their model was trained with, and are refused: a wrong one gives wrong text quietly.
    pub(super) fn of_name(name: &str) -> Result<Self, String> {
        let (style, words) = match name {
            "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" => (Style::Gpt2, GPT2),
            "smollm" | "starcoder" | "refact" | "command-r" => (Style::Smollm, GPT2),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" => (Style::Llama3, LLAMA3),
            "qwen2" | "deepseek-r1-qwen" => (Style::Qwen2, QWEN2),
            other => {
                return Err(format!(
                    "names pre-tokenizer \"{other}\", this engine has gpt-2, smollm, llama-bpe and qwen2"
                ));
            }
        };
        let words = Regex::new(words).expect("the patterns are constants");
        Ok(Self { style, words })
    }

    /// Whether models of this kind begin prompts with a begin token when their file doesn't say.
    pub(super) fn bos_by_default(&self) -> bool {
        self.style == Style::Llama3
    }

    /// Whether a piece that is a token is that token, whatever merges would make of it.
    pub(super) fn whole_first(&self) -> bool {
        self.style == Style::Llama3
    }

    /// Calls `each` with the pieces of a text in order; together they are the text.
    pub(super) fn split(&self, text: &str, mut each: impl FnMut(&str)) {
        if self.style != Style::Smollm {
            return self.split_words(text, &mut each);
        }
        let mut at = 0;
        // `char::is_numeric` is `\p{N}`.
        for (start, digit) in text.match_indices(char::is_numeric) {
            self.split_words(&text[at..start], &mut each);
            each(digit);
            at = start + digit.len();
        }
        self.split_words(&text[at..], &mut each);
    }

    fn split_words(&self, text: &str, each: &mut impl FnMut(&str)) {
        let mut at = 0;
        while at < text.len() {
            let input = Input::new(text).range(at..).anchored(Anchored::Yes);
            // One of the alternatives takes any character.
            let end = self.words.search_half(&input).map_or(text.len(), |found| found.offset());
            let end = self.leave_whitespace(text, at, end);
            each(&text[at..end]);
            at = end;
        }
    }

    /// `\s+(?!\S)`: whitespace between a longer run of it and a word goes with the word, so a match
    /// of `\s+` gives its last character back.
    fn leave_whitespace(&self, text: &str, start: usize, end: usize) -> usize {
        let last = text[start..end].chars().next_back().expect("matches aren't empty");
        let takes_line_ends = matches!(self.style, Style::Llama3 | Style::Qwen2);
        let is_run = last.is_whitespace() && !(takes_line_ends && matches!(last, '\r' | '\n'));
        let is_longer = end - start > last.len_utf8();
        if is_run && is_longer && end < text.len() { end - last.len_utf8() } else { end }
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
        pre_tokenizers::split::{Split, SplitPattern},
    };

    use super::*;
    use crate::testing::{check_cases, texts};

    fn check(name: &str, text: &str, expected: &[&str]) {
        let mut pieces = Vec::new();
        Pieces::of_name(name).unwrap().split(text, |piece| pieces.push(piece.to_owned()));
        assert_eq!(pieces, expected, "{name}");
    }

    #[test]
    fn gpt2_keeps_one_space_with_a_word() {
        check("gpt-2", "it's  two   words  ", &["it", "'s", " ", " two", "  ", " words", "  "]);
        check("gpt-2", "\n\nx\n", &["\n", "\n", "x", "\n"]);
        check("gpt-2", "a12 345!?", &["a", "12", " 345", "!?"]);
        check("gpt-2", "IT'S", &["IT", "'", "S"]);
    }

    #[test]
    fn smollm_cuts_every_digit_out_first() {
        check("smollm", "a12 3", &["a", "1", "2", " ", "3"]);
        check("smollm", "x  4  y", &["x", "  ", "4", " ", " y"]);
        check("smollm", "½ⅷ٣", &["½", "ⅷ", "٣"]);
    }

    #[test]
    fn llama3_takes_three_digits_and_line_ends_together() {
        check("llama-bpe", "12345 IT'S", &["123", "45", " IT", "'S"]);
        check("llama-bpe", "a\n\n  b", &["a", "\n\n", " ", " b"]);
        check("llama-bpe", "x!\n\ny  \n z", &["x", "!\n\n", "y", "  \n", " z"]);
        check("llama-bpe", "(word) \t", &["(word", ")", " \t"]);
    }

    #[test]
    fn qwen2_takes_single_digits() {
        check("qwen2", "v12 3", &["v", "1", "2", " ", "3"]);
    }

    #[test]
    fn pieces_are_those_of_the_models_own_regexes() {
        let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
        let rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let words = r"[^\r\n\p{L}\p{N}]?\p{L}+";
        let regexes = [
            (
                "gpt-2",
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+".to_owned(),
            ),
            ("llama-bpe", format!(r"{contractions}|{words}|\p{{N}}{{1,3}}|{rest}")),
            ("qwen2", format!(r"{contractions}|{words}|\p{{N}}|{rest}")),
        ];
        for (name, regex) in regexes {
            let ours = Pieces::of_name(name).unwrap();
            let pattern = SplitPattern::Regex(regex);
            let theirs = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            check_cases(2000, &texts(), |text| {
                let mut expected = PreTokenizedString::from(text.as_str());
                theirs.pre_tokenize(&mut expected).unwrap();
                let expected = expected.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let expected: Vec<&str> = expected.iter().map(|(piece, _, _)| *piece).collect();
                let mut pieces = Vec::new();
                ours.split(&text, |piece| pieces.push(piece.to_owned()));
                assert_eq!(pieces, expected, "{name}");
            });
        }
    }

    #[test]
    fn a_default_pre_tokenizer_is_refused_by_name() {
        let refusal = Pieces::of_name("default").unwrap_err();
        assert!(refusal.contains("\"default\""), "{refusal}");
    }
}
