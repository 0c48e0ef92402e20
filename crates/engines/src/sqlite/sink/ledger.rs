//! What the sink remembers: positions, message ids, verdicts. Every call is inside the batch's transaction.

use std::collections::BTreeMap;

use linchpin_core::bus::MessageId;
use linchpin_core::pipe::Item;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Result, ToSql, params};

use crate::relational::sink::{Admission, Mark, place};

/// `last` is an offset, `time` when that message was stored, `epoch` a fencing token; a UUID is stored as a blob of 16 bytes, any other id as text.
pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS lp_sink (
    sink TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    epoch INTEGER NOT NULL, last INTEGER NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (sink, topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lp_sink_seen (
    sink TEXT NOT NULL, topic TEXT NOT NULL, id ANY NOT NULL, time INTEGER NOT NULL,
    PRIMARY KEY (sink, topic, id)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lp_sink_dead (
    sink TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER, id ANY NOT NULL,
    reason TEXT NOT NULL, time INTEGER NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS lp_sink_dead_place ON lp_sink_dead (sink, topic, partition, offset);
CREATE INDEX IF NOT EXISTS lp_sink_dead_id ON lp_sink_dead (sink, topic, id);";

const MARK: &str = "SELECT epoch, last, time FROM lp_sink WHERE sink = ? AND topic = ? AND partition = ?";
const STORE: &str =
    "INSERT INTO lp_sink (sink, topic, partition, epoch, last, time) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (sink, topic, partition)
    DO UPDATE SET epoch = excluded.epoch, last = excluded.last, time = excluded.time";
const SEE: &str = "INSERT INTO lp_sink_seen (sink, topic, id, time)
    VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER)) ON CONFLICT DO NOTHING";
const BURY: &str = "INSERT INTO lp_sink_dead (sink, topic, partition, offset, id, reason, payload, time)
    VALUES (?, ?, ?, ?, ?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))";
const BURIED_PLACE: &str =
    "SELECT reason FROM lp_sink_dead WHERE sink = ? AND topic = ? AND partition = ? AND offset = ?";
const BURIED_ID: &str = "SELECT reason FROM lp_sink_dead WHERE sink = ? AND topic = ? AND id = ?";

pub(super) struct Ledger<'a> {
    tx: &'a Connection,
    sink: &'a str,
    topic: &'a str,
    /// As stored, and as of now.
    marks: BTreeMap<u32, (Mark, Mark)>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(tx: &'a Connection, sink: &'a str, topic: &'a str) -> Self {
        Self { tx, sink, topic, marks: BTreeMap::new() }
    }

    /// Whether the item may land; from now on it counts as landed.
    pub(super) fn admit(&mut self, item: &Item) -> Result<Admission> {
        let Some((partition, offset)) = place(item) else {
            let new =
                self.tx.prepare_cached(SEE)?.execute(params![self.sink, self.topic, Id(&item.message.id)])?;
            return Ok(if new == 1 { Admission::Land } else { Admission::Repeat });
        };
        let mark = match self.marks.get_mut(&partition) {
            Some((_, mark)) => mark,
            None => {
                let mark = self.read(partition)?;
                &mut self.marks.entry(partition).or_insert((mark, mark)).1
            }
        };
        Ok(mark.admit(item.fence, offset, item.time.as_millisecond()))
    }

    fn read(&self, partition: u32) -> Result<Mark> {
        let mut read = self.tx.prepare_cached(MARK)?;
        let mark = read.query_row(params![self.sink, self.topic, partition], |row| {
            let (epoch, last): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok(Mark { epoch: epoch.cast_unsigned(), last: Some(last.cast_unsigned()), time: row.get(2)? })
        });
        Ok(mark.optional()?.unwrap_or_default())
    }

    /// Keeps what the tables refused.
    pub(super) fn bury(&self, item: &Item, reason: &str) -> Result<()> {
        let offset = place(item).map(|(_, offset)| offset.cast_signed());
        self.tx.prepare_cached(BURY)?.execute(params![
            self.sink,
            self.topic,
            item.position.partition,
            offset,
            Id(&item.message.id),
            reason,
            item.message.payload.as_ref(),
        ])?;
        Ok(())
    }

    /// Why the tables refused an item that was here before, if they did.
    pub(super) fn buried(&self, item: &Item) -> Result<Option<String>> {
        let (sink, topic) = (self.sink, self.topic);
        let reason = |row: &rusqlite::Row<'_>| row.get(0);
        match place(item) {
            Some((partition, offset)) => {
                let place = params![sink, topic, partition, offset.cast_signed()];
                self.tx.prepare_cached(BURIED_PLACE)?.query_row(place, reason).optional()
            }
            None => {
                let id = params![sink, topic, Id(&item.message.id)];
                self.tx.prepare_cached(BURIED_ID)?.query_row(id, reason).optional()
            }
        }
    }

    /// Stores how far it is now.
    pub(super) fn store(&self) -> Result<()> {
        let moved = self.marks.iter().filter(|(_, (stored, now))| stored != now);
        for (partition, (_, Mark { epoch, last, time })) in moved {
            let (epoch, last) = (epoch.cast_signed(), last.map(u64::cast_signed));
            let place = params![self.sink, self.topic, partition, epoch, last, time];
            self.tx.prepare_cached(STORE)?.execute(place)?;
        }
        Ok(())
    }
}

struct Id<'a>(&'a MessageId);

impl ToSql for Id<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        let bytes = self.0.as_bytes();
        let value = if self.0.is_uuid() { ValueRef::Blob(bytes) } else { ValueRef::Text(bytes) };
        Ok(ToSqlOutput::Borrowed(value))
    }
}
