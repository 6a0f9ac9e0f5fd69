//! The models of this node as the dialect lists them: those that are here, those that are awake, one of them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{Json, body::Body, extract::State, http::StatusCode};
use dormouse_engine::{
    Tier,
    catalog::{self, Entry, ModelFacts},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    super::{
        Error,
        functions::{self, rfc3339},
        guard,
        openai::{
            answerer::{Named, named},
            request as openai_request,
        },
    },
    Refusal, plain_name,
    request::FOR_EVER,
    tagged,
};
use crate::{function::Function, service::Service};

/// A body that names a model.
#[derive(Debug, Deserialize)]
struct Which {
    #[serde(alias = "name")]
    model: String,
}

/// `GET /api/tags`.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Json<Value>, Refusal> {
    let callable = functions::visible(&service);
    let read = spawn_blocking(move || -> Result<_, dormouse_engine::Error> {
        let entries = service.catalog.list()?;
        let is_free = |function: &&Arc<Function>| {
            entries.iter().all(|entry| entry.record.name != function.name.as_str())
        };
        let functions: Vec<Value> = callable.iter().filter(is_free).map(|f| function_item(f)).collect();
        let models = entries.iter().filter_map(|entry| {
            let facts = catalog::inspect(&entry.path);
            facts
                .inspect_err(|error| tracing::warn!(%error, "model can't be read"))
                .ok()
                .map(|facts| item(entry, &facts))
        });
        Ok(models.chain(functions).collect::<Vec<_>>())
    });
    let models = read.await.map_err(Error::internal)?.map_err(Error::internal)?;
    Ok(Json(json!({"models": models})))
}

/// `GET /api/ps`: the models that are awake.
pub(super) async fn awake(State(service): State<Arc<Service>>) -> Json<Value> {
    let (now, today) = (Instant::now(), SystemTime::now());
    let loaded = service.engine.loaded();
    let residency = service.engine.residency();
    let awake = residency.iter().filter(|model| model.tier == Tier::Awake).map(|model| {
        let info = loaded.iter().find(|info| info.digest == model.digest);
        let (family, quantization) =
            info.map_or(("", ""), |info| (info.architecture.as_str(), info.quantization.as_str()));
        let left = model.sleeps_at.map_or(FOR_EVER, |at| at.saturating_duration_since(now));
        json!({
            "name": tagged(&model.name),
            "model": tagged(&model.name),
            "size": model.memory_bytes,
            "digest": hex(&model.digest),
            "details": details("gguf", family, "", quantization),
            "expires_at": rfc3339(today + left.min(FOR_EVER)),
            // All of it is in the memory that the processor computes from.
            "size_vram": 0,
            "context_length": info.map(|info| info.context_length),
        })
    });
    Json(json!({"models": awake.collect::<Vec<_>>()}))
}

/// `POST /api/show`.
pub(super) async fn show(State(service): State<Arc<Service>>, body: Body) -> Result<Json<Value>, Refusal> {
    let bytes = openai_request::read(body, &service.config.http).await?;
    let Which { model } = openai_request::parse(&bytes)?;
    let name = plain_name(&service, &model).await?;
    if let Named::Function(target) = named(&service, &name).await? {
        return Ok(Json(shown_function(&target.function)));
    }
    let catalog = service.catalog.clone();
    let read = spawn_blocking(move || {
        let entry = find(&catalog, &name)?;
        let facts = catalog::inspect(&entry.path)?;
        Ok::<_, dormouse_engine::Error>(shown(&entry, facts))
    });
    Ok(Json(read.await.map_err(Error::internal)??))
}

/// `DELETE /api/delete`: forgets a model's name; its file goes with its last name.
pub(super) async fn remove(State(service): State<Arc<Service>>, body: Body) -> Result<StatusCode, Refusal> {
    let bytes = openai_request::read(body, &service.config.http).await?;
    let Which { model } = openai_request::parse(&bytes)?;
    let name = plain_name(&service, &model).await?;
    if let Named::Function(_) = named(&service, &name).await? {
        return Err(Refusal::new(format!(
            "\"{name}\" is a function: DELETE /v1/functions/{name} removes it"
        )));
    }
    guard::allow_all("models")?;
    let catalog = service.catalog.clone();
    let removed = spawn_blocking(move || find(&catalog, &name).and_then(|_| catalog.remove(&name)));
    removed.await.map_err(Error::internal)??;
    Ok(StatusCode::OK)
}

fn find(catalog: &catalog::Catalog, name: &str) -> Result<Entry, dormouse_engine::Error> {
    use dormouse_engine::Error as Engine;
    catalog.resolve(name).map_err(|error| match error {
        // No model can have such a name.
        Engine::Invalid(_) => Engine::UnknownModel(name.to_owned()),
        error => error,
    })
}

fn item(entry: &Entry, facts: &ModelFacts) -> Value {
    let name = tagged(&entry.record.name);
    json!({
        "name": name,
        "model": name,
        "modified_at": added(entry),
        "size": entry.record.bytes,
        "digest": entry.record.digest.hex(),
        "details": details_of(facts),
    })
}

fn function_item(function: &Function) -> Value {
    let (name, live) = (tagged(function.name.as_str()), function.live());
    json!({
        "name": name,
        "model": name,
        "modified_at": rfc3339(live.created_at),
        "size": 0,
        "digest": live.predictor.digest,
        "details": details("wasm", "function", "", ""),
    })
}

fn shown(entry: &Entry, facts: ModelFacts) -> Value {
    let family = facts.architecture.clone();
    let mut info = json!({
        "general.architecture": family,
        "general.parameter_count": facts.parameters,
        "general.name": facts.title,
        "general.license": facts.license,
    });
    info[format!("{family}.context_length")] = json!(facts.context_length);
    info[format!("{family}.vocab_size")] = json!(facts.vocabulary);
    json!({
        "modelfile": format!("FROM {}\n", entry.record.source),
        "parameters": "",
        "template": facts.chat_template,
        "license": facts.license.as_deref().unwrap_or_default(),
        "details": details_of(&facts),
        "model_info": info,
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": added(entry),
    })
}

fn shown_function(function: &Function) -> Value {
    let live = function.live();
    json!({
        "modelfile": "",
        "parameters": "",
        "template": "",
        "license": "",
        "details": details("wasm", "function", "", ""),
        "model_info": {
            "general.architecture": "function",
            "general.name": function.name,
            "general.description": live.predictor.manifest.description,
        },
        "capabilities": ["completion"],
        "modified_at": rfc3339(live.created_at),
    })
}

fn details_of(facts: &ModelFacts) -> Value {
    details("gguf", &facts.architecture, &size(facts.parameters), &facts.quantization)
}

fn details(format: &str, family: &str, parameters: &str, quantization: &str) -> Value {
    json!({
        "parent_model": "",
        "format": format,
        "family": family,
        "families": [family],
        "parameter_size": parameters,
        "quantization_level": quantization,
    })
}

fn added(entry: &Entry) -> String {
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(entry.record.added_at))
}

/// A number of parameters as the dialect writes it, such as `134.52M`.
fn size(parameters: u64) -> String {
    match parameters {
        1_000_000_000.. => format!("{:.1}B", parameters as f64 / 1e9),
        1_000_000.. => format!("{:.2}M", parameters as f64 / 1e6),
        _ => format!("{:.2}K", parameters as f64 / 1e3),
    }
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_ollama_writes_them() {
        assert_eq!([134_515_008, 7_241_732_096, 5_000].map(size), ["134.52M", "7.2B", "5.00K"]);
    }
}
