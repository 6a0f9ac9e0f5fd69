//! A function as Lambda describes it, and the settings that its description comes to.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    super::{Code, Error, functions::rfc3339, guard, invoke::find},
    Refusal,
    code::save,
    name::{Arn, LATEST, Name},
    state::{State, time},
};
use crate::{
    deploy::{admit, deploy},
    function::{Function, Reference, Revision, RevisionId, Settings},
    service::Service,
};

/// A function at one of its versions, and what is kept of it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) function: Arc<Function>,
    pub(super) revision: Arc<Revision>,
    pub(super) state: State,
    /// A number, or `$LATEST`.
    pub(super) version: String,
    /// What it was asked for by, if that is not `$LATEST`.
    pub(super) qualifier: Option<String>,
}

/// What a name means. An alias with weights takes one of its versions by `draw`, in [0, 1); 1 takes
/// the alias's own.
pub(super) async fn target(service: &Service, name: &Name, draw: f64) -> Result<Target, Refusal> {
    let absent = || {
        let arn =
            Arn { aws: &service.config.aws, function: &name.function, qualifier: name.qualifier.as_deref() };
        Refusal::not_found(format!("Function not found: {arn}"))
    };
    let function = find(service, &name.function).map_err(|error| match error.code {
        Code::NotFound => absent(),
        _ => error.into(),
    })?;
    let state = service.lambda.get(service, &function).await?;
    let qualifier = name.qualifier().map(str::to_owned);
    let version = match &qualifier {
        None => LATEST.to_owned(),
        Some(qualifier) => match state.aliases.get(qualifier) {
            Some(alias) => drawn(alias, draw),
            None => qualifier.clone(),
        },
    };
    let revision = match state.version(&version) {
        _ if version == LATEST => function.live().clone(),
        Some(numbered) => {
            let id = RevisionId::parse(&numbered.revision).map_err(Error::internal)?;
            function.revision(&id).cloned().ok_or_else(absent)?
        }
        // An alias or a revision of the node's own.
        None => {
            let reference = Reference::parse(&version).map_err(|_| absent())?;
            function.resolve(&reference).map_err(|_| absent())?.clone()
        }
    };
    Ok(Target { function, revision, state, version, qualifier })
}

/// The version that an alias sends this invocation to.
fn drawn(alias: &super::state::Alias, draw: f64) -> String {
    let mut left = draw;
    for (version, weight) in &alias.weights {
        left -= weight;
        if left < 0.0 {
            return version.clone();
        }
    }
    alias.version.clone()
}

impl Target {
    /// The function's ARN, with the version if `is_numbered`.
    pub(super) fn arn(&self, service: &Service, qualifier: Option<&str>) -> String {
        Arn { aws: &service.config.aws, function: self.function.name.as_str(), qualifier }.to_string()
    }

    /// The description of it that all answers have.
    pub(super) async fn configuration(&self, service: &Service) -> Result<Value, Refusal> {
        let (blobs, digest) = (service.store.blobs.clone(), self.revision.predictor.digest.clone());
        let sized = spawn_blocking(move || blobs.bytes(&digest)).await.map_err(Error::internal)?;
        let code_bytes = sized.map_err(Error::internal)?;
        let (state, effective) = (&self.state, &self.revision.effective);
        let numbered = state.version(&self.version);
        let description = match (numbered, &state.description) {
            (Some(version), _) if !version.description.is_empty() => version.description.clone(),
            (_, Some(description)) => description.clone(),
            _ => self.revision.predictor.manifest.description.clone(),
        };
        let env: BTreeMap<_, _> = effective.env.iter().cloned().collect();
        let modified = self.revision.created_at.max(time(state.modified_ms));
        let mut document = json!({
            "FunctionName": self.function.name,
            "FunctionArn": self.arn(service, (self.version != LATEST).then_some(&*self.version)),
            "Runtime": state.runtime.as_deref().unwrap_or("provided.al2023"),
            "Role": state.role,
            "Handler": state.handler.as_deref().unwrap_or("predict"),
            "CodeSize": code_bytes,
            "Description": description,
            "Timeout": effective.limits.timeout.as_millis().div_ceil(1000),
            "MemorySize": effective.limits.memory_bytes >> 20,
            "LastModified": lambda_time(modified),
            "CodeSha256": code_hash(self.revision.predictor.digest.as_str()),
            "Version": self.version,
            "TracingConfig": {"Mode": "PassThrough"},
            "RevisionId": revision_id(&self.revision, state),
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Architectures": if state.architectures.is_empty() { json!(["x86_64"]) } else { json!(state.architectures) },
            "EphemeralStorage": {"Size": 512},
        });
        if !env.is_empty() {
            document["Environment"] = json!({"Variables": env});
        }
        if let Some(target) = &state.dead_letters {
            document["DeadLetterConfig"] = json!({"TargetArn": target});
        }
        Ok(document)
    }
}

/// Changes with the revision and with what is kept beside it.
pub(super) fn revision_id(revision: &Revision, state: &State) -> String {
    format!("{}-{}", &revision.id.as_str()[..16], state.modified_ms)
}

/// What of a description is a function's settings.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Wanted {
    pub(super) description: Option<String>,
    role: Option<String>,
    handler: Option<String>,
    runtime: Option<String>,
    architectures: Option<Vec<String>>,
    timeout: Option<u64>,
    memory_size: Option<usize>,
    environment: Option<Environment>,
    dead_letter_config: Option<DeadLetters>,
    package_type: Option<String>,
    vpc_config: Option<Value>,
    layers: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Environment {
    variables: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeadLetters {
    target_arn: String,
}

impl Wanted {
    /// Refuses what a component has no use for and would miss.
    pub(super) fn check(&self, service: &Service) -> Result<(), Refusal> {
        if self.package_type.as_deref().is_some_and(|kind| kind != "Zip") {
            return Err(Refusal::invalid("PackageType is not \"Zip\""));
        }
        if self.layers.as_ref().is_some_and(|layers| !layers.is_empty()) {
            return Err(Refusal::invalid("layers are not offered: a component has its parts within"));
        }
        let has_ids = |config: &Value| {
            ["SubnetIds", "SecurityGroupIds"]
                .iter()
                .any(|ids| config[ids].as_array().is_some_and(|ids| !ids.is_empty()))
        };
        if self.vpc_config.as_ref().is_some_and(has_ids) {
            return Err(Refusal::invalid("VpcConfig is not offered"));
        }
        match &self.dead_letter_config {
            Some(letters) if !letters.target_arn.is_empty() => destination(service, &letters.target_arn),
            _ => Ok(()),
        }
    }

    /// The settings, with those that are not said from `before`.
    pub(super) fn settings(&self, before: Settings) -> Settings {
        Settings {
            timeout_ms: self.timeout.map(|seconds| seconds.saturating_mul(1000)).or(before.timeout_ms),
            memory_bytes: self.memory_size.map(|mib| mib.saturating_mul(1 << 20)).or(before.memory_bytes),
            env: match &self.environment {
                Some(environment) => environment.variables.clone(),
                None => before.env,
            },
            ..before
        }
    }

    /// Notes what is no setting.
    pub(super) fn note(&self, state: &mut State) {
        let set = |to: &mut Option<String>, from: &Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        set(&mut state.description, &self.description);
        set(&mut state.handler, &self.handler);
        set(&mut state.runtime, &self.runtime);
        if let Some(role) = &self.role {
            state.role.clone_from(role);
        }
        if let Some(architectures) = &self.architectures {
            state.architectures.clone_from(architectures);
        }
        if let Some(letters) = &self.dead_letter_config {
            state.dead_letters = Some(letters.target_arn.clone()).filter(|arn| !arn.is_empty());
        }
    }
}

/// Refuses where nothing can be sent to: a destination is a function of this node.
pub(super) fn destination(service: &Service, arn: &str) -> Result<(), Refusal> {
    let name = Name::parse(arn, None)?;
    match service.store.registry.find(&name.function) {
        Some(function) if arn.starts_with("arn:") => Ok(guard::allow(&function.name)?),
        _ => {
            Err(Refusal::invalid(format!("destination \"{arn}\" is not the ARN of a function of this node")))
        }
    }
}

/// A revision's settings as they act, so that changing one leaves the others.
pub(super) fn settings_of(revision: &Revision) -> Settings {
    let (effective, manifest) = (&revision.effective, &revision.predictor.manifest);
    let added = effective.models.iter().filter(|model| !manifest.models.contains(model));
    Settings {
        timeout_ms: effective.limits.timeout.as_millis().try_into().ok(),
        memory_bytes: Some(effective.limits.memory_bytes),
        concurrency: Some(effective.concurrency),
        queue_max: Some(effective.queue_max),
        priority: Some(effective.priority),
        guess_tokens: effective.guess_tokens,
        keep: Some(effective.keep),
        env: effective.env.iter().cloned().collect(),
        models: added.cloned().collect(),
        idle_after_ms: effective.stays().and_then(|time| time.as_millis().try_into().ok()),
        keep_warm: effective.keep_warm,
        prewake: effective.prewake.to_vec(),
        // The manifest's come first, and are added again.
        prefixes: effective.prefixes.iter().skip(manifest.prefixes.len()).cloned().collect(),
    }
}

/// Deploys a function's live code again with other settings.
pub(super) async fn reconfigure(
    service: &Service,
    function: &Function,
    settings: Settings,
) -> Result<Arc<Function>, Refusal> {
    check(service, &settings)?;
    let _place = admit(service)?;
    let (blobs, digest) = (service.store.blobs.clone(), function.live().predictor.digest.clone());
    let copied = spawn_blocking(move || {
        let bytes = blobs.read(&digest).map_err(|error| Error::internal(format!("blob: {error}")))?;
        save(&blobs, &bytes)
    });
    let upload = copied.await.map_err(Error::internal)??;
    Ok(deploy(service, function.name.clone(), upload, settings.normalized()).await?.function)
}

/// Refuses settings that break a bound of the node.
pub(super) fn check(service: &Service, settings: &Settings) -> Result<(), Refusal> {
    let problems = settings.problems(&service.config);
    if problems.is_empty() { Ok(()) } else { Err(Error::invalid_input(problems).into()) }
}

/// A time as Lambda writes it in most places.
pub(super) fn lambda_time(at: SystemTime) -> String {
    rfc3339(at).replace('Z', "+0000")
}

/// A digest in hex as Lambda writes it.
fn code_hash(digest: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&digest[at..at + 2], 16).expect("a digest is hex");
    STANDARD.encode((0..digest.len() / 2).map(|at| byte(2 * at)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_sends_its_shares() {
        let alias = super::super::state::Alias {
            version: "1".to_owned(),
            weights: BTreeMap::from([("2".to_owned(), 0.25)]),
            ..Default::default()
        };
        assert_eq!([0.0, 0.2, 0.25, 0.9].map(|draw| drawn(&alias, draw)), ["2", "2", "1", "1"]);
    }

    #[test]
    fn what_is_not_said_stays() {
        let wanted: Wanted = serde_json::from_value(json!({"Timeout": 5})).unwrap();
        let before = Settings {
            memory_bytes: Some(1),
            env: [("A".to_owned(), "b".to_owned())].into(),
            ..Settings::default()
        };
        let settings = wanted.settings(before.clone());
        assert_eq!(settings, Settings { timeout_ms: Some(5000), ..before });
        let cleared: Wanted = serde_json::from_value(json!({"Environment": {}, "MemorySize": 2})).unwrap();
        let settings = cleared.settings(settings);
        assert_eq!((settings.memory_bytes, settings.env.len()), (Some(2 << 20), 0));
    }

    #[test]
    fn a_digest_is_base64_of_its_bytes() {
        assert_eq!(code_hash("00ff10"), "AP8Q");
    }
}
