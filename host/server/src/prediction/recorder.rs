//! Keeps the records of predictions whose callers have been answered, behind their backs: nobody waits
//! for the disk. What was not written when the process is killed is forgotten.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Live, Record};
use crate::{config, store::Predictions};

/// Records written at once.
const GROUP_MAX: usize = 256;
/// Time that the first of a group waits for others.
const GATHER: Duration = Duration::from_millis(100);
/// Time between complaints about what is not kept.
const COMPLAIN: Duration = Duration::from_secs(1);

/// Where records go; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    notes: mpsc::Sender<Note>,
    held: Arc<Held>,
    bytes_max: usize,
}

/// What the recorder and its task count together.
#[derive(Debug, Default)]
struct Held {
    /// Bytes that wait to be written.
    bytes: AtomicUsize,
    /// Records that were refused since the last complaint.
    refused: AtomicU64,
}

#[derive(Debug)]
enum Note {
    /// The entry makes it findable until it is written.
    Keep(Arc<Live>, Arc<Record>),
    /// Answered when all that came before is written.
    Flush(oneshot::Sender<()>),
}

impl Recorder {
    /// Starts the task that writes; it ends when the last recorder is gone.
    pub(super) fn start(store: Predictions, config: &config::Queue) -> Self {
        let (notes, inbox) = mpsc::channel(config.unwritten_max.max(1));
        let held = Arc::<Held>::default();
        tokio::spawn(write(store, inbox, held.clone()));
        Self { notes, held, bytes_max: config.unwritten_bytes_max }
    }

    /// Keeps a record, unless there is too much to write already.
    pub(super) fn keep(&self, live: Arc<Live>, record: Arc<Record>) {
        let bytes = bytes(&record);
        let before = self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.bytes_max || self.notes.try_send(Note::Keep(live, record)).is_err() {
            self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.held.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was kept before is on disk.
    pub(crate) async fn flush(&self) {
        let (written, done) = oneshot::channel();
        // An error says that the task is gone, with nothing left to write.
        let _ = self.notes.send(Note::Flush(written)).await;
        let _ = done.await;
    }
}

async fn write(store: Predictions, mut inbox: mpsc::Receiver<Note>, held: Arc<Held>) {
    let mut may_complain = Instant::now();
    while let Some(first) = inbox.recv().await {
        let deadline = Instant::now() + GATHER;
        let (mut kept, mut flushed) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(note) = next.take() {
            match note {
                Note::Keep(live, record) => kept.push((live, record)),
                Note::Flush(written) => flushed.push(written),
            }
            if kept.len() < GROUP_MAX && flushed.is_empty() {
                next = timeout_at(deadline, inbox.recv()).await.ok().flatten();
            }
        }
        let records: Vec<_> = kept.iter().map(|(_, record)| record.clone()).collect();
        let bytes: usize = records.iter().map(|record| bytes(record)).sum();
        if !records.is_empty()
            && let Err(error) = store.keep(records).await
        {
            tracing::warn!(%error, lost = kept.len(), "can't keep predictions");
        }
        held.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if may_complain <= Instant::now() {
            may_complain = Instant::now() + COMPLAIN;
            held.complain();
        }
        flushed.into_iter().for_each(|written| _ = written.send(()));
    }
}

impl Held {
    fn complain(&self) {
        let count = self.refused.swap(0, Ordering::Relaxed);
        if count > 0 {
            tracing::warn!(count, "predictions are not kept: the disk is too slow for so many");
        }
    }
}

/// About what a record holds.
fn bytes(record: &Record) -> usize {
    use dormouse_runtime::{EVENT_BYTES, Event};
    let text = |event: &Event| match event {
        Event::Output(element) => element.len(),
        Event::Log(line) => line.message.len(),
        Event::Progress { note, .. } => note.len(),
        Event::Wake(wake) => wake.model.len(),
    };
    let events: usize = record.events.iter().map(|event| text(event) + EVENT_BYTES).sum();
    let returned = record.returned.as_ref().map_or(0, |json| json.as_str().len());
    size_of::<Record>() + record.input.as_str().len() + events + returned
}
