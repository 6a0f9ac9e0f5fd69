//! What the service answers when it can't do what was asked: the only file with status codes.
//!
//! Every error has a code for programs, a message for people and, where the fault is the node's own, a
//! reason that goes to the log only.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::Dialect;
use crate::{
    dispatch::Refused,
    function::{NameError, Problem, Unresolved},
    queue::Full,
    store::ChangeError,
};

/// What kind of error it is; stable, unlike messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RequestTimeout,
    Conflict,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    InvalidInput,
    InvalidComponent,
    UnknownModel,
    Overloaded,
    /// The caller went away; only the log and metrics see it.
    Cancelled,
    PredictorFailed,
    PredictorTrapped,
    PredictorOutOfMemory,
    PredictorStackOverflow,
    PredictorExited,
    PredictorBadOutput,
    OutputTooLarge,
    Internal,
    Draining,
    ModelUnavailable,
    Timeout,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidInput | Self::InvalidComponent | Self::UnknownModel => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            // As nginx logs it; HTTP has no status for an answer that nobody reads.
            Self::Cancelled => StatusCode::from_u16(499).expect("499 is in range"),
            Self::PredictorFailed
            | Self::PredictorTrapped
            | Self::PredictorOutOfMemory
            | Self::PredictorStackOverflow
            | Self::PredictorExited
            | Self::PredictorBadOutput
            | Self::OutputTooLarge
            | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Draining | Self::ModelUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl Code {
    /// The status that a dialect has for it.
    fn status_in(self, dialect: Dialect) -> StatusCode {
        match (dialect, self) {
            // Its server refuses what it has no slot for, at once.
            (Dialect::Cog, Self::Overloaded) => StatusCode::CONFLICT,
            _ => self.status(),
        }
    }
}

/// What a caller is told.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Error {
    pub(crate) code: Code,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Problem>,
    /// When the same may work.
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// How long a caller that met a full bound without a queue should wait.
const RETRY_SOON: Duration = Duration::from_secs(1);

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let retry_after = matches!(code, Code::Overloaded | Code::Draining).then_some(RETRY_SOON);
        Self { code, message: message.into(), details: Vec::new(), retry_after }
    }

    /// An input that breaks a schema or a bound; lists how.
    pub(crate) fn invalid_input(details: Vec<Problem>) -> Self {
        let message = match details.as_slice() {
            [first, rest @ ..] => {
                let place: Vec<_> = first.loc.iter().map(ToString::to_string).collect();
                let more =
                    if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                format!("{}: {}{more}", place.join("."), first.msg)
            }
            [] => "input does not match the schema".to_owned(),
        };
        Self { details, ..Self::new(Code::InvalidInput, message) }
    }

    /// A fault of the node's own: the reason goes to the log, not to the caller.
    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        tracing::error!(%reason, "internal error");
        Self::new(Code::Internal, "the node failed; its log has the reason")
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub(crate) fn draining() -> Self {
        Self::new(Code::Draining, "this node is stopping")
    }

    /// What is wrong with an input.
    pub(super) fn details(&self) -> &[Problem] {
        &self.details
    }

    /// The answer, with `body` in place of the plain error where there is more to say.
    pub(crate) fn response(&self, body: impl Serialize) -> Response {
        self.response_in(Dialect::Native, body)
    }

    /// The answer in another dialect's words.
    pub(super) fn response_in(&self, dialect: Dialect, body: impl Serialize) -> Response {
        self.with_headers((self.code.status_in(dialect), Json(body)).into_response())
    }

    /// The answer in another dialect, as plain text.
    pub(super) fn plain(&self, dialect: Dialect) -> Response {
        self.with_headers((self.code.status_in(dialect), self.message.clone()).into_response())
    }

    fn with_headers(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil() as u64));
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The answer to a request that made something.
pub(super) fn created(body: impl Serialize) -> Response {
    (StatusCode::CREATED, Json(body)).into_response()
}

/// The answer to a request whose work goes on.
pub(super) fn accepted(body: impl Serialize) -> Response {
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a Error,
            // As RFC 9457 has them, for those who read no more.
            title: &'a str,
            status: u16,
            detail: &'a str,
        }
        let status = self.code.status();
        let title = status.canonical_reason().unwrap_or_default();
        self.response(Body { error: &self, title, status: status.as_u16(), detail: &self.message })
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::new(Code::InvalidRequest, error.to_string())
    }
}

impl From<Unresolved> for Error {
    fn from(error: Unresolved) -> Self {
        let code = match error {
            Unresolved::Unknown { .. } => Code::NotFound,
            Unresolved::Ambiguous { .. } => Code::Conflict,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NoFunction(_) | ChangeError::NoAlias { .. } => Self::not_found(error.to_string()),
            ChangeError::Unresolved(unresolved) => unresolved.into(),
            ChangeError::Conflict(message) => Self::new(Code::Conflict, message),
            error @ (ChangeError::Database(_) | ChangeError::Commit(_)) => Self::internal(error),
            ChangeError::Closed => Self::draining(),
        }
    }
}

impl From<Full> for Error {
    fn from(full: Full) -> Self {
        Self { retry_after: Some(full.retry_after), ..Self::new(Code::Overloaded, full.to_string()) }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let retry_after = match &refused {
            Refused::Full(full) => full.retry_after,
            Refused::TimedOut { waited, .. } => *waited,
        };
        Self { retry_after: Some(retry_after), ..Self::new(Code::Overloaded, refused.to_string()) }
    }
}

impl From<dormouse_runtime::Error> for Error {
    fn from(error: dormouse_runtime::Error) -> Self {
        use dormouse_runtime::Error as Runtime;
        let code = match &error {
            Runtime::Host(reason) => return Self::internal(reason),
            Runtime::NotAPredictor(_) => Code::InvalidComponent,
            Runtime::Failed(_) | Runtime::Setup(_) => Code::PredictorFailed,
            Runtime::Trap(_) => Code::PredictorTrapped,
            Runtime::StackOverflow { .. } => Code::PredictorStackOverflow,
            Runtime::OutOfMemory { .. } => Code::PredictorOutOfMemory,
            Runtime::Timeout { .. } => Code::Timeout,
            Runtime::Exit(_) => Code::PredictorExited,
            Runtime::OutputTooLarge { .. } => Code::OutputTooLarge,
            Runtime::BadJson(_) => Code::PredictorBadOutput,
            Runtime::Busy { .. } => Code::Overloaded,
            Runtime::Cancelled => Code::Cancelled,
        };
        Self::new(code, error.to_string())
    }
}

impl From<dormouse_engine::Error> for Error {
    fn from(error: dormouse_engine::Error) -> Self {
        use dormouse_engine::Error as Engine;
        let code = match &error {
            Engine::UnknownModel(_) => Code::NotFound,
            Engine::Invalid(_) | Engine::TooLong { .. } => Code::InvalidRequest,
            Engine::Overloaded(_) => Code::Overloaded,
            Engine::NoMemory(_) | Engine::OutOfMemory(_) => Code::ModelUnavailable,
            Engine::Cancelled => return Self::draining(),
            // The path and what is wrong with the file are the node's own.
            Engine::BadModel { .. } => {
                tracing::error!(%error, "model can't be used");
                return Self::new(
                    Code::ModelUnavailable,
                    "the model's file can't be used; the log has the reason",
                );
            }
            Engine::Failed(reason) => return Self::internal(reason),
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response) -> serde_json::Value {
        let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn an_invalid_input_lists_where_and_what() {
        let problems = vec![Problem::new(["body", "input", "name"], "field required")];
        let response = Error::invalid_input(problems).into_response();
        assert_eq!(response.status(), 422);
        let expected = serde_json::json!({"error": {
            "code": "invalid_input",
            "message": "body.input.name: field required",
            "details": [{"loc": ["body", "input", "name"], "msg": "field required"}],
        }, "title": "Unprocessable Entity", "status": 422, "detail": "body.input.name: field required"});
        assert_eq!(body(response).await, expected);
    }

    #[tokio::test]
    async fn a_full_queue_says_when_to_come_back() {
        let refused = Refused::TimedOut {
            function: crate::function::FunctionName::parse("f").unwrap(),
            waited: Duration::from_millis(1500),
        };
        let response = Error::from(refused).into_response();
        assert_eq!(
            (response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()),
            (429, "2")
        );
    }

    #[tokio::test]
    async fn a_fault_of_the_node_keeps_its_reason_to_itself() {
        let error = Error::from(dormouse_runtime::Error::Host("secret path".to_owned()));
        let response = error.into_response();
        assert_eq!(response.status(), 500);
        assert!(!body(response).await.to_string().contains("secret path"));
    }
}
