//! Models that wake before anybody calls them, at times that their functions name.
//!
//! [`Schedule`] is plain data: what is wanted and the time come in, models that are due come out. One task
//! drives it. A time that passes while the node doesn't look (it was down, or its clock was set forward) is
//! due once, if the node knew of it, and never twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use dormouse_engine::{KeepAlive, Open};
use tokio::{sync::Notify, time::timeout};

use crate::{
    function::Cron,
    service::{Phase, Service},
};

/// How long the driver sleeps at most: the clock may be set meanwhile.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(60);

/// Which models an expression wakes, and how long each stays awake at least; `None` is its own time.
pub(crate) type Wishes = BTreeMap<String, BTreeMap<String, Option<Duration>>>;

/// What wakes when.
#[derive(Debug, Default)]
struct Schedule {
    /// By expression.
    entries: BTreeMap<String, Entry>,
    /// When it was last looked at.
    seen: Option<SystemTime>,
}

#[derive(Debug)]
struct Entry {
    cron: Cron,
    models: BTreeMap<String, Option<Duration>>,
    /// `None` when it comes no more.
    next: Option<SystemTime>,
}

impl Schedule {
    /// Takes what is wanted from now on; expressions that stay keep their times.
    fn set(&mut self, wishes: Wishes, now: SystemTime) {
        let mut before = std::mem::take(&mut self.entries);
        for (text, models) in wishes {
            let entry = match before.remove(&text) {
                Some(entry) => Entry { models, ..entry },
                // One that a deploy took is one.
                None => match Cron::parse(&text) {
                    Ok(cron) => Entry { next: cron.next(now), cron, models },
                    Err(_) => continue,
                },
            };
            self.entries.insert(text, entry);
        }
    }

    /// The models that are due, each once; the times they are due for are over then.
    fn take_due(&mut self, now: SystemTime) -> BTreeMap<String, Option<Duration>> {
        if self.seen.is_some_and(|seen| now < seen) {
            // The clock was set back.
            self.entries.values_mut().for_each(|entry| entry.next = entry.cron.next(now));
        }
        self.seen = Some(now);
        let mut due = BTreeMap::new();
        for entry in self.entries.values_mut().filter(|entry| entry.next.is_some_and(|next| next <= now)) {
            entry.next = entry.cron.next(now);
            for (model, stays) in &entry.models {
                let longest = due.entry(model.clone()).or_insert(None);
                *longest = (*longest).max(*stays);
            }
        }
        due
    }

    /// When something is due next.
    fn next(&self) -> Option<SystemTime> {
        self.entries.values().filter_map(|entry| entry.next).min()
    }

    /// When a model is due next.
    fn next_of(&self, model: &str) -> Option<SystemTime> {
        let of_model = self.entries.values().filter(|entry| entry.models.contains_key(model));
        of_model.filter_map(|entry| entry.next).min()
    }
}

/// The schedule of a node.
#[derive(Debug, Default)]
pub(crate) struct Prewakes {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Prewakes {
    /// Takes what is wanted from now on.
    pub(crate) fn set(&self, wishes: Wishes) {
        self.lock().set(wishes, SystemTime::now());
        self.changed.notify_one();
    }

    /// When a model wakes next.
    pub(crate) fn next_of(&self, model: &str) -> Option<SystemTime> {
        self.lock().next_of(model)
    }

    /// Waits until models are due.
    async fn due(&self) -> BTreeMap<String, Option<Duration>> {
        loop {
            let now = SystemTime::now();
            let (due, next) = {
                let mut schedule = self.lock();
                (schedule.take_due(now), schedule.next())
            };
            if !due.is_empty() {
                return due;
            }
            match next.map(|next| next.duration_since(now).unwrap_or_default()) {
                // Whether it was changed or the time is over shows next.
                Some(wait) => drop(timeout(wait.min(LOOK_AFTER_MAX), self.changed.notified()).await),
                None => self.changed.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().expect("no panic holds this lock")
    }
}

/// Wakes models when they are due, until the service drains.
pub(crate) async fn work(service: Arc<Service>) {
    loop {
        let due = tokio::select! {
            due = service.prewakes.due() => due,
            () = service.left(Phase::Serving) => return,
        };
        for (model, stays) in due {
            // A wake takes its time, and others don't wait for it.
            tokio::spawn(wake(service.clone(), model, stays));
        }
    }
}

/// A use of the model that does nothing: it stays awake after it as after any other.
async fn wake(service: Arc<Service>, model: String, stays: Option<Duration>) {
    let open = Open { keep_alive: stays.map(KeepAlive::AtLeast), ..Open::default() };
    match service.engine.open_with(&model, open).await {
        Ok(woken) => tracing::debug!(model, from = %woken.woken_from(), "woken by its schedule"),
        Err(error) => tracing::warn!(model, %error, "can't wake a model by its schedule"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{moment, rfc3339};

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(text: &str) -> SystemTime {
        moment(text).unwrap()
    }

    fn wishes(all: &[(&str, &str, Option<Duration>)]) -> Wishes {
        let mut wishes = Wishes::new();
        for (cron, model, stays) in all {
            wishes.entry((*cron).to_owned()).or_default().insert((*model).to_owned(), *stays);
        }
        wishes
    }

    /// The models that are due.
    fn due(schedule: &mut Schedule, now: &str) -> Vec<(String, Option<Duration>)> {
        schedule.take_due(at(now)).into_iter().collect()
    }

    fn one(model: &str, stays: Option<Duration>) -> Vec<(String, Option<Duration>)> {
        vec![(model.to_owned(), stays)]
    }

    #[test]
    fn a_model_is_due_once_at_each_time() {
        let mut schedule = Schedule::default();
        let now = at("2026-03-01T07:00:00Z");
        schedule.set(wishes(&[("0 8 * * *", "a", None), ("30 8 * * *", "b", Some(HOUR))]), now);
        assert_eq!(schedule.next().map(rfc3339).unwrap(), "2026-03-01T08:00:00.000Z");
        assert_eq!(due(&mut schedule, "2026-03-01T07:59:59Z"), []);
        assert_eq!(due(&mut schedule, "2026-03-01T08:00:00Z"), one("a", None));
        assert_eq!(due(&mut schedule, "2026-03-01T08:00:00Z"), []);
        assert_eq!(schedule.next_of("b").map(rfc3339).unwrap(), "2026-03-01T08:30:00.000Z");
        assert_eq!(due(&mut schedule, "2026-03-01T08:30:01Z"), one("b", Some(HOUR)));
        assert_eq!(schedule.next_of("a").map(rfc3339).unwrap(), "2026-03-02T08:00:00.000Z");
        assert_eq!(schedule.next_of("c"), None);
    }

    #[test]
    fn times_that_passed_unseen_are_due_once_together() {
        let mut schedule = Schedule::default();
        let all = [("*/10 * * * *", "a", None), ("0 8 * * *", "a", Some(HOUR))];
        schedule.set(wishes(&all), at("2026-03-01T07:00:00Z"));
        assert_eq!(due(&mut schedule, "2026-03-01T09:05:00Z"), one("a", Some(HOUR)));
        assert_eq!(schedule.next().map(rfc3339).unwrap(), "2026-03-01T09:10:00.000Z");
    }

    #[test]
    fn what_stays_keeps_its_time_and_what_goes_is_not_due() {
        let mut schedule = Schedule::default();
        let both = [("0 8 * * *", "a", None), ("0 9 * * *", "a", None)];
        schedule.set(wishes(&both), at("2026-03-01T07:00:00Z"));
        // Its time came meanwhile.
        schedule.set(wishes(&[("0 8 * * *", "b", None)]), at("2026-03-01T08:00:01Z"));
        assert_eq!(due(&mut schedule, "2026-03-01T08:00:02Z"), one("b", None));
        assert_eq!(due(&mut schedule, "2026-03-01T09:00:00Z"), []);
        schedule.set(Wishes::new(), at("2026-03-01T09:00:01Z"));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_clock_that_is_set_back_doesnt_put_a_time_off() {
        let mut schedule = Schedule::default();
        schedule.set(wishes(&[("0 8 * * *", "a", None)]), at("2026-03-05T07:00:00Z"));
        assert_eq!(due(&mut schedule, "2026-03-05T08:00:00Z"), one("a", None));
        assert_eq!(due(&mut schedule, "2026-03-01T07:00:00Z"), []);
        assert_eq!(schedule.next().map(rfc3339).unwrap(), "2026-03-01T08:00:00.000Z");
    }
}
