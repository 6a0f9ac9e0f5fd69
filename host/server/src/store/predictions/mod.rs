//! Predictions in SQLite: the queue, and the records of those that ended.

mod debts;
mod rows;
mod sweep;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension, ToSql, named_params, params};

use super::{ChangeError, Store, rows::Millis};
use crate::{
    Config, config,
    function::FunctionName,
    prediction::{Failure, Order, PredictionId, Record, Status, new_id},
    queue::{Cancel, Claim, Claimed, Enqueued, Finish, Got, Job, Key, Queue, Recovered, Want, Which},
};

/// The predictions of a node; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Predictions {
    store: Store,
    /// This run of the node: a claim of another is void.
    owner: Arc<str>,
    bounds: Arc<Bounds>,
}

#[derive(Debug)]
struct Bounds {
    keep: Duration,
    keep_answered: Duration,
    kept_bytes_max: u64,
    page_max: usize,
    page_bytes_max: usize,
    webhook: config::Webhook,
}

/// Which predictions to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) function: Option<FunctionName>,
    /// Only those of these functions.
    pub(crate) among: Option<Vec<String>>,
    pub(crate) status: Option<Status>,
    /// Only those that ended.
    pub(crate) has_ended: bool,
    /// Only dead ones.
    pub(crate) is_dead: bool,
    /// Only those created since; what had the function's name before it was removed is not its own.
    pub(crate) since: Option<SystemTime>,
    /// Only those that came before this [`Page::next`].
    pub(crate) before: Option<i64>,
    pub(crate) limit: usize,
}

/// Predictions, newest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// Where the next page begins, if there may be one.
    pub(crate) next: Option<i64>,
}

impl Predictions {
    pub(crate) fn new(store: Store, config: &Config) -> Self {
        let queue = &config.queue;
        let bounds = Bounds {
            keep: queue.keep,
            keep_answered: queue.keep_answered,
            kept_bytes_max: queue.kept_bytes_max,
            page_max: queue.page_max.max(1),
            page_bytes_max: queue.page_bytes_max,
            webhook: config.webhook.clone(),
        };
        Self { store, owner: new_id().into(), bounds: Arc::new(bounds) }
    }

    /// The prediction of this id.
    pub(crate) async fn find(&self, id: &PredictionId) -> Result<Option<Record>, ChangeError> {
        let id = id.clone();
        self.store.read(move |connection| rows::find(connection, "id", id.as_str())).await
    }

    /// Those that a filter lets through, newest first; a page is bounded in number and bytes.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Page, ChangeError> {
        let bounds = self.bounds.clone();
        self.store.read(move |connection| list(connection, &filter, &bounds)).await
    }

    /// Keeps what became of predictions that were not in the queue.
    pub(crate) async fn keep(&self, records: Vec<Arc<Record>>) -> Result<(), ChangeError> {
        let bounds = self.bounds.clone();
        let keep = move |connection: &Connection| {
            records.iter().try_for_each(|record| {
                rows::insert(connection, record, None, Some(bounds.expires_at(record)))?;
                debts::owe(connection, record, bounds.owed_at(record))
            })
        };
        self.store.write(keep).await
    }

    /// Cancels all of a function that wait. Answers those.
    pub(crate) async fn cancel_all(
        &self,
        function: &FunctionName,
        now: SystemTime,
    ) -> Result<Vec<Arc<Record>>, ChangeError> {
        let (function, bounds) = (function.clone(), self.bounds.clone());
        let cancel = move |connection: &Connection| {
            let mut waiting = connection.prepare_cached(&format!(
                "SELECT {} FROM predictions WHERE function = ? AND status = 'queued'",
                rows::COLUMNS
            ))?;
            let records = waiting.query_map([&function], rows::record)?.collect::<Result<Vec<_>, _>>()?;
            records.into_iter().map(|record| end_waiting(connection, record, None, now, &bounds)).collect()
        };
        self.store.write(cancel).await
    }
}

impl Bounds {
    /// When a prediction that ended may be removed.
    fn expires_at(&self, record: &Record) -> Millis {
        let keep = if record.order.is_some() { self.keep } else { self.keep_answered };
        Millis(record.ended_at.unwrap_or(record.created_at) + keep)
    }

    /// When others may tell of a prediction's end, should whoever ended it not have done so.
    fn owed_at(&self, record: &Record) -> SystemTime {
        record.ended_at.unwrap_or(record.created_at) + self.webhook.grace
    }
}

impl Queue for Predictions {
    async fn enqueue(&self, record: Arc<Record>, key: Option<Key>) -> Result<Enqueued, ChangeError> {
        let enqueue = move |connection: &Connection| {
            let key = key.as_ref().map(|Key(key)| key.as_str());
            let known = match key {
                Some(key) => rows::find(connection, "key", key)?,
                None => None,
            };
            let known = match known {
                None => rows::find(connection, "id", record.id.as_str())?,
                known => known,
            };
            if let Some(known) = known {
                return Ok(Enqueued::Known(known.into()));
            }
            rows::insert(connection, &record, key, None)?;
            Ok(Enqueued::New)
        };
        self.store.write(enqueue).await
    }

    async fn claim(
        &self,
        wants: Vec<Want>,
        max: usize,
        now: SystemTime,
        lease: SystemTime,
    ) -> Result<Claimed, ChangeError> {
        let owner = self.owner.clone();
        self.store.write(move |connection| claim(connection, &wants, max, now, lease, &owner)).await
    }

    async fn extend(&self, lease: SystemTime) -> Result<(), ChangeError> {
        let owner = self.owner.clone();
        let extend = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE predictions SET lease_ms = ? WHERE status = 'running' AND owner = ?",
            )?;
            statement.execute(params![Millis(lease), owner]).map(drop)
        };
        self.store.write(extend).await
    }

    async fn finish(&self, claim: &Claim, finish: Finish) -> Result<bool, ChangeError> {
        let (owner, claim, bounds) = (self.owner.clone(), claim.clone(), self.bounds.clone());
        let finish = move |connection: &Connection| match &finish {
            Finish::Done(record) => {
                let params = named_params! {":owner": owner, ":attempt": claim.attempt};
                let is_ours = rows::end(connection, record, bounds.expires_at(record), IS_OURS, params)?;
                if is_ours {
                    debts::owe(connection, record, bounds.owed_at(record))?;
                }
                Ok(is_ours)
            }
            Finish::Requeue { at, counts } => {
                let mut statement = connection.prepare_cached(&format!(
                    "UPDATE predictions
                     SET status = 'queued', ready_ms = :at, attempt = attempt - :given_back,
                         owner = NULL, lease_ms = NULL
                     WHERE id = :id AND {IS_OURS}"
                ))?;
                let changed = statement.execute(named_params! {
                    ":at": Millis(*at),
                    ":given_back": !counts,
                    ":id": claim.id,
                    ":owner": owner,
                    ":attempt": claim.attempt,
                })?;
                Ok(changed > 0)
            }
        };
        self.store.write(finish).await
    }

    async fn cancel(&self, id: &PredictionId, now: SystemTime) -> Result<Cancel, ChangeError> {
        let (id, bounds) = (id.clone(), self.bounds.clone());
        let cancel = move |connection: &Connection| {
            let Some(record) = rows::find(connection, "id", id.as_str())? else { return Ok(Cancel::Absent) };
            match record.status {
                Status::Queued => end_waiting(connection, record, None, now, &bounds).map(Cancel::Waiting),
                Status::Running => {
                    let mut mark = connection
                        .prepare_cached("UPDATE predictions SET is_canceled = TRUE WHERE id = ?")?;
                    mark.execute([&id])?;
                    Ok(Cancel::Running)
                }
                _ => Ok(Cancel::Ended),
            }
        };
        self.store.write(cancel).await
    }

    async fn recover(&self, now: SystemTime, lost: Failure, late: Failure) -> Result<Recovered, ChangeError> {
        let (owner, bounds) = (self.owner.clone(), self.bounds.clone());
        let recover = move |connection: &Connection| {
            let mut recovered = put_back(connection, &lost, now, &owner, &bounds)?;
            let mut overdue = connection.prepare_cached(&format!(
                "SELECT {} FROM predictions WHERE status = 'queued' AND deadline_ms <= ?",
                rows::COLUMNS
            ))?;
            let overdue = overdue.query_map([Millis(now)], rows::record)?.collect::<Result<Vec<_>, _>>()?;
            for record in overdue {
                recovered.ended.push(end_waiting(connection, record, Some(late.clone()), now, &bounds)?);
            }
            Ok(recovered)
        };
        self.store.write(recover).await
    }

    async fn redrive(&self, which: Which, now: SystemTime) -> Result<usize, ChangeError> {
        let redrive = move |connection: &Connection| {
            let (condition, value) = match &which {
                Which::One(id) => ("id = :value", id.as_str()),
                Which::Lane(function) => ("function = :value", function.as_str()),
                Which::All => ("'' = :value", ""),
            };
            let mut statement = connection.prepare_cached(&format!(
                "UPDATE predictions
                 SET status = 'queued', is_dead = FALSE, is_canceled = FALSE, attempt = 0, ready_ms = :now,
                     deadline_ms = NULL, started_ms = NULL, ended_ms = NULL, expires_ms = NULL,
                     events = '[]', returned = NULL, failure = NULL, metrics = NULL
                 WHERE is_dead AND {condition}"
            ))?;
            statement.execute(named_params! {":now": Millis(now), ":value": value})
        };
        self.store.write(redrive).await
    }

    async fn depths(&self) -> Result<Vec<(FunctionName, usize)>, ChangeError> {
        let count = |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT function, count(*) FROM predictions WHERE status = 'queued' GROUP BY function",
            )?;
            let lanes = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))?;
            lanes.collect()
        };
        // The writer's view: what is being enqueued is counted once, here or by whoever enqueues it.
        self.store.write(count).await
    }
}

/// What is true of a running prediction that its claim still holds.
const IS_OURS: &str = "status = 'running' AND owner = :owner AND attempt = :attempt";

fn claim(
    connection: &Connection,
    wants: &[Want],
    max: usize,
    now: SystemTime,
    lease: SystemTime,
    owner: &str,
) -> rusqlite::Result<Claimed> {
    let mut ready = connection.prepare_cached(
        "SELECT seq, priority FROM predictions
         WHERE function = ? AND status = 'queued' AND ready_ms <= ?
         ORDER BY priority DESC, seq LIMIT ?",
    )?;
    // One more than wanted, to know whether there are more.
    let mut found = Vec::new();
    for (index, want) in wants.iter().enumerate() {
        let limit = want.max as i64 + 1;
        let rows = ready.query_map(params![want.lane, Millis(now), limit], |row| {
            Ok((-row.get::<_, i64>(1)?, row.get::<_, i64>(0)?, index))
        })?;
        found.extend(rows.collect::<Result<Vec<_>, _>>()?);
    }
    found.sort_unstable();
    let mut take = connection.prepare_cached(&format!(
        "UPDATE predictions
         SET status = 'running', attempt = attempt + 1, started_ms = :now, owner = :owner, lease_ms = :lease
         WHERE seq = :seq RETURNING {}",
        rows::COLUMNS
    ))?;
    let mut claimed = Claimed::default();
    let mut counts = vec![(0, false); wants.len()];
    for (_, seq, index) in found {
        let (taken, has_more) = &mut counts[index];
        if *taken == wants[index].max || claimed.jobs.len() == max {
            *has_more = true;
            continue;
        }
        *taken += 1;
        let params =
            named_params! {":now": Millis(now), ":owner": owner, ":lease": Millis(lease), ":seq": seq};
        claimed.jobs.push(take.query_row(params, |row| {
            let record = rows::record(row)?;
            let attempt = record.order.as_ref().map_or(1, |order| order.attempt);
            let claim = Claim { id: record.id.clone(), attempt };
            Ok(Job { record: record.into(), claim, is_canceled: row.get("is_canceled")? })
        })?);
    }
    let mut next = connection.prepare_cached(
        "SELECT min(ready_ms) FROM predictions WHERE function = ? AND status = 'queued' AND ready_ms > ?",
    )?;
    for (want, (taken, has_more)) in wants.iter().zip(counts) {
        let next_at = match has_more {
            true => None,
            false => next.query_row(params![want.lane, Millis(now)], |row| row.get(0)).optional()?.flatten(),
        };
        let next_at = next_at.map(|Millis(at)| at);
        claimed.got.push(Got { lane: want.lane.clone(), claimed: taken, has_more, next_at });
    }
    Ok(claimed)
}

/// Puts back those whose owner is gone or whose lease ran out; those without another attempt fail with
/// `lost` and those that were to be canceled are.
fn put_back(
    connection: &Connection,
    lost: &Failure,
    now: SystemTime,
    owner: &str,
    bounds: &Bounds,
) -> rusqlite::Result<Recovered> {
    let mut orphans = connection.prepare_cached(&format!(
        "SELECT {} FROM predictions WHERE status = 'running' AND (owner <> ? OR lease_ms <= ?)",
        rows::COLUMNS
    ))?;
    let orphans = orphans.query_map(params![owner, Millis(now)], |row| {
        Ok((rows::record(row)?, row.get::<_, bool>("is_canceled")?))
    })?;
    let mut requeue = connection.prepare_cached(
        "UPDATE predictions SET status = 'queued', ready_ms = ?, owner = NULL, lease_ms = NULL WHERE id = ?",
    )?;
    let mut recovered = Recovered::default();
    for orphan in orphans.collect::<Result<Vec<_>, _>>()? {
        let (record, is_canceled) = orphan;
        let is_spent = record.order.as_ref().is_none_or(|order| order.attempt >= order.attempts_max);
        match (is_canceled, is_spent) {
            (true, _) => recovered.ended.push(end_waiting(connection, record, None, now, bounds)?),
            (false, true) => {
                recovered.ended.push(end_waiting(connection, record, Some(lost.clone()), now, bounds)?);
            }
            (false, false) => recovered.requeued += requeue.execute(params![Millis(now), record.id])?,
        }
    }
    Ok(recovered)
}

/// Ends one that is not running: canceled, or failed. A failure for want of attempts buries it.
fn end_waiting(
    connection: &Connection,
    record: Record,
    failure: Option<Failure>,
    now: SystemTime,
    bounds: &Bounds,
) -> rusqlite::Result<Arc<Record>> {
    let status = if failure.is_some() { Status::Failed } else { Status::Canceled };
    let is_dead =
        |order: &Order| failure.is_some() && record.status == Status::Running && order.attempts_max > 1;
    let order = record.order.clone().map(|order| Order { is_dead: is_dead(&order), ..order });
    let ended = Record { status, failure, ended_at: Some(now), order, ..record };
    rows::end(connection, &ended, bounds.expires_at(&ended), "TRUE", &[])?;
    debts::owe(connection, &ended, bounds.owed_at(&ended))?;
    Ok(ended.into())
}

fn list(connection: &Connection, filter: &Filter, bounds: &Bounds) -> rusqlite::Result<Page> {
    let before = filter.before.unwrap_or(i64::MAX);
    let since = filter.since.map(Millis);
    let mut conditions = "seq < :before".to_owned();
    let mut params: Vec<(&str, &dyn ToSql)> = vec![(":before", &before)];
    if let Some(function) = &filter.function {
        conditions.push_str(" AND function = :function");
        params.push((":function", function));
    }
    let among = filter.among.as_ref().map(|names| serde_json::json!(names).to_string());
    if let Some(among) = &among {
        conditions.push_str(" AND function IN (SELECT value FROM json_each(:among))");
        params.push((":among", among));
    }
    if let Some(status) = &filter.status {
        conditions.push_str(" AND status = :status");
        params.push((":status", status));
    }
    if let Some(since) = &since {
        conditions.push_str(" AND created_ms >= :since");
        params.push((":since", since));
    }
    if filter.has_ended {
        conditions.push_str(" AND ended_ms IS NOT NULL");
    }
    if filter.is_dead {
        conditions.push_str(" AND is_dead");
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {} FROM predictions WHERE {conditions} ORDER BY seq DESC",
        rows::COLUMNS
    ))?;
    let limit = filter.limit.min(bounds.page_max);
    let (mut page, mut bytes) = (Page { records: Vec::new(), next: None }, 0);
    let mut rows = statement.query(params.as_slice())?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        bytes += row.get::<_, i64>("bytes")? as usize;
        let is_full = page.records.len() >= limit || bytes > bounds.page_bytes_max;
        if is_full && !page.records.is_empty() || limit == 0 {
            page.next = last;
            break;
        }
        last = Some(row.get("seq")?);
        page.records.push(rows::record(row)?);
    }
    Ok(page)
}

#[cfg(test)]
mod tests;
