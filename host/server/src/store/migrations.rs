//! The database's tables, and the way from every older version of them.

use rusqlite::Connection;

use crate::Error;

/// Entry `i` leads from version `i` to `i + 1`. An entry that was released is never changed.
const MIGRATIONS: &[&str] = &[
    "
    -- A component as it was checked at its first deploy; its bytes are the blob of that digest.
    CREATE TABLE components (
        digest      TEXT NOT NULL PRIMARY KEY,
        manifest    TEXT NOT NULL,
        created_ms  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE functions (
        name        TEXT NOT NULL PRIMARY KEY,
        created_ms  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE revisions (
        function    TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
        id          TEXT NOT NULL,
        component   TEXT NOT NULL REFERENCES components,
        settings    TEXT NOT NULL,
        created_ms  INTEGER NOT NULL,
        -- Orders the revisions of a function; deploying an old one again moves it to the end.
        deployed    INTEGER NOT NULL,
        PRIMARY KEY (function, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX revisions_by_component ON revisions (component);

    CREATE TABLE aliases (
        function    TEXT NOT NULL,
        name        TEXT NOT NULL,
        revision    TEXT NOT NULL,
        -- What it named before it last moved.
        previous    TEXT,
        PRIMARY KEY (function, name),
        FOREIGN KEY (function, revision) REFERENCES revisions (function, id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Predictions: those that wait and run, and what is kept of those that ended. They outlive their
    -- function, so they refer to nothing.
    CREATE TABLE predictions (
        -- Orders them by when they came.
        seq          INTEGER NOT NULL PRIMARY KEY,
        id           TEXT NOT NULL UNIQUE,
        -- The client's own name for the request that made it.
        key          TEXT,
        function     TEXT NOT NULL,
        revision     TEXT NOT NULL,
        status       TEXT NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
        created_ms   INTEGER NOT NULL,
        started_ms   INTEGER,
        ended_ms     INTEGER,
        -- When it may be removed.
        expires_ms   INTEGER,
        input        TEXT NOT NULL,
        -- What it told, in order.
        events       TEXT NOT NULL,
        returned     TEXT,
        failure      TEXT,
        metrics      TEXT,
        webhook      TEXT,
        memo         TEXT,
        -- How the queue treats it; null for one whose caller held a connection open for it.
        plan         TEXT,
        priority     INTEGER NOT NULL,
        attempt      INTEGER NOT NULL,
        -- When it may run.
        ready_ms     INTEGER NOT NULL,
        deadline_ms  INTEGER,
        -- Who runs it, and until when it is theirs.
        owner        TEXT,
        lease_ms     INTEGER,
        is_canceled  INTEGER NOT NULL,
        -- It ran out of attempts.
        is_dead      INTEGER NOT NULL,
        -- About how much it takes.
        bytes        INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX predictions_by_key ON predictions (key) WHERE key IS NOT NULL;
    CREATE INDEX predictions_by_function ON predictions (function, seq);
    CREATE INDEX predictions_queued ON predictions (function, priority DESC, seq) WHERE status = 'queued';
    CREATE INDEX predictions_running ON predictions (lease_ms) WHERE status = 'running';
    CREATE INDEX predictions_with_deadline ON predictions (deadline_ms)
        WHERE status = 'queued' AND deadline_ms IS NOT NULL;
    CREATE INDEX predictions_dead ON predictions (seq) WHERE is_dead;
    CREATE INDEX predictions_ended ON predictions (expires_ms, bytes) WHERE expires_ms IS NOT NULL;

    -- Ends of predictions that a webhook has not taken yet.
    CREATE TABLE debts (
        prediction   TEXT NOT NULL PRIMARY KEY REFERENCES predictions (id) ON DELETE CASCADE,
        attempts     INTEGER NOT NULL,
        next_ms      INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX debts_by_time ON debts (next_ms);

    -- Small documents by name.
    CREATE TABLE documents (
        kind         TEXT NOT NULL,
        key          TEXT NOT NULL,
        value        TEXT NOT NULL,
        version      INTEGER NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- What came of `setup` at deploy: the blob of a component that begins where it ended, or why there is none.
    ALTER TABLE revisions ADD COLUMN image TEXT;
    ALTER TABLE revisions ADD COLUMN no_image TEXT;
    CREATE INDEX revisions_by_image ON revisions (image) WHERE image IS NOT NULL;
",
];

/// Brings a database to the newest version, all or nothing.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Err(Error::DatabaseVersion { found, known });
    };
    let transaction = connection.transaction()?;
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 7);
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection).unwrap_err().to_string();
        assert_eq!(error, format!("database has version 99, this dormouse reads up to {}", MIGRATIONS.len()));
    }
}
