//! Concurrency: **reserved** is a function's bound on predictions that run at once, **provisioned** keeps
//! its code mapped and its models awake.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use dormouse_engine::Tier;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::guard,
    Refusal,
    configuration::{Target, lambda_time, reconfigure, settings_of, target},
    functions::{Qualified, latest, qualified, read},
    name::Name,
    state::{State as Kept, time},
};
use crate::{
    function::{Revision, Settings},
    residence,
    service::Service,
    store::{ChangeError, Documents, Kind},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Reserve {
    reserved_concurrent_executions: Option<usize>,
}

/// `PUT …/concurrency`; 0 lets nothing run.
pub(super) async fn reserve(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Reserve { reserved_concurrent_executions: Some(count) } = read(&service, body).await? else {
        return Err(Refusal::invalid("body has no ReservedConcurrentExecutions"));
    };
    let max = service.config.predict.running_max;
    if count > max {
        return Err(Refusal::invalid(format!(
            "ReservedConcurrentExecutions is {count}, this node runs {max}"
        )));
    }
    set_reserved(&service, &f, Some(count)).await?;
    Ok(Json(json!({"ReservedConcurrentExecutions": count})))
}

/// `GET …/concurrency`.
pub(super) async fn reserved(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(match latest(&service, &f).await?.state.reserved {
        Some(count) => json!({"ReservedConcurrentExecutions": count}),
        None => json!({}),
    }))
}

/// `DELETE …/concurrency`.
pub(super) async fn release(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
) -> Result<StatusCode, Refusal> {
    set_reserved(&service, &f, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_reserved(service: &Service, f: &str, count: Option<usize>) -> Result<(), Refusal> {
    let found = latest(service, f).await?;
    let before = settings_of(&found.revision);
    let concurrency = count.unwrap_or(service.config.predict.function_running).max(1);
    let mut function = found.function;
    if before.concurrency != Some(concurrency) {
        let settings = Settings { concurrency: Some(concurrency), ..before };
        function = reconfigure(service, &function, settings).await?;
    }
    let note = |state: &mut Kept| {
        state.reserved = count;
        Ok(())
    };
    service.lambda.change(service, &function, note).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Provision {
    provisioned_concurrent_executions: usize,
}

/// `List` in a query asks for all of a function.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct WhichProvisioned {
    qualifier: Option<String>,
    list: Option<String>,
}

/// `PUT …/provisioned-concurrency`.
pub(super) async fn set_provisioned(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    body: Body,
) -> Result<Response, Refusal> {
    let Provision { provisioned_concurrent_executions: count } = read(&service, body).await?;
    let found = qualified(&service, &f, &query).await?;
    let qualifier = needed(&found)?;
    if count == 0 {
        return Err(Refusal::invalid("ProvisionedConcurrentExecutions is 0, must be at least 1"));
    }
    let set = |state: &mut Kept| {
        state.provisioned.insert(qualifier.clone(), count);
        Ok(())
    };
    service.lambda.change(&service, &found.function, set).await?;
    let (keeper, revision) = (service.clone(), found.revision.clone());
    tokio::spawn(async move {
        map(&keeper, &revision).await;
        residence::apply(&keeper).await;
    });
    let mut document = json!({
        "RequestedProvisionedConcurrentExecutions": count,
        "AvailableProvisionedConcurrentExecutions": 0,
        "AllocatedProvisionedConcurrentExecutions": 0,
        "Status": "IN_PROGRESS",
    });
    document["LastModified"] = json!(lambda_time(SystemTime::now()));
    Ok((StatusCode::ACCEPTED, Json(document)).into_response())
}

/// `GET …/provisioned-concurrency`.
pub(super) async fn provisioned(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<WhichProvisioned>,
) -> Result<Json<Value>, Refusal> {
    if query.list.is_some() {
        let found = latest(&service, &f).await?;
        let mut all = Vec::new();
        for qualifier in found.state.provisioned.keys() {
            let name = Name { function: found.function.name.to_string(), qualifier: Some(qualifier.clone()) };
            let one = target(&service, &name, 1.0).await?;
            let mut document = document(&service, &one, qualifier)?;
            document["FunctionArn"] = json!(found.arn(&service, Some(qualifier)));
            all.push(document);
        }
        return Ok(Json(json!({"ProvisionedConcurrencyConfigs": all})));
    }
    let found = qualified(&service, &f, &Qualified { qualifier: query.qualifier }).await?;
    let qualifier = needed(&found)?;
    Ok(Json(document(&service, &found, &qualifier)?))
}

/// `DELETE …/provisioned-concurrency`.
pub(super) async fn remove_provisioned(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<StatusCode, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let qualifier = needed(&found)?;
    let remove = |state: &mut Kept| {
        state.provisioned.remove(&qualifier);
        Ok(())
    };
    service.lambda.change(&service, &found.function, remove).await?;
    residence::apply(&service).await;
    Ok(StatusCode::NO_CONTENT)
}

fn needed(found: &Target) -> Result<String, Refusal> {
    let none = || Refusal::invalid("provisioned concurrency is of a version or an alias, not of $LATEST");
    found.qualifier.clone().ok_or_else(none)
}

/// How far it is: ready when the models are awake.
fn document(service: &Service, found: &Target, qualifier: &str) -> Result<Value, Refusal> {
    let count = *found.state.provisioned.get(qualifier).ok_or_else(|| Refusal {
        kind: "ProvisionedConcurrencyConfigNotFoundException",
        ..Refusal::not_found("No Provisioned Concurrency Config found for this function")
    })?;
    let residency = service.engine.residency();
    let of = |name: &str| residency.iter().find(|model| model.name == name);
    let models = &found.revision.effective.models;
    let is_ready = models.iter().all(|name| of(name).is_some_and(|model| model.tier == Tier::Awake));
    let failure = models.iter().find_map(|name| of(name)?.failure.as_ref().map(|(reason, _)| reason.clone()));
    let status = match (is_ready, &failure) {
        (true, _) => "READY",
        (false, Some(_)) => "FAILED",
        (false, None) => "IN_PROGRESS",
    };
    let available = if is_ready { count } else { 0 };
    let mut document = json!({
        "RequestedProvisionedConcurrentExecutions": count,
        "AvailableProvisionedConcurrentExecutions": available,
        "AllocatedProvisionedConcurrentExecutions": available,
        "Status": status,
        "LastModified": lambda_time(time(found.state.modified_ms)),
    });
    if let (Some(reason), false) = (failure, is_ready) {
        document["StatusReason"] = json!(reason);
    }
    Ok(document)
}

/// The revisions that are provisioned; a function or a version that is gone needs nothing.
async fn all_provisioned(service: &Service) -> Result<Vec<Arc<Revision>>, ChangeError> {
    let mut found = Vec::new();
    for (function, state) in service.store.list::<Kept>(Kind::Lambda).await? {
        for qualifier in state.provisioned.into_keys() {
            let name = Name { function: function.clone(), qualifier: Some(qualifier) };
            // Whoever's change this follows may not use every function.
            if let Ok(one) = guard::as_node(target(service, &name, 1.0)).await {
                found.push(one.revision);
            }
        }
    }
    Ok(found)
}

/// The models that provisioned versions keep awake.
pub(crate) async fn provisioned_models(service: &Service) -> Result<Vec<String>, ChangeError> {
    let all = all_provisioned(service).await?;
    Ok(all.iter().flat_map(|revision| revision.effective.models.iter().cloned()).collect())
}

/// Maps the code of what is provisioned, after a start.
pub(crate) async fn map_provisioned(service: Arc<Service>) {
    match all_provisioned(&service).await {
        Ok(all) => {
            for revision in all {
                map(&service, &revision).await;
            }
        }
        Err(error) => tracing::warn!(%error, "can't tell what is provisioned"),
    }
}

async fn map(service: &Service, revision: &Revision) {
    if let Err(error) = service.components.get(revision).await {
        tracing::warn!(%error, "can't keep a function warm");
    }
}
