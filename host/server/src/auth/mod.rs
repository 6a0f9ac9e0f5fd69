//! Who may do what: tokens, their scopes, and what a request needs.
//!
//! A token is 128 random bits, so its SHA-256 is all that is kept of it. With no token at all a node that
//! listens on loopback is open to whoever reaches it; any other refuses everybody.

mod scope;
mod token;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::SystemTime,
};

use axum::http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

pub(crate) use scope::{Scope, needed};
pub(crate) use token::{Secret, Token, TokenId};

use crate::{
    config,
    function::FunctionName,
    store::{ChangeError, Documents, Expect, Kind, Store},
};

/// The tokens of a node.
#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    /// The one of the settings, good for everything.
    own: Option<config::Token>,
    /// By what is kept of them.
    known: RwLock<HashMap<String, Arc<Token>>>,
    tokens_max: usize,
    /// Where the node listens.
    listen: SocketAddr,
}

/// What a caller may do.
#[derive(Debug, Clone)]
pub(crate) enum Grant {
    /// What needs no token.
    Nothing,
    /// Everything.
    All,
    Token(Arc<Token>),
}

impl Tokens {
    /// Reads what is known.
    pub(crate) async fn open(store: Store, config: &crate::Config) -> Result<Self, ChangeError> {
        let tokens = store.list::<Token>(Kind::Token).await?;
        let known = RwLock::new(tokens.into_iter().map(|(key, token)| (key, Arc::new(token))).collect());
        let (own, tokens_max) = (config.token.clone(), config.http.tokens_max);
        let mut tokens = Self { store, own, known, tokens_max, listen: config.listen };
        if tokens.is_empty() && !tokens.listen.ip().is_loopback() {
            tokens.listen.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Ok(tokens)
    }

    /// Where the node may listen: on loopback only while there is no token.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    fn is_empty(&self) -> bool {
        self.own.is_none() && self.known.read().expect("no panic holds this lock").is_empty()
    }

    /// Whether whoever reaches this node may do everything: it has no token and listens on loopback.
    pub(crate) fn trusts_all(&self) -> bool {
        self.listen.ip().is_loopback() && self.is_empty()
    }

    /// What whoever sent these headers may do; `None` when nobody knows them.
    pub(crate) fn grant(&self, headers: &HeaderMap, now: SystemTime) -> Option<Grant> {
        if self.trusts_all() {
            return Some(Grant::All);
        }
        let given = bearer(headers)?;
        if self.own.as_ref().is_some_and(|own| own.0.as_bytes().ct_eq(given).into()) {
            return Some(Grant::All);
        }
        // What is looked up is a digest: how long that takes tells nothing of the token.
        let key = Secret::key_of(given);
        let token = self.known.read().expect("no panic holds this lock").get(&key).cloned()?;
        token.is_valid(now).then_some(Grant::Token(token))
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Token>> {
        let known = self.known.read().expect("no panic holds this lock");
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        all
    }

    /// Makes one. Its secret is told once, here.
    pub(crate) async fn create(&self, token: Token) -> Result<(Arc<Token>, Secret), ChangeError> {
        if self.is_empty() && !token.scopes.contains(&Scope::Admin) {
            let message = "the first token of a node needs scope admin: it closes the node to all others, \
                           and nobody could make a second";
            return Err(ChangeError::Conflict(message.to_owned()));
        }
        let tokens_max = self.tokens_max;
        if self.known.read().expect("no panic holds this lock").len() >= tokens_max {
            return Err(ChangeError::Conflict(format!("this node has {tokens_max} tokens, its bound")));
        }
        let secret = Secret::random();
        let (key, token) = (secret.key(), Arc::new(token));
        self.store.put(Kind::Token, &key, &*token, Expect::Absent).await?;
        self.known.write().expect("no panic holds this lock").insert(key, token.clone());
        Ok((token, secret))
    }

    /// Makes one void. False when there is none of this id.
    pub(crate) async fn revoke(&self, id: &TokenId) -> Result<bool, ChangeError> {
        let key = {
            let known = self.known.read().expect("no panic holds this lock");
            known.iter().find(|(_, token)| token.id == *id).map(|(key, _)| key.clone())
        };
        let Some(key) = key else { return Ok(false) };
        // First where it is looked up: no request passes once this has begun.
        self.known.write().expect("no panic holds this lock").remove(&key);
        self.store.delete(Kind::Token, &key).await
    }
}

impl Grant {
    /// Whether it has a scope.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Token(token) => token.scopes.iter().any(|own| own.includes(scope)),
        }
    }

    /// Whether it may do with a function what its scopes say.
    pub(crate) fn may_use(&self, function: &FunctionName) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Token(token) => match &token.functions {
                None => true,
                Some(functions) => functions.iter().any(|own| own == function.as_str()),
            },
        }
    }

    /// The functions that it is for, if it is not for all.
    pub(crate) fn limited_to(&self) -> Option<Vec<String>> {
        match self {
            Self::Nothing => Some(Vec::new()),
            Self::All => None,
            Self::Token(token) => token.functions.clone(),
        }
    }
}

/// The token in a request's headers; Replicate's older clients say `Token`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes)?;
    let space = given.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = given.split_at(space);
    let is_known = scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"token");
    is_known.then(|| token.trim_ascii())
}
