//! What a function is: a name, its revisions and the aliases that point at them.
//!
//! A **revision** is immutable: a component and the settings it was deployed with. An **alias** is a
//! movable name of a revision; `live` is the one that a plain invocation takes.

mod cron;
mod manifest;
mod name;
mod prefix;
mod schema;
mod settings;
mod start;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

pub(crate) use cron::Cron;
pub(crate) use manifest::Manifest;
#[cfg(test)]
pub(crate) use manifest::tests::minimal as minimal_manifest;
pub(crate) use name::{Alias, Digest, FunctionName, NameError, Reference, RevisionId, text_type};
pub(crate) use prefix::{Prefix, problems as prefix_problems};
pub(crate) use schema::{InputSchema, Problem};
pub(crate) use settings::{Effective, Settings};
pub(crate) use start::Start;

/// A component as it was checked at its first deploy; functions with the same bytes share it.
#[derive(Debug, PartialEq)]
pub(crate) struct Predictor {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
}

/// A component and the settings it was deployed with.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) id: RevisionId,
    pub(crate) predictor: Arc<Predictor>,
    /// What its settings come to on this node.
    pub(crate) effective: Effective,
    /// How its predictions begin.
    pub(crate) start: Arc<Start>,
    pub(crate) created_at: SystemTime,
}

/// A function. Every change makes a new one, so that a reader's copy stays whole.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: FunctionName,
    pub(crate) created_at: SystemTime,
    /// Newest deployed first; never empty.
    pub(crate) revisions: Vec<Arc<Revision>>,
    /// Each names one of `revisions`; `live` is always there, `latest` never.
    pub(crate) aliases: BTreeMap<Alias, RevisionId>,
    /// What `live` named before it last moved, while that revision is kept.
    pub(crate) previous: Option<RevisionId>,
}

/// Why a [`Reference`] names no revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unresolved {
    #[error("function \"{function}\" has no revision or alias \"{reference}\"")]
    Unknown { function: FunctionName, reference: Reference },
    #[error("\"{reference}\" abbreviates {count} revisions of function \"{function}\"")]
    Ambiguous { function: FunctionName, reference: Reference, count: usize },
}

impl Function {
    /// The revision that a plain invocation takes.
    pub(crate) fn live(&self) -> &Arc<Revision> {
        self.revision(&self.aliases[&Alias::live()]).expect("an alias names a revision that is kept")
    }

    /// The newest deployed.
    pub(crate) fn latest(&self) -> &Arc<Revision> {
        self.revisions.first().expect("a function has a revision")
    }

    /// The revision with this id.
    pub(crate) fn revision(&self, id: &RevisionId) -> Option<&Arc<Revision>> {
        self.revisions.iter().find(|revision| revision.id == *id)
    }

    /// The revision that `reference` names: by alias, by id, or by the start of an id.
    pub(crate) fn resolve(&self, reference: &Reference) -> Result<&Arc<Revision>, Unresolved> {
        if reference.is_latest() {
            return Ok(self.latest());
        }
        if let Some(id) = self.aliases.get(reference.as_str()) {
            return Ok(self.revision(id).expect("an alias names a revision that is kept"));
        }
        let (function, reference) = (self.name.clone(), reference.clone());
        if !reference.may_be_revision() {
            return Err(Unresolved::Unknown { function, reference });
        }
        let mut found = self.revisions.iter().filter(|revision| revision.id.starts_with(reference.as_str()));
        match (found.next(), found.count()) {
            (None, _) => Err(Unresolved::Unknown { function, reference }),
            (Some(revision), 0) => Ok(revision),
            (Some(_), more) => Err(Unresolved::Ambiguous { function, reference, count: more + 1 }),
        }
    }

    /// Names of the aliases of a revision, `latest` included.
    pub(crate) fn aliases_of<'a>(&'a self, id: &'a RevisionId) -> impl Iterator<Item = &'a str> {
        let latest = (self.latest().id == *id).then_some(Alias::LATEST);
        let named = self.aliases.iter().filter(move |(_, to)| *to == id).map(|(alias, _)| alias.as_str());
        named.chain(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn id(first: &str) -> RevisionId {
        RevisionId::parse(&format!("{first}{}", "0".repeat(64 - first.len()))).unwrap()
    }

    fn revision(first: &str) -> Arc<Revision> {
        let manifest = Manifest::read(manifest::tests::minimal(), &Config::new("").deploy).unwrap();
        let settings = Settings::default();
        let effective = settings.resolve(&manifest, &Config::new(""));
        let digest = Digest::of(b"component");
        Arc::new(Revision {
            id: id(first),
            predictor: Arc::new(Predictor { digest, manifest }),
            effective,
            start: Arc::new(Start::default()),
            created_at: SystemTime::UNIX_EPOCH,
        })
    }

    fn function() -> Function {
        Function {
            name: FunctionName::parse("f").unwrap(),
            created_at: SystemTime::UNIX_EPOCH,
            revisions: vec![revision("aaaaaaaa1"), revision("aaaaaaaa2"), revision("bbbbbbbb")],
            aliases: BTreeMap::from([(Alias::live(), id("bbbbbbbb"))]),
            previous: None,
        }
    }

    #[track_caller]
    fn check(reference: &str, expected: Result<&str, &str>) {
        let function = function();
        let found = function.resolve(&Reference::parse(reference).unwrap());
        match expected {
            Ok(first) => assert_eq!(found.unwrap().id, id(first)),
            Err(message) => assert_eq!(found.unwrap_err().to_string(), message),
        }
    }

    #[test]
    fn a_reference_is_an_alias_or_the_start_of_a_revision() {
        check("live", Ok("bbbbbbbb"));
        check("latest", Ok("aaaaaaaa1"));
        check("aaaaaaaa2", Ok("aaaaaaaa2"));
        check("bbbbbbbb", Ok("bbbbbbbb"));
        check(id("bbbbbbbb").as_str(), Ok("bbbbbbbb"));
    }

    #[test]
    fn a_reference_that_names_none_or_many_is_refused() {
        check("aaaaaaaa", Err("\"aaaaaaaa\" abbreviates 2 revisions of function \"f\""));
        check("bbbbbbb", Err("function \"f\" has no revision or alias \"bbbbbbb\""));
        check("beta", Err("function \"f\" has no revision or alias \"beta\""));
    }
}
