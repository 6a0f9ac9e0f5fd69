//! Tokens over HTTP: `/v1/tokens`.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    Code, Error, body, created,
    functions::{self, rfc3339},
};
use crate::{
    auth::{Scope, Token, TokenId},
    function::{FunctionName, Problem},
    service::Service,
};

/// Characters of what a token's maker calls it.
const NAME_CHARS_MAX: usize = 100;
/// Functions that a token may be for.
const FUNCTIONS_MAX: usize = 100;

/// The body of a new token.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    name: String,
    /// By default `invoke`.
    #[serde(default, deserialize_with = "body::present")]
    scopes: Option<Vec<Scope>>,
    #[serde(default)]
    functions: Option<Vec<String>>,
    /// RFC 3339; by default never.
    #[serde(default)]
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    id: String,
    name: String,
    scopes: Vec<Scope>,
    functions: Option<Vec<String>>,
    created_at: String,
    expires_at: Option<String>,
    /// Told once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct List {
    tokens: Vec<Document>,
}

impl Document {
    fn of(token: &Token) -> Self {
        Self {
            id: token.id.0.clone(),
            name: token.name.clone(),
            scopes: token.scopes.clone(),
            functions: token.functions.clone(),
            created_at: rfc3339(token.created_at()),
            expires_at: token.expires_at().map(rfc3339),
            token: None,
        }
    }
}

/// `POST /v1/tokens`.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Error> {
    let Create { name, scopes, functions, expires_at } = body::json(body, &service.config.http).await?;
    let scopes = scopes.unwrap_or(vec![Scope::Invoke]);
    let mut problems = Vec::new();
    let mut add = |field: &str, message: String| problems.push(Problem::new(["body", field], message));
    let name_chars = name.chars().count();
    if name_chars > NAME_CHARS_MAX {
        add("name", format!("has {name_chars} characters, at most {NAME_CHARS_MAX} are kept"));
    }
    if scopes.is_empty() {
        add("scopes", "is empty, a token needs one of invoke, deploy and admin".to_owned());
    }
    if (1..scopes.len()).any(|index| scopes[..index].contains(&scopes[index])) {
        add("scopes", "names one twice".to_owned());
    }
    let names = functions.as_deref().unwrap_or_default();
    if names.len() > FUNCTIONS_MAX {
        add("functions", format!("has {} names, at most {FUNCTIONS_MAX} are kept", names.len()));
    }
    if let Some(error) = names.iter().find_map(|name| FunctionName::parse(name).err()) {
        add("functions", error.to_string());
    }
    if functions.is_some() && scopes.contains(&Scope::Admin) {
        add("functions", "can't limit scope admin".to_owned());
    }
    if !problems.is_empty() {
        return Err(Error::invalid_input(problems));
    }
    let expires_at = expires_at.as_deref().map(time).transpose()?;
    let token = Token::new(name, scopes, functions, SystemTime::now(), expires_at);
    let (token, secret) = service.tokens.create(token).await?;
    tracing::info!(id = token.id.0, name = token.name, "token created");
    Ok(created(Document { token: Some(secret.reveal().to_owned()), ..Document::of(&token) }))
}

/// `GET /v1/tokens`.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Json<List> {
    Json(List { tokens: service.tokens.list().iter().map(|token| Document::of(token)).collect() })
}

/// `DELETE /v1/tokens/{id}`.
pub(super) async fn revoke(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    match service.tokens.revoke(&TokenId(id.clone())).await? {
        true => {
            tracing::info!(id, "token revoked");
            Ok(StatusCode::NO_CONTENT)
        }
        false => Err(Error::not_found(format!("no token \"{}\"", id.chars().take(100).collect::<String>()))),
    }
}

fn time(text: &str) -> Result<SystemTime, Error> {
    functions::moment(text)
        .map_err(|error| Error::new(Code::InvalidRequest, format!("expires_at \"{text}\": {error}")))
}
