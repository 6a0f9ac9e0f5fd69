//! Functions, revisions and aliases as rows of the database.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{
    Connection, OptionalExtension, Row, ToSql, named_params, params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};

use crate::function::{Alias, Digest, FunctionName, NameError, Predictor, RevisionId, Settings, Start};

/// A function as the database has it.
#[derive(Debug, Clone)]
pub(super) struct FunctionRow {
    pub(super) name: FunctionName,
    pub(super) created_at: SystemTime,
    /// Newest deployed first.
    pub(super) revisions: Vec<RevisionRow>,
    pub(super) aliases: BTreeMap<Alias, RevisionId>,
    /// What `live` named before it last moved.
    pub(super) previous: Option<RevisionId>,
}

/// A revision as the database has it.
#[derive(Debug, Clone)]
pub(super) struct RevisionRow {
    pub(super) id: RevisionId,
    pub(super) component: Digest,
    pub(super) settings: Settings,
    pub(super) start: Start,
    pub(super) created_at: SystemTime,
}

/// What a database held when it was opened.
pub(super) struct Contents {
    pub(super) functions: Vec<FunctionRow>,
    /// Manifests of the components that they name.
    pub(super) manifests: HashMap<Digest, String>,
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

/// Adds a revision, or moves it to the front when it is there.
pub(super) fn insert(
    connection: &Connection,
    function: &FunctionName,
    predictor: &Predictor,
    settings: &Settings,
    start: &Start,
    at: SystemTime,
) -> rusqlite::Result<RevisionId> {
    let id = RevisionId::of(&predictor.digest, settings);
    let at = Millis(at);
    connection
        .prepare_cached("INSERT INTO components VALUES (?, ?, ?) ON CONFLICT DO NOTHING")?
        .execute(params![predictor.digest, predictor.manifest.text, at])?;
    connection
        .prepare_cached("INSERT INTO functions VALUES (?, ?) ON CONFLICT DO NOTHING")?
        .execute(params![function, at])?;
    connection
        .prepare_cached(
            "INSERT INTO revisions
             VALUES (:function, :id, :component, :settings, :at,
                 (SELECT coalesce(max(deployed), 0) + 1 FROM revisions WHERE function = :function),
                 :image, :no_image)
             ON CONFLICT DO UPDATE
             SET deployed = excluded.deployed, image = excluded.image, no_image = excluded.no_image",
        )?
        .execute(named_params! {
            ":function": function,
            ":id": id,
            ":component": predictor.digest,
            ":settings": settings,
            ":at": at,
            ":image": start.image(),
            ":no_image": start.reason(),
        })?;
    Ok(id)
}

/// Points an alias at a revision; remembers what it named before.
pub(super) fn point(
    connection: &Connection,
    function: &FunctionName,
    alias: &Alias,
    revision: &RevisionId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO aliases VALUES (?, ?, ?, NULL)
             ON CONFLICT DO UPDATE SET previous = revision, revision = excluded.revision
             WHERE revision <> excluded.revision",
        )?
        .execute(params![function, alias, revision])?;
    Ok(())
}

/// Removes the oldest revisions beyond `max` that no alias names or named just before; answers the
/// components and images that nothing uses any more.
pub(super) fn prune(
    connection: &Connection,
    function: &FunctionName,
    max: usize,
) -> rusqlite::Result<Vec<Digest>> {
    let used = pairs(
        connection,
        "DELETE FROM revisions
         WHERE function = ?1
             AND id IN (SELECT id FROM revisions WHERE function = ?1
                        ORDER BY deployed DESC LIMIT -1 OFFSET ?2)
             AND NOT EXISTS (SELECT 1 FROM aliases
                             WHERE aliases.function = ?1 AND id IN (aliases.revision, aliases.previous))
         RETURNING component, image",
        params![function, max as i64],
    )?;
    free(connection, used)
}

/// Removes an alias, if it is there.
pub(super) fn remove_alias(
    connection: &Connection,
    function: &FunctionName,
    alias: &Alias,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM aliases WHERE function = ? AND name = ?")?;
    statement.execute(params![function, alias])?;
    Ok(())
}

/// Removes a function with all that is its own; answers the components and
/// images that nothing uses any more.
pub(super) fn remove_function(
    connection: &Connection,
    function: &FunctionName,
) -> rusqlite::Result<Vec<Digest>> {
    let sql = "SELECT DISTINCT component, image FROM revisions WHERE function = ?";
    let used = pairs(connection, sql, params![function])?;
    connection.prepare_cached("DELETE FROM functions WHERE name = ?")?.execute(params![function])?;
    free(connection, used)
}

/// Those of the components and images that no revision uses, which are removed.
fn free(connection: &Connection, used: Vec<(Digest, Option<Digest>)>) -> rusqlite::Result<Vec<Digest>> {
    let (mut components, images): (Vec<_>, Vec<_>) = used.into_iter().unzip();
    let mut images: Vec<_> = images.into_iter().flatten().collect();
    [&mut components, &mut images].into_iter().for_each(|digests| {
        digests.sort_unstable();
        digests.dedup();
    });
    let mut statement = connection.prepare_cached(
        "DELETE FROM components
         WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM revisions WHERE component = ?1)",
    )?;
    let mut freed = Vec::new();
    for digest in components {
        if statement.execute(params![digest])? > 0 {
            freed.push(digest);
        }
    }
    let mut statement =
        connection.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM revisions WHERE image = ?1)")?;
    for digest in images {
        if statement.query_row(params![digest], |row| row.get(0))? {
            freed.push(digest);
        }
    }
    Ok(freed)
}

/// A function with all that is its own.
pub(super) fn find(connection: &Connection, name: &FunctionName) -> rusqlite::Result<FunctionRow> {
    let created_at: Millis = connection
        .prepare_cached("SELECT created_ms FROM functions WHERE name = ?")?
        .query_row(params![name], |row| row.get(0))?;
    let mut revisions = connection.prepare_cached(
        "SELECT id, component, settings, created_ms, image, no_image FROM revisions
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
    let start = match (row.get(4)?, row.get(5)?) {
        (Some(image), _) => Start::Image(image),
        (None, Some(reason)) => Start::Setup(reason),
        (None, None) => Start::default(),
    };
    Ok(RevisionRow {
        start,
        id: row.get(0)?,
        component: row.get(1)?,
        settings: row.get(2)?,
        created_at: created_at.0,
    })
}

fn pairs<A: FromSql, B: FromSql>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<Vec<(A, B)>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
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
pub(super) struct Millis(pub(super) SystemTime);

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
text_column!(Alias, Digest, RevisionId);

impl ToSql for FunctionName {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for FunctionName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::lane(value.as_str()?).map_err(FromSqlError::other)
    }
}
