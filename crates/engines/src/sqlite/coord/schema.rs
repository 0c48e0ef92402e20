//! The tables of coordination, and their version.

use linchpin_core::{Error, Kind, Result};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::relational::coord::VERSION;
use crate::sqlite::NAME;
use crate::sqlite::error::map;

/// See [`crate::relational::coord`] for what a row of each is. Times are milliseconds since 1970; `lp_rev.time` is the
/// latest by which leases were judged: nobody's clock is behind it.
///
/// Names are blobs, so that they are compared byte by byte whatever the file's encoding.
const TABLES: &str = "
CREATE TABLE lp_rev(
    version INTEGER NOT NULL, rev INTEGER NOT NULL, forgotten INTEGER NOT NULL, time INTEGER NOT NULL);
CREATE TABLE lp_key(
    name BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL, created INTEGER NOT NULL, rev INTEGER NOT NULL,
    lease INTEGER);
CREATE INDEX lp_key_rev ON lp_key(rev);
CREATE INDEX lp_key_lease ON lp_key(lease) WHERE lease IS NOT NULL;
CREATE TABLE lp_gone(rev INTEGER PRIMARY KEY, name BLOB NOT NULL);
CREATE TABLE lp_lease(id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL, due INTEGER NOT NULL);
CREATE INDEX lp_lease_due ON lp_lease(due);
CREATE VIEW lp_keys AS SELECT CAST(name AS TEXT) AS name, value, created, rev, lease FROM lp_key;
";

/// Creates the tables if they aren't there, and refuses those of another version.
pub(in crate::sqlite) fn prepare(conn: &mut Connection) -> Result<()> {
    let mapped = |e| map(e, "open");
    if let Some(version) = version(conn).map_err(mapped)? {
        return check(version);
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(mapped)?;
    // Another process may have been faster.
    if let Some(version) = version(&tx).map_err(mapped)? {
        return check(version);
    }
    tx.execute_batch(TABLES).map_err(mapped)?;
    let row = "INSERT INTO lp_rev(version, rev, forgotten, time) VALUES (?1, 0, 0, 0)";
    tx.execute(row, [VERSION]).map_err(mapped)?;
    tx.commit().map_err(mapped)
}

/// The latest time by which leases were judged: the clock doesn't go back behind it.
pub(in crate::sqlite) fn latest_time(conn: &Connection) -> Result<i64> {
    conn.query_row("SELECT time FROM lp_rev", [], |row| row.get(0)).map_err(|e| map(e, "open"))
}

/// The version of the tables, if they are there.
pub(in crate::sqlite) fn version(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    let there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'lp_rev'";
    if conn.query_row(there, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    conn.query_row("SELECT version FROM lp_rev", [], |row| row.get(0)).optional()
}

fn check(version: i64) -> Result<()> {
    if version == VERSION {
        return Ok(());
    }
    let message = format!("the tables have version {version}, this build knows version {VERSION}");
    Err(Error::new(Kind::Corrupt, message).engine(NAME).op("open").help("upgrade Linchpin"))
}
