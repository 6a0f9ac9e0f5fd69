//! `Prefer`: how long a client will wait and wants models kept awake, <https://www.rfc-editor.org/rfc/rfc7240>.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use dormouse_engine::KeepAlive;
use serde_json::Value;

const PREFER: HeaderName = HeaderName::from_static("prefer");
/// What `wait` without a number comes to.
const WAIT: Duration = Duration::from_secs(60);

/// What a client prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Prefer {
    pub(super) respond_async: bool,
    pub(super) wait: Option<Duration>,
    /// `keep-alive=5m`: see [`keep_alive`].
    pub(super) keep_alive: Option<KeepAlive>,
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
            } else if name.eq_ignore_ascii_case("keep-alive") {
                prefer.keep_alive = keep_alive(&Value::from(value.trim().trim_matches('"')));
            }
        }
        prefer
    }
}

/// How long a model stays awake, as Ollama's clients say it: seconds, or a time such as `"5m"`; 0 lets it
/// sleep at once, a negative number keeps it for good.
pub(super) fn keep_alive(value: &Value) -> Option<KeepAlive> {
    let seconds = |seconds: f64| match seconds < 0.0 {
        true => Some(Duration::MAX),
        false => Duration::try_from_secs_f64(seconds).ok(),
    };
    let time = match value {
        Value::Number(number) => seconds(number.as_f64()?)?,
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) => seconds(number)?,
            Err(_) if text.starts_with('-') => Duration::MAX,
            Err(_) => humantime::parse_duration(text).ok()?,
        },
        _ => return None,
    };
    Some(KeepAlive::Exactly(time))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(value: &'static str, respond_async: bool, wait: Option<u64>) {
        let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static(value))]);
        let wait = wait.map(Duration::from_secs);
        assert_eq!(Prefer::of(&headers), Prefer { respond_async, wait, keep_alive: None });
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

    #[test]
    fn a_time_to_stay_awake_is_read_as_ollamas_clients_write_it() {
        let read = |value: Value| match keep_alive(&value)? {
            KeepAlive::Exactly(time) => Some(time),
            KeepAlive::AtLeast(_) => None,
        };
        assert_eq!(read(300.into()), Some(Duration::from_secs(300)));
        assert_eq!(read("5m".into()), Some(Duration::from_secs(300)));
        assert_eq!(read("0".into()), Some(Duration::ZERO));
        assert_eq!((read((-1).into()), read("-1m".into())), (Some(Duration::MAX), Some(Duration::MAX)));
        assert_eq!((read("soon".into()), read(Value::Null)), (None, None));
        let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static("wait=1, keep-alive=10s"))]);
        let expected = Some(KeepAlive::Exactly(Duration::from_secs(10)));
        assert_eq!(Prefer::of(&headers).keep_alive, expected);
    }
}
