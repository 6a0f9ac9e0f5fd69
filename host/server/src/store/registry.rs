//! Every function of the node in memory: what the store has on disk, as readers want it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock, Weak},
};

use serde_json::Value;

use super::rows::{Contents, FunctionRow, RevisionRow};
use crate::{
    Config,
    function::{Alias, Digest, Function, FunctionName, Manifest, Predictor, Revision, RevisionId},
};

/// The functions of a node. Read by every request, changed only by the store's thread.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Arc<Config>,
    functions: RwLock<HashMap<FunctionName, Arc<Function>>>,
    /// Functions with the same component share what is known of it.
    predictors: RwLock<HashMap<Digest, Weak<Predictor>>>,
}

impl Registry {
    /// The functions that a database holds. A component whose manifest this version can't read is left
    /// out, with the revisions that name it; they stay on disk.
    pub(super) fn new(config: Arc<Config>, contents: Contents) -> Self {
        let registry = Self { config, functions: RwLock::default(), predictors: RwLock::default() };
        let predictors: HashMap<_, _> = contents
            .manifests
            .into_iter()
            .filter_map(|(digest, text)| match read(&registry.config, digest.clone(), &text) {
                Ok(predictor) => Some((digest, Arc::new(predictor))),
                Err(error) => {
                    tracing::warn!(%digest, error, "a component can't be served by this version");
                    None
                }
            })
            .collect();
        let weak = predictors.iter().map(|(digest, predictor)| (digest.clone(), Arc::downgrade(predictor)));
        *registry.predictors.write().expect("no panic holds this lock") = weak.collect();
        for row in contents.functions {
            registry.publish(row, None);
        }
        registry
    }

    /// The function of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Function>> {
        self.functions.read().expect("no panic holds this lock").get(name).cloned()
    }

    /// All functions, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<_> =
            self.functions.read().expect("no panic holds this lock").values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Number of functions.
    pub(crate) fn len(&self) -> usize {
        self.functions.read().expect("no panic holds this lock").len()
    }

    /// What is known of a component that some function has.
    pub(crate) fn predictor(&self, digest: &Digest) -> Option<Arc<Predictor>> {
        self.predictors.read().expect("no panic holds this lock").get(digest)?.upgrade()
    }

    /// Shows a function as it is on disk; `predictor` is what is known of a component that is new.
    /// `None` when its live revision can't be served.
    pub(super) fn publish(
        &self,
        row: FunctionRow,
        predictor: Option<Arc<Predictor>>,
    ) -> Option<Arc<Function>> {
        if let Some(predictor) = &predictor {
            let mut predictors = self.predictors.write().expect("no panic holds this lock");
            predictors.retain(|_, known| known.strong_count() > 0);
            predictors.insert(predictor.digest.clone(), Arc::downgrade(predictor));
        }
        let before = self.find(row.name.as_str());
        let function = Arc::new(self.function(row, before.as_deref())?);
        let mut functions = self.functions.write().expect("no panic holds this lock");
        functions.insert(function.name.clone(), function.clone());
        Some(function)
    }

    pub(super) fn remove(&self, name: &FunctionName) {
        self.functions.write().expect("no panic holds this lock").remove(name);
    }

    fn function(&self, row: FunctionRow, before: Option<&Function>) -> Option<Function> {
        let known = |id: &RevisionId| before.and_then(|before| before.revision(id)).cloned();
        let revisions: Vec<_> = row
            .revisions
            .into_iter()
            .filter_map(|row| match known(&row.id) {
                Some(revision) => Some(revision),
                None => self.revision(row).map(Arc::new),
            })
            .collect();
        let is_served = |id: &RevisionId| revisions.iter().any(|revision| revision.id == *id);
        let aliases: BTreeMap<_, _> = row.aliases.into_iter().filter(|(_, id)| is_served(id)).collect();
        let previous = row.previous.filter(is_served);
        aliases.contains_key(Alias::LIVE).then_some(Function {
            name: row.name,
            created_at: row.created_at,
            revisions,
            aliases,
            previous,
        })
    }

    fn revision(&self, row: RevisionRow) -> Option<Revision> {
        let predictor = self.predictor(&row.component)?;
        Some(Revision {
            effective: row.settings.resolve(&predictor.manifest, &self.config),
            id: row.id,
            predictor,
            created_at: row.created_at,
        })
    }
}

fn read(config: &Config, digest: Digest, text: &str) -> Result<Predictor, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Predictor { digest, manifest: Manifest::read(value, &config.deploy)? })
}
