//! What is owed to receivers of webhooks, kept with the predictions.

use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::{ChangeError, Millis, PredictionId, Predictions, Record, rows};
use crate::webhook::{Debt, is_owed, pause};

impl Predictions {
    /// Ends of predictions that are due to be told, at most `max`.
    pub(crate) async fn debts(&self, now: SystemTime, max: usize) -> Result<Vec<Debt>, ChangeError> {
        let bytes_max = self.bounds.page_bytes_max;
        let find = move |connection: &Connection| {
            let mut due = connection.prepare_cached(&format!(
                "SELECT {}, attempts FROM debts JOIN predictions ON id = prediction
                 WHERE next_ms <= ? ORDER BY next_ms LIMIT ?",
                rows::COLUMNS
            ))?;
            let mut rows = due.query(params![Millis(now), max as i64])?;
            let (mut debts, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                bytes += row.get::<_, i64>("bytes")? as usize;
                if bytes > bytes_max && !debts.is_empty() {
                    break;
                }
                debts.push(Debt { record: rows::record(row)?.into(), attempts: row.get("attempts")? });
            }
            Ok(debts)
        };
        self.store.read(find).await
    }

    /// Ends that nobody has tried to tell are due now: whoever ended them is gone with the last run of
    /// this node. For its start.
    pub(crate) async fn take_over_debts(&self, now: SystemTime) -> Result<(), ChangeError> {
        let take_over = move |connection: &Connection| {
            let sql = "UPDATE debts SET next_ms = min(next_ms, ?) WHERE attempts = 0";
            connection.prepare_cached(sql)?.execute([Millis(now)]).map(drop)
        };
        self.store.write(take_over).await
    }

    /// Nothing is owed for a prediction any more.
    pub(crate) async fn forgive(&self, id: &PredictionId) -> Result<(), ChangeError> {
        let id = id.clone();
        let forgive = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM debts WHERE prediction = ?")?.execute([&id]).map(drop)
        };
        self.store.write(forgive).await
    }

    /// An attempt has failed: tries again later, or gives up.
    pub(crate) async fn postpone(
        &self,
        id: &PredictionId,
        attempts: u32,
        now: SystemTime,
    ) -> Result<(), ChangeError> {
        let webhook = &self.bounds.webhook;
        if attempts >= webhook.attempts_max {
            return self.forgive(id).await;
        }
        let (id, next) = (id.clone(), now + pause(attempts, webhook.backoff, webhook.backoff_max));
        let postpone = move |connection: &Connection| {
            let sql = "UPDATE debts SET attempts = ?, next_ms = ? WHERE prediction = ?";
            connection.prepare_cached(sql)?.execute(params![attempts, Millis(next), id]).map(drop)
        };
        self.store.write(postpone).await
    }
}

/// Remembers that a prediction's end is owed, if it is. Whoever ended it tells first; `later` is when
/// others may.
pub(super) fn owe(connection: &Connection, record: &Record, later: SystemTime) -> rusqlite::Result<()> {
    if record.is_ended() && is_owed(record) {
        let sql = "INSERT OR REPLACE INTO debts VALUES (?, 0, ?)";
        connection.prepare_cached(sql)?.execute(params![record.id, Millis(later)])?;
    }
    Ok(())
}
