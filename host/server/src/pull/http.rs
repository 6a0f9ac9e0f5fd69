//! A file over HTTP. Redirects are followed by hand, so that a token stays with the host it is
//! for; a broken connection is taken up where it broke (RFC 9110, `Range` with `If-Range`).

use std::io::Read;
use std::time::Duration;

use dormouse_engine::catalog::Digest;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Agent, Body};
use url::Url;

use super::stage::{CHUNK_BYTES, Origin, Stage};
use super::{Error, Progress, source};

/// Redirects followed before the server is given up.
const REDIRECTS_MAX: usize = 10;
/// An attempt that brings this much doesn't count as failed: a long download over a bad line
/// goes on, one that gets nowhere ends.
const ATTEMPT_BYTES_MIN: u64 = 1 << 20;

/// Bounds on one download.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Attempts in a row that may bring nothing.
    pub attempts_max: u32,
    /// Pause before the second attempt; each later one doubles it.
    pub backoff: Duration,
    /// Longest pause, also where the server asks for a longer one.
    pub backoff_max: Duration,
    /// Time for a connection, and for an answer's head.
    pub connect_timeout: Duration,
    /// Time in which at least one byte of a body must come.
    pub read_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// What to download, and on whose behalf.
pub(super) struct Download<'a> {
    pub(super) url: Url,
    /// Sent to the host of `url` only.
    pub(super) bearer: Option<&'a str>,
    /// What to do when access is refused.
    pub(super) denied_hint: &'static str,
    pub(super) limits: &'a Limits,
}

/// An attempt that failed.
enum Failure {
    /// Trying again won't help.
    Final(Error),
    /// It may; `after` is the server's wish.
    Retry { reason: String, after: Option<Duration> },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        Self::Retry { reason: error.to_string(), after: None }
    }
}

impl Download<'_> {
    /// Fills the stage. Returns the digest that a hub's answer names, if it does.
    pub(super) fn run(&self, stage: &mut Stage, progress: &Progress) -> Result<Option<Digest>, Error> {
        let mut attempts = 0;
        loop {
            let before = stage.bytes();
            let (reason, after) = match self.attempt(stage, progress) {
                Ok(digest) => return Ok(digest),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Retry { reason, after }) => (reason, after),
            };
            attempts = if stage.bytes() >= before + ATTEMPT_BYTES_MIN { 1 } else { attempts + 1 };
            if attempts >= self.limits.attempts_max {
                let url = self.url.to_string();
                return Err(Error::Unreachable { url, attempts, reason, kept_bytes: stage.bytes() });
            }
            let doubled = self.limits.backoff.saturating_mul(1 << (attempts - 1).min(16));
            let pause = after.unwrap_or(doubled).min(self.limits.backoff_max);
            progress.note(format_args!("{reason}; trying again in {:.1} s", pause.as_secs_f32()));
            std::thread::sleep(pause);
        }
    }

    fn attempt(&self, stage: &mut Stage, progress: &Progress) -> Result<Option<Digest>, Failure> {
        let resume = match &stage.origin().validator {
            Some(validator) if stage.bytes() > 0 => Some((stage.bytes(), validator.clone())),
            _ => None,
        };
        let (response, digest) = self.follow_redirects(resume.as_ref())?;
        let total_bytes = match response.status() {
            StatusCode::PARTIAL_CONTENT => Some(resumed_total(response.headers(), stage.bytes())?),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // Either the file is complete here or it has changed there: only a fresh start can tell.
                stage.restart(Origin::default())?;
                return Err(Failure::Retry {
                    reason: "the partial file does not fit".to_owned(),
                    after: None,
                });
            }
            _ => {
                stage.restart(Origin { validator: strong_validator(response.headers()) })?;
                number(response.headers(), header::CONTENT_LENGTH.as_str())
            }
        };
        if let Some(total) = total_bytes {
            stage.ensure_room(total - stage.bytes())?;
        }
        progress.start("downloading", stage.bytes(), total_bytes);
        copy(response, stage, total_bytes, progress)?;
        Ok(digest)
    }

    /// Asks until the answer is a file, or a range of it when `resume` names where and of what.
    /// A hub names the digest on its own answer, before it redirects to where the bytes are.
    fn follow_redirects(
        &self,
        resume: Option<&(u64, String)>,
    ) -> Result<(Response<Body>, Option<Digest>), Failure> {
        let (mut url, mut digest) = (self.url.clone(), None);
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.agent(&url).get(url.as_str());
            if let Some(token) = self.bearer.filter(|_| url.origin() == self.url.origin()) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some((bytes, validator)) = resume {
                request = request.header(header::RANGE, format!("bytes={bytes}-"));
                request = request.header(header::IF_RANGE, validator);
            }
            let response = request.call()?;
            digest = digest.or_else(|| linked_digest(response.headers()));
            if !response.status().is_redirection() {
                return Ok((self.check_status(&url, response)?, digest));
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| refused(&url, "a redirect without a usable location"))?;
            source::check_transport(&next).map_err(|reason| refused(&next, reason))?;
            url = next;
        }
        Err(refused(&self.url, &format!("more than {REDIRECTS_MAX} redirects")).into())
    }

    fn check_status(&self, url: &Url, response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status();
        match status.as_u16() {
            200 | 206 | 416 => Ok(response),
            401 | 403 => Err(Failure::Final(Error::Denied {
                url: shown(url),
                status: status.as_u16(),
                hint: self.denied_hint,
            })),
            404 | 410 => Err(Failure::Final(Error::NotFound { url: shown(url), status: status.as_u16() })),
            408 | 429 | 500..=599 => Err(Failure::Retry {
                reason: format!("status {status}"),
                after: number(response.headers(), header::RETRY_AFTER.as_str()).map(Duration::from_secs),
            }),
            _ => Err(refused(url, &format!("status {status}")).into()),
        }
    }

    fn agent(&self, url: &Url) -> Agent {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A range counts bytes of the file as it is, not of a compressed form.
            .accept_encoding("identity")
            .user_agent(concat!("dormouse/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(self.limits.connect_timeout))
            .timeout_recv_response(Some(self.limits.connect_timeout))
            .timeout_per_read(Some(self.limits.read_timeout));
        if source::is_loopback(url) {
            config = config.proxy(None);
        }
        config.build().into()
    }
}

/// Appends the body to the stage; a body that ends early or runs over is a reason to try again.
fn copy(
    response: Response<Body>,
    stage: &mut Stage,
    total_bytes: Option<u64>,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match body.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                if total_bytes.is_none() {
                    stage.ensure_room(n as u64)?;
                }
                stage.write(&chunk[..n])?;
                progress.advance(n as u64);
            }
            Err(error) => return Err(Failure::Retry { reason: error.to_string(), after: None }),
        }
    }
    match total_bytes {
        Some(total) if total != stage.bytes() => Err(Failure::Retry {
            reason: format!("the connection ended at byte {} of {total}", stage.bytes()),
            after: None,
        }),
        _ => Ok(()),
    }
}

/// The whole file's length from `Content-Range: bytes START-END/TOTAL`, if it starts where we are.
fn resumed_total(headers: &HeaderMap, start: u64) -> Result<u64, Failure> {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let total = range
        .strip_prefix(&format!("bytes {start}-"))
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(_, total)| total.parse().ok())
        .filter(|total| *total >= start);
    total.ok_or_else(|| Failure::Retry {
        reason: format!("asked for bytes from {start}, got \"{range}\""),
        after: None,
    })
}

/// What `If-Range` may be sent with: a strong entity tag, else a date.
fn strong_validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(header::ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(header::LAST_MODIFIED))
}

/// The digest a hub gives of a large file, quoted like an entity tag.
fn linked_digest(headers: &HeaderMap) -> Option<Digest> {
    let tag = headers.get("x-linked-etag")?.to_str().ok()?;
    super::parse_digest(tag.trim_matches('"')).ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn refused(url: &Url, reason: &str) -> Error {
    Error::Refused { url: shown(url), reason: reason.to_owned() }
}

/// A URL without its query, where signed addresses keep their secrets.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}
