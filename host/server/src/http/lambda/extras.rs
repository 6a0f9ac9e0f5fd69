//! Function URLs, tags, and what the account may have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, RawQuery, State},
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::functions as native,
    Refusal,
    configuration::Target,
    functions::{Qualified, latest, qualified, read},
    state::{State as Kept, Url, millis, time},
};
use crate::service::Service;

/// The most tags of a function.
const TAGS_MAX: usize = 50;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WantedUrl {
    auth_type: Option<String>,
    invoke_mode: Option<String>,
    cors: Option<Value>,
}

impl WantedUrl {
    fn url(&self, before: Url) -> Result<Url, Refusal> {
        let now = millis(SystemTime::now());
        let url = Url {
            auth: self.auth_type.clone().unwrap_or(before.auth),
            mode: self.invoke_mode.clone().unwrap_or(before.mode),
            cors: self.cors.clone().or(before.cors),
            created_ms: if before.created_ms == 0 { now } else { before.created_ms },
            modified_ms: now,
        };
        if !["NONE", "AWS_IAM"].contains(&&*url.auth) {
            return Err(Refusal::invalid(format!("AuthType \"{}\" is not NONE or AWS_IAM", url.auth)));
        }
        if !["BUFFERED", "RESPONSE_STREAM"].contains(&&*url.mode) {
            return Err(Refusal::invalid(format!(
                "InvokeMode \"{}\" is not BUFFERED or RESPONSE_STREAM",
                url.mode
            )));
        }
        Ok(url)
    }
}

/// `POST …/url`. The URL is the function's invocation URL, which is there in any case: who may call it is
/// said by the node's tokens.
pub(super) async fn create_url(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let wanted: WantedUrl = read(&service, body).await?;
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    let add = |state: &mut Kept| {
        if state.urls.contains_key(&key) {
            return Err(Refusal::conflict("FunctionUrlConfig exists for this Lambda function"));
        }
        let blank = Url { mode: "BUFFERED".to_owned(), ..Url::default() };
        state.urls.insert(key.clone(), wanted.url(blank)?);
        Ok(())
    };
    service.lambda.change(&service, &found.function, add).await?;
    let found = qualified(&service, &f, &query).await?;
    Ok((StatusCode::CREATED, Json(url_document(&service, &found, &headers, &key)?)))
}

/// `GET …/url`.
pub(super) async fn url(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    Ok(Json(url_document(&service, &found, &headers, &key)?))
}

/// `PUT …/url`.
pub(super) async fn update_url(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let wanted: WantedUrl = read(&service, body).await?;
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    let change = |state: &mut Kept| {
        let before = state.urls.get(&key).cloned().ok_or_else(no_url)?;
        state.urls.insert(key.clone(), wanted.url(before)?);
        Ok(())
    };
    service.lambda.change(&service, &found.function, change).await?;
    let found = qualified(&service, &f, &query).await?;
    Ok(Json(url_document(&service, &found, &headers, &key)?))
}

/// `DELETE …/url`.
pub(super) async fn remove_url(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<StatusCode, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let key = found.qualifier.clone().unwrap_or_default();
    let remove = |state: &mut Kept| state.urls.remove(&key).map(drop).ok_or_else(no_url);
    service.lambda.change(&service, &found.function, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET …/urls`.
pub(super) async fn urls(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let found = latest(&service, &f).await?;
    let keys = found.state.urls.keys();
    let all = keys.map(|key| url_document(&service, &found, &headers, key)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({"FunctionUrlConfigs": all})))
}

fn url_document(service: &Service, found: &Target, headers: &HeaderMap, key: &str) -> Result<Value, Refusal> {
    let url = found.state.urls.get(key).ok_or_else(no_url)?;
    let base = native::base_url(&service.config, headers);
    let qualifier = Some(key).filter(|key| !key.is_empty());
    // The invocation URL names revisions, which a version is.
    let reference = qualifier.map(|_| format!(":{}", found.revision.id)).unwrap_or_default();
    let mut document = json!({
        "FunctionUrl": format!("{base}/fn/{}{reference}", found.function.name),
        "FunctionArn": found.arn(service, qualifier),
        "AuthType": url.auth,
        "InvokeMode": url.mode,
        "CreationTime": native::rfc3339(time(url.created_ms)),
        "LastModifiedTime": native::rfc3339(time(url.modified_ms)),
    });
    if let Some(cors) = &url.cors {
        document["Cors"] = cors.clone();
    }
    Ok(document)
}

fn no_url() -> Refusal {
    Refusal::not_found("The resource you requested does not exist.")
}

/// `GET /2017-03-31/tags/{arn}`.
pub(super) async fn tags(
    State(service): State<Arc<Service>>,
    Path(arn): Path<String>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({"Tags": latest(&service, &arn).await?.state.tags})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WantedTags {
    tags: BTreeMap<String, String>,
}

/// `POST /2017-03-31/tags/{arn}`.
pub(super) async fn tag(
    State(service): State<Arc<Service>>,
    Path(arn): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let WantedTags { tags } = read(&service, body).await?;
    let found = latest(&service, &arn).await?;
    let add = |state: &mut Kept| {
        state.tags.extend(tags.clone());
        match state.tags.len() > TAGS_MAX {
            true => Err(Refusal::invalid(format!("a function has at most {TAGS_MAX} tags"))),
            false => Ok(()),
        }
    };
    service.lambda.change(&service, &found.function, add).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /2017-03-31/tags/{arn}?tagKeys=…`.
pub(super) async fn untag(
    State(service): State<Arc<Service>>,
    Path(arn): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Refusal> {
    let query = query.unwrap_or_default();
    let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "tagKeys");
    let keys: BTreeSet<_> = pairs.map(|(_, key)| key.into_owned()).collect();
    let found = latest(&service, &arn).await?;
    let remove = |state: &mut Kept| {
        state.tags.retain(|key, _| !keys.contains(key));
        Ok(())
    };
    service.lambda.change(&service, &found.function, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /2016-08-19/account-settings`.
pub(super) async fn account(State(service): State<Arc<Service>>) -> Json<Value> {
    let config = &service.config;
    Json(json!({
        "AccountLimit": {
            "CodeSizeUnzipped": config.deploy.component_bytes_max,
            "CodeSizeZipped": config.deploy.component_bytes_max,
            "ConcurrentExecutions": config.predict.running_max,
            "UnreservedConcurrentExecutions": config.predict.running_max,
        },
        "AccountUsage": {"FunctionCount": service.store.registry.len()},
    }))
}
