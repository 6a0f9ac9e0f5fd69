//! Holds back text that could still become a stop string.

/// Cuts a text, given in pieces, before the first of some strings.
#[derive(Debug)]
pub(crate) struct StopFilter {
    stops: Vec<String>,
    /// A suffix of the text so far that is a prefix of a stop string.
    held: String,
}

/// What a piece of text lets out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Released {
    /// Text that is final.
    pub(crate) text: String,
    /// Whether a stop string followed it; the rest is dropped.
    pub(crate) is_stopped: bool,
}

impl StopFilter {
    /// A filter for these strings, none empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Released {
        let mut text = std::mem::take(&mut self.held) + piece;
        if let Some(cut) = cut(&text, &self.stops) {
            text.truncate(cut);
            return Released { text, is_stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&text, stop)).max().unwrap_or(0);
        self.held = text.split_off(text.len() - keep);
        Released { text, is_stopped: false }
    }

    /// What is held back, once nothing follows.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the stop string that is complete first begins; that doesn't depend on how the text was cut
/// into pieces.
fn cut(text: &str, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start)));
    found.min().map(|(_, start)| start)
}

/// Bytes of the longest suffix of `text` that `stop` begins with, short of the whole of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let is_overlap = |&length: &usize| {
        let suffix = &text.as_bytes()[text.len() - length..];
        stop.is_char_boundary(length) && stop.as_bytes().starts_with(suffix)
    };
    (1..=longest).rev().find(is_overlap).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::check_cases;

    /// Feeds the pieces until a stop; what comes out of each, and of the end.
    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], stopped: bool) {
        let mut filter = StopFilter::new(stops.iter().map(|stop| stop.to_string()).collect());
        let mut found = Vec::new();
        for piece in pieces {
            let released = filter.push(piece);
            found.push(released.text);
            if released.is_stopped {
                assert!(stopped, "stopped after {found:?}");
                assert_eq!(found, expected);
                return;
            }
        }
        found.push(filter.finish());
        assert_eq!(found, expected);
        assert!(!stopped, "nothing stopped {pieces:?}");
    }

    #[test]
    fn text_without_stop_strings_passes_at_once() {
        check(&[], &["a", "b"], &["a", "b", ""], false);
    }

    #[test]
    fn a_stop_string_across_pieces_is_cut() {
        check(&["END"], &["one E", "N", "D two"], &["one ", "", ""], true);
        check(&["END"], &["xEND"], &["x"], true);
    }

    #[test]
    fn text_that_only_began_like_a_stop_string_is_let_out() {
        check(&["END"], &["E", "NE", "MY"], &["", "EN", "EMY", ""], false);
        check(&["END"], &["the EN"], &["the ", "EN"], false);
    }

    #[test]
    fn the_first_complete_of_several_stop_strings_cuts() {
        check(&["b", "abc"], &["xa", "bc"], &["x", "a"], true);
        check(&["bc", "abc"], &["xa", "bc"], &["x", ""], true);
        check(&["\n\n", "###"], &["a\n", "#", "##"], &["a", "\n", ""], true);
    }

    #[test]
    fn characters_of_several_bytes_are_never_split() {
        check(&["é!"], &["caf", "é", "?"], &["caf", "", "é?", ""], false);
        check(&["日本"], &["日", "日本"], &["", "日"], true);
    }

    #[test]
    fn pieces_give_the_same_text_as_the_whole() {
        let stops = prop::collection::vec("[abc]{1,4}", 0..4);
        let cuts = prop::collection::vec(1..5usize, 30);
        check_cases(2000, &("[abc]{0,30}", stops, cuts), |(text, stops, cuts)| {
            let whole = cut(&text, &stops);
            let mut filter = StopFilter::new(stops);
            let (mut found, mut rest, mut is_stopped) = (String::new(), text.as_str(), false);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let released = filter.push(piece);
                found += &released.text;
                rest = after;
                is_stopped = released.is_stopped;
                if is_stopped {
                    break;
                }
            }
            found += &filter.finish();
            assert_eq!(is_stopped, whole.is_some());
            assert_eq!(found, &text[..whole.unwrap_or(text.len())]);
        });
    }
}
