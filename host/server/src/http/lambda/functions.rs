//! Functions: made, described, changed, listed, removed.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    super::{body, functions as native, guard},
    Refusal,
    aliases::publish_version,
    code::{self, Code},
    configuration::{self, Target, Wanted, settings_of, target},
    name::{LATEST, Name},
    state::State as Kept,
};
use crate::{
    config,
    deploy::{admit, deploy},
    function::{Function, FunctionName, Settings},
    service::Service,
};

/// Functions on a page, where the client doesn't say.
const PAGE: usize = 50;

/// `Qualifier` in a query.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Qualified {
    pub(super) qualifier: Option<String>,
}

/// A page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Paged {
    pub(super) marker: Option<String>,
    pub(super) max_items: Option<usize>,
    pub(super) function_version: Option<String>,
}

impl Paged {
    /// The items of this page, and where the next begins.
    pub(super) fn page<T>(&self, items: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let max = self.max_items.unwrap_or(PAGE).clamp(1, 10_000);
        let after = |item: &T| self.marker.as_ref().is_none_or(|marker| key(item) > *marker);
        let mut page: Vec<_> = items.into_iter().filter(after).collect();
        let is_more = page.len() > max;
        page.truncate(max);
        let next = page.last().map(key).filter(|_| is_more);
        (page, next)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    function_name: String,
    code: Code,
    publish: bool,
    tags: BTreeMap<String, String>,
    #[serde(flatten)]
    wanted: Wanted,
}

/// `POST /2015-03-31/functions`.
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let create: Create = read(&service, body).await?;
    let name = Name::parse(&create.function_name, None)?;
    let name = FunctionName::parse(&name.function)?;
    guard::allow(&name)?;
    if service.store.registry.find(name.as_str()).is_some() {
        return Err(Refusal::conflict(format!("Function already exist: {name}")));
    }
    create.wanted.check(&service)?;
    let function = install(&service, name, create.code, create.wanted.settings(Settings::default())).await?;
    let note = |state: &mut Kept| {
        create.wanted.note(state);
        state.tags.clone_from(&create.tags);
        Ok(())
    };
    service.lambda.change(&service, &function, note).await?;
    let document = described(&service, &function, create.publish, "").await?;
    Ok((StatusCode::CREATED, Json(document)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateCode {
    #[serde(flatten)]
    code: Code,
    publish: bool,
    dry_run: bool,
    revision_id: Option<String>,
}

/// `PUT …/code`.
pub(super) async fn update_code(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let update: UpdateCode = read(&service, body).await?;
    let found = latest(&service, &f).await?;
    expect_revision(&found, update.revision_id.as_deref())?;
    if update.dry_run {
        code::upload(&service, update.code).await?;
        return Ok(Json(found.configuration(&service).await?));
    }
    let settings = settings_of(&found.revision);
    let function = install(&service, found.function.name.clone(), update.code, settings).await?;
    service.lambda.change(&service, &function, |_| Ok(())).await?;
    Ok(Json(described(&service, &function, update.publish, "").await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Configure {
    revision_id: Option<String>,
    #[serde(flatten)]
    wanted: Wanted,
}

/// `PUT …/configuration`.
pub(super) async fn configure(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let Configure { revision_id, wanted } = read(&service, body).await?;
    let found = latest(&service, &f).await?;
    expect_revision(&found, revision_id.as_deref())?;
    wanted.check(&service)?;
    let before = settings_of(&found.revision);
    let settings = wanted.settings(before.clone());
    let function = match settings == before {
        true => found.function,
        false => configuration::reconfigure(&service, &found.function, settings).await?,
    };
    let note = |state: &mut Kept| {
        wanted.note(state);
        Ok(())
    };
    service.lambda.change(&service, &function, note).await?;
    Ok(Json(described(&service, &function, false, "").await?))
}

/// `GET …/functions/{f}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<Json<Value>, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    let mut document = json!({
        "Configuration": found.configuration(&service).await?,
        "Code": {"RepositoryType": "Dormouse"},
        "Tags": found.state.tags,
    });
    if let Some(reserved) = found.state.reserved {
        document["Concurrency"] = json!({"ReservedConcurrentExecutions": reserved});
    }
    Ok(Json(document))
}

/// `GET …/configuration`.
pub(super) async fn configuration(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(qualified(&service, &f, &query).await?.configuration(&service).await?))
}

/// `GET /2015-03-31/functions`: by name; with `FunctionVersion=ALL` every version of each.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Query(paged): Query<Paged>,
) -> Result<Json<Value>, Refusal> {
    let (page, next) = paged.page(native::visible(&service), |function| function.name.to_string());
    let mut functions = Vec::new();
    for function in page {
        let name = function.name.to_string();
        let mut versions = vec![LATEST.to_owned()];
        if paged.function_version.as_deref() == Some("ALL") {
            let state = service.lambda.get(&service, &function).await?;
            versions.extend(state.versions.iter().map(|version| version.number.to_string()));
        }
        for version in versions {
            let name = Name { function: name.clone(), qualifier: Some(version) };
            // One that was removed meanwhile is not listed.
            if let Ok(found) = target(&service, &name, 1.0).await {
                functions.push(found.configuration(&service).await?);
            }
        }
    }
    Ok(Json(json!({"Functions": functions, "NextMarker": next})))
}

/// `DELETE …/functions/{f}`; with a qualifier, one of its versions.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(query): Query<Qualified>,
) -> Result<StatusCode, Refusal> {
    let found = qualified(&service, &f, &query).await?;
    if let Some(number) = found.qualifier {
        super::aliases::remove_version(&service, &found.function, &number).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    Ok(native::remove(State(service), Path(found.function.name.to_string())).await?)
}

/// Deploys code under a name.
async fn install(
    service: &Service,
    name: FunctionName,
    code: Code,
    settings: Settings,
) -> Result<Arc<Function>, Refusal> {
    configuration::check(service, &settings)?;
    let _place = admit(service)?;
    let upload = code::upload(service, code).await?;
    Ok(deploy(service, name, upload, settings.normalized()).await?.function)
}

/// A function as it is now, perhaps after its newest code became a version.
async fn described(
    service: &Service,
    function: &Function,
    publish: bool,
    description: &str,
) -> Result<Value, Refusal> {
    let qualifier = match publish {
        true => Some(publish_version(service, function, description).await?.to_string()),
        false => None,
    };
    let name = Name { function: function.name.to_string(), qualifier };
    target(service, &name, 1.0).await?.configuration(service).await
}

/// Refuses a change to what is not there any more as the client knows it.
pub(super) fn expect_revision(found: &Target, expected: Option<&str>) -> Result<(), Refusal> {
    let current = configuration::revision_id(&found.revision, &found.state);
    match expected {
        Some(expected) if expected != current => {
            let message = format!("RevisionId is \"{current}\", not \"{expected}\"");
            Err(Refusal::precondition(message))
        }
        _ => Ok(()),
    }
}

/// The function that a path names, at its newest.
pub(super) async fn latest(service: &Service, f: &str) -> Result<Target, Refusal> {
    let Name { function, .. } = Name::parse(f, None)?;
    target(service, &Name { function, qualifier: None }, 1.0).await
}

/// The function that a path and a query name.
pub(super) async fn qualified(service: &Service, f: &str, query: &Qualified) -> Result<Target, Refusal> {
    target(service, &Name::parse(f, query.qualifier.as_deref())?, 1.0).await
}

/// A body of JSON; an empty one is the default.
pub(super) async fn read<T: DeserializeOwned + Default>(service: &Service, body: Body) -> Result<T, Refusal> {
    let max = service.config.aws.body_bytes_max;
    let bounds = config::Http { body_bytes_max: max, ..service.config.http.clone() };
    let bytes = body::read(body, &bounds).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid_content(format!("body: {error}")))
}
