//! Storing messages.

use std::time::Duration;

use linchpin_core::bus::{Message, MessageId, Partitioner, Position, Round};
use linchpin_core::{Error, Kind, Result};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{CachedStatement, ToSql};

use super::NAME;
use super::topic::{Topic, millis, place};
use super::tx::{Step, Tx};
use crate::relational::encode_headers;

/// A message on its way in.
#[derive(Debug)]
pub(super) struct Row {
    /// Its index in the call.
    pub(super) at: usize,
    pub(super) partition: u32,
    headers: Option<Vec<u8>>,
    message: Message,
}

impl Row {
    pub(super) fn new(at: usize, partition: u32, message: Message) -> Self {
        Self { at, partition, headers: encode_headers(&message.headers), message }
    }
}

/// Gives each row its partition, in the order [`append`] wants, and takes out those that the topic refuses.
pub(super) fn accept(
    topic: &Topic,
    round: &Round,
    partitioner: Partitioner,
    rows: &mut Vec<Row>,
    answers: &mut [Result<Position>],
) {
    rows.retain_mut(|row| {
        let chosen = check_size(topic, &row.message)
            .and_then(|()| partitioner.choose(&row.message, topic.partitions, round));
        match chosen {
            Ok(partition) => row.partition = partition,
            Err(error) => {
                if let Some(answer) = answers.get_mut(row.at) {
                    *answer = Err(error.engine(NAME).op("publish").with("topic", &topic.name));
                }
                return false;
            }
        }
        true
    });
    rows.sort_by_key(|row| (row.message.delay.is_some(), row.partition, row.at));
}

fn check_size(topic: &Topic, message: &Message) -> Result<()> {
    let size = message.size() as u64;
    if size <= topic.max_message {
        return Ok(());
    }
    let text = format!("the message has {size} bytes, the topic takes {}", topic.max_message);
    Err(Error::new(Kind::Invalid, text).help("send less, or raise the topic's max_message"))
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
        for row in lane {
            offsets.push(Some(end.push(row)?));
        }
        end.close(tx)?;
    }
    for row in later {
        delay(tx, topic, row)?;
        offsets.push(None);
    }
    tx.touch(topic.id);
    Ok(offsets)
}

/// The end of a partition while messages are put there.
struct Lane<'c> {
    insert: CachedStatement<'c>,
    part: i64,
    next: u64,
    time: i64,
}

impl<'c> Lane<'c> {
    fn open(tx: &Tx<'c>, part: i64) -> Step<Self> {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
        let (next, last) = tx.one("SELECT next, last FROM lp_partition WHERE id = ?1", [part], read)?;
        let sql =
            "INSERT INTO lp_message(place, time, id, key, headers, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        // Times of a partition never fall, whatever clock the writer before had.
        Ok(Self { insert: tx.prepare(sql)?, part, next, time: last.max(tx.now()) })
    }

    fn push(&mut self, row: &Row) -> Step<u64> {
        let message = &row.message;
        self.values(Id(&message.id), message.key.as_deref(), row.headers.as_deref(), message.payload.as_ref())
    }

    fn values(
        &mut self,
        id: impl ToSql,
        key: impl ToSql,
        headers: impl ToSql,
        payload: impl ToSql,
    ) -> Step<u64> {
        let offset = self.next;
        self.insert.raw_bind_parameter(1, place(self.part, offset))?;
        self.insert.raw_bind_parameter(2, self.time)?;
        self.insert.raw_bind_parameter(3, id)?;
        self.insert.raw_bind_parameter(4, key)?;
        self.insert.raw_bind_parameter(5, headers)?;
        self.insert.raw_bind_parameter(6, payload)?;
        self.insert.raw_execute()?;
        self.next += 1;
        Ok(offset)
    }

    fn close(self, tx: &Tx<'_>) -> Step<()> {
        let sql = "UPDATE lp_partition SET next = ?1, last = ?2 WHERE id = ?3";
        tx.run(sql, (self.next, self.time, self.part))?;
        Ok(())
    }
}

/// 16 bytes for a UUID, else text: the type tells which it is.
struct Id<'m>(&'m MessageId);

impl ToSql for Id<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let bytes = self.0.as_bytes();
        let value = if self.0.is_uuid() { ValueRef::Blob(bytes) } else { ValueRef::Text(bytes) };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

fn delay(tx: &Tx<'_>, topic: &Topic, row: &Row) -> Step<()> {
    let message = &row.message;
    // Rounded up: never before the delay has passed.
    let wait = message.delay.unwrap_or_default().saturating_add(Duration::from_micros(999));
    let due = tx.now().saturating_add(millis(wait));
    let sql = "INSERT INTO lp_delayed(due, part, id, key, headers, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (key, headers, payload) = (message.key.as_deref(), row.headers.as_deref(), message.payload.as_ref());
    tx.run(sql, (due, topic.part(row.partition), Id(&message.id), key, headers, payload))?;
    Ok(())
}

/// Moves up to `limit` delayed messages that are due into their topics. Says whether there may be more.
pub(super) fn move_due(tx: &Tx<'_>, limit: u64) -> Step<bool> {
    let due = "SELECT seq, part, id, key, headers, payload FROM lp_delayed WHERE due <= ?1 ORDER BY due, seq LIMIT ?2";
    if tx.maybe(due, (tx.now(), 1), |_| Ok(()))?.is_none() {
        return Ok(false);
    }
    tx.begin()?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, [2, 3, 4, 5].map(|i| row.get(i))));
    let mut rows: Vec<(i64, i64, [rusqlite::Result<Value>; 4])> = tx.all(due, (tx.now(), limit), read)?;
    let more = rows.len() as u64 == limit;
    rows.sort_by_key(|(_, part, _)| *part);
    let mut lane: Option<Lane<'_>> = None;
    for (seq, part, [id, key, headers, payload]) in rows {
        if lane.as_ref().is_none_or(|lane| lane.part != part) {
            if let Some(done) = lane.take() {
                done.close(tx)?;
            }
            lane = Some(Lane::open(tx, part)?);
            tx.touch(tx.one("SELECT topic FROM lp_partition WHERE id = ?1", [part], |row| row.get(0))?);
        }
        if let Some(lane) = &mut lane {
            lane.values(id?, key?, headers?, payload?)?;
        }
        tx.run("DELETE FROM lp_delayed WHERE seq = ?1", [seq])?;
    }
    if let Some(done) = lane {
        done.close(tx)?;
    }
    Ok(more)
}
