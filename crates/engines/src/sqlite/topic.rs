//! Topics and their partitions.

use linchpin_core::bus::TopicOptions;
use linchpin_core::{Error, Kind};
use rusqlite::{Connection, OptionalExtension, Row};

use super::tx::{Step, Tx};
use crate::relational::topic::{LAST_PART, Topic, kept, missing, other_partitions, place};

const COLUMNS: &str = "SELECT id, name, partitions, base, age, length, max_message FROM lp_topic";

fn read(row: &Row<'_>) -> rusqlite::Result<Topic> {
    Ok(Topic {
        id: row.get(0)?,
        name: row.get(1)?,
        partitions: row.get(2)?,
        base: row.get(3)?,
        age: row.get(4)?,
        length: row.get(5)?,
        max_message: row.get(6)?,
    })
}

/// The topic of this name, if it is there.
pub(super) fn find(conn: &Connection, name: &str) -> Step<Option<Topic>> {
    let mut select = conn.prepare_cached(&format!("{COLUMNS} WHERE name = ?1"))?;
    Ok(select.query_row([name], read).optional()?)
}

/// The topic of this name.
pub(super) fn get(conn: &Connection, name: &str) -> Step<Topic> {
    find(conn, name)?.ok_or_else(|| missing(name).into())
}

/// Every topic, by name.
pub(super) fn all(conn: &Connection) -> Step<Vec<Topic>> {
    let mut select = conn.prepare_cached(&format!("{COLUMNS} ORDER BY name"))?;
    Ok(select.query_map([], read)?.collect::<Result<_, _>>()?)
}

/// Up to `limit` topics with a retention, by id, after this one.
pub(super) fn retained(conn: &Connection, after: i64, limit: i64) -> Step<Vec<Topic>> {
    let sql = "WHERE id > ?1 AND (age IS NOT NULL OR length IS NOT NULL) ORDER BY id LIMIT ?2";
    let mut select = conn.prepare_cached(&format!("{COLUMNS} {sql}"))?;
    Ok(select.query_map([after, limit], read)?.collect::<Result<_, _>>()?)
}

/// Creates the topic, or changes what may be changed of one that is there.
pub(super) fn ensure(tx: &Tx<'_>, name: &str, options: &TopicOptions) -> Step<Topic> {
    tx.begin()?;
    let (age, length, max_message) = kept(options);
    match find(tx.conn(), name)? {
        Some(topic) if topic.partitions != options.partitions => return Err(other_partitions(&topic).into()),
        Some(topic) => {
            let sql = "UPDATE lp_topic SET age = ?1, length = ?2, max_message = ?3 WHERE id = ?4";
            tx.run(sql, (age, length, max_message, topic.id))?;
        }
        None => create(tx, name, options)?,
    }
    get(tx.conn(), name)
}

fn create(tx: &Tx<'_>, name: &str, options: &TopicOptions) -> Step<()> {
    let (partitions, (age, length, max_message)) = (options.partitions, kept(options));
    let sql = "INSERT INTO lp_topic(name, partitions, base, age, length, max_message) VALUES (?1, ?2, 0, ?3, ?4, ?5)";
    let id = tx.insert(sql, (name, partitions, age, length, max_message))?;
    let mut last = 0;
    for _ in 0..partitions {
        last = tx.insert("INSERT INTO lp_partition(topic, first, next, last) VALUES (?1, 0, 0, 0)", [id])?;
    }
    if last > LAST_PART {
        let error = Error::new(Kind::Limited, "the file had 8 million partitions");
        return Err(error.help("use another file").into());
    }
    let base = last + 1 - i64::from(partitions);
    tx.run("UPDATE lp_topic SET base = ?1 WHERE id = ?2", [base, id])?;
    Ok(())
}

/// Takes the topic and its groups away at once; its messages are left for [`sweep`].
pub(super) fn remove(tx: &Tx<'_>, name: &str) -> Step<()> {
    tx.begin()?;
    let topic = get(tx.conn(), name)?;
    tx.touch(topic.id);
    for group in tx.all("SELECT id FROM lp_group WHERE topic = ?1", [topic.id], |row| row.get(0))? {
        super::group::drop_group(tx, group)?;
    }
    let parts = [topic.base, topic.part(topic.partitions)];
    tx.run("DELETE FROM lp_delayed WHERE part >= ?1 AND part < ?2", parts)?;
    tx.run("DELETE FROM lp_topic WHERE id = ?1", [topic.id])?;
    tx.run("UPDATE lp_partition SET topic = 0 WHERE topic = ?1", [topic.id])?;
    Ok(())
}

/// Deletes up to `limit` messages that removed topics left. Says whether there may be more.
pub(super) fn sweep(tx: &Tx<'_>, limit: u64) -> Step<bool> {
    let orphan = "SELECT id, first, next FROM lp_partition WHERE topic = 0 LIMIT 1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    if tx.maybe(orphan, [], |_| Ok(()))?.is_none() {
        return Ok(false);
    }
    tx.begin()?;
    let Some((part, first, next)) = tx.maybe::<(i64, u64, u64)>(orphan, [], read)? else { return Ok(false) };
    let end = next.min(first + limit);
    tx.run(
        "DELETE FROM lp_message WHERE place >= ?1 AND place < ?2",
        [place(part, first), place(part, end)],
    )?;
    if end == next {
        tx.run("DELETE FROM lp_partition WHERE id = ?1", [part])?;
    } else {
        tx.run("UPDATE lp_partition SET first = ?1 WHERE id = ?2", (end, part))?;
    }
    Ok(true)
}
