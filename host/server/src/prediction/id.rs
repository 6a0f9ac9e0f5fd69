//! Names of predictions: ours can't be guessed, a client may bring its own.

use rand::RngExt;

use crate::function::{NameError, text_type};

/// Bytes of a client's own id.
const ID_BYTES_MAX: usize = 128;
const RULE: &str = "1 to 128 letters, digits and - . _ ~ : @ + =";

/// A prediction's name on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PredictionId(std::sync::Arc<str>);
text_type!(PredictionId);

impl PredictionId {
    /// A new one that nobody can guess.
    pub(crate) fn random() -> Self {
        Self(new_id().into())
    }

    /// A client's own.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@+=".contains(&byte);
        match (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fit) {
            true => Ok(Self(text.into())),
            false => Err(NameError::new("prediction id", text, RULE)),
        }
    }
}

/// 128 random bits in lower-case base 32 (RFC 4648's alphabet).
pub(crate) fn new_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bits: u128 = rand::rng().random();
    let mut id = String::with_capacity(26);
    for _ in 0..26 {
        id.push(char::from(ALPHABET[(bits & 31) as usize]));
        bits >>= 5;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_id_fits_a_path() {
        for id in ["a", "9f-bb_c.d~e:f@", &"x".repeat(128), PredictionId::random().as_str()] {
            assert_eq!(PredictionId::parse(id).unwrap().as_str(), id);
        }
        for id in ["", "a/b", "a b", "a?b", "a#", "a%2f", "a,b", "ä", "a\n", &"x".repeat(129)] {
            assert!(PredictionId::parse(id).is_err(), "{id:?}");
        }
    }
}
