//! Deployments: a name for a model at a version, which moves without its callers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{catalogue::account_document, find, find_version, of_id, predictions};
use crate::{
    function::{Function, FunctionName, Revision},
    http::{
        Code, Error, body, created,
        functions::rfc3339,
        guard::{self, Arrived},
    },
    service::Service,
    store::{Documents, Expect, Kind},
};

/// Attempts at a change that others get in the way of.
const TRIES: usize = 8;
/// Instances that a client may ask for: a number that is kept, and means nothing on one machine yet.
const INSTANCES_MAX: u32 = 1000;

/// What is kept of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Deployment {
    function: String,
    version: String,
    hardware: String,
    min_instances: u32,
    max_instances: u32,
    /// Counts its changes.
    number: u64,
    /// When it last changed, since 1970.
    changed_ms: u64,
}

#[derive(Debug, Deserialize)]
struct Create {
    name: String,
    model: String,
    version: String,
    hardware: String,
    #[serde(default)]
    min_instances: u32,
    #[serde(default = "one")]
    max_instances: u32,
}

fn one() -> u32 {
    1
}

#[derive(Debug, Default, Deserialize)]
struct Update {
    version: Option<String>,
    hardware: Option<String>,
    min_instances: Option<u32>,
    max_instances: Option<u32>,
}

/// `GET /v1/deployments`.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Json<Value>, Error> {
    let all = service.store.list::<Deployment>(Kind::Deployment).await?;
    let results: Vec<_> =
        all.iter().filter(|(_, own)| may_use(own)).map(|(name, own)| document(&service, name, own)).collect();
    Ok(Json(json!({"previous": null, "next": null, "results": results})))
}

/// `POST /v1/deployments`.
pub(super) async fn create(State(service): State<Arc<Service>>, body: Body) -> Result<Response, Error> {
    let bytes = body::read(body, &service.config.http).await?;
    let create: Create = serde_json::from_slice(&bytes).map_err(|error| invalid(format!("body: {error}")))?;
    // A deployment's name has a function's grammar.
    let name = FunctionName::parse(&create.name)?;
    let reference = format!("{}:{}", create.model, create.version);
    let (function, revision) = find_version(&service, &reference)?;
    let deployment = Deployment {
        function: function.name.to_string(),
        version: revision.id.to_string(),
        hardware: create.hardware,
        min_instances: create.min_instances,
        max_instances: create.max_instances,
        number: 1,
        changed_ms: now(),
    };
    check(&deployment)?;
    let deployments_max = service.config.deploy.functions_max;
    if service.store.list::<Deployment>(Kind::Deployment).await?.len() >= deployments_max {
        let message = format!("this node has {deployments_max} deployments, its bound");
        return Err(Error::new(Code::Conflict, message));
    }
    match service.store.put(Kind::Deployment, name.as_str(), &deployment, Expect::Absent).await? {
        Some(_) => Ok(created(document(&service, name.as_str(), &deployment))),
        None => Err(Error::new(Code::Conflict, format!("there is a deployment \"{name}\" already"))),
    }
}

/// `GET /v1/deployments/{owner}/{name}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<Value>, Error> {
    let (deployment, _) = load(&service, &owner, &name).await?;
    Ok(Json(document(&service, &name, &deployment)))
}

/// `PATCH /v1/deployments/{owner}/{name}`.
pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Error> {
    let update: Update = body::json(body, &service.config.http).await?;
    for _ in 0..TRIES {
        let (mut deployment, version) = load(&service, &owner, &name).await?;
        if let Some(id) = &update.version {
            let function = find(&service, &owner, &deployment.function)?;
            let revision = of_id(&function, id).ok_or_else(|| super::no_version(id))?;
            deployment.version = revision.id.to_string();
        }
        deployment.hardware = update.hardware.clone().unwrap_or(deployment.hardware);
        deployment.min_instances = update.min_instances.unwrap_or(deployment.min_instances);
        deployment.max_instances = update.max_instances.unwrap_or(deployment.max_instances);
        check(&deployment)?;
        (deployment.number, deployment.changed_ms) = (deployment.number + 1, now());
        let put = service.store.put(Kind::Deployment, &name, &deployment, Expect::Version(version));
        if put.await?.is_some() {
            return Ok(Json(document(&service, &name, &deployment)));
        }
    }
    Err(Error::new(Code::Conflict, format!("deployment \"{name}\" changes all the time")))
}

/// `DELETE /v1/deployments/{owner}/{name}`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<StatusCode, Error> {
    load(&service, &owner, &name).await?;
    service.store.delete(Kind::Deployment, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/deployments/{owner}/{name}/predictions`.
pub(super) async fn predict(
    State(service): State<Arc<Service>>,
    Extension(arrived): Extension<Arrived>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Error> {
    let (deployment, _) = load(&service, &owner, &name).await?;
    let target: (Arc<Function>, Arc<Revision>) = {
        let function = find(&service, &owner, &deployment.function)?;
        let revision = of_id(&function, &deployment.version).ok_or_else(|| {
            Error::not_found(format!("deployment \"{name}\" is of a version that is not kept any more"))
        })?;
        (function, revision)
    };
    let deployment = format!("{owner}/{name}");
    predictions::create_for(&service, target, Some(&deployment), arrived, &headers, body).await
}

async fn load(service: &Service, owner: &str, name: &str) -> Result<(Deployment, i64), Error> {
    let found = match owner == service.config.owner {
        true => service.store.get::<Deployment>(Kind::Deployment, name).await?,
        false => None,
    };
    let name: String = name.chars().take(100).collect();
    let found = found.ok_or_else(|| Error::not_found(format!("no deployment \"{name}\"")))?;
    guard::allow(&FunctionName::parse(&found.value.function)?)?;
    Ok((found.value, found.version))
}

fn may_use(deployment: &Deployment) -> bool {
    FunctionName::parse(&deployment.function).is_ok_and(|function| guard::may_use(&function))
}

fn check(deployment: &Deployment) -> Result<(), Error> {
    let Deployment { min_instances: min, max_instances: max, .. } = deployment;
    match min <= max && *max <= INSTANCES_MAX {
        true => Ok(()),
        false => {
            Err(invalid(format!("min_instances is {min}, max_instances {max}, at most {INSTANCES_MAX}")))
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidInput, message)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

fn document(service: &Service, name: &str, deployment: &Deployment) -> Value {
    let owner = &service.config.owner;
    json!({
        "owner": owner,
        "name": name,
        "current_release": {
            "number": deployment.number,
            "model": format!("{owner}/{}", deployment.function),
            "version": deployment.version,
            "created_at": rfc3339(UNIX_EPOCH + Duration::from_millis(deployment.changed_ms)),
            "created_by": account_document(owner),
            "configuration": {
                "hardware": deployment.hardware,
                "min_instances": deployment.min_instances,
                "max_instances": deployment.max_instances,
            },
        },
    })
}
