//! `Prefer`: how long a client will wait, <https://www.rfc-editor.org/rfc/rfc7240>.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");
/// What `wait` without a number comes to.
const WAIT: Duration = Duration::from_secs(60);

/// What a client prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Prefer {
    pub(super) respond_async: bool,
    pub(super) wait: Option<Duration>,
}

impl Prefer {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split([',', ';'])) {
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let name = name.trim();
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") {
                let seconds = value.trim().trim_matches('"').parse::<f64>().ok();
                let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                prefer.wait = Some(wait.unwrap_or(WAIT));
            }
        }
        prefer
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(value: &'static str, respond_async: bool, wait: Option<u64>) {
        let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static(value))]);
        let wait = wait.map(Duration::from_secs);
        assert_eq!(Prefer::of(&headers), Prefer { respond_async, wait });
    }

    #[test]
    fn preferences_are_read_as_clients_write_them() {
        check("respond-async", true, None);
        check("wait", false, Some(60));
        check("wait=5", false, Some(5));
        check("respond-async, Wait=\"10\"", true, Some(10));
        check("wait=soon", false, Some(60));
        check("return=minimal", false, None);
        assert_eq!(Prefer::of(&HeaderMap::new()), Prefer::default());
    }
}
