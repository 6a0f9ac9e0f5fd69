//! What becomes of events: how often they are tried, how old they may get, and who is told.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Refusal,
    configuration::{Target, destination},
    functions::{Qualified, latest, qualified, read},
    name::LATEST,
    state::{Events, State as Kept, millis},
};
use crate::service::Service;

/// Runs after the first, as Lambda has them.
pub(super) const RETRIES: u32 = 2;
/// The bounds of an event's age, in seconds.
const AGES: std::ops::RangeInclusive<u64> = 60..=AGE_MAX;
/// How old an event may get, in seconds, where nobody says.
pub(super) const AGE_MAX: u64 = 21_600;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    maximum_retry_attempts: Option<u32>,
    maximum_event_age_in_seconds: Option<u64>,
    destination_config: Option<Destinations>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Destinations {
    on_success: Destination,
    on_failure: Destination,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Destination {
    destination: Option<String>,
}

impl Wanted {
    fn events(&self, service: &Service, before: Events) -> Result<Events, Refusal> {
        let (on_success, on_failure) = match &self.destination_config {
            Some(config) => (config.on_success.destination.clone(), config.on_failure.destination.clone()),
            None => (before.on_success, before.on_failure),
        };
        let events = Events {
            retries_max: self.maximum_retry_attempts.or(before.retries_max),
            age_max_s: self.maximum_event_age_in_seconds.or(before.age_max_s),
            on_success: on_success.filter(|arn| !arn.is_empty()),
            on_failure: on_failure.filter(|arn| !arn.is_empty()),
            modified_ms: millis(SystemTime::now()),
        };
        if events.retries_max.is_some_and(|retries| retries > RETRIES) {
            return Err(Refusal::invalid(format!("MaximumRetryAttempts is not in 0 to {RETRIES}")));
        }
        if events.age_max_s.is_some_and(|age| !AGES.contains(&age)) {
            return Err(Refusal::invalid(format!("MaximumEventAgeInSeconds is not in 60 to {AGE_MAX}")));
        }
        for arn in events.on_success.iter().chain(&events.on_failure) {
            destination(service, arn)?;
        }
        Ok(events)
    }
}

/// `PUT …/event-invoke-config`: in place of what was there.
pub(super) async fn put(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    set(&service, &f, &query, body, false).await
}

/// `POST …/event-invoke-config`: what is not said stays.
pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    set(&service, &f, &query, body, true).await
}

async fn set(
    service: &Arc<Service>,
    f: &str,
    query: &Qualified,
    body: Body,
    is_update: bool,
) -> Result<Json<Value>, Refusal> {
    let wanted: Wanted = read(service, body).await?;
    let found = qualified(service, f, query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    let change = |state: &mut Kept| {
        let before = state.events.get(&key).filter(|_| is_update).cloned().unwrap_or_default();
        state.events.insert(key.clone(), wanted.events(service, before)?);
        Ok(())
    };
    service.lambda.change(service, &found.function, change).await?;
    let found = qualified(service, f, query).await?;
    Ok(Json(document(service, &found, &key)?))
}

/// `GET …/event-invoke-config`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<Json<Value>, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    Ok(Json(document(&service, &found, &key)?))
}

/// `GET …/event-invoke-config/list`.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let found = latest(&service, &f).await?;
    let keys = found.state.events.keys();
    let all = keys.map(|key| document(&service, &found, key)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({"FunctionEventInvokeConfigs": all})))
}

/// `DELETE …/event-invoke-config`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<StatusCode, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    let remove = |state: &mut Kept| state.events.remove(&key).map(drop).ok_or_else(absent);
    service.lambda.change(&service, &found.function, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn document(service: &Service, found: &Target, key: &str) -> Result<Value, Refusal> {
    let events = found.state.events.get(key).ok_or_else(absent)?;
    let qualifier = if key.is_empty() { LATEST } else { key };
    let destination =
        |arn: &Option<String>| arn.as_ref().map_or(json!({}), |arn| json!({"Destination": arn}));
    let mut document = json!({
        // Seconds since 1970, as the protocol has it here.
        "LastModified": events.modified_ms as f64 / 1e3,
        "FunctionArn": found.arn(service, Some(qualifier)),
        "DestinationConfig": {
            "OnSuccess": destination(&events.on_success), "OnFailure": destination(&events.on_failure),
        },
    });
    if let Some(retries) = events.retries_max {
        document["MaximumRetryAttempts"] = json!(retries);
    }
    if let Some(age) = events.age_max_s {
        document["MaximumEventAgeInSeconds"] = json!(age);
    }
    Ok(document)
}

fn absent() -> Refusal {
    Refusal::not_found("The function has no EventInvokeConfig")
}
