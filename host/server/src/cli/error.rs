//! Why a command failed, and the exit code that says so.

use std::io;

use serde_json::{Value, json};

use crate::{args, pull, scaffold};

/// Any failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is well formed but means nothing.
    #[error("{0}")]
    Usage(String),
    /// Nothing answers where the service should be.
    #[error("no server at {url}: start one with `dormouse serve`, or name one with --server ({reason})")]
    NoServer {
        /// Where it was looked for.
        url: String,
        /// What the connection failed with.
        reason: String,
    },
    /// The service answered with an error.
    #[error("{}", .0.text())]
    Api(Api),
    /// The service answered something else than it should.
    #[error("unexpected answer from {url}: {reason}")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A file can't be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The terminal or pipe can't be written to.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// The settings can't be used.
    #[error(transparent)]
    Settings(#[from] args::Error),
    /// A model could not be pulled.
    #[error(transparent)]
    Pull(#[from] pull::Error),
    /// The catalogue can't be used.
    #[error(transparent)]
    Catalog(#[from] dormouse_engine::Error),
    /// A project could not be made or built.
    #[error(transparent)]
    Scaffold(#[from] scaffold::Error),
    /// A prediction on this machine failed.
    #[error(transparent)]
    Local(#[from] crate::LocalError),
    /// The service could not start or go on.
    #[error(transparent)]
    Serve(#[from] crate::Error),
}

/// An error as the service writes it.
#[derive(Debug, Default)]
pub struct Api {
    /// HTTP status; 0 when it came at the end of a stream.
    pub status: u16,
    /// Stable name of the error.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// For each part of the input that is wrong, where and how.
    pub details: Vec<(String, String)>,
    /// What the predictor logged.
    pub logs: String,
}

impl Error {
    /// 2 when the command line is at fault, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Settings(_) => 2,
            Self::Pull(pull::Error::UnknownName { .. } | pull::Error::BadSource { .. }) => 2,
            _ => 1,
        }
    }

    /// Whether it only says that nobody reads on, as `dormouse … | head` does.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error for machines.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Api(api) => api.to_json(),
            _ => json!({"error": {"code": "command_failed", "message": self.to_string()}}),
        }
    }
}

impl Api {
    /// Reads the service's error body; anything else becomes a message of its own.
    pub(super) fn from_body(status: u16, body: &str) -> Self {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let error = &value["error"];
        let details = error["details"].as_array().into_iter().flatten();
        Self {
            status,
            code: text(&error["code"]).unwrap_or_else(|| "unknown".to_owned()),
            message: text(&error["message"]).unwrap_or_else(|| format!("status {status}")),
            details: details
                .map(|detail| (location(&detail["loc"]), text(&detail["msg"]).unwrap_or_default()))
                .collect(),
            logs: text(&value["logs"]).unwrap_or_default(),
        }
    }

    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (place, problem) in &self.details {
            text.push_str(&format!("\n  {place}: {problem}"));
        }
        if let Some(advice) = self.advice() {
            text.push_str(&format!("\n{advice}"));
        }
        text
    }

    /// What to do next, where the code alone tells.
    fn advice(&self) -> Option<&'static str> {
        match self.code.as_str() {
            "unauthorized" => Some("set --token or DORMOUSE_TOKEN to the service's token"),
            "overloaded" => Some("the service is full: try again in a moment"),
            "not_found" => Some("`dormouse fn ls` lists what is deployed"),
            _ => None,
        }
    }

    fn to_json(&self) -> Value {
        let details: Vec<_> =
            self.details.iter().map(|(place, problem)| json!({"loc": place, "msg": problem})).collect();
        json!({"error": {
            "status": self.status, "code": self.code, "message": self.message, "details": details,
        }})
    }
}

/// `["body", "input", "name"]` as `name`: a user typed the name, not the body.
fn location(loc: &Value) -> String {
    let parts = loc.as_array().into_iter().flatten();
    let parts = parts.map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned));
    let parts: Vec<_> = parts.collect();
    match parts.as_slice() {
        [body, input, rest @ ..] if body == "body" && input == "input" && !rest.is_empty() => rest.join("."),
        all => all.join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_names_each_field() {
        let body = r#"{"error":{"code":"invalid_input","message":"input is invalid",
            "details":[{"loc":["body","input","name"],"msg":"Field required"}]}}"#;
        let error = Error::Api(Api::from_body(422, body));
        assert_eq!(error.to_string(), "input is invalid\n  name: Field required");
        assert_eq!(error.to_json()["error"]["details"][0]["loc"], "name");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_foreign_error_body_still_has_a_status() {
        assert_eq!(Api::from_body(502, "<html>").message, "status 502");
    }

    #[test]
    fn a_refused_token_says_what_to_set() {
        let api = Api::from_body(401, r#"{"error":{"code":"unauthorized","message":"no token"}}"#);
        assert!(Error::Api(api).to_string().contains("DORMOUSE_TOKEN"));
    }
}
