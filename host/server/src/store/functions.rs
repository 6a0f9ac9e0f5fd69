//! Functions, revisions and aliases in the database. Every change is one transaction and answers the
//! function as it is then.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, Transaction, TransactionBehavior, named_params, params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};

use super::{Contents, Store, StoreError, Writer};
use crate::function::{Alias, Digest, FunctionName, NameError, RevisionId, Settings};

/// A function as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FunctionRow {
    pub(crate) name: FunctionName,
    pub(crate) created_at: SystemTime,
    /// Newest deployed first.
    pub(crate) revisions: Vec<RevisionRow>,
    pub(crate) aliases: BTreeMap<Alias, RevisionId>,
    /// What `live` named before it last moved.
    pub(crate) previous: Option<RevisionId>,
}

/// A revision as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RevisionRow {
    pub(crate) id: RevisionId,
    pub(crate) component: Digest,
    pub(crate) settings: Settings,
    pub(crate) created_at: SystemTime,
}

/// A revision to add.
#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    pub(crate) function: FunctionName,
    pub(crate) component: Digest,
    pub(crate) manifest: String,
    pub(crate) settings: Settings,
    pub(crate) at: SystemTime,
}

impl Store {
    /// Adds a revision, or moves it to the front when it is there, and makes it live. Keeps the newest
    /// `revisions_max` and those that an alias names. The component's blob must be kept and pinned.
    pub(crate) async fn deploy(
        &self,
        deployed: Deployed,
        revisions_max: usize,
    ) -> Result<FunctionRow, StoreError> {
        self.change(move |writer| {
            let transaction = writer.begin()?;
            insert(&transaction, &deployed)?;
            let id = RevisionId::of(&deployed.component, &deployed.settings);
            point(&transaction, &deployed.function, &Alias::live(), &id)?;
            let freed = prune(&transaction, &deployed.function, revisions_max)?;
            let row = find(&transaction, &deployed.function)?;
            transaction.commit()?;
            writer.remove_blobs(freed);
            Ok(row)
        })
        .await
    }

    /// Points an alias at a revision of the function.
    pub(crate) async fn set_alias(
        &self,
        function: FunctionName,
        alias: Alias,
        revision: RevisionId,
    ) -> Result<FunctionRow, StoreError> {
        self.change(move |writer| {
            let transaction = writer.begin()?;
            point(&transaction, &function, &alias, &revision)?;
            let row = find(&transaction, &function)?;
            transaction.commit()?;
            Ok(row)
        })
        .await
    }

    /// Removes an alias, if it is there.
    pub(crate) async fn remove_alias(
        &self,
        function: FunctionName,
        alias: Alias,
    ) -> Result<FunctionRow, StoreError> {
        self.change(move |writer| {
            let transaction = writer.begin()?;
            transaction
                .prepare_cached("DELETE FROM aliases WHERE function = ? AND name = ?")?
                .execute(params![function, alias])?;
            let row = find(&transaction, &function)?;
            transaction.commit()?;
            Ok(row)
        })
        .await
    }

    /// Removes a function with all that is its own, and the blobs that only it used.
    pub(crate) async fn remove_function(&self, function: FunctionName) -> Result<(), StoreError> {
        self.change(move |writer| {
            let transaction = writer.begin()?;
            let components = column(
                &transaction,
                "SELECT DISTINCT component FROM revisions WHERE function = ?",
                params![function],
            )?;
            transaction
                .prepare_cached("DELETE FROM functions WHERE name = ?")?
                .execute(params![function])?;
            let freed = free(&transaction, components)?;
            transaction.commit()?;
            writer.remove_blobs(freed);
            Ok(())
        })
        .await
    }
}

impl Writer {
    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection.transaction_with_behavior(TransactionBehavior::Immediate)
    }
}

/// Everything there is.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Contents> {
    let names: Vec<FunctionName> = column(connection, "SELECT name FROM functions ORDER BY name", params![])?;
    let functions = names.iter().map(|name| find(connection, name)).collect::<Result<_, _>>()?;
    let mut statement = connection.prepare("SELECT digest, manifest FROM components")?;
    let manifests = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<HashMap<_, _>>>()?;
    Ok(Contents { functions, manifests })
}

fn insert(transaction: &Transaction<'_>, deployed: &Deployed) -> rusqlite::Result<()> {
    let at = Millis(deployed.at);
    transaction
        .prepare_cached("INSERT INTO components VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?
        .execute(params![deployed.component, deployed.manifest, at])?;
    transaction
        .prepare_cached("INSERT INTO functions VALUES (?, ?) ON CONFLICT DO NOTHING")?
        .execute(params![deployed.function, at])?;
    transaction
        .prepare_cached(
            "INSERT INTO revisions
             VALUES (:function, :id, :component, :settings, :at,
                 (SELECT coalesce(max(deployed), 0) + 1 FROM revisions WHERE function = :function))
             ON CONFLICT DO UPDATE SET deployed = excluded.deployed",
        )?
        .execute(named_params! {
            ":function": deployed.function,
            ":id": RevisionId::of(&deployed.component, &deployed.settings),
            ":component": deployed.component,
            ":settings": deployed.settings,
            ":at": at,
        })?;
    Ok(())
}

fn point(
    transaction: &Transaction<'_>,
    function: &FunctionName,
    alias: &Alias,
    revision: &RevisionId,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO aliases VALUES (?, ?, ?, NULL)
             ON CONFLICT DO UPDATE SET previous = revision, revision = excluded.revision
             WHERE revision <> excluded.revision",
        )?
        .execute(params![function, alias, revision])?;
    Ok(())
}

/// Removes the oldest revisions beyond `max` that no alias names or named just before; answers the
/// components that nothing uses any more.
fn prune(
    transaction: &Transaction<'_>,
    function: &FunctionName,
    max: usize,
) -> rusqlite::Result<Vec<Digest>> {
    let components = column(
        transaction,
        "DELETE FROM revisions
         WHERE function = ?1
             AND id IN (SELECT id FROM revisions WHERE function = ?1
                        ORDER BY deployed DESC LIMIT -1 OFFSET ?2)
             AND NOT EXISTS (SELECT 1 FROM aliases
                             WHERE aliases.function = ?1 AND id IN (aliases.revision, aliases.previous))
         RETURNING component",
        params![function, max as i64],
    )?;
    free(transaction, components)
}

/// Removes those of the components that no revision uses; answers them.
fn free(transaction: &Transaction<'_>, components: Vec<Digest>) -> rusqlite::Result<Vec<Digest>> {
    let mut statement = transaction.prepare_cached(
        "DELETE FROM components
         WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM revisions WHERE component = ?1)",
    )?;
    let mut freed = Vec::new();
    for digest in components {
        if statement.execute(params![digest])? > 0 {
            freed.push(digest);
        }
    }
    Ok(freed)
}

fn find(connection: &Connection, name: &FunctionName) -> rusqlite::Result<FunctionRow> {
    let created_at: Millis = connection
        .prepare_cached("SELECT created_ms FROM functions WHERE name = ?")?
        .query_row(params![name], |row| row.get(0))?;
    let mut revisions = connection.prepare_cached(
        "SELECT id, component, settings, created_ms FROM revisions
         WHERE function = ? ORDER BY deployed DESC",
    )?;
    let mut aliases = connection.prepare_cached("SELECT name, revision FROM aliases WHERE function = ?")?;
    let previous = connection
        .prepare_cached(
            "SELECT previous FROM aliases JOIN revisions USING (function)
             WHERE function = ? AND name = ? AND id = previous",
        )?
        .query_row(params![name, Alias::live()], |row| row.get(0))
        .optional()?;
    Ok(FunctionRow {
        name: name.clone(),
        created_at: created_at.0,
        revisions: revisions.query_map(params![name], revision)?.collect::<Result<_, _>>()?,
        aliases: aliases
            .query_map(params![name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?,
        previous,
    })
}

fn revision(row: &Row<'_>) -> rusqlite::Result<RevisionRow> {
    let created_at: Millis = row.get(3)?;
    Ok(RevisionRow {
        id: row.get(0)?,
        component: row.get(1)?,
        settings: row.get(2)?,
        created_at: created_at.0,
    })
}

fn column<T: FromSql>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params, |row| row.get(0))?.collect()
}

/// A time as whole milliseconds since 1970.
struct Millis(SystemTime);

impl ToSql for Millis {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for Millis {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let millis = value.as_i64()?.try_into().map_err(FromSqlError::other)?;
        Ok(Self(UNIX_EPOCH + Duration::from_millis(millis)))
    }
}

impl ToSql for Settings {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(serde_json::to_string(self).expect("strings and numbers are JSON").into())
    }
}

impl FromSql for Settings {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map_err(FromSqlError::other)
    }
}

macro_rules! text_column {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Self::parse(value.as_str()?).map_err(|error: NameError| FromSqlError::other(error))
            }
        }
    )*};
}
text_column!(FunctionName, Alias, Digest, RevisionId);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    fn deployed(function: &str, component: &[u8]) -> Deployed {
        Deployed {
            function: name(function),
            component: Digest::of(component),
            manifest: "{}".to_owned(),
            settings: Settings::default(),
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        }
    }

    /// Deploys as the service does: pin, blob, row.
    async fn deploy(store: &Store, function: &str, component: &[u8], revisions_max: usize) -> FunctionRow {
        let deployed = deployed(function, component);
        let pin = store.blobs.pin(&deployed.component);
        let mut upload = store.blobs.upload().unwrap();
        std::io::Write::write_all(&mut upload, component).unwrap();
        pin.keep(upload).unwrap();
        store.deploy(deployed, revisions_max).await.unwrap()
    }

    fn open(dir: &Path) -> (Store, Contents) {
        Store::open(dir, 8).unwrap()
    }

    fn components(row: &FunctionRow) -> Vec<Digest> {
        row.revisions.iter().map(|revision| revision.component.clone()).collect()
    }

    #[tokio::test]
    async fn what_a_change_answered_is_there_when_the_store_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        deploy(&store, "f", b"one", 10).await;
        let row = deploy(&store, "f", b"two", 10).await;
        let beta = Alias::parse("beta").unwrap();
        let row = store.set_alias(row.name.clone(), beta, row.revisions[1].id.clone()).await.unwrap();
        store.close().await;
        let (store, contents) = open(dir.path());
        assert_eq!(contents.functions, [row]);
        assert!(store.blobs.read(&Digest::of(b"one")).is_ok());
    }

    #[tokio::test]
    async fn a_deploy_makes_its_revision_live_and_remembers_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let one = deploy(&store, "f", b"one", 10).await;
        assert_eq!(one.previous, None);
        let two = deploy(&store, "f", b"two", 10).await;
        assert_eq!(two.aliases[&Alias::live()], two.revisions[0].id);
        assert_eq!(two.previous, Some(one.revisions[0].id.clone()));
        let again = deploy(&store, "f", b"two", 10).await;
        assert_eq!(again, two);
    }

    #[tokio::test]
    async fn deploying_an_old_revision_again_makes_it_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        deploy(&store, "f", b"one", 10).await;
        deploy(&store, "f", b"two", 10).await;
        let row = deploy(&store, "f", b"one", 10).await;
        assert_eq!(components(&row), [Digest::of(b"one"), Digest::of(b"two")]);
        assert_eq!(row.aliases[&Alias::live()], row.revisions[0].id);
    }

    #[tokio::test]
    async fn the_oldest_revisions_that_no_alias_names_go_with_their_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let one = deploy(&store, "f", b"one", 2).await;
        let beta = Alias::parse("beta").unwrap();
        store.set_alias(name("f"), beta, one.revisions[0].id.clone()).await.unwrap();
        deploy(&store, "f", b"two", 2).await;
        deploy(&store, "f", b"three", 2).await;
        let row = deploy(&store, "f", b"four", 2).await;
        let [one, two, three, four] = [&b"one"[..], b"two", b"three", b"four"].map(Digest::of);
        assert_eq!(components(&row), [four, three, one.clone()]);
        assert!(store.blobs.read(&one).is_ok() && store.blobs.read(&two).is_err());
    }

    #[tokio::test]
    async fn removing_a_function_leaves_blobs_that_another_uses() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        deploy(&store, "f", b"shared", 10).await;
        deploy(&store, "f", b"own", 10).await;
        deploy(&store, "g", b"shared", 10).await;
        store.remove_function(name("f")).await.unwrap();
        assert!(store.blobs.read(&Digest::of(b"shared")).is_ok());
        assert!(store.blobs.read(&Digest::of(b"own")).is_err());
        let again = deploy(&store, "f", b"own", 10).await;
        assert_eq!(again.previous, None);
    }

    #[tokio::test]
    async fn a_data_directory_serves_one_store_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, _) = open(dir.path());
        let error = Store::open(dir.path(), 8).err().unwrap();
        assert!(matches!(error, crate::Error::DataInUse(_)), "{error}");
    }

    #[tokio::test]
    async fn an_alias_of_a_revision_that_is_not_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        deploy(&store, "f", b"one", 10).await;
        let missing = RevisionId::of(&Digest::of(b"missing"), &Settings::default());
        assert!(store.set_alias(name("f"), Alias::live(), missing).await.is_err());
    }
}
