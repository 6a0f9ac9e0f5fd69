//! Small documents by name: tokens, secrets, and what dialects keep of their own. The interface is one
//! that a store shared by many nodes can have too: durable when it answers, changed by compare-and-set.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::{ChangeError, Store};

/// What kind of document; keys are unique within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// What the node made for itself, such as its webhooks' secret.
    Node,
    /// Tokens by the digest of their secret.
    Token,
    /// Deployments of Replicate's clients, by name.
    Deployment,
    /// What is kept of files beside their bytes, by id.
    File,
    /// Batches of OpenAI's clients, by id.
    Batch,
    /// What Lambda's clients keep of a function, by its name.
    Lambda,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Token => "token",
            Self::Deployment => "deployment",
            Self::File => "file",
            Self::Batch => "batch",
            Self::Lambda => "lambda",
        }
    }
}

/// What must be true for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Absent,
    /// It is this version.
    Version(i64),
}

/// A document and which of its versions it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) version: i64,
}

/// Documents by kind and key.
pub(crate) trait Documents: Send + Sync {
    /// The document of this key.
    fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        kind: Kind,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned<T>>, ChangeError>> + Send;

    /// Writes a document; it is durable when this answers. `None` when what was expected is not so.
    fn put<T: Serialize + Sync>(
        &self,
        kind: Kind,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> impl Future<Output = Result<Option<i64>, ChangeError>> + Send;

    /// Removes a document. False when there is none.
    fn delete(&self, kind: Kind, key: &str) -> impl Future<Output = Result<bool, ChangeError>> + Send;

    /// All documents of a kind, by key.
    fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        kind: Kind,
    ) -> impl Future<Output = Result<Vec<(String, T)>, ChangeError>> + Send;
}

impl Documents for Store {
    async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        kind: Kind,
        key: &str,
    ) -> Result<Option<Versioned<T>>, ChangeError> {
        let key = key.to_owned();
        let found = self.read(move |connection| find(connection, kind, &key)).await?;
        found.map(|(text, version)| Ok(Versioned { value: parse(&text)?, version })).transpose()
    }

    async fn put<T: Serialize + Sync>(
        &self,
        kind: Kind,
        key: &str,
        value: &T,
        expect: Expect,
    ) -> Result<Option<i64>, ChangeError> {
        let (key, text) = (key.to_owned(), serde_json::to_string(value).expect("a document is JSON"));
        self.write(move |connection| {
            let (sql, version) = match expect {
                Expect::Absent => (
                    "INSERT INTO documents SELECT ?1, ?2, ?3, 1 WHERE ?4 = 0
                     ON CONFLICT DO NOTHING RETURNING version",
                    0,
                ),
                Expect::Version(version) => (
                    "UPDATE documents SET value = ?3, version = version + 1
                     WHERE kind = ?1 AND key = ?2 AND version = ?4 RETURNING version",
                    version,
                ),
            };
            let mut statement = connection.prepare_cached(sql)?;
            let params = params![kind.as_str(), key, text, version];
            statement.query_row(params, |row| row.get(0)).optional()
        })
        .await
    }

    async fn delete(&self, kind: Kind, key: &str) -> Result<bool, ChangeError> {
        let key = key.to_owned();
        let delete = move |connection: &Connection| {
            let mut statement =
                connection.prepare_cached("DELETE FROM documents WHERE kind = ? AND key = ?")?;
            Ok(statement.execute(params![kind.as_str(), key])? > 0)
        };
        self.write(delete).await
    }

    async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        kind: Kind,
    ) -> Result<Vec<(String, T)>, ChangeError> {
        let list = move |connection: &Connection| {
            let sql = "SELECT key, value FROM documents WHERE kind = ? ORDER BY key";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<(String, String)>, _>>()
        };
        let rows = self.read(list).await?;
        rows.into_iter().map(|(key, text)| Ok((key, parse(&text)?))).collect()
    }
}

fn find(connection: &Connection, kind: Kind, key: &str) -> rusqlite::Result<Option<(String, i64)>> {
    let mut statement =
        connection.prepare_cached("SELECT value, version FROM documents WHERE kind = ? AND key = ?")?;
    statement.query_row(params![kind.as_str(), key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ChangeError> {
    serde_json::from_str(text)
        .map_err(|error| ChangeError::Database(rusqlite::Error::ToSqlConversionFailure(error.into())))
}
