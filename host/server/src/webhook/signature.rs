//! Signatures of webhooks: <https://www.standardwebhooks.com>, symmetric.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::RngExt;
use sha2::Sha256;

/// What a secret's text begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// What this node signs with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// One that nobody can guess.
    pub(super) fn random() -> Self {
        Self(rand::rng().random())
    }

    /// Reads [`Secret::text`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// As receivers are given it.
    pub(crate) fn text(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    /// The headers of a message.
    pub(super) fn sign(&self, id: &str, at: SystemTime, body: &[u8]) -> [(&'static str, String); 3] {
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length fits");
        for part in [id.as_bytes(), b".", seconds.as_bytes(), b".", body] {
            hmac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(hmac.finalize().into_bytes()));
        [("webhook-id", id.to_owned()), ("webhook-timestamp", seconds), ("webhook-signature", signature)]
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signature_is_the_one_that_receivers_compute() {
        // HMAC-SHA256 of `msg_1.1700000000.{"a":1}` by Python's hmac.
        let secret = Secret::parse("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let [id, time, signature] = secret.sign("msg_1", at, br#"{"a":1}"#);
        assert_eq!(
            (id, time),
            (("webhook-id", "msg_1".to_owned()), ("webhook-timestamp", "1700000000".to_owned()))
        );
        assert_eq!(
            signature,
            ("webhook-signature", "v1,AMaOha7DUT/0J0JMycRuYOBSvbx3WtwLd2khXXbaVj4=".to_owned())
        );
    }

    #[test]
    fn a_secret_reads_back_and_does_not_show_in_logs() {
        let secret = Secret::random();
        assert_eq!(Secret::parse(&secret.text()).unwrap(), secret);
        assert_eq!(secret.text().matches('_').count(), 1);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::parse("whsec_AAAA").is_none() && Secret::parse("AAAA").is_none());
    }
}
