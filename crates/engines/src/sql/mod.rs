//! PostgreSQL, MySQL and MariaDB: topics and keys in a few tables of a database, shared by any number of processes and hosts.
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
//! # Coordination
//! Keys, leases and deletions are in tables of their own, by the protocol of [`crate::relational::coord`], and by the
//! database's clock. A handle has one connection for what changes keys and one for leases, so that keeping a lease never
//! waits for somebody's write. What is asked while a commit is on its way is done together in the next transaction, which
//! takes two requests: the first takes the counter of revisions and reads all that is needed, the second writes and commits;
//! a value over 256 bytes is one request more. An idle handle asks nothing; one with a watch that waits asks every `poll`
//! (half as often when it is quiet, at least every 500 ms), with one query for all its watches.
//! * A value is at most 8 MiB, and a little under `max_allowed_packet` on MySQL.
//! * All changes of keys go through the one row of the counter: that is what makes revisions an order. What one handle asks
//!   at once shares a transaction; handles take turns, each for as long as a request and a commit take.
//! * A failover keeps what was answered, and revisions rising, only if the replica has every commit: on PostgreSQL
//!   `synchronous_commit` with `synchronous_standby_names`, on MySQL semi-synchronous replication or a cluster.
//! * If the database's clock is set forward, leases end early; if it is set back, they last that much longer.
//! * `lp_keys` has the keys for other programs. Restoring the tables from a copy takes revisions back, too.
//!
//! # For other programs
//! The view `lp_messages` has the messages with topic, `part` and `pos` (partition and offset), time, id, key, headers (a
//! JSON object) and payload (bytes): `SELECT pos, headers, payload FROM lp_messages WHERE topic = 'orders'`.
//!
//! # Limits of the engine
//! * A process that is frozen in the middle of a transaction keeps the rows it locked until the server ends its session, a
//!   second later (PostgreSQL, MariaDB; in a large request a second more for 2 MiB of it); MySQL has no such limit, there the rows are free when the connection ends. For
//!   coordination this is the counter's row: until then nobody changes a key, and calls answer `Unavailable`.
//! * MySQL's binary log must be in `ROW` or `MIXED` format: transactions run under `READ COMMITTED`.
//! * How durable a commit is, the server decides: `synchronous_commit` on PostgreSQL, `innodb_flush_log_at_trx_commit` on
//!   MySQL. `linchpin doctor` tells.

mod append;
mod auto;
mod bus;
mod chores;
mod claim;
mod clock;
mod conn;
mod coord;
mod core;
mod counters;
mod dialect;
mod doctor;
mod error;
mod fetch;
mod group;
mod headers;
mod ids;
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
use linchpin_core::id::IdEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::SqlBus;
pub use self::doctor::examine;
pub use self::ids::SqlIds;
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

/// Opens the counters in the database that `url` names. See [`IdOptions`](crate::relational::IdOptions).
///
/// # Errors
/// Those of [`open`]; `NotFound` for a missing table or sequence unless the URL says `create=true`.
pub async fn ids(url: EngineUrl) -> Result<Arc<dyn IdEngine>> {
    Ok(Arc::new(SqlIds::open(&url).await?))
}
