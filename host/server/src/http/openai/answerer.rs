//! Who answers under a model's name: a model of this node, or a function.

use std::{sync::Arc, time::SystemTime};

use dormouse_engine::{Error as Engine, Model, Open};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{
    super::{Code, Error, guard, invoke},
    Failure,
};
use crate::{
    function::{Function, Revision},
    service::Service,
};

/// Whoever answers; cloning shares it.
#[derive(Debug, Clone)]
pub(in crate::http) enum Answerer {
    Model(Model),
    Function(Target),
}

/// A function at one of its revisions, and the name that it was asked for by.
#[derive(Debug, Clone)]
pub(in crate::http) struct Target {
    pub(in crate::http) name: String,
    pub(in crate::http) function: Arc<Function>,
    pub(in crate::http) revision: Arc<Revision>,
}

/// What a model's name means.
pub(in crate::http) enum Named {
    Model,
    Function(Target),
}

/// What a name means: a model of the catalogue goes before a function of the same name, so that no deploy
/// takes a model's place.
pub(in crate::http) async fn named(service: &Service, name: &str) -> Result<Named, Failure> {
    let (function, revision) = match invoke::path_target(service, name) {
        Ok(found) => found,
        // Not a function's name: the engine says what it is.
        Err(Error { code: Code::NotFound | Code::InvalidRequest, .. }) => return Ok(Named::Model),
        Err(error) => return Err(error.into()),
    };
    let (catalog, wanted) = (service.catalog.clone(), name.to_owned());
    let found = spawn_blocking(move || catalog.resolve(&wanted)).await.map_err(Error::internal)?;
    Ok(match found {
        Ok(_) => Named::Model,
        Err(_) => Named::Function(Target { name: name.to_owned(), function, revision }),
    })
}

impl Answerer {
    /// Whoever has this name; a model is woken if need be.
    pub(in crate::http) async fn open(service: &Service, name: &str, open: Open) -> Result<Self, Failure> {
        match named(service, name).await? {
            Named::Function(target) => Ok(Self::Function(target)),
            Named::Model => {
                guard::allow_all("models")?;
                Self::open_model(service, name, open).await
            }
        }
    }

    async fn open_model(service: &Service, name: &str, open: Open) -> Result<Self, Failure> {
        match service.engine.open_with(name, open).await {
            Ok(model) => Ok(Self::Model(model)),
            // No model can have such a name.
            Err(Engine::Invalid(_)) => Err(Engine::UnknownModel(name.to_owned()).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The name that it was asked for by.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Model(model) => &model.info().name,
            Self::Function(target) => &target.name,
        }
    }

    /// Changes when the model's file does, or the function's code or settings.
    pub(super) fn fingerprint(&self) -> String {
        let digest = match self {
            Self::Model(model) => model.info().digest.trim_start_matches("sha256:"),
            Self::Function(target) => target.revision.id.as_str(),
        };
        format!("fp_{}", digest.get(..12).unwrap_or(digest))
    }

    /// A token's bytes.
    pub(super) fn token_bytes(&self, token: u32) -> &[u8] {
        match self {
            Self::Model(model) => model.token_bytes(token).unwrap_or_default(),
            Self::Function(_) => &[],
        }
    }
}

impl Target {
    /// The schema of its input.
    pub(super) fn schema(&self) -> &Value {
        &self.revision.predictor.manifest.input
    }

    /// When the function was first deployed, in seconds since 1970.
    pub(super) fn created(function: &Function) -> u64 {
        function.created_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
