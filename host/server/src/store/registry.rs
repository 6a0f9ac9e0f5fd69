//! Every function of the node in memory: what the store has on disk, as readers want it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock, Weak},
};

use serde_json::Value;

use super::rows::{Contents, FunctionRow, RevisionRow};
use crate::{
    Config,
    function::{Alias, Digest, Function, FunctionName, Manifest, Predictor, Revision, RevisionId, Start},
};

/// The functions of a node. Read by every request, changed only by the store's thread.
#[derive(Debug)]
pub(crate) struct Registry {
    config: Arc<Config>,
    functions: RwLock<HashMap<FunctionName, Arc<Function>>>,
    /// Functions with the same component share what is known of it.
    predictors: RwLock<HashMap<Digest, Weak<Predictor>>>,
    /// What came of `setup`, by [`Start::key`].
    starts: RwLock<HashMap<Digest, Weak<Start>>>,
}

impl Registry {
    /// The functions that a database holds. A component whose manifest this version can't read is left
    /// out, with the revisions that name it; they stay on disk.
    pub(super) fn new(config: Arc<Config>, contents: Contents) -> Self {
        let registry = Self {
            config,
            functions: RwLock::default(),
            predictors: RwLock::default(),
            starts: RwLock::default(),
        };
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

    /// How a revision begins whose `setup` sees the same.
    pub(crate) fn start(&self, key: &Digest) -> Option<Arc<Start>> {
        self.starts.read().expect("no panic holds this lock").get(key)?.upgrade()
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
        let known = |row: &RevisionRow| {
            let known = before.and_then(|before| before.revision(&row.id)).cloned();
            known.filter(|known| *known.start == row.start)
        };
        let revisions: Vec<_> = row
            .revisions
            .into_iter()
            .filter_map(|row| match known(&row) {
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
        let effective = row.settings.resolve(&predictor.manifest, &self.config);
        Some(Revision {
            start: self.shared(Start::key(&predictor.digest, &effective), row.start),
            effective,
            id: row.id,
            predictor,
            created_at: row.created_at,
        })
    }
}

impl Registry {
    /// One copy of what revisions share.
    fn shared(&self, key: Digest, start: Start) -> Arc<Start> {
        let mut starts = self.starts.write().expect("no panic holds this lock");
        if let Some(known) = starts.get(&key).and_then(Weak::upgrade).filter(|known| **known == start) {
            return known;
        }
        if starts.len().is_power_of_two() {
            starts.retain(|_, known| known.strong_count() > 0);
        }
        let start = Arc::new(start);
        starts.insert(key, Arc::downgrade(&start));
        start
    }
}

fn read(config: &Config, digest: Digest, text: &str) -> Result<Predictor, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Ok(Predictor { digest, manifest: Manifest::read(value, &config.deploy)? })
}
