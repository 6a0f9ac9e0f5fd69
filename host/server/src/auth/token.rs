//! A token, and the secret that its owner has.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::Scope;
use crate::{function::Digest, prediction::new_id};

/// What a token's text begins with, so that it is recognised where it does not belong.
const PREFIX: &str = "dm_";
/// Characters of a token's public name.
const ID_LEN: usize = 10;

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// What it is called when it is listed and revoked.
    pub(crate) id: TokenId,
    /// What its maker calls it.
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    /// The functions that it is for; `None` when all.
    pub(crate) functions: Option<Vec<String>>,
    /// Since 1970.
    pub(crate) created_ms: u64,
    /// Since 1970.
    pub(crate) expires_ms: Option<u64>,
}

/// A token's public name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TokenId(pub(crate) String);

impl Token {
    pub(crate) fn new(
        name: String,
        scopes: Vec<Scope>,
        functions: Option<Vec<String>>,
        now: SystemTime,
        expires_at: Option<SystemTime>,
    ) -> Self {
        let id = TokenId(new_id()[..ID_LEN].to_owned());
        Self { id, name, scopes, functions, created_ms: millis(now), expires_ms: expires_at.map(millis) }
    }

    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        self.expires_ms.is_none_or(|expires| millis(now) < expires)
    }

    pub(crate) fn created_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.created_ms)
    }

    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.expires_ms.map(|millis| UNIX_EPOCH + Duration::from_millis(millis))
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

/// What a token's owner sends. It does not show in logs.
pub(crate) struct Secret(String);

impl Secret {
    pub(super) fn random() -> Self {
        Self(format!("{PREFIX}{}", new_id()))
    }

    /// What its owner is told, once.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub(super) fn key(&self) -> String {
        Self::key_of(self.0.as_bytes())
    }

    /// What is kept of a token that somebody sent.
    pub(super) fn key_of(given: &[u8]) -> String {
        Digest::of(given).as_str().to_owned()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_when_its_time_is_over() {
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        let token = |expires| Token::new(String::new(), vec![Scope::Invoke], None, at(1), expires);
        assert!(token(None).is_valid(at(1 << 40)));
        assert!(token(Some(at(5))).is_valid(at(4)) && !token(Some(at(5))).is_valid(at(5)));
    }

    #[test]
    fn what_is_kept_does_not_tell_the_secret() {
        let secret = Secret::random();
        assert_ne!(secret.key(), Secret::random().key());
        assert_eq!(secret.key(), Secret::key_of(secret.reveal().as_bytes()));
        assert_eq!((secret.key().len(), format!("{secret:?}")), (64, "Secret(..)".to_owned()));
    }
}
