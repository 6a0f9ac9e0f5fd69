//! Where every dialect comes to with a prediction, whether it runs, waits or has ended.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    Call, Cursor, Errand, Json, Order, PredictionId, Record, Status,
    live::Table,
    recorder::Recorder,
    run::{Checked, Loaded},
};
use crate::{
    Config,
    function::{FunctionName, RevisionId},
    http::{Code, Error},
    queue::{Cancel, Enqueued, Key, Queue, Which, Worker},
    service::Service,
    store::{ChangeError, Filter, Page, Predictions, Store},
    webhook::Webhooks,
};

/// All predictions of a node.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) store: Predictions,
    pub(super) live: Table,
    pub(super) recorder: Recorder,
    pub(crate) worker: Worker,
    pub(crate) webhooks: Webhooks,
    /// How long a claim is good.
    lease: Duration,
}

/// How a prediction is to be queued.
#[derive(Debug, Clone, Default)]
pub(crate) struct Submission {
    pub(crate) priority: i32,
    pub(crate) deadline: Option<SystemTime>,
    /// Runs that may begin; `None` takes the node's default.
    pub(crate) attempts_max: Option<u32>,
    pub(crate) retries_failures: bool,
    /// The client's own name for the request.
    pub(crate) key: Option<String>,
}

/// A prediction that is acknowledged.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) record: Arc<Record>,
    /// False when the request was known already.
    pub(crate) is_new: bool,
}

impl Dispatcher {
    /// Opens what the store has.
    pub(crate) async fn open(store: &Store, config: &Config) -> Result<Self, ChangeError> {
        let predictions = Predictions::new(store.clone(), config);
        Ok(Self {
            recorder: Recorder::start(predictions.clone(), &config.queue),
            worker: Worker::new(&config.queue),
            live: Table::default(),
            webhooks: Webhooks::open(store, predictions.clone(), &config.webhook).await?,
            store: predictions,
            lease: config.queue.lease,
        })
    }

    /// Puts a prediction into the queue: its input is checked, and it is on disk when this answers.
    /// Asking twice, by the same id or key, gives the same prediction.
    pub(crate) async fn submit(
        &self,
        service: &Arc<Service>,
        call: Call,
        submission: Submission,
    ) -> Result<Submitted, Error> {
        let loaded = Loaded::of(service, &call.revision).await?;
        let Call { function, revision, input, id, webhook, memo, keep_alive, .. } = call;
        let Checked { given, .. } = loaded.check(service, input).await?;
        let id = id.unwrap_or_else(PredictionId::random);
        let key = submission.key.as_ref().map(|key| Key(format!("{}/{key}", function.name)));
        let record = Arc::new(Record {
            id,
            function: function.name.clone(),
            revision: revision.id.clone(),
            status: Status::Queued,
            created_at: SystemTime::now(),
            started_at: None,
            ended_at: None,
            input: given,
            events: Vec::new(),
            returned: None,
            failure: None,
            metrics: None,
            order: Some(Order::new(&submission, keep_alive, &service.config.queue)),
            webhook,
            memo,
        });
        let service = service.clone();
        let queued = record.clone();
        // In a task of its own, so that a caller who leaves does not part the disk from the queue.
        let enqueue = tokio::spawn(async move { service.predictions.enqueue(queued, key).await });
        match enqueue.await.map_err(Error::internal)?? {
            Enqueued::New => Ok(Submitted { record, is_new: true }),
            Enqueued::Known(known) => self.again(&record, known),
        }
    }

    /// Puts work of the node's own into the queue. Asking twice by the same id gives the same.
    pub(crate) async fn send(
        &self,
        service: &Arc<Service>,
        errand: Errand,
        id: PredictionId,
        input: Value,
        submission: Submission,
    ) -> Result<Submitted, Error> {
        let record = Arc::new(Record {
            id,
            function: errand.lane(),
            revision: RevisionId::none(),
            status: Status::Queued,
            created_at: SystemTime::now(),
            started_at: None,
            ended_at: None,
            input: Json::of(&input),
            events: Vec::new(),
            returned: None,
            failure: None,
            metrics: None,
            order: Some(Order::new(&submission, None, &service.config.queue)),
            webhook: None,
            memo: Value::Null,
        });
        let (service, queued) = (service.clone(), record.clone());
        // As in `submit`.
        let enqueue = tokio::spawn(async move { service.predictions.enqueue(queued, None).await });
        match enqueue.await.map_err(Error::internal)?? {
            Enqueued::New => Ok(Submitted { record, is_new: true }),
            Enqueued::Known(known) => self.again(&record, known),
        }
    }

    async fn enqueue(&self, record: Arc<Record>, key: Option<Key>) -> Result<Enqueued, Error> {
        if let Some(known) = self.live.find(&record.id).and_then(|live| live.snapshot()) {
            return Ok(Enqueued::Known(known));
        }
        let place = self.worker.admit(&record.function)?;
        let enqueued = self.store.enqueue(record, key).await?;
        if let Enqueued::New = &enqueued {
            place.stored();
        }
        Ok(enqueued)
    }

    /// What a repeated request gives, if it is the same.
    fn again(&self, wanted: &Record, known: Arc<Record>) -> Result<Submitted, Error> {
        if known.function != wanted.function || known.input.as_str() != wanted.input.as_str() {
            let message = format!("prediction \"{}\" is of another function or input", known.id);
            return Err(Error::new(Code::Conflict, message));
        }
        let record = self.live.find(&known.id).and_then(|live| live.snapshot()).unwrap_or(known);
        Ok(Submitted { record, is_new: false })
    }

    /// What is known of a prediction.
    pub(crate) async fn find(&self, id: &PredictionId) -> Result<Arc<Record>, Error> {
        if let Some(record) = self.live.find(id).and_then(|live| live.snapshot()) {
            return Ok(record);
        }
        let record = self.store.find(id).await?;
        record.map(Arc::new).ok_or_else(|| none(id))
    }

    /// Follows a prediction from its beginning, also one that has ended.
    pub(crate) async fn follow(&self, id: &PredictionId) -> Result<Cursor, Error> {
        // Held before the look at the disk: whoever ends the prediction after it tells this entry.
        let live = self.live.get(id);
        if live.snapshot().is_some() {
            return Ok(Cursor::new(live));
        }
        match self.store.find(id).await? {
            None => Err(none(id)),
            Some(record) if record.is_ended() => Ok(Cursor::ended(record.into())),
            Some(_) => Ok(Cursor::new(live)),
        }
    }

    /// Waits for a prediction's end, at most so long; answers how it is then.
    pub(crate) async fn wait(&self, id: &PredictionId, limit: Duration) -> Result<Arc<Record>, Error> {
        let mut cursor = self.follow(id).await?;
        match tokio::time::timeout(limit, cursor.end()).await {
            Ok(record) => Ok(record),
            Err(_) => self.find(id).await,
        }
    }

    /// Cancels a prediction; one that runs ends soon after this. Answers how it is then, and whether
    /// there was anything to cancel.
    pub(crate) async fn cancel(&self, id: &PredictionId) -> Result<(Arc<Record>, bool), Error> {
        let live = self.live.find(id);
        let created = live.as_ref().and_then(|live| live.snapshot());
        if let (Some(live), Some(record)) = (&live, &created)
            && record.order.is_none()
        {
            live.cancel();
            return Ok((record.clone(), !record.is_ended()));
        }
        match self.store.cancel(id, SystemTime::now()).await? {
            Cancel::Absent => Err(none(id)),
            Cancel::Waiting(record) => {
                self.worker.left(&record.function);
                self.tell(&record);
                Ok((record, true))
            }
            Cancel::Running => {
                let mut cursor = Cursor::new(self.live.get(id));
                cursor.live().cancel();
                // Claimed, perhaps, but not yet run: then the run finds this entry. Held for no longer than
                // a claim is good, in case it has ended meanwhile.
                tokio::spawn(tokio::time::timeout(self.lease, async move { cursor.end().await }));
                Ok((self.find(id).await?, true))
            }
            Cancel::Ended => Ok((self.find(id).await?, false)),
        }
    }

    /// Cancels all of a function that wait.
    pub(crate) async fn cancel_all(&self, function: &FunctionName) -> Result<(), Error> {
        for record in self.store.cancel_all(function, SystemTime::now()).await? {
            self.worker.left(&record.function);
            self.tell(&record);
        }
        Ok(())
    }

    /// Predictions that are on disk: those of the queue, and those that ended.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Page, Error> {
        self.recorder.flush().await;
        Ok(self.store.list(filter).await?)
    }

    /// Makes dead ones wait again. Answers how many.
    pub(crate) async fn redrive(&self, which: Which) -> Result<usize, Error> {
        let count = self.store.redrive(which, SystemTime::now()).await?;
        self.worker.recount(&self.store.depths().await?);
        Ok(count)
    }

    /// Writes what is not on disk yet.
    pub(crate) async fn flush(&self) {
        self.recorder.flush().await;
    }

    /// Tells those whom it concerns of a prediction that ended without running here.
    pub(crate) fn tell(&self, ended: &Arc<Record>) {
        self.webhooks.completed(ended);
        if let Some(live) = self.live.find(&ended.id) {
            live.end(ended.clone());
        }
    }
}

fn none(id: &PredictionId) -> Error {
    Error::not_found(format!("no prediction \"{id}\""))
}
