//! Topics and their partitions.

use std::fmt::Write;

use linchpin_core::bus::TopicOptions;
use linchpin_core::{Error, Kind};

use super::conn::{Answer, Row};
use super::tx::{Step, Tx};
use crate::relational::topic::{LAST_PART, Topic, kept, missing, other_partitions, place};

const COLUMNS: &str = "SELECT id, name, partitions, base, age, length, max_message FROM lp_topic";

fn read(row: &Row, prefix: &str) -> Answer<Topic> {
    let name = row.text(1)?;
    Ok(Topic {
        id: row.int(0)?,
        name: name.strip_prefix(prefix).unwrap_or(&name).to_owned(),
        partitions: row.count(2)?,
        base: row.int(3)?,
        age: row.opt_int(4)?,
        length: row.opt_int(5)?,
        max_message: row.count(6)?,
    })
}

/// The topic of this name, if it is there. Names are stored with the URL's prefix before them.
pub(super) async fn find(tx: &mut Tx, name: &str) -> Step<Option<Topic>> {
    let row = tx.maybe(&format!("{COLUMNS} WHERE name = ?"), &[tx.stored_name(name).as_str().into()]).await?;
    Ok(row.map(|row| read(&row, tx.prefix())).transpose()?)
}

/// The topic of this name.
pub(super) async fn get(tx: &mut Tx, name: &str) -> Step<Topic> {
    find(tx, name).await?.ok_or_else(|| missing(name).into())
}

/// Every topic with the prefix, by name.
pub(super) async fn all(tx: &mut Tx) -> Step<Vec<Topic>> {
    let rows = tx.all(&format!("{COLUMNS} ORDER BY name"), &[]).await?;
    let prefix = tx.prefix();
    let topics = rows.iter().map(|row| Ok((row.text(1)?.starts_with(prefix), read(row, prefix)?)));
    let topics: Vec<_> = topics.collect::<Answer<_>>()?;
    Ok(topics.into_iter().filter(|(own, _)| *own).map(|(_, topic)| topic).collect())
}

/// These topics, as they are now; those that are gone are left out.
pub(super) async fn by_ids(tx: &mut Tx, ids: &[i64]) -> Step<Vec<Topic>> {
    let rows = tx.all_in(&format!("{COLUMNS} WHERE id IN"), ids, "").await?;
    Ok(rows.iter().map(|row| read(row, tx.prefix())).collect::<Answer<_>>()?)
}

/// Every topic with a retention, whatever its prefix.
pub(super) async fn retained(tx: &mut Tx) -> Step<Vec<Topic>> {
    let sql = format!("{COLUMNS} WHERE age IS NOT NULL OR length IS NOT NULL ORDER BY id");
    Ok(tx.all(&sql, &[]).await?.iter().map(|row| read(row, "")).collect::<Answer<_>>()?)
}

/// Creates the topic, or changes what may be changed of one that is there.
pub(super) async fn ensure(tx: &mut Tx, name: &str, options: &TopicOptions) -> Step<Topic> {
    tx.begin().await?;
    let (age, length, max_message) = kept(options);
    match find(tx, name).await? {
        Some(topic) if topic.partitions != options.partitions => return Err(other_partitions(&topic).into()),
        Some(topic) => {
            let sql = "UPDATE lp_topic SET age = ?, length = ?, max_message = ? WHERE id = ?";
            tx.run(sql, &[age.into(), length.into(), max_message.into(), topic.id.into()]).await?;
        }
        None => create(tx, &tx.stored_name(name), options).await?,
    }
    get(tx, name).await
}

async fn create(tx: &mut Tx, stored: &str, options: &TopicOptions) -> Step<()> {
    let (partitions, (age, length, max_message)) = (options.partitions, kept(options));
    // The lock of this row makes one topic at a time, so the ids of partitions follow each other.
    let base = tx.one("SELECT next_part FROM lp_schema FOR UPDATE", &[]).await?.int(0)?;
    let next = base + i64::from(partitions);
    if next > LAST_PART {
        let error = Error::new(Kind::Limited, "the database had 8 million partitions");
        return Err(error.help("use another schema or database").into());
    }
    tx.run("UPDATE lp_schema SET next_part = ?", &[next.into()]).await?;
    let sql =
        "INSERT INTO lp_topic(name, partitions, base, age, length, max_message) VALUES (?, ?, ?, ?, ?, ?)";
    let args = [stored.into(), partitions.into(), base.into(), age.into(), length.into(), max_message.into()];
    let id = tx.insert(sql, &args).await?;
    let mut rows = String::from("INSERT INTO lp_partition(id, topic, first, next, last) VALUES ");
    for part in base..next {
        let comma = if part > base { ", " } else { "" };
        // Writing to a string can't fail.
        let _written = write!(rows, "{comma}({part}, {id}, 0, 0, 0)");
    }
    tx.script(rows).await?;
    Ok(())
}

/// Takes the topic and its groups away at once; its messages are left for [`sweep`].
pub(super) async fn remove(tx: &mut Tx, name: &str) -> Step<()> {
    tx.begin().await?;
    let topic = get(tx, name).await?;
    tx.touch(topic.id);
    // Publishers that hold partitions finish first; those that come later find them gone.
    tx.run("UPDATE lp_partition SET topic = 0 WHERE topic = ?", &[topic.id.into()]).await?;
    for group in tx.all("SELECT id FROM lp_group WHERE topic = ?", &[topic.id.into()]).await? {
        super::group::drop_group(tx, group.int(0)?).await?;
    }
    let parts = [topic.base.into(), topic.part(topic.partitions).into()];
    tx.run("DELETE FROM lp_delayed WHERE part >= ? AND part < ?", &parts).await?;
    tx.run("DELETE FROM lp_topic WHERE id = ?", &[topic.id.into()]).await?;
    Ok(())
}

/// Deletes up to `limit` messages that removed topics left. Says whether there may be more.
pub(super) async fn sweep(tx: &mut Tx, limit: u64) -> Step<bool> {
    let orphan = "SELECT id, first, next FROM lp_partition WHERE topic = 0 LIMIT 1";
    if tx.maybe(orphan, &[]).await?.is_none() {
        return Ok(false);
    }
    tx.begin().await?;
    // Of several that sweep, each takes another partition.
    let Some(row) = tx.maybe(&format!("{orphan} FOR UPDATE SKIP LOCKED"), &[]).await? else {
        return Ok(false);
    };
    let (part, first, next) = (row.int(0)?, row.count::<u64>(1)?, row.count::<u64>(2)?);
    let end = next.min(first + limit);
    let range = [place(part, first).into(), place(part, end).into()];
    tx.run("DELETE FROM lp_message WHERE place >= ? AND place < ?", &range).await?;
    if end == next {
        tx.run("DELETE FROM lp_partition WHERE id = ?", &[part.into()]).await?;
    } else {
        tx.run("UPDATE lp_partition SET first = ? WHERE id = ?", &[end.into(), part.into()]).await?;
    }
    Ok(true)
}

/// The topic was removed while something was to be written to it.
pub(super) fn vanished(name: &str) -> Error {
    Error::new(Kind::Conflict, format!("topic {name:?} was removed meanwhile"))
        .retry_as(linchpin_core::Retry::Safe { after: std::time::Duration::ZERO })
}
