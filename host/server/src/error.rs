//! Why the service could not start or go on.

use std::{io, net::SocketAddr, path::PathBuf};

/// Any failure of [`serve`](crate::serve).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address can't be had.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or its key can't be used.
    #[error("tls: {path}: {reason}")]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder of the data directory can't be used.
    #[error("{path}: {source}")]
    Data {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process serves from the same data directory.
    #[error("{0} is in use by another dormouse")]
    DataInUse(PathBuf),
    /// The database can't be used.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The database was written by a newer version.
    #[error("database has version {found}, this dormouse reads up to {known}")]
    DatabaseVersion {
        /// Its version.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// What the database holds can't be used.
    #[error("store: {0}")]
    Store(String),
    /// The sandbox could not start.
    #[error("runtime: {0}")]
    Runtime(#[from] dormouse_runtime::Error),
    /// What models shall compute on is not there.
    #[error(transparent)]
    Device(#[from] crate::device::Error),
    /// The inference engine could not start.
    #[error("engine: {0}")]
    Engine(#[from] dormouse_engine::Error),
}
