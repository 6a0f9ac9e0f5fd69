//! Numbered versions, and the aliases that name them.

use std::{collections::BTreeMap, sync::Arc};

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
    configuration::{Target, revision_id, target},
    functions::{Paged, expect_revision, latest, read},
    name::{LATEST, Name},
    state::{Alias, State as Kept, Version},
};
use crate::{
    function::{Alias as Pin, Function, Reference},
    residence,
    service::Service,
};

/// The most versions of a function: each keeps a revision by an alias of the node's own.
const VERSIONS_MAX: usize = 75;
/// The most aliases of a function.
const ALIASES_MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Publish {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
}

/// `POST …/versions`.
pub(super) async fn publish(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let publish: Publish = read(&service, body).await?;
    let found = latest(&service, &f).await?;
    expect_revision(&found, publish.revision_id.as_deref())?;
    if let Some(expected) = &publish.code_sha256
        && found.configuration(&service).await?["CodeSha256"] != **expected
    {
        return Err(Refusal::invalid("CodeSha256 is not that of the function's code"));
    }
    let description = publish.description.unwrap_or_default();
    let number = publish_version(&service, &found.function, &description).await?.to_string();
    let name = Name { function: found.function.name.to_string(), qualifier: Some(number) };
    let document = target(&service, &name, 1.0).await?.configuration(&service).await?;
    Ok((StatusCode::CREATED, Json(document)))
}

/// Makes the live revision a numbered version, unless the newest version is that already.
pub(super) async fn publish_version(
    service: &Service,
    function: &Function,
    description: &str,
) -> Result<u64, Refusal> {
    let revision = function.live().id.to_string();
    let (number, is_new) = service
        .lambda
        .change(service, function, |state| {
            if let Some(last) = state.versions.last().filter(|last| last.revision == revision) {
                return Ok((last.number, false));
            }
            if state.versions.len() >= VERSIONS_MAX {
                return Err(Refusal::conflict(format!(
                    "the function has {VERSIONS_MAX} versions, the bound"
                )));
            }
            let number = state.versions.last().map_or(1, |last| last.number + 1);
            let (revision, description) = (revision.clone(), description.to_owned());
            state.versions.push(Version { number, revision, description });
            Ok((number, true))
        })
        .await?;
    if is_new {
        let (name, pin) = (function.name.clone(), pin(number)?);
        let pinned = service.store.set_alias(name, pin, Reference::parse(&revision)?).await;
        if let Err(error) = pinned {
            // A version that nothing keeps is none.
            let forget = |state: &mut Kept| {
                state.versions.retain(|version| version.number != number);
                Ok(())
            };
            service.lambda.change(service, function, forget).await?;
            return Err(error.into());
        }
    }
    Ok(number)
}

/// Removes a numbered version that no alias names.
pub(super) async fn remove_version(
    service: &Service,
    function: &Function,
    number: &str,
) -> Result<(), Refusal> {
    let removed = service
        .lambda
        .change(service, function, |state| {
            let Some(version) = state.version(number).map(|version| version.number) else {
                return Err(Refusal::not_found(format!("version {number} is none of the function's")));
            };
            let names = |alias: &Alias| alias.version == number || alias.weights.contains_key(number);
            if let Some((alias, _)) = state.aliases.iter().find(|(_, alias)| names(alias)) {
                return Err(Refusal::conflict(format!("alias \"{alias}\" names version {number}")));
            }
            state.versions.retain(|kept| kept.number != version);
            state.forget(number);
            Ok(version)
        })
        .await?;
    // One that is gone keeps nothing already.
    let _ = service.store.remove_alias(function.name.clone(), pin(removed)?).await;
    residence::apply(service).await;
    Ok(())
}

/// The node's own alias that keeps a version's revision.
fn pin(number: u64) -> Result<Pin, Refusal> {
    Ok(Pin::parse(&format!("version-{number}"))?)
}

/// `GET …/versions`.
pub(super) async fn versions(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(paged): Query<Paged>,
) -> Result<Json<Value>, Refusal> {
    let found = latest(&service, &f).await?;
    let numbers = found.state.versions.iter().map(|version| version.number.to_string());
    let all: Vec<_> = [LATEST.to_owned()].into_iter().chain(numbers).collect();
    // In the order of their values, `$LATEST` first.
    let key = |number: &String| format!("{:>20}", if number == LATEST { "" } else { number });
    let (page, next) = paged.page(all, key);
    let mut versions = Vec::new();
    for number in page {
        let name = Name { function: found.function.name.to_string(), qualifier: Some(number) };
        versions.push(target(&service, &name, 1.0).await?.configuration(&service).await?);
    }
    Ok(Json(json!({"Versions": versions, "NextMarker": next})))
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wanted {
    name: String,
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<Routing>,
    revision_id: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Routing {
    additional_version_weights: BTreeMap<String, f64>,
}

impl Wanted {
    /// The alias that is wanted, with what is not said from `before`.
    fn alias(&self, state: &Kept, before: Alias) -> Result<Alias, Refusal> {
        let alias = Alias {
            version: self.function_version.clone().unwrap_or(before.version),
            description: self.description.clone().unwrap_or(before.description),
            weights: match &self.routing_config {
                Some(routing) => routing.additional_version_weights.clone(),
                None => before.weights,
            },
        };
        for version in alias.weights.keys().chain([&alias.version]) {
            if version != LATEST && state.version(version).is_none() {
                return Err(Refusal::not_found(format!("Function version {version} does not exist")));
            }
        }
        let is_share = |weight: &f64| (0.0..=1.0).contains(weight);
        if alias.weights.len() > 1 || !alias.weights.values().all(is_share) {
            return Err(Refusal::invalid("weights are of one other version, from 0 to 1"));
        }
        Ok(alias)
    }
}

/// `POST …/aliases`.
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let wanted: Wanted = read(&service, body).await?;
    let found = latest(&service, &f).await?;
    let is_fit = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    let name = &wanted.name;
    let is_number = name.chars().all(|char| char.is_ascii_digit());
    if name.is_empty() || name.len() > 128 || is_number || !name.chars().all(is_fit) {
        let message = format!("alias \"{name}\" is not 1 to 128 letters, digits, - and _, or is a number");
        return Err(Refusal::invalid(message));
    }
    let add = |state: &mut Kept| {
        if state.aliases.contains_key(name) {
            return Err(Refusal::conflict(format!("Alias already exists: {name}")));
        }
        if state.aliases.len() >= ALIASES_MAX {
            return Err(Refusal::conflict(format!("the function has {ALIASES_MAX} aliases, the bound")));
        }
        let alias = wanted.alias(state, Alias::default())?;
        state.aliases.insert(name.clone(), alias);
        Ok(())
    };
    service.lambda.change(&service, &found.function, add).await?;
    let found = latest(&service, &f).await?;
    Ok((StatusCode::CREATED, Json(document(&service, &found, name)?)))
}

/// `PUT …/aliases/{alias}`.
pub(super) async fn update(
    State(service): State<Arc<Service>>,
    Path((f, name)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let wanted: Wanted = read(&service, body).await?;
    let found = latest(&service, &f).await?;
    expect_revision(&found, wanted.revision_id.as_deref())?;
    let change = |state: &mut Kept| {
        let before = state.aliases.get(&name).cloned().ok_or_else(|| absent(&name))?;
        let alias = wanted.alias(state, before)?;
        state.aliases.insert(name.clone(), alias);
        Ok(())
    };
    service.lambda.change(&service, &found.function, change).await?;
    residence::apply(&service).await;
    let found = latest(&service, &f).await?;
    Ok(Json(document(&service, &found, &name)?))
}

/// `GET …/aliases/{alias}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Path((f, name)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let found = latest(&service, &f).await?;
    Ok(Json(document(&service, &found, &name)?))
}

/// `GET …/aliases`.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Path(f): Path<String>,
    Query(paged): Query<Paged>,
) -> Result<Json<Value>, Refusal> {
    let found = latest(&service, &f).await?;
    let of_version =
        |alias: &Alias| paged.function_version.as_ref().is_none_or(|only| alias.version == *only);
    let names = found.state.aliases.iter().filter(|(_, alias)| of_version(alias));
    let names = names.map(|(name, _)| name.clone()).collect();
    let (page, next) = paged.page(names, String::clone);
    let aliases = page.iter().map(|name| document(&service, &found, name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(json!({"Aliases": aliases, "NextMarker": next})))
}

/// `DELETE …/aliases/{alias}`.
pub(super) async fn remove(
    State(service): State<Arc<Service>>,
    Path((f, name)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let found = latest(&service, &f).await?;
    let remove = |state: &mut Kept| {
        state.aliases.remove(&name);
        state.forget(&name);
        Ok(())
    };
    service.lambda.change(&service, &found.function, remove).await?;
    residence::apply(&service).await;
    Ok(StatusCode::NO_CONTENT)
}

fn document(service: &Service, found: &Target, name: &str) -> Result<Value, Refusal> {
    let alias = found.state.aliases.get(name).ok_or_else(|| absent(name))?;
    let mut document = json!({
        "AliasArn": found.arn(service, Some(name)),
        "Name": name,
        "FunctionVersion": alias.version,
        "Description": alias.description,
        "RevisionId": revision_id(&found.revision, &found.state),
    });
    if !alias.weights.is_empty() {
        document["RoutingConfig"] = json!({"AdditionalVersionWeights": alias.weights});
    }
    Ok(document)
}

fn absent(name: &str) -> Refusal {
    Refusal::not_found(format!("Cannot find alias: {name}"))
}
