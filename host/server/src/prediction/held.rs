//! A prediction whose caller holds a connection open for it. Dropping it at any point ends it: the
//! place is given back, the instance and its completions go, and the record says that it was canceled.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    Call, Cursor, Live, PredictionId, Record, Status,
    run::{Loaded, Outcome, Run, permit},
};
use crate::{
    http::{Code, Error},
    service::Service,
    webhook,
};

/// A prediction that has its place.
pub(crate) struct Prediction {
    entry: Entry,
    run: Run,
}

/// A prediction's end, told when this is dropped at the latest.
struct Entry {
    service: Arc<Service>,
    live: Arc<Live>,
    since: Instant,
    /// It had a place, so that its end counts.
    has_run: bool,
    keeping: Keeping,
    /// How it ended, once that is known.
    ended: Option<Arc<Record>>,
    is_told: bool,
}

/// What becomes of a record when its prediction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// It is forgotten.
    None,
    /// It is written after its caller was answered: nobody waits for the disk.
    Behind,
    /// It is on disk before anybody hears of its end: it has a name of its caller's, by which it is to be
    /// known again, or its end is owed to a receiver.
    First,
}

impl Prediction {
    /// Finds the component, checks the input and waits for a place. From then on its id leads to it.
    pub(crate) async fn prepare(service: &Arc<Service>, call: Call) -> Result<Self, Error> {
        let Call { function, revision, input, id, webhook, memo, keep_alive, arrived } = call;
        let loaded = Loaded::of(service, &revision).await?;
        let checked = loaded.check(service, input).await?;
        let is_named = id.is_some();
        let id = id.unwrap_or_else(PredictionId::random);
        let record = Record {
            id: id.clone(),
            function: function.name.clone(),
            revision: revision.id.clone(),
            status: Status::Queued,
            created_at: SystemTime::now(),
            started_at: None,
            ended_at: None,
            input: checked.given,
            events: Vec::new(),
            returned: None,
            failure: None,
            metrics: None,
            order: None,
            webhook,
            memo,
        };
        let record = Arc::new(record);
        let live = service.predictions.live.insert(record.clone()).ok_or_else(|| taken(&id))?;
        let service = service.clone();
        let keeping = match (is_named || record.webhook.is_some(), revision.effective.keep) {
            (true, _) => Keeping::First,
            (false, true) => Keeping::Behind,
            (false, false) => Keeping::None,
        };
        let mut entry =
            Entry { service, live, since: arrived, has_run: false, keeping, ended: None, is_told: false };
        let permitted = tokio::select! {
            permitted = permit(&entry.service, &function) => permitted,
            () = entry.live.canceled() => Err(dormouse_runtime::Error::Cancelled.into()),
        };
        match permitted {
            Ok((permit, queued)) => {
                entry.has_run = true;
                webhook::follow(
                    &entry.service.predictions.webhooks,
                    Cursor::new(entry.live.clone()),
                    &record,
                );
                let filled = checked.filled;
                let function = function.name.clone();
                let run =
                    Run { function, revision, loaded, filled, keep_alive, permit, queued, since: arrived };
                Ok(Self { entry, run })
            }
            Err(error) => {
                entry.end(Outcome::failed(error.clone())).await;
                Err(error)
            }
        }
    }

    /// Time that it waited for its place and for the component's code.
    pub(crate) fn waited(&self) -> (std::time::Duration, std::time::Duration) {
        (self.run.queued, self.run.loaded.cold_start)
    }

    /// What it will tell.
    pub(crate) fn cursor(&self) -> Cursor {
        Cursor::new(self.entry.live.clone())
    }

    /// Runs to the end.
    pub(crate) async fn run(self) -> Arc<Record> {
        let Self { entry, run } = self;
        let outcome = run.execute(&entry.service, &entry.live).await;
        entry.end(outcome).await
    }

    /// Runs in a task of its own, for as long as the cursor is held.
    pub(crate) fn spawn(self) -> Held {
        let cursor = self.cursor();
        let run = async move { drop(self.run().await) };
        tokio::spawn(tracing::Instrument::in_current_span(run));
        Held::new(cursor)
    }
}

fn taken(id: &PredictionId) -> Error {
    Error::new(Code::Conflict, format!("prediction \"{id}\" is under way"))
}

/// Follows a prediction that ends when the last who holds it so is gone.
pub(crate) struct Held {
    cursor: Cursor,
    is_holder: bool,
}

impl Held {
    fn new(cursor: Cursor) -> Self {
        cursor.live().hold();
        Self { cursor, is_holder: true }
    }

    /// Joins those who hold a prediction; one that nobody holds so goes on without them all.
    pub(crate) fn join(cursor: Cursor) -> Self {
        let is_holder = cursor.live().join();
        Self { cursor, is_holder }
    }
}

impl std::ops::Deref for Held {
    type Target = Cursor;

    fn deref(&self) -> &Cursor {
        &self.cursor
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Cursor {
        &mut self.cursor
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_holder {
            self.cursor.live().release();
        }
    }
}

impl Entry {
    /// Keeps how it ended and tells those who follow.
    async fn end(mut self, outcome: Outcome) -> Arc<Record> {
        let record = self.ended(outcome);
        if self.has_run && self.keeping == Keeping::First {
            let (store, kept) = (self.service.predictions.store.clone(), record.clone());
            // In a task of its own, so that a caller who leaves does not lose it.
            let kept = tokio::spawn(async move { store.keep(vec![kept]).await });
            if let Ok(Err(error)) = kept.await {
                tracing::warn!(%error, id = %record.id, "can't keep a prediction");
            }
        }
        self.tell();
        record
    }

    fn ended(&mut self, outcome: Outcome) -> Arc<Record> {
        self.ended.get_or_insert_with(|| Arc::new(outcome.record(&self.live))).clone()
    }

    fn keep(&self, record: &Arc<Record>) {
        self.service.predictions.recorder.keep(self.live.clone(), record.clone());
    }

    fn tell(&mut self) {
        self.is_told = true;
        let record = self.ended.clone().expect("it is told when it has ended");
        self.live.end(record.clone());
        if self.has_run {
            self.service.ended(&record);
            if self.keeping == Keeping::Behind {
                self.keep(&record);
            }
            tracing::debug!(took = ?self.since.elapsed(), "prediction");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        // Its caller has left: either it still ran, or it was being written.
        let is_new = self.ended.is_none();
        let record = self.ended(Outcome::failed(dormouse_runtime::Error::Cancelled.into()));
        if is_new && self.has_run && self.keeping == Keeping::First {
            self.keep(&record);
        }
        self.tell();
    }
}
