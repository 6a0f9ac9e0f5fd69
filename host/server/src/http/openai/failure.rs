//! Errors as the dialect has them: `{"error": {"message", "type", "param", "code"}}`.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::{Code, Error};

/// What a client is told when it can't have what it asked for.
#[derive(Debug, Clone)]
pub(in crate::http) struct Failure {
    error: Error,
    param: Option<String>,
    code: &'static str,
}

impl Failure {
    /// A field that is wrong.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param}: {}", message.into());
        Self { param: Some(param), ..Error::new(Code::InvalidRequest, message).into() }
    }

    /// A field that can't be honoured.
    pub(super) fn unsupported(param: &'static str, message: impl Into<String>) -> Self {
        Self { code: "unsupported_parameter", ..Self::invalid(param, message) }
    }

    /// The last event of a stream that broke.
    pub(super) fn event(&self) -> impl Serialize + use<'_> {
        Body { error: self.told() }
    }

    /// What goes in a failed object.
    pub(super) fn summary(&self) -> impl Serialize + use<'_> {
        #[derive(Serialize)]
        struct Summary<'a> {
            code: &'a str,
            message: &'a str,
        }
        Summary { code: self.code, message: &self.error.message }
    }

    /// The error in the service's own words.
    pub(in crate::http) fn error(&self) -> &Error {
        &self.error
    }

    fn told(&self) -> Told<'_> {
        let r#type = match self.error.code {
            Code::Overloaded => "rate_limit_error",
            Code::Internal | Code::Draining | Code::ModelUnavailable | Code::Timeout => "server_error",
            _ => "invalid_request_error",
        };
        Told { message: &self.error.message, r#type, param: self.param.as_deref(), code: self.code }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'a str,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.error.response(self.event())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error.code {
            Code::Unauthorized => "invalid_api_key",
            Code::Overloaded => "rate_limit_exceeded",
            Code::TooLarge => "request_too_large",
            Code::Internal | Code::Draining | Code::ModelUnavailable => "server_error",
            Code::Timeout | Code::RequestTimeout => "timeout",
            Code::NotFound => "not_found",
            _ => "invalid_request",
        };
        Self { error, param: None, code }
    }
}

impl From<dormouse_engine::Error> for Failure {
    fn from(error: dormouse_engine::Error) -> Self {
        use dormouse_engine::Error as Engine;
        let (param, code) = match &error {
            Engine::UnknownModel(_) => (Some("model"), "model_not_found"),
            Engine::TooLong { .. } => (Some("messages"), "context_length_exceeded"),
            _ => return Error::from(error).into(),
        };
        Self { param: param.map(str::to_owned), code, error: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(failure: Failure, status: u16, expected: serde_json::Value) {
        assert_eq!(serde_json::to_value(failure.event()).unwrap()["error"], expected);
        assert_eq!(failure.into_response().status(), status);
    }

    #[test]
    fn clients_are_told_type_field_and_code() {
        let told = json!({
            "message": "temperature: 9 is not in 0 to 2", "type": "invalid_request_error",
            "param": "temperature", "code": "invalid_request",
        });
        check(Failure::invalid("temperature", "9 is not in 0 to 2"), 400, told);
        let told = json!({
            "message": "no model named \"x\" on this node", "type": "invalid_request_error",
            "param": "model", "code": "model_not_found",
        });
        check(dormouse_engine::Error::UnknownModel("x".into()).into(), 404, told);
        let told = json!({
            "message": "overloaded: 3", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded",
        });
        check(dormouse_engine::Error::Overloaded("3".into()).into(), 429, told);
    }

    #[test]
    fn a_failure_of_the_engine_keeps_its_reason_to_itself() {
        let failure = Failure::from(dormouse_engine::Error::Failed("/secret".into()));
        assert!(!serde_json::to_string(&failure.event()).unwrap().contains("secret"));
    }
}
