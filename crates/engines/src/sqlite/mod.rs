//! SQLite: everything in one file, shared by any number of processes on one machine. The embedded default.
//!
//! # URL
//! `sqlite:///var/lib/shop.db`, `sqlite:shop.db`, or `sqlite::memory:` (private to the handle, gone with it).
//! The options are listed at [`Config`]. The file may hold other tables: Linchpin's are all named `lp_*`; the file is
//! kept in WAL mode.
//!
//! # How it works
//! A handle owns one writer thread with one connection. It drains its queue, runs many jobs in one
//! `BEGIN IMMEDIATE … COMMIT`, and answers after the commit: one `fsync` for all of them. A job that fails rolls the
//! round back and every job runs again by itself, so none spoils another. A reader thread with a connection of its own
//! reads payloads beside the writer and notices the commits of other processes. Two handles on one file, in one
//! process or in several, are equals.
//!
//! # Coordination
//! Keys, leases and deletions are in tables of their own, by the protocol of [`crate::relational::coord`]. Changes of keys
//! wait for the disk like messages; leases don't, since who holds one dies with the host. Watches learn of commits of
//! their own process at once, and of others' by the reader thread. A value is at most 8 MiB.
//!
//! # Limits of the engine
//! * A process that is frozen (`SIGSTOP`, a suspended machine) in the middle of a transaction keeps the file's write
//!   lock: others answer `Unavailable` until it goes on or is killed. Transactions last a few milliseconds at most.
//! * Time is the host's clock, kept from stepping back while a handle lives and across handles of a file.
//! * After a loss of power, `attempt` may lag behind: hand-outs are committed without waiting for the disk. Messages and
//!   settles always wait for it.

mod append;
mod bus;
mod chores;
mod claim;
mod connect;
mod coord;
mod core;
mod doctor;
mod error;
mod fetch;
mod group;
mod ids;
mod lease;
mod message;
mod reader;
mod retain;
mod schema;
mod settle;
mod sink;
mod stats;
mod store;
mod topic;
mod tx;
mod url;
mod worker;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::coord::CoordEngine;
use linchpin_core::id::IdEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::SqliteBus;
pub use self::doctor::examine;
pub use self::ids::SqliteIds;
pub use self::sink::SqliteSink;
pub use self::url::{Config, Sync};

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "sqlite";

/// Opens the bus in the file that `url` names, creating the file and its tables if need be.
///
/// # Errors
/// `Config` for wrong options, a missing folder or a file that can't be written; `Corrupt` for a file that isn't
/// SQLite or was written by a newer version; `NotFound` if the file is missing and `create=false`.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = SqliteBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}

/// Opens coordination in the file that `url` names, creating the file and its tables if need be.
///
/// # Errors
/// Those of [`open`].
pub async fn open_coord(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    coord::open(Config::from_url(url)?).await
}

/// Opens the counters in the file that `url` names. See [`IdOptions`](crate::relational::IdOptions).
///
/// # Errors
/// Those of [`open`]; `NotFound` for a missing file or table unless the URL says `create=true`.
pub async fn ids(url: EngineUrl) -> Result<Arc<dyn IdEngine>> {
    Ok(Arc::new(SqliteIds::open(&url).await?))
}
