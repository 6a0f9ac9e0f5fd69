//! Removing what is not kept any longer.

use std::time::SystemTime;

use rusqlite::{Connection, params};

use super::{ChangeError, Millis, Predictions};

/// Predictions removed in one transaction; others' writes come between.
const REMOVED_MAX: i64 = 500;

impl Predictions {
    /// Removes those whose time has come, and the oldest while all together take too much; a bounded
    /// number at a time. Answers how many; call it again until that is 0.
    pub(crate) async fn sweep(&self, now: SystemTime) -> Result<usize, ChangeError> {
        let bytes_max = i64::try_from(self.bounds.kept_bytes_max).unwrap_or(i64::MAX);
        let bytes = |connection: &Connection| {
            connection.query_row(
                "SELECT total(bytes) FROM predictions WHERE expires_ms IS NOT NULL",
                [],
                |row| row.get::<_, f64>(0),
            )
        };
        // Reading the sum takes a while where there are many: not on the writer's thread.
        let excess = self.store.read(bytes).await? as i64 - bytes_max;
        let remove = move |connection: &Connection| {
            let mut expired = connection.prepare_cached(
                "DELETE FROM predictions WHERE seq IN
                     (SELECT seq FROM predictions WHERE expires_ms <= ? LIMIT ?)",
            )?;
            let mut removed = expired.execute(params![Millis(now), REMOVED_MAX])?;
            if excess > 0 && removed == 0 {
                let mut oldest = connection.prepare_cached(
                    "DELETE FROM predictions WHERE seq IN
                         (SELECT seq FROM
                             (SELECT seq, sum(bytes) OVER (ORDER BY expires_ms, seq) - bytes AS before
                              FROM (SELECT seq, bytes, expires_ms FROM predictions
                                    WHERE expires_ms IS NOT NULL ORDER BY expires_ms LIMIT ?2))
                          WHERE before < ?1)",
                )?;
                removed += oldest.execute(params![excess, REMOVED_MAX])?;
            }
            Ok(removed)
        };
        self.store.write(remove).await
    }
}
