//! The tables, and their version.

use linchpin_core::{Error, Kind, Result};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::NAME;
use super::error::map;
use crate::relational::VERSION;

/// See [`crate::relational`] for what a row of each is. Times are milliseconds since 1970.
///
/// * A place is `partition id << 40 | offset`: messages of a partition lie side by side, an append goes to the end of
///   its partition, and no table needs a second index. Partition ids are never used twice, nor are claim ids.
/// * `lp_message.id` is a blob of 16 bytes for a UUID, else text.
/// * A partition whose topic is 0 is what a removed topic left; its messages are swept step by step.
const TABLES: &str = "
CREATE TABLE lp_schema(version INTEGER NOT NULL);
CREATE TABLE lp_topic(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    base INTEGER NOT NULL, age INTEGER, length INTEGER, max_message INTEGER NOT NULL);
CREATE TABLE lp_partition(
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, first INTEGER NOT NULL,
    next INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE INDEX lp_partition_topic ON lp_partition(topic);
CREATE TABLE lp_message(
    place INTEGER PRIMARY KEY, time INTEGER NOT NULL, id NOT NULL, key BLOB, headers BLOB, payload BLOB NOT NULL);
CREATE TABLE lp_delayed(
    seq INTEGER PRIMARY KEY, due INTEGER NOT NULL, part INTEGER NOT NULL,
    id NOT NULL, key BLOB, headers BLOB, payload BLOB NOT NULL);
CREATE INDEX lp_delayed_due ON lp_delayed(due, seq);
CREATE TABLE lp_group(
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, name TEXT NOT NULL,
    ephemeral INTEGER NOT NULL, ordered INTEGER NOT NULL, UNIQUE(topic, name));
CREATE TABLE lp_cursor(
    grp INTEGER NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
    owner INTEGER NOT NULL, fence INTEGER NOT NULL, PRIMARY KEY(grp, part)) WITHOUT ROWID;
CREATE TABLE lp_claim(
    id INTEGER PRIMARY KEY AUTOINCREMENT, grp INTEGER NOT NULL, part INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, open BLOB, due INTEGER NOT NULL,
    attempt INTEGER NOT NULL, owner INTEGER NOT NULL);
CREATE INDEX lp_claim_due ON lp_claim(grp, due);
CREATE TABLE lp_member(
    id INTEGER PRIMARY KEY AUTOINCREMENT, grp INTEGER NOT NULL, due INTEGER NOT NULL,
    active INTEGER NOT NULL, only TEXT);
CREATE INDEX lp_member_grp ON lp_member(grp);
";

/// Creates the tables if they aren't there, and refuses those of another version.
pub(super) fn prepare(conn: &mut Connection) -> Result<()> {
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
    tx.execute("INSERT INTO lp_schema(version) VALUES (?1)", [VERSION]).map_err(mapped)?;
    tx.commit().map_err(mapped)
}

/// The latest time a message was stamped with: the clock doesn't go back behind it.
pub(super) fn latest_time(conn: &Connection) -> Result<i64> {
    let sql = "SELECT coalesce(max(last), 0) FROM lp_partition";
    conn.query_row(sql, [], |row| row.get(0)).map_err(|e| map(e, "open"))
}

/// The version of the tables, if they are there.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    let there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'lp_schema'";
    if conn.query_row(there, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    conn.query_row("SELECT version FROM lp_schema", [], |row| row.get(0)).optional()
}

fn check(version: i64) -> Result<()> {
    if version == VERSION {
        return Ok(());
    }
    let message = format!("the tables have version {version}, this build knows version {VERSION}");
    Err(Error::new(Kind::Corrupt, message).engine(NAME).op("open").help("upgrade Linchpin"))
}
