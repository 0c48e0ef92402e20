//! PostgreSQL, MySQL and MariaDB: topics in a few tables of a database, shared by any number of processes and hosts.
//!
//! # URL
//! `postgres://user:password@host:5432/database` (or `postgresql://`), `mysql://user:password@host:3306/database`. The
//! options are listed at [`Config`]. The database may hold other tables: Linchpin's are all named `lp_*`. They are
//! created when they aren't there; several processes may do so at once. A missing MySQL database is created, too.
//! PostgreSQL 12, MariaDB 10.6 and MySQL 8.0 are the oldest that do (`SKIP LOCKED`).
//!
//! # How it works
//! Both databases run one protocol, that of [`crate::relational`]; what they say differently is in one small file.
//! A handle has one connection to publish, one to settle and one to claim, and a few to read. What callers publish or
//! settle while a commit is on its way is gathered and done in the next transaction, all of it together. No transaction
//! is open while a handler works. What others got in the way of (a deadlock, a lock held too long) is run again.
//! Leases and delays are judged by the database's clock alone.
//!
//! Subscriptions of one handle learn of each other's commits at once. Other processes are told by `NOTIFY` on PostgreSQL,
//! gathered and never within a transaction; besides, a handle asks the database while somebody waits, with one query for
//! all its groups (`poll`).
//!
//! # For other programs
//! The view `lp_messages` has the messages with topic, `part` and `pos` (partition and offset), time, id, key, headers (a
//! JSON object) and payload (bytes): `SELECT pos, headers, payload FROM lp_messages WHERE topic = 'orders'`.
//!
//! # Limits of the engine
//! * A process that is frozen in the middle of a transaction keeps the rows it locked until the server ends its session, a
//!   second later (PostgreSQL, MariaDB); MySQL has no such limit, there the rows are free when the connection ends.
//! * MySQL's binary log must be in `ROW` or `MIXED` format: transactions run under `READ COMMITTED`.
//! * How durable a commit is, the server decides: `synchronous_commit` on PostgreSQL, `innodb_flush_log_at_trx_commit` on
//!   MySQL. `linchpin doctor` tells.

mod append;
mod bus;
mod chores;
mod claim;
mod clock;
mod conn;
mod coord;
mod core;
mod dialect;
mod doctor;
mod error;
mod fetch;
mod group;
mod headers;
mod lane;
mod lease;
mod message;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod notify;
#[cfg(feature = "postgres")]
mod postgres;
mod retain;
mod schema;
mod session;
mod settle;
mod stats;
mod store;
mod topic;
mod tx;
mod url;
mod watcher;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::coord::CoordEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::SqlBus;
pub use self::doctor::examine;
pub use self::url::Config;

/// Opens the bus in the database that `url` names, creating the tables if need be.
///
/// # Errors
/// `Config` for wrong options; `Denied` for a wrong password or a missing privilege; `NotFound` for a database that isn't
/// there; `Unavailable` if the server can't be reached; `Corrupt` for tables of a newer version.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = SqlBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}

/// Opens coordination in the database that `url` names, creating the tables if need be.
///
/// # Errors
/// Those of [`open`].
pub async fn open_coord(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    coord::open(Config::from_url(url)?).await
}
