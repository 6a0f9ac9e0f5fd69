//! Signatures of requests: AWS Signature Version 4,
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.
//!
//! What is signed is the head and the SHA-256 of the body, so the body is read first, within its bound; a
//! request with an unknown key or a time that is off is refused before that. A body that isn't signed
//! (`UNSIGNED-PAYLOAD`, or in signed chunks) is refused.

use std::{fmt::Write, time::SystemTime};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header, request::Parts},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::task::spawn_blocking;

use super::{
    super::{Error, body},
    Refusal,
};
use crate::{config, service::Service};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "lambda";
const BODY_HASH: &str = "x-amz-content-sha256";

/// Whether a request says that it is signed.
pub(in crate::http) fn is_signed(headers: &HeaderMap) -> bool {
    let authorization = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    authorization.starts_with(ALGORITHM.as_bytes())
}

/// Checks a signed request against the node's key; answers it with its body read.
pub(in crate::http) async fn verify(service: &Service, request: Request) -> Result<Request, Refusal> {
    let aws = &service.config.aws;
    let (parts, body) = request.into_parts();
    let checked = Signature::read(&parts.headers).and_then(|signature| {
        signature.check(aws, SystemTime::now())?;
        Ok(signature)
    });
    let signature = match checked {
        Ok(signature) => signature,
        Err(refusal) => {
            body::discard(body, &service.config.http).await;
            return Err(refusal);
        }
    };
    let bounds = config::Http { body_bytes_max: aws.body_bytes_max, ..service.config.http.clone() };
    let bytes = body::read(body, &bounds).await?;
    let secret = aws.secret_access_key.clone();
    let verified = spawn_blocking(move || {
        let secret = secret.as_ref().map_or("", |secret| &secret.0);
        signature.verify(secret, &parts, &bytes).map(|()| (parts, bytes))
    });
    let (parts, bytes) = verified.await.map_err(Error::internal)??;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// A signature, and what it says it is of.
#[derive(Debug, PartialEq, Eq)]
struct Signature {
    key_id: String,
    /// `DATE/REGION/SERVICE/aws4_request`.
    scope: String,
    signed_headers: Vec<String>,
    signature: String,
    /// `YYYYMMDDTHHMMSSZ`.
    time: String,
}

impl Signature {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let incomplete = |what: &str| {
            Refusal::signature("IncompleteSignatureException", format!("the signature has no {what}"))
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = text("authorization").and_then(|text| text.strip_prefix(ALGORITHM));
        let authorization = authorization.ok_or_else(|| incomplete("algorithm"))?;
        let field = |name: &str| {
            let fields = authorization.split(',');
            let mut values = fields.filter_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
            values.next().ok_or_else(|| incomplete(name))
        };
        let (key_id, scope) = field("Credential")?.split_once('/').ok_or_else(|| incomplete("scope"))?;
        let signed_headers: Vec<_> = field("SignedHeaders")?.split(';').map(str::to_owned).collect();
        if !signed_headers.iter().any(|name| name == "host") {
            return Err(incomplete("signed host"));
        }
        Ok(Self {
            key_id: key_id.to_owned(),
            scope: scope.to_owned(),
            signed_headers,
            signature: field("Signature")?.to_owned(),
            time: text("x-amz-date").ok_or_else(|| incomplete("X-Amz-Date"))?.to_owned(),
        })
    }

    /// What can be told without the body.
    fn check(&self, aws: &config::Aws, now: SystemTime) -> Result<(), Refusal> {
        let known = match (&aws.access_key_id, &aws.secret_access_key) {
            (Some(id), Some(_)) => bool::from(id.as_bytes().ct_eq(self.key_id.as_bytes())),
            _ => false,
        };
        if !known {
            let message = "this node knows no such access key";
            return Err(Refusal::signature("UnrecognizedClientException", message));
        }
        let invalid = |message: &str| Refusal::signature("InvalidSignatureException", message);
        let parts: Vec<_> = self.scope.split('/').collect();
        let is_scope = matches!(*parts, [date, _, SERVICE, "aws4_request"] if self.time.starts_with(date));
        if !is_scope {
            return Err(invalid("the credential's scope is not DATE/REGION/lambda/aws4_request"));
        }
        let time = seconds(&self.time).ok_or_else(|| invalid("X-Amz-Date is not YYYYMMDDTHHMMSSZ"))?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if now.abs_diff(time) > aws.clock_skew_max.as_secs() {
            let message = format!("the signature's time is more than {:?} off", aws.clock_skew_max);
            return Err(invalid(&message));
        }
        Ok(())
    }

    fn verify(&self, secret: &str, parts: &Parts, body: &[u8]) -> Result<(), Refusal> {
        let invalid = |message: &str| Refusal::signature("InvalidSignatureException", message);
        let hash = hex(&Sha256::digest(body));
        if let Some(said) = parts.headers.get(BODY_HASH)
            && said.as_bytes() != hash.as_bytes()
        {
            return Err(invalid("x-amz-content-sha256 is not the body's; unsigned bodies are not taken"));
        }
        let canonical = self.canonical(parts, &hash)?;
        let text = format!(
            "{ALGORITHM}\n{}\n{}\n{}",
            self.time,
            self.scope,
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let first = format!("AWS4{secret}").into_bytes();
        let key = self.scope.split('/').fold(first, |key, part| mac(&key, part.as_bytes()));
        let expected = hex(&mac(&key, text.as_bytes()));
        match bool::from(expected.as_bytes().ct_eq(self.signature.as_bytes())) {
            true => Ok(()),
            false => Err(invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS \
                 Secret Access Key and signing method. Consult the service documentation for details.",
            )),
        }
    }

    /// The request as it is signed. Its path is encoded once more than it was sent.
    fn canonical(&self, parts: &Parts, body_hash: &str) -> Result<String, Refusal> {
        let mut headers = String::new();
        for name in &self.signed_headers {
            let values = parts.headers.get_all(name.as_str()).into_iter();
            let values: Vec<_> = values.map(|value| words(value.as_bytes())).collect();
            if values.is_empty() {
                let message = format!("header \"{name}\" is signed and not there");
                return Err(Refusal::signature("InvalidSignatureException", message));
            }
            let _ = writeln!(headers, "{name}:{}", values.join(","));
        }
        let path = encoded(parts.uri.path().as_bytes(), b"/");
        let query = query(parts.uri.query().unwrap_or_default());
        let signed = self.signed_headers.join(";");
        Ok(format!("{}\n{path}\n{query}\n{headers}\n{signed}\n{body_hash}", parts.method))
    }
}

/// A query with its pairs in order, each part encoded anew.
fn query(query: &str) -> String {
    let part = |text: &str| {
        let decoded: Vec<u8> = percent_decoded(text);
        encoded(&decoded, b"")
    };
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (part(name), part(value)))
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Bytes with all but unreserved characters (RFC 3986) and those of `kept` as `%XX`.
fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            true => text.push(char::from(*byte)),
            false => _ = write!(text, "%{byte:02X}"),
        }
        text
    })
}

/// A header's value with single spaces.
fn words(value: &[u8]) -> String {
    String::from_utf8_lossy(value).split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `YYYYMMDDTHHMMSSZ` as seconds since 1970.
fn seconds(time: &str) -> Option<u64> {
    if time.len() != 16 || !time.is_ascii() {
        return None;
    }
    let part = |at: usize, len: usize| &time[at..at + len];
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 2),
        part(6, 2),
        part(9, 2),
        part(11, 2),
        part(13, 2)
    );
    let time = humantime::parse_rfc3339(&text).ok().filter(|_| part(8, 1) == "T" && part(15, 1) == "Z")?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length fits");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const TIME: u64 = 1_440_938_160;

    fn aws() -> config::Aws {
        config::Aws {
            access_key_id: Some("AKIDEXAMPLE".to_owned()),
            secret_access_key: Some(config::Token(SECRET.to_owned())),
            ..config::Aws::default()
        }
    }

    /// A request signed by botocore's `SigV4Auth` for service `lambda`, region `us-east-1`, at 20150830T123600Z.
    fn request(signature: &str) -> Parts {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/lambda/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-log-type, Signature={signature}"
        );
        let request =
            axum::http::Request::post("/2015-03-31/functions/a%3Ab/invocations?Qualifier=%24LATEST&A=b%20c")
                .header("host", "127.0.0.1:8080")
                .header("content-type", "application/json")
                .header("x-amz-date", "20150830T123600Z")
                .header("x-amz-log-type", "Tail  me")
                .header("authorization", authorization);
        request.body(()).unwrap().into_parts().0
    }

    const SIGNATURE: &str = "7e12a3a5405c20bbd907d0b90753a3763d9abc17e13561830ff05783973e9fb3";

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn what_botocore_signs_is_taken() {
        let parts = request(SIGNATURE);
        let signature = Signature::read(&parts.headers).unwrap();
        signature.check(&aws(), at(TIME + 60)).unwrap();
        signature.verify(SECRET, &parts, b"{\"a\":1}").unwrap();
    }

    #[test]
    fn a_change_of_anything_signed_is_refused() {
        let parts = request(SIGNATURE);
        let signature = Signature::read(&parts.headers).unwrap();
        assert!(signature.verify(SECRET, &parts, b"{\"a\":2}").is_err());
        assert!(signature.verify("other", &parts, b"{\"a\":1}").is_err());
        let mut other = request(SIGNATURE);
        other.headers.insert("x-amz-log-type", HeaderValue::from_static("None"));
        assert!(signature.verify(SECRET, &other, b"{\"a\":1}").is_err());
        other.headers.remove("x-amz-log-type");
        assert!(signature.verify(SECRET, &other, b"{\"a\":1}").is_err());
        let mut unsigned = request(SIGNATURE);
        unsigned.headers.insert(BODY_HASH, HeaderValue::from_static("UNSIGNED-PAYLOAD"));
        assert!(signature.verify(SECRET, &unsigned, b"{\"a\":1}").is_err());
    }

    #[test]
    fn a_key_a_time_or_a_scope_that_is_off_is_refused_before_the_body_is_read() {
        let parts = request(SIGNATURE);
        let signature = || Signature::read(&parts.headers).unwrap();
        let kind = |signature: Signature, second| {
            signature.check(&aws(), at(second)).map_err(|refusal| refusal.kind)
        };
        assert_eq!(kind(signature(), TIME + 301), Err("InvalidSignatureException"));
        assert_eq!(kind(signature(), TIME - 301), Err("InvalidSignatureException"));
        let other = Signature { key_id: "AKIDOTHER".to_owned(), ..signature() };
        assert_eq!(kind(other, TIME), Err("UnrecognizedClientException"));
        let other = Signature { scope: "20150830/us-east-1/s3/aws4_request".to_owned(), ..signature() };
        assert_eq!(kind(other, TIME), Err("InvalidSignatureException"));
        assert!(signature().check(&config::Aws::default(), at(TIME)).is_err(), "no key is configured");
        assert!(Signature::read(&HeaderMap::new()).is_err());
    }

    #[test]
    fn times_are_read_as_they_are_signed() {
        assert_eq!(seconds("20150830T123600Z"), Some(TIME));
        for wrong in ["20150830T12360Z", "2015083äT123600Z", "20151330T123600Z", "20150830 123600Z"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
