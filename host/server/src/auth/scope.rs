//! What a token is good for, and what a request needs.

use axum::http::Method;
use serde::{Deserialize, Serialize};

/// A set of things one may do; a wider one has all of the narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// Run functions and models, and see them and what became of predictions.
    Invoke,
    /// Change functions too.
    Deploy,
    /// Everything, tokens included.
    Admin,
}

impl Scope {
    pub(super) fn includes(self, other: Self) -> bool {
        self >= other
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Deploy => "deploy",
            Self::Admin => "admin",
        }
    }
}

/// What a request needs. What is not known here to be harmless takes a wider scope.
pub(crate) fn needed(method: &Method, path: &str) -> Scope {
    let is_read =
        matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || method.as_str() == "QUERY";
    let under =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let runs = [
        "/fn",
        "/mcp",
        "/v1/predictions",
        "/v1/chat",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/files",
        "/v1/batches",
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/show",
    ];
    // Only these: a function, an alias or a model may be called so.
    let posts = |prefixes: &[&str], end: &str| {
        *method == Method::POST
            && prefixes.iter().any(|prefix| path.starts_with(prefix))
            && path.ends_with(end)
    };
    let is_prediction = posts(&["/v1/models/", "/v1/deployments/"], "/predictions");
    let is_lambda = posts(&["/2015-03-31/functions/"], "/invocations")
        || posts(&["/2021-11-15/functions/"], "/response-streaming-invocations");
    if under("/v1/tokens") {
        Scope::Admin
    } else if is_read || path == "/" || is_prediction || is_lambda || runs.into_iter().any(under) {
        Scope::Invoke
    } else {
        Scope::Deploy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_scope_has_the_narrower_ones() {
        assert!(Scope::Admin.includes(Scope::Deploy) && Scope::Deploy.includes(Scope::Invoke));
        assert!(!Scope::Invoke.includes(Scope::Deploy) && !Scope::Deploy.includes(Scope::Admin));
    }

    #[test]
    fn a_request_needs_what_it_could_do() {
        for (method, path, scope) in [
            ("POST", "/fn/f", Scope::Invoke),
            ("POST", "/", Scope::Invoke),
            ("PUT", "/fn/f/predictions/a", Scope::Invoke),
            ("POST", "/v1/predictions/a/cancel", Scope::Invoke),
            ("POST", "/v1/models/me/f/predictions", Scope::Invoke),
            ("POST", "/v1/chat/completions", Scope::Invoke),
            ("POST", "/v1/batches", Scope::Invoke),
            ("POST", "/2015-03-31/functions/f/invocations", Scope::Invoke),
            ("POST", "/2021-11-15/functions/f/response-streaming-invocations", Scope::Invoke),
            ("POST", "/2015-03-31/functions", Scope::Deploy),
            ("PUT", "/2017-10-31/functions/f/concurrency", Scope::Deploy),
            ("POST", "/api/chat", Scope::Invoke),
            ("POST", "/api/pull", Scope::Deploy),
            ("DELETE", "/api/delete", Scope::Deploy),
            ("QUERY", "/v1/models", Scope::Invoke),
            ("GET", "/v1/functions/f", Scope::Invoke),
            ("PUT", "/v1/functions/f", Scope::Deploy),
            ("POST", "/v1/functions/f/rollback", Scope::Deploy),
            ("DELETE", "/v1/models/me/f", Scope::Deploy),
            ("POST", "/v1/dead-letters/redrive", Scope::Deploy),
            ("POST", "/v1/predictionsx", Scope::Deploy),
            ("PUT", "/v1/functions/predictions", Scope::Deploy),
            ("DELETE", "/v1/functions/predictions", Scope::Deploy),
            ("PUT", "/v1/functions/f/aliases/predictions", Scope::Deploy),
            ("POST", "/v1/residency/predictions", Scope::Deploy),
            ("DELETE", "/2015-03-31/functions/invocations", Scope::Deploy),
            ("PUT", "/2015-03-31/functions/f/aliases/invocations", Scope::Deploy),
            ("POST", "/2017-03-31/tags/invocations", Scope::Deploy),
            ("GET", "/v1/tokens", Scope::Admin),
            ("DELETE", "/v1/tokens/a", Scope::Admin),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(needed(&method, path), scope, "{method} {path}");
        }
    }
}
