//! The changes a store takes. Each runs on the store's thread: it decides by the registry, commits one
//! transaction and publishes what the function is then, so that memory and disk never part.

use std::{sync::Arc, time::SystemTime};

use rusqlite::TransactionBehavior;

use super::{ChangeError, Pin, Store, Writer, rows};
use crate::function::{
    Alias, Digest, Function, FunctionName, Predictor, Reference, Revision, RevisionId, Settings, Start,
    Unresolved,
};

/// What a deploy came to.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) function: Arc<Function>,
    /// False when nothing had to change.
    pub(crate) is_new: bool,
    /// Components that nothing uses any more; their blobs are gone.
    pub(crate) freed: Vec<Digest>,
}

impl Store {
    /// Makes a component with settings the function's newest and live revision, unless it is live
    /// already. `pins` are of the component's blob and its image's, which must be kept.
    pub(crate) async fn deploy(
        &self,
        function: FunctionName,
        predictor: Arc<Predictor>,
        settings: Settings,
        start: Arc<Start>,
        at: SystemTime,
        pins: Vec<Pin>,
    ) -> Result<Deployed, ChangeError> {
        self.change(move |writer| {
            // Held to the end, even when whoever asked has left.
            let _pins = pins;
            let known = writer.registry.find(function.as_str());
            let id = RevisionId::of(&predictor.digest, &settings);
            let is_live = |live: &Revision| {
                // One whose setup couldn't be tried then may have an image now.
                live.id == id && (live.start == start || live.start.was_tried(&live.effective))
            };
            if let Some(function) = known.as_ref().filter(|known| is_live(known.live())) {
                return Ok(Deployed { function: function.clone(), is_new: false, freed: Vec::new() });
            }
            let functions_max = writer.bounds.functions_max;
            if known.is_none() && writer.registry.len() >= functions_max {
                return Err(ChangeError::Conflict(format!(
                    "this node has {functions_max} functions, its bound"
                )));
            }
            let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            rows::insert(&transaction, &function, &predictor, &settings, &start, at)?;
            rows::point(&transaction, &function, &Alias::live(), &id)?;
            let freed = rows::prune(&transaction, &function, writer.bounds.revisions_max)?;
            transaction.commit()?;
            writer.remove_blobs(&freed);
            let function = writer.publish(&function, Some(predictor))?;
            Ok(Deployed { function, is_new: true, freed })
        })
        .await
    }

    /// Points an alias at a revision.
    pub(crate) async fn set_alias(
        &self,
        function: FunctionName,
        alias: Alias,
        reference: Reference,
    ) -> Result<Arc<Function>, ChangeError> {
        self.change(move |writer| {
            let known = writer.known(&function)?;
            let to = known.resolve(&reference)?.id.clone();
            if alias.is_latest() {
                return Err(ChangeError::Conflict("alias \"latest\" moves by itself".to_owned()));
            }
            let aliases_max = writer.bounds.aliases_max;
            if !known.aliases.contains_key(&alias) && known.aliases.len() >= aliases_max {
                let message = format!("function \"{function}\" has {aliases_max} aliases, the bound");
                return Err(ChangeError::Conflict(message));
            }
            writer.point(&function, &alias, &to)
        })
        .await
    }

    /// Removes an alias.
    pub(crate) async fn remove_alias(&self, function: FunctionName, alias: Alias) -> Result<(), ChangeError> {
        self.change(move |writer| {
            if alias.is_live() || alias.is_latest() {
                return Err(ChangeError::Conflict(format!("alias \"{alias}\" can't be removed")));
            }
            if !writer.known(&function)?.aliases.contains_key(&alias) {
                return Err(ChangeError::NoAlias { function, alias });
            }
            rows::remove_alias(&writer.connection, &function, &alias)?;
            writer.publish(&function, None)?;
            Ok(())
        })
        .await
    }

    /// Points `live` at a revision, by default at the one it named before it last moved.
    pub(crate) async fn roll_back(
        &self,
        function: FunctionName,
        reference: Option<Reference>,
    ) -> Result<Arc<Function>, ChangeError> {
        self.change(move |writer| {
            let known = writer.known(&function)?;
            let to = match &reference {
                Some(reference) => known.resolve(reference)?.id.clone(),
                None => known.previous.clone().ok_or_else(|| {
                    ChangeError::Conflict(format!("function \"{function}\" has no revision to go back to"))
                })?,
            };
            writer.point(&function, &Alias::live(), &to)
        })
        .await
    }

    /// Removes a function with all that is its own, and the blobs that only it used; answers their
    /// digests.
    pub(crate) async fn remove_function(&self, function: FunctionName) -> Result<Vec<Digest>, ChangeError> {
        self.change(move |writer| {
            writer.known(&function)?;
            let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let freed = rows::remove_function(&transaction, &function)?;
            transaction.commit()?;
            writer.registry.remove(&function);
            writer.remove_blobs(&freed);
            Ok(freed)
        })
        .await
    }
}

impl Writer {
    fn known(&self, function: &FunctionName) -> Result<Arc<Function>, ChangeError> {
        self.registry.find(function.as_str()).ok_or_else(|| ChangeError::NoFunction(function.clone()))
    }

    fn point(
        &mut self,
        function: &FunctionName,
        alias: &Alias,
        to: &RevisionId,
    ) -> Result<Arc<Function>, ChangeError> {
        rows::point(&self.connection, function, alias, to)?;
        self.publish(function, None)
    }

    /// Shows readers what the function is on disk.
    fn publish(
        &self,
        function: &FunctionName,
        predictor: Option<Arc<Predictor>>,
    ) -> Result<Arc<Function>, ChangeError> {
        let row = rows::find(&self.connection, function)?;
        let published = self.registry.publish(row, predictor);
        Ok(published.expect("a function that can be changed has a live revision"))
    }
}

impl From<Unresolved> for ChangeError {
    fn from(unresolved: Unresolved) -> Self {
        Self::Unresolved(unresolved)
    }
}
