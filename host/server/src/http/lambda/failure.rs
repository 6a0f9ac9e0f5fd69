//! Errors as Lambda has them: a type in `x-amzn-errortype`, a message in the body.

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::super::{Code, Error};

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What a client is told when it can't have what it asked for.
#[derive(Debug, Clone)]
pub(in crate::http) struct Refusal {
    pub(super) error: Error,
    pub(super) kind: &'static str,
}

impl Refusal {
    /// A parameter that is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Error::new(Code::InvalidRequest, message).into()
    }

    /// A body that is wrong.
    pub(super) fn invalid_content(message: impl Into<String>) -> Self {
        Self { kind: "InvalidRequestContentException", ..Self::invalid(message) }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Error::not_found(message).into()
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Error::new(Code::Conflict, message).into()
    }

    /// A change to what has changed meanwhile.
    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Error::new(Code::PreconditionFailed, message).into()
    }

    /// A caller who is not who they say.
    pub(super) fn signature(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, error: Error::new(Code::Forbidden, message) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match error.code {
            Code::Unauthorized => "UnrecognizedClientException",
            Code::Forbidden => "AccessDeniedException",
            Code::NotFound => "ResourceNotFoundException",
            Code::Conflict => "ResourceConflictException",
            Code::PreconditionFailed => "PreconditionFailedException",
            Code::TooLarge => "RequestTooLargeException",
            Code::Overloaded => "TooManyRequestsException",
            Code::Internal | Code::Draining | Code::ModelUnavailable | Code::Timeout => "ServiceException",
            _ => "InvalidParameterValueException",
        };
        // The dialect has no other status for what is wrong with a request.
        let mut error = error;
        if matches!(error.code, Code::InvalidInput | Code::InvalidComponent | Code::UnknownModel) {
            error.code = Code::InvalidRequest;
        }
        Self { kind, error }
    }
}

impl<E> From<E> for Refusal
where
    E: std::error::Error + Into<Error>,
{
    fn from(error: E) -> Self {
        Error::into(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let is_callers = !self.kind.starts_with("Service");
        let mut body = json!({
            "Type": if is_callers { "User" } else { "Service" },
            "Message": self.error.message,
            "message": self.error.message,
        });
        if self.error.code == Code::Overloaded {
            body["Reason"] = json!("ReservedFunctionConcurrentInvocationLimitExceeded");
        }
        let mut response = self.error.response(body);
        response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static(self.kind));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: Code, status: u16, kind: &str) {
        let response = Refusal::from(Error::new(code, "m")).into_response();
        assert_eq!(
            (response.status().as_u16(), response.headers()[ERROR_TYPE].to_str().unwrap()),
            (status, kind)
        );
    }

    #[test]
    fn an_error_has_lambdas_type_and_status() {
        check(Code::NotFound, 404, "ResourceNotFoundException");
        check(Code::Conflict, 409, "ResourceConflictException");
        check(Code::InvalidComponent, 400, "InvalidParameterValueException");
        check(Code::TooLarge, 413, "RequestTooLargeException");
        check(Code::Overloaded, 429, "TooManyRequestsException");
        check(Code::Internal, 500, "ServiceException");
    }
}
