//! What a prediction tells, as a log that is only added to: whoever follows it, and from when on, sees
//! the same from the beginning.
//!
//! Its size is bounded by the limits of the invocation that writes it (`output_bytes_max` and
//! `log_bytes_max`), so it is kept whole and a slow reader holds nobody up.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use dormouse_runtime::Event;
use tokio::sync::watch;

use super::Record;

/// A prediction's events.
#[derive(Debug)]
pub(crate) struct EventLog {
    state: Mutex<State>,
    /// Changes with the state.
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Runs that have begun; each begins the log anew.
    run: u32,
    started_at: Option<SystemTime>,
    events: Vec<Arc<Event>>,
    end: Option<Arc<Record>>,
}

/// What a follower sees next.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A run begins; what an earlier one told does not count any more.
    Started,
    /// The run told something.
    Event(Arc<Event>),
    /// It is over; nothing follows.
    Ended(Arc<Record>),
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), news: watch::Sender::new(()) }
    }

    /// The log of a prediction that has ended.
    pub(super) fn ended(record: Arc<Record>) -> Self {
        let state = State {
            run: record.started_at.is_some().into(),
            started_at: record.started_at,
            events: record.events.clone(),
            end: Some(record),
        };
        Self { state: Mutex::new(state), news: watch::Sender::new(()) }
    }

    /// Begins a run.
    pub(super) fn start(&self, at: SystemTime) {
        self.change(|state| {
            state.run += 1;
            state.started_at = Some(at);
            state.events.clear();
        });
    }

    /// Gives a run up that another will follow; what it told does not count.
    pub(super) fn give_up(&self) {
        self.change(|state| {
            state.run += 1;
            state.started_at = None;
            state.events.clear();
        });
    }

    pub(super) fn push(&self, event: Event) {
        self.change(|state| state.events.push(event.into()));
    }

    /// Ends the log; what is told afterwards is lost.
    pub(super) fn end(&self, record: Arc<Record>) {
        self.change(|state| state.end = Some(record));
    }

    /// When the last run began and what it has told.
    pub(super) fn so_far(&self) -> (Option<SystemTime>, Vec<Arc<Event>>) {
        let state = self.lock();
        (state.started_at, state.events.clone())
    }

    /// How the prediction ended, if it has.
    pub(super) fn end_record(&self) -> Option<Arc<Record>> {
        self.lock().end.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.end.is_none() {
            change(&mut state);
        }
        drop(state);
        self.news.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }
}

/// A place in a log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    run: u32,
    next: usize,
}

impl EventLog {
    /// What stands at a place, which moves on; waits for it. Cancel safe. Pending for ever after
    /// [`Item::Ended`].
    pub(super) async fn next(&self, place: &mut Place) -> Item {
        let mut news = self.news.subscribe();
        loop {
            // Marked before the look, so that what comes between the look and the wait is seen.
            news.mark_unchanged();
            if let Some(item) = self.look(place) {
                return item;
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn look(&self, place: &mut Place) -> Option<Item> {
        let state = self.lock();
        if place.next == usize::MAX {
            return None;
        }
        if place.run != state.run {
            *place = Place { run: state.run, next: 0 };
            return state.started_at.map(|_| Item::Started);
        }
        if let Some(event) = state.events.get(place.next) {
            place.next += 1;
            return Some(Item::Event(event.clone()));
        }
        let end = state.end.clone()?;
        place.next = usize::MAX;
        Some(Item::Ended(end))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{
        super::record::tests::{log, queued},
        *,
    };

    fn seen(log: &EventLog, place: &mut Place) -> Vec<String> {
        let name = |item| match item {
            Item::Started => "started".to_owned(),
            Item::Event(event) => match &*event {
                Event::Log(line) => line.message.clone(),
                other => panic!("{other:?}"),
            },
            Item::Ended(_) => "ended".to_owned(),
        };
        std::iter::from_fn(|| log.next(place).now_or_never().map(name)).collect()
    }

    fn record() -> Arc<Record> {
        queued("a", "f").into()
    }

    #[test]
    fn whoever_comes_late_sees_all_from_the_beginning() {
        let events = EventLog::new();
        let (mut early, mut late) = (Place::default(), Place::default());
        assert_eq!(seen(&events, &mut early), [""; 0]);
        events.start(SystemTime::UNIX_EPOCH);
        events.push(log("one"));
        assert_eq!(seen(&events, &mut early), ["started", "one"]);
        events.push(log("two"));
        events.end(record());
        assert_eq!(seen(&events, &mut early), ["two", "ended"]);
        assert_eq!(seen(&events, &mut late), ["started", "one", "two", "ended"]);
        assert_eq!(seen(&events, &mut late), [""; 0]);
    }

    #[test]
    fn another_run_begins_anew_for_every_follower() {
        let events = EventLog::new();
        let (mut early, mut late) = (Place::default(), Place::default());
        events.start(SystemTime::UNIX_EPOCH);
        events.push(log("one"));
        events.push(log("two"));
        assert_eq!(seen(&events, &mut early), ["started", "one", "two"]);
        events.give_up();
        assert_eq!(seen(&events, &mut early), [""; 0]);
        events.start(SystemTime::UNIX_EPOCH);
        events.push(log("other"));
        assert_eq!(seen(&events, &mut early), ["started", "other"]);
        assert_eq!(seen(&events, &mut late), ["started", "other"]);
    }

    #[test]
    fn nothing_is_added_after_the_end() {
        let events = EventLog::new();
        events.start(SystemTime::UNIX_EPOCH);
        events.end(record());
        events.push(log("late"));
        events.start(SystemTime::UNIX_EPOCH);
        assert_eq!(seen(&events, &mut Place::default()), ["started", "ended"]);
    }

    #[test]
    fn one_that_never_ran_only_ends() {
        let events = EventLog::ended(record());
        assert_eq!(seen(&events, &mut Place::default()), ["ended"]);
    }

    #[tokio::test]
    async fn a_follower_that_waits_is_woken() {
        let events = Arc::new(EventLog::new());
        let follower = events.clone();
        let waiting = tokio::spawn(async move { follower.next(&mut Place::default()).await });
        tokio::task::yield_now().await;
        events.end(record());
        assert!(matches!(waiting.await.unwrap(), Item::Ended(_)));
    }
}
