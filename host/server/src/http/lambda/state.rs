//! What Lambda keeps of a function that a function hasn't: one small document beside it, in memory once it
//! was read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{super::Error, Refusal};
use crate::{
    function::Function,
    service::Service,
    store::{Documents, Expect, Kind, Versioned},
};

/// Attempts to write a document that somebody else changes meanwhile.
const ATTEMPTS: usize = 5;

/// What is kept of one function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::http) struct State {
    /// When the function was made that it is of: what had its name before is another.
    pub(super) function_ms: u64,
    pub(super) role: String,
    pub(super) runtime: Option<String>,
    pub(super) handler: Option<String>,
    pub(super) description: Option<String>,
    pub(super) architectures: Vec<String>,
    pub(super) tags: BTreeMap<String, String>,
    /// In the order of their numbers.
    pub(super) versions: Vec<Version>,
    pub(super) aliases: BTreeMap<String, Alias>,
    /// Predictions that may run at once; 0 lets none.
    pub(super) reserved: Option<usize>,
    /// By qualifier.
    pub(super) provisioned: BTreeMap<String, usize>,
    /// By qualifier, empty for none.
    pub(super) urls: BTreeMap<String, Url>,
    /// By qualifier, empty for none.
    pub(super) events: BTreeMap<String, Events>,
    /// The function that gets events which failed.
    pub(super) dead_letters: Option<String>,
    pub(super) modified_ms: u64,
}

/// A numbered version: a revision, kept by an alias of the node's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) revision: String,
    pub(super) description: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Alias {
    /// A number, or `$LATEST`.
    pub(super) version: String,
    pub(super) description: String,
    /// Other versions and the share of invocations that go to them.
    pub(super) weights: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Url {
    pub(super) auth: String,
    pub(super) mode: String,
    pub(super) cors: Option<Value>,
    pub(super) created_ms: u64,
    pub(super) modified_ms: u64,
}

/// What becomes of events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Events {
    pub(super) retries_max: Option<u32>,
    pub(super) age_max_s: Option<u64>,
    pub(super) on_success: Option<String>,
    pub(super) on_failure: Option<String>,
    pub(super) modified_ms: u64,
}

impl State {
    pub(super) fn version(&self, number: &str) -> Option<&Version> {
        let number: u64 = number.parse().ok()?;
        self.versions.iter().find(|version| version.number == number)
    }

    /// Drops what is kept of a version or an alias that is gone.
    pub(super) fn forget(&mut self, qualifier: &str) {
        self.provisioned.remove(qualifier);
        self.urls.remove(qualifier);
        self.events.remove(qualifier);
    }
}

/// The states that were read.
#[derive(Debug, Default)]
pub(crate) struct States {
    known: RwLock<HashMap<String, Arc<Versioned<State>>>>,
}

impl States {
    /// What is kept of a function.
    pub(super) async fn get(&self, service: &Service, function: &Function) -> Result<State, Refusal> {
        Ok(self.read(service, function).await?.map_or_else(|| of(function), |found| found.value.clone()))
    }

    /// Changes what is kept of a function; it is durable when this answers.
    pub(super) async fn change<T>(
        &self,
        service: &Service,
        function: &Function,
        change: impl Fn(&mut State) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let name = function.name.as_str();
        for _ in 0..ATTEMPTS {
            let found = self.read(service, function).await?;
            let (mut state, expect) = match &found {
                None => (of(function), Expect::Absent),
                Some(found) => (found.value.clone(), Expect::Version(found.version)),
            };
            let answer = change(&mut state)?;
            state.modified_ms = millis(SystemTime::now());
            let written = service.store.put(Kind::Lambda, name, &state, expect).await?;
            let mut known = self.known.write().expect("no panic holds this lock");
            match written {
                Some(version) => {
                    known.insert(name.to_owned(), Arc::new(Versioned { value: state, version }));
                    return Ok(answer);
                }
                // Somebody else was faster.
                None => _ = known.remove(name),
            }
        }
        Err(Refusal::conflict(format!("function \"{name}\" is being changed by others")))
    }

    /// Forgets a function that is gone.
    pub(crate) async fn forget(&self, service: &Service, name: &str) {
        self.known.write().expect("no panic holds this lock").remove(name);
        if let Err(error) = service.store.delete(Kind::Lambda, name).await {
            tracing::warn!(%error, name, "can't forget what Lambda's clients kept of a function");
        }
    }

    async fn read(
        &self,
        service: &Service,
        function: &Function,
    ) -> Result<Option<Arc<Versioned<State>>>, Refusal> {
        let name = function.name.as_str();
        let known = self.known.read().expect("no panic holds this lock").get(name).cloned();
        let found = match known {
            Some(known) => known,
            None => {
                let read = service.store.get::<State>(Kind::Lambda, name).await.map_err(Error::from)?;
                let Some(read) = read else { return Ok(None) };
                let mut known = self.known.write().expect("no panic holds this lock");
                // Whoever changed it meanwhile knows better.
                known.entry(name.to_owned()).or_insert_with(|| Arc::new(read)).clone()
            }
        };
        if found.value.function_ms == millis(function.created_at) {
            return Ok(Some(found));
        }
        Ok(Some(Arc::new(Versioned { value: of(function), version: found.version })))
    }
}

/// What is kept of a function that nobody said anything of.
fn of(function: &Function) -> State {
    State { function_ms: millis(function.created_at), ..State::default() }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

pub(super) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}
