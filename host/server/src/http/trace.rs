//! Trace context, <https://www.w3.org/TR/trace-context/>: a request's own is shown in its log lines, given
//! back with the answer, and passed on to webhooks.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

pub(super) const PARENT: HeaderName = HeaderName::from_static("traceparent");

/// A well-formed `traceparent` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace(String);

impl Trace {
    /// That of a request; one that is not well-formed is ignored, as the standard has it.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(PARENT)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version, trace, parent, flags] = [2, 32, 16, 2].map(|len| {
            parts.next().filter(|part| {
                part.len() == len && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })
        });
        let is_zero = |part: &str| part.bytes().all(|byte| byte == b'0');
        let (version, trace, parent) = (version?, trace?, parent?);
        // Later versions may add parts.
        let is_long = parts.next().is_some();
        flags?;
        let is_odd = version == "ff" || is_zero(trace) || is_zero(parent) || (version == "00" && is_long);
        (!is_odd).then(|| Self(text.to_owned()))
    }

    /// The trace's id, 32 hex digits.
    pub(super) fn id(&self) -> &str {
        &self.0[3..35]
    }

    /// Where a span of it hangs.
    pub(super) fn context(&self) -> Context {
        let flags = u8::from_str_radix(&self.0[53..55], 16).unwrap_or_default();
        let parent = SpanContext::new(
            TraceId::from_hex(&self.0[3..35]).unwrap_or(TraceId::INVALID),
            SpanId::from_hex(&self.0[36..52]).unwrap_or(SpanId::INVALID),
            TraceFlags::new(flags),
            true,
            TraceState::default(),
        );
        Context::new().with_remote_span_context(parent)
    }

    pub(super) fn into_header(self) -> HeaderValue {
        HeaderValue::try_from(self.0).expect("it was read from a header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_formed_is_a_trace() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Trace::parse(good).unwrap().id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(Trace::parse(&good.replacen("00", "01", 1)).is_some());
        assert!(Trace::parse(&format!("{}-later", good.replacen("00", "01", 1))).is_some());
        for bad in [
            "",
            "00",
            "00-é",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &format!("{good}-later"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
    }
}
