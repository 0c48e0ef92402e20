//! Storing messages.

use std::sync::LazyLock;

use linchpin_core::bus::Message;
use rusqlite::CachedStatement;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::tx::{Step, Tx};
use crate::relational::encode_headers;
use crate::relational::incoming::Incoming;
use crate::relational::topic::{Topic, millis_up, place};

/// A message on its way in, with its headers in one blob.
pub(super) type Row = Incoming<Option<Vec<u8>>>;

pub(super) fn row(at: usize, partition: u32, message: Message) -> Row {
    Row { at, partition, form: encode_headers(&message.headers), message }
}

/// Stores rows that are sorted by partition, delayed ones last; answers each row's offset.
pub(super) fn append(tx: &Tx<'_>, topic: &Topic, rows: &[Row]) -> Step<Vec<Option<u64>>> {
    tx.begin()?;
    let mut offsets = Vec::with_capacity(rows.len());
    let delayed = rows.partition_point(|row| row.message.delay.is_none());
    let (now, later) = rows.split_at(delayed);
    for lane in now.chunk_by(|a, b| a.partition == b.partition) {
        let Some(first) = lane.first() else { continue };
        let mut end = Lane::open(tx, topic.part(first.partition))?;
        let start = end.next;
        end.put(tx, lane)?;
        offsets.extend((start..end.next).map(Some));
        end.close(tx)?;
    }
    for row in later {
        delay(tx, topic, row)?;
        offsets.push(None);
    }
    tx.touch(topic.id);
    Ok(offsets)
}

/// Rows of one statement: it finds the end of the partition once for all of them.
const ROWS: usize = 16;
const COLUMNS: usize = 6;
static INSERT: LazyLock<String> = LazyLock::new(|| insert(1));
static INSERT_ROWS: LazyLock<String> = LazyLock::new(|| insert(ROWS));

fn insert(rows: usize) -> String {
    let values = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
    format!("INSERT INTO lp_message(place, time, id, key, headers, payload) VALUES {values}")
}

/// The end of a partition while messages are put there.
struct Lane {
    part: i64,
    next: u64,
    time: i64,
}

impl Lane {
    fn open(tx: &Tx<'_>, part: i64) -> Step<Self> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
        let (next, last) = tx.one("SELECT next, last FROM lp_partition WHERE id = ?1", [part], read)?;
        // Times of a partition never fall, whatever clock the writer before had.
        Ok(Self { part, next, time: last.max(tx.now()) })
    }

    fn put(&mut self, tx: &Tx<'_>, rows: &[Row]) -> Step<()> {
        let (many, rest) = rows.as_chunks::<ROWS>();
        let mut insert = tx.prepare(&INSERT_ROWS)?;
        for rows in many {
            for (n, row) in rows.iter().enumerate() {
                self.bind(&mut insert, n * COLUMNS, row)?;
            }
            insert.raw_execute()?;
        }
        let mut insert = tx.prepare(&INSERT)?;
        for row in rest {
            self.bind(&mut insert, 0, row)?;
            insert.raw_execute()?;
        }
        Ok(())
    }

    fn bind(&mut self, insert: &mut CachedStatement<'_>, before: usize, row: &Row) -> Step<()> {
        let message = &row.message;
        insert.raw_bind_parameter(before + 1, place(self.part, self.next))?;
        insert.raw_bind_parameter(before + 2, self.time)?;
        insert.raw_bind_parameter(before + 3, ToSqlOutput::Borrowed(id_of(message)))?;
        insert.raw_bind_parameter(before + 4, message.key.as_deref())?;
        insert.raw_bind_parameter(before + 5, row.form.as_deref())?;
        insert.raw_bind_parameter(before + 6, message.payload.as_ref())?;
        self.next += 1;
        Ok(())
    }

    fn close(self, tx: &Tx<'_>) -> Step<()> {
        let sql = "UPDATE lp_partition SET next = ?1, last = ?2 WHERE id = ?3";
        tx.run(sql, (self.next, self.time, self.part))?;
        Ok(())
    }
}

/// 16 bytes for a UUID, else text: the type tells which it is.
fn id_of(message: &Message) -> ValueRef<'_> {
    let bytes = message.id.as_bytes();
    if message.id.is_uuid() { ValueRef::Blob(bytes) } else { ValueRef::Text(bytes) }
}

fn delay(tx: &Tx<'_>, topic: &Topic, row: &Row) -> Step<()> {
    let message = &row.message;
    let due = tx.now().saturating_add(millis_up(message.delay.unwrap_or_default()));
    let sql = "INSERT INTO lp_delayed(due, part, id, key, headers, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (key, headers, payload) = (message.key.as_deref(), row.form.as_deref(), message.payload.as_ref());
    tx.run(
        sql,
        (due, topic.part(row.partition), ToSqlOutput::Borrowed(id_of(message)), key, headers, payload),
    )?;
    Ok(())
}

/// Moves up to `limit` delayed messages that are due into their topics. Says whether there may be more.
pub(super) fn move_due(tx: &Tx<'_>, limit: u64) -> Step<bool> {
    let due = "SELECT seq, part FROM lp_delayed WHERE due <= ?1 ORDER BY due, seq LIMIT ?2";
    if tx.maybe(due, (tx.now(), 1), |_| Ok(()))?.is_none() {
        return Ok(false);
    }
    tx.begin()?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let mut rows: Vec<(i64, i64)> = tx.all(due, (tx.now(), limit), read)?;
    let more = rows.len() as u64 == limit;
    rows.sort_by_key(|(_, part)| *part);
    for lane in rows.chunk_by(|a, b| a.1 == b.1) {
        let Some((_, part)) = lane.first() else { continue };
        let mut end = Lane::open(tx, *part)?;
        for (seq, part) in lane {
            let sql = "INSERT INTO lp_message(place, time, id, key, headers, payload)
                       SELECT ?1, ?2, id, key, headers, payload FROM lp_delayed WHERE seq = ?3";
            tx.run(sql, [place(*part, end.next), end.time, *seq])?;
            tx.run("DELETE FROM lp_delayed WHERE seq = ?1", [seq])?;
            end.next += 1;
        }
        end.close(tx)?;
        tx.touch(tx.one("SELECT topic FROM lp_partition WHERE id = ?1", [part], |row| row.get(0))?);
    }
    Ok(more)
}
