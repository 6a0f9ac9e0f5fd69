//! What live revisions want of models besides predictions: that they stay awake or wake at some times, and
//! that beginnings of prompts are computed before anybody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dormouse_engine::{Error, Usage};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    function::{Effective, Function, Manifest, Prefix, Problem, Settings, prefix_problems},
    http, prewake,
    service::Service,
};

/// What the engine was told last.
#[derive(Debug, Default)]
pub(crate) struct Residence {
    told: Mutex<Wishes>,
}

#[derive(Debug, Default, PartialEq)]
struct Wishes {
    /// Models that don't sleep.
    warm: BTreeSet<String>,
    prefixes: BTreeMap<String, Vec<dormouse_engine::Prefix>>,
    prewakes: prewake::Wishes,
}

/// Tells the engine what the functions want now; after any of them changed.
pub(crate) async fn apply(service: &Service) {
    let mut told = service.residence.told.lock().await;
    let mut wishes = wishes(service, &told).await;
    for model in told.warm.symmetric_difference(&wishes.warm).cloned().collect::<Vec<_>>() {
        let is_wanted = wishes.warm.contains(&model);
        if let Err(error) = service.engine.pin(&model, is_wanted).await {
            tracing::warn!(model, %error, "a model can't be kept awake");
            // Tried again after the next change: it may have been pulled by then.
            if is_wanted {
                wishes.warm.remove(&model);
            }
        }
    }
    let sleepers = wishes.prewakes.values().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>();
    for model in sleepers {
        // It is listed from now on; one that isn't here yet is looked for when it is due.
        if let Err(error) = service.engine.check_fit(model).await {
            tracing::debug!(model, %error, "a model that shall wake by its schedule is not here");
        }
    }
    if told.prewakes != wishes.prewakes {
        service.prewakes.set(wishes.prewakes.clone());
    }
    let models: BTreeSet<_> = told.prefixes.keys().chain(wishes.prefixes.keys()).collect();
    let has_changed = |model: &&String| told.prefixes.get(*model) != wishes.prefixes.get(*model);
    for model in models.into_iter().filter(has_changed) {
        let prefixes = wishes.prefixes.get(model).cloned().unwrap_or_default();
        service.engine.declare_prefixes(model, prefixes);
    }
    *told = wishes;
}

/// A function's live alias moved: tells the engine, and has the live revision's prefixes computed and written
/// behind.
pub(crate) async fn moved(service: &Arc<Service>, function: &Arc<Function>) {
    apply(service).await;
    let (service, live) = (service.clone(), function.live().clone());
    tokio::spawn(async move { drop(keep_prefixes(&service, &live.effective).await) });
}

/// Refuses prefixes of a wrong shape, and those that their model can't begin a prompt with. Of a model that
/// isn't here, or doesn't wake, nothing is known.
pub(crate) async fn check_prefixes(
    service: &Service,
    manifest: &Manifest,
    settings: &Settings,
) -> Result<(), http::Error> {
    let mut problems = Vec::new();
    for (place, prefixes) in [("manifest", &manifest.prefixes), ("settings", &settings.prefixes)] {
        let mut found = prefix_problems(prefixes, &service.config.deploy);
        if found.is_empty() {
            found = refused(service, prefixes).await;
        }
        problems.extend(found.into_iter().map(|problem| Problem::new([place, "prefixes"], problem)));
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(http::Error::invalid_input(problems)),
    }
}

/// What models say against prefixes.
async fn refused(service: &Service, prefixes: &[Prefix]) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, prefix) in (1..).zip(prefixes) {
        let Ok(model) = service.engine.open(&prefix.model).await else { continue };
        let checked = model.check_prefix(&prefix.to_engine());
        if let Err(error @ (Error::Invalid(_) | Error::TooLong { .. })) = checked {
            problems.push(format!("prefix {number} of model \"{}\": {error}", prefix.model));
        }
    }
    problems
}

/// Computes the prefixes of a live revision and writes them, so that they are there after a crash. Says
/// which aren't, and why: predictions compute those.
pub(crate) async fn keep_prefixes(service: &Service, effective: &Effective) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |model: &str, reason: String| {
        tracing::warn!(model, reason, "declared prefixes are not kept");
        warnings.push(format!("prefixes of model \"{model}\" are not kept: {reason}"));
    };
    let mut by_model = BTreeMap::<&str, Vec<&Prefix>>::new();
    for prefix in &*effective.prefixes {
        by_model.entry(&prefix.model).or_default().push(prefix);
    }
    let limit = service.config.deploy.setup_timeout;
    for (model, prefixes) in by_model {
        match timeout(limit, keep_of_model(service, model, &prefixes)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(tokens)) => warn(model, format!("there is no room for {tokens} of their tokens")),
            Ok(Err(error)) => warn(model, error.to_string()),
            Err(_) => warn(model, format!("it took longer than {limit:?} (setup_timeout)")),
        }
    }
    warnings
}

/// Gives the tokens that are not kept.
async fn keep_of_model(service: &Service, model: &str, prefixes: &[&Prefix]) -> Result<usize, Error> {
    let model = service.engine.open(model).await?;
    for prefix in prefixes {
        let Usage { prompt_tokens, cached_tokens, .. } = model.prefill(&prefix.to_engine()).await?;
        tracing::info!(model = model.info().name, prompt_tokens, cached_tokens, "computed a declared prefix");
    }
    model.keep_prefixes().await
}

async fn wishes(service: &Service, told: &Wishes) -> Wishes {
    let mut wishes = Wishes::default();
    wishes.warm.extend(service.config.residency.keep_warm.iter().cloned());
    match http::provisioned_models(service).await {
        Ok(models) => wishes.warm.extend(models),
        Err(error) => {
            tracing::warn!(%error, "can't tell what is provisioned");
            // Nobody is let go for that.
            wishes.warm.extend(told.warm.iter().cloned());
        }
    }
    for function in service.store.registry.all() {
        let effective = &function.live().effective;
        if effective.keep_warm {
            wishes.warm.extend(effective.models.iter().cloned());
        }
        for text in &*effective.prewake {
            let due = wishes.prewakes.entry(text.clone()).or_default();
            for model in &*effective.models {
                let stays = due.entry(model.clone()).or_default();
                *stays = (*stays).max(effective.stays());
            }
        }
        for prefix in &*effective.prefixes {
            wishes.prefixes.entry(prefix.model.clone()).or_default().push(prefix.to_engine());
        }
    }
    wishes
}
