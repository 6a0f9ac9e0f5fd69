//! Predictions as rows.

use std::sync::Arc;

use dormouse_runtime::{Event, LogLine, Wake};
use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, named_params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::super::rows::Millis;
use crate::{
    prediction::{Failure, Json, Metrics, Order, PredictionId, Record, Status},
    webhook::Webhook,
};

/// What a row takes besides its texts.
const ROW_BYTES: usize = 512;

/// The columns that [`record`] reads.
pub(super) const COLUMNS: &str = "seq, id, function, revision, status, created_ms, started_ms, ended_ms, \
     input, events, returned, failure, metrics, webhook, memo, plan, deadline_ms, attempt, is_dead, is_canceled, bytes";

/// Adds a prediction; one of the same id that has ended gives way to it.
pub(super) fn insert(
    connection: &Connection,
    record: &Record,
    key: Option<&str>,
    expires_at: Option<Millis>,
) -> rusqlite::Result<()> {
    let texts = Texts::of(record);
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO predictions
             (id, key, function, revision, status, created_ms, started_ms, ended_ms, expires_ms, input,
              events, returned, failure, metrics, webhook, memo, plan, priority, attempt, ready_ms, deadline_ms,
              is_canceled, is_dead, bytes)
         VALUES (:id, :key, :function, :revision, :status, :created, :started, :ended, :expires, :input,
              :events, :returned, :failure, :metrics, :webhook, :memo, :plan, :priority, :attempt, :created, :deadline,
              FALSE, :dead, :bytes)",
    )?;
    let order = record.order.as_ref();
    statement.execute(named_params! {
        ":id": record.id,
        ":key": key,
        ":function": record.function,
        ":revision": record.revision,
        ":status": record.status,
        ":created": Millis(record.created_at),
        ":started": record.started_at.map(Millis),
        ":ended": record.ended_at.map(Millis),
        ":expires": expires_at,
        ":input": record.input.as_str(),
        ":events": texts.events,
        ":returned": record.returned.as_ref().map(Json::as_str),
        ":failure": texts.failure,
        ":metrics": texts.metrics,
        ":webhook": texts.webhook,
        ":memo": texts.memo,
        ":plan": texts.plan,
        ":priority": order.map_or(0, |order| order.priority),
        ":attempt": order.map_or(0, |order| order.attempt),
        ":deadline": order.and_then(|order| order.deadline).map(Millis),
        ":dead": order.is_some_and(|order| order.is_dead),
        ":bytes": texts.bytes(record) as i64,
    })?;
    Ok(())
}

/// Writes how a prediction ended over what it was, if `condition` still holds of its row.
pub(super) fn end(
    connection: &Connection,
    record: &Record,
    expires_at: Millis,
    condition: &str,
    params: &[(&str, &dyn ToSql)],
) -> rusqlite::Result<bool> {
    let texts = Texts::of(record);
    let mut statement = connection.prepare_cached(&format!(
        "UPDATE predictions
         SET status = :status, started_ms = :started, ended_ms = :ended, expires_ms = :expires,
             events = :events, returned = :returned, failure = :failure, metrics = :metrics,
             is_dead = :dead, owner = NULL, lease_ms = NULL, bytes = :bytes
         WHERE id = :id AND {condition}"
    ))?;
    let (started, ended) = (record.started_at.map(Millis), record.ended_at.map(Millis));
    let (returned, bytes) = (record.returned.as_ref().map(Json::as_str), texts.bytes(record) as i64);
    let is_dead = record.order.as_ref().is_some_and(|order| order.is_dead);
    let mut all: Vec<(&str, &dyn ToSql)> = vec![
        (":status", &record.status),
        (":started", &started),
        (":ended", &ended),
        (":expires", &expires_at),
        (":events", &texts.events),
        (":returned", &returned),
        (":failure", &texts.failure),
        (":metrics", &texts.metrics),
        (":dead", &is_dead),
        (":bytes", &bytes),
        (":id", &record.id),
    ];
    all.extend_from_slice(params);
    Ok(statement.execute(all.as_slice())? > 0)
}

/// The prediction of an id or a key.
pub(super) fn find(connection: &Connection, column: &str, value: &str) -> rusqlite::Result<Option<Record>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM predictions WHERE {column} = ?"))?;
    statement.query_row([value], record).optional()
}

/// A row of [`COLUMNS`].
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let time = |column| row.get::<_, Option<Millis>>(column).map(|time| time.map(|Millis(time)| time));
    let order = match row.get::<_, Option<Packed<Order>>>("plan")? {
        Some(Packed(order)) => Some(Order {
            deadline: time("deadline_ms")?,
            attempt: row.get("attempt")?,
            is_dead: row.get("is_dead")?,
            ..order
        }),
        None => None,
    };
    let Millis(created_at) = row.get("created_ms")?;
    Ok(Record {
        id: row.get("id")?,
        function: row.get("function")?,
        revision: row.get("revision")?,
        status: row.get("status")?,
        created_at,
        started_at: time("started_ms")?,
        ended_at: time("ended_ms")?,
        input: row.get("input")?,
        events: row.get::<_, Events>("events")?.0,
        returned: row.get("returned")?,
        failure: row.get::<_, Option<Packed<Failure>>>("failure")?.map(|Packed(failure)| failure),
        metrics: row.get::<_, Option<Packed<Box<Metrics>>>>("metrics")?.map(|Packed(metrics)| metrics),
        order,
        webhook: row.get::<_, Option<Packed<Box<Webhook>>>>("webhook")?.map(|Packed(webhook)| webhook),
        memo: row.get::<_, Option<Packed<Value>>>("memo")?.map(|Packed(memo)| memo).unwrap_or_default(),
    })
}

/// What a record's parts are written as.
struct Texts {
    events: String,
    failure: Option<String>,
    metrics: Option<String>,
    webhook: Option<String>,
    memo: Option<String>,
    plan: Option<String>,
}

impl Texts {
    fn of(record: &Record) -> Self {
        fn text<T: Serialize>(value: &T) -> String {
            serde_json::to_string(value).expect("strings and numbers are JSON")
        }
        Self {
            events: events_text(&record.events),
            failure: record.failure.as_ref().map(text),
            metrics: record.metrics.as_ref().map(text),
            webhook: record.webhook.as_ref().map(text),
            memo: (!record.memo.is_null()).then(|| record.memo.to_string()),
            plan: record.order.as_ref().map(text),
        }
    }

    fn bytes(&self, record: &Record) -> usize {
        let optional = [&self.failure, &self.metrics, &self.webhook, &self.memo, &self.plan];
        let optional: usize = optional.into_iter().flatten().map(String::len).sum();
        let returned = record.returned.as_ref().map_or(0, |json| json.as_str().len());
        ROW_BYTES + record.input.as_str().len() + self.events.len() + returned + optional
    }
}

/// A value that is written as JSON.
struct Packed<T>(T);

impl<T: for<'de> Deserialize<'de>> FromSql for Packed<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(FromSqlError::other)
    }
}

impl FromSql for Json {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?.to_owned()).map_err(FromSqlError::other)
    }
}

impl ToSql for Status {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Status {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::deserialize(Value::from(value.as_str()?)).map_err(FromSqlError::other)
    }
}

impl ToSql for PredictionId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for PredictionId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::parse(value.as_str()?).map_err(FromSqlError::other)
    }
}

/// An event as it is written; the names are short because there are many.
#[derive(Serialize, Deserialize)]
enum EventRow<'a> {
    #[serde(rename = "o", borrow)]
    Output(&'a RawValue),
    #[serde(rename = "l")]
    Log(LogLine),
    #[serde(rename = "p")]
    Progress(f32, String),
    #[serde(rename = "w")]
    Wake(Wake),
}

/// What a prediction told.
struct Events(Vec<Arc<Event>>);

fn events_text(events: &[Arc<Event>]) -> String {
    let mut text = "[".to_owned();
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match &**event {
            // The element is JSON already.
            Event::Output(element) => {
                text.push_str("{\"o\":");
                text.push_str(element);
                text.push('}');
            }
            Event::Log(line) => text.push_str(&json(&EventRow::Log(line.clone()))),
            Event::Progress { fraction, note } => {
                text.push_str(&json(&EventRow::Progress(*fraction, note.clone())));
            }
            Event::Wake(wake) => text.push_str(&json(&EventRow::Wake(wake.clone()))),
        }
    }
    text.push(']');
    text
}

fn json(event: &EventRow<'_>) -> String {
    serde_json::to_string(event).expect("strings and numbers are JSON")
}

impl FromSql for Events {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let rows: Vec<EventRow<'_>> = serde_json::from_str(value.as_str()?).map_err(FromSqlError::other)?;
        let events = rows.into_iter().map(|row| match row {
            EventRow::Output(element) => Event::Output(element.get().to_owned()),
            EventRow::Log(line) => Event::Log(line),
            EventRow::Progress(fraction, note) => Event::Progress { fraction, note },
            EventRow::Wake(wake) => Event::Wake(wake),
        });
        Ok(Self(events.map(Arc::new).collect()))
    }
}
