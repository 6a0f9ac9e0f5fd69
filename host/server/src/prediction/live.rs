//! The predictions that something on this node runs, waits for or follows.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use dormouse_runtime::Event;
use tokio::sync::watch;

use super::{
    PredictionId, Record, Status,
    events::{EventLog, Item, Place},
};

/// All of them by id. One is here for as long as anybody holds it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    entries: Arc<Mutex<HashMap<PredictionId, Weak<Live>>>>,
}

/// A prediction in memory.
#[derive(Debug)]
pub(crate) struct Live {
    id: PredictionId,
    /// What it was when its last run was claimed; absent while it only waits in the queue.
    created: Mutex<Option<Arc<Record>>>,
    log: EventLog,
    is_canceled: watch::Sender<bool>,
    /// Callers without whom it is not wanted.
    holders: AtomicUsize,
    table: Table,
}

impl Table {
    /// The prediction of this id, if it is in memory.
    pub(super) fn find(&self, id: &PredictionId) -> Option<Arc<Live>> {
        self.lock().get(id)?.upgrade()
    }

    /// The prediction of this id; a new entry if it is not in memory.
    pub(super) fn get(&self, id: &PredictionId) -> Arc<Live> {
        let mut entries = self.lock();
        if let Some(live) = entries.get(id).and_then(Weak::upgrade) {
            return live;
        }
        let live = self.live(id.clone());
        entries.insert(id.clone(), Arc::downgrade(&live));
        live
    }

    /// An entry for a new prediction, unless its id is taken.
    pub(super) fn insert(&self, record: Arc<Record>) -> Option<Arc<Live>> {
        let mut entries = self.lock();
        if let Some(live) = entries.get(&record.id).and_then(Weak::upgrade)
            && live.log.end_record().is_none()
        {
            return None;
        }
        let live = self.live(record.id.clone());
        entries.insert(record.id.clone(), Arc::downgrade(&live));
        live.create(record);
        Some(live)
    }

    fn live(&self, id: PredictionId) -> Arc<Live> {
        Arc::new(Live {
            id,
            created: Mutex::default(),
            log: EventLog::new(),
            is_canceled: watch::Sender::new(false),
            holders: AtomicUsize::new(0),
            table: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PredictionId, Weak<Live>>> {
        self.entries.lock().expect("no panic holds this lock")
    }
}

impl Live {
    /// Says what it is before it runs.
    pub(super) fn create(&self, record: Arc<Record>) {
        *self.created.lock().expect("no panic holds this lock") = Some(record);
    }

    /// What is known of it here; `None` when it only waits in the queue.
    pub(crate) fn snapshot(&self) -> Option<Arc<Record>> {
        if let Some(record) = self.log.end_record() {
            return Some(record);
        }
        let created = self.created.lock().expect("no panic holds this lock").clone();
        let mut record = Record::clone(&*created?);
        (record.started_at, record.events) = self.log.so_far();
        if record.started_at.is_some() {
            record.status = Status::Running;
        }
        Some(record.into())
    }

    /// A run of it begins.
    pub(super) fn start(&self, at: SystemTime) {
        self.log.start(at);
    }

    /// Its run tells something.
    pub(super) fn tell(&self, event: Event) {
        self.log.push(event);
    }

    /// Its run came to nothing; another will follow.
    pub(super) fn give_up(&self) {
        self.log.give_up();
    }

    /// It is over.
    pub(super) fn end(&self, record: Arc<Record>) {
        self.log.end(record);
    }

    /// Asks whoever runs it to stop.
    pub(crate) fn cancel(&self) {
        self.is_canceled.send_replace(true);
    }

    /// One more holds it.
    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// One more holds it, if anybody does.
    pub(super) fn join(&self) -> bool {
        let more = |holders| (holders > 0).then_some(holders + 1);
        self.holders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// One holds it no more; the last cancels it.
    pub(super) fn release(&self) {
        if self.holders.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.cancel();
        }
    }

    /// Waits until someone wants it stopped.
    pub(super) async fn canceled(&self) {
        // The sender lives as long as `self`.
        let _ = self.is_canceled.subscribe().wait_for(|canceled| *canceled).await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut entries = self.table.lock();
        if entries.get(&self.id).is_some_and(|entry| std::ptr::eq(entry.as_ptr(), self)) {
            entries.remove(&self.id);
        }
    }
}

/// Follows a prediction from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Cursor {
    live: Arc<Live>,
    place: Place,
}

impl Cursor {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self { live, place: Place::default() }
    }

    /// Of a prediction that has ended and is not in memory.
    pub(super) fn ended(record: Arc<Record>) -> Self {
        let table = Table::default();
        let live = Live {
            id: record.id.clone(),
            created: Mutex::new(Some(record.clone())),
            log: EventLog::ended(record),
            is_canceled: watch::Sender::new(false),
            holders: AtomicUsize::new(0),
            table,
        };
        Self::new(Arc::new(live))
    }

    /// Whose events they are.
    pub(crate) fn id(&self) -> &PredictionId {
        &self.live.id
    }

    /// What it follows.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What comes next; waits for it. Cancel safe. Pending for ever after [`Item::Ended`].
    pub(crate) async fn next(&mut self) -> Item {
        self.live.log.next(&mut self.place).await
    }

    /// Waits for the end.
    pub(crate) async fn end(&mut self) -> Arc<Record> {
        loop {
            if let Item::Ended(record) = self.next().await {
                return record;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::queued, *};

    #[test]
    fn an_entry_lasts_as_long_as_somebody_holds_it() {
        let table = Table::default();
        let record = Arc::new(queued("a", "f"));
        let live = table.insert(record.clone()).unwrap();
        assert!(table.insert(record.clone()).is_none(), "its id is taken");
        assert!(Arc::ptr_eq(&table.get(&record.id), &live));
        drop(live);
        assert!(table.find(&record.id).is_none() && table.lock().is_empty());
    }

    #[test]
    fn one_that_has_ended_leaves_its_id_to_another() {
        let table = Table::default();
        let record = Arc::new(queued("a", "f"));
        let old = table.insert(record.clone()).unwrap();
        old.end(record.clone());
        let new = table.insert(record.clone()).unwrap();
        drop(old);
        assert!(Arc::ptr_eq(&table.find(&record.id).unwrap(), &new));
    }

    #[test]
    fn a_snapshot_has_what_was_told_so_far() {
        let table = Table::default();
        let record = Arc::new(queued("a", "f"));
        assert!(table.get(&record.id).snapshot().is_none());
        let live = table.insert(record).unwrap();
        assert_eq!(live.snapshot().unwrap().status, Status::Queued);
        live.start(SystemTime::UNIX_EPOCH);
        live.tell(Event::Output("1".to_owned()));
        let snapshot = live.snapshot().unwrap();
        assert_eq!((snapshot.status, snapshot.events.len()), (Status::Running, 1));
    }
}
