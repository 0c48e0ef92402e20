//! Groups: their members, and how far they are.

use linchpin_core::bus::{Order, Position, Start, SubscribeOptions};
use linchpin_core::{Error, Kind, Retry};
use rusqlite::Connection;
use uuid::Uuid;

use super::claim::Scope;
use super::topic::{Topic, millis, place};
use super::tx::{Step, Tx};

/// A group that a member joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) group: i64,
    pub(super) member: i64,
}

/// How long a member counts as alive after it last said so, in milliseconds: no longer than its deliveries may stay
/// unsettled.
pub(super) fn lease(options: &SubscribeOptions) -> i64 {
    millis(options.ack_wait).min(30_000)
}

/// Adds a member to the group, creating the group if need be.
pub(super) fn join(tx: &Tx<'_>, topic: &Topic, options: &SubscribeOptions) -> Step<Joined> {
    tx.begin()?;
    let topic = super::topic::get(tx.conn(), &topic.name)?;
    let ordered = options.order != Order::None;
    let group = match &options.group {
        Some(name) => match find(tx.conn(), topic.id, name)? {
            Some(group) => group,
            None => create(tx, &topic, name, options)?,
        },
        // No group can be called this: '~' isn't allowed in names.
        None => create(tx, &topic, &format!("~{}", Uuid::now_v7()), options)?,
    };
    agree(tx, group, ordered)?;
    let only = only(options);
    let sql = "INSERT INTO lp_member(grp, due, active, only) VALUES (?1, ?2, 1, ?3)";
    let member = tx.insert(sql, (group, tx.now() + lease(options), only))?;
    // The others have to share with it.
    tx.touch(topic.id);
    Ok(Joined { group, member })
}

pub(super) fn find(conn: &Connection, topic: i64, name: &str) -> Step<Option<i64>> {
    use rusqlite::OptionalExtension as _;
    let mut select = conn.prepare_cached("SELECT id FROM lp_group WHERE topic = ?1 AND name = ?2")?;
    Ok(select.query_row((topic, name), |row| row.get(0)).optional()?)
}

fn create(tx: &Tx<'_>, topic: &Topic, name: &str, options: &SubscribeOptions) -> Step<i64> {
    let sql = "INSERT INTO lp_group(topic, name, ephemeral, ordered) VALUES (?1, ?2, ?3, ?4)";
    let group = tx.insert(sql, (topic.id, name, options.group.is_none(), options.order != Order::None))?;
    for partition in 0..topic.partitions {
        let next = find_start(tx.conn(), topic, partition, options.start)?;
        let sql = "INSERT INTO lp_cursor(grp, part, next, owner, fence) VALUES (?1, ?2, ?3, 0, 0)";
        tx.run(sql, (group, topic.part(partition), next))?;
    }
    Ok(group)
}

/// Members of a group keep the same kind of order: owners of partitions and competitors can't share messages. When the
/// last member of one kind is gone, the group takes the other on: what was held waits again.
fn agree(tx: &Tx<'_>, group: i64, ordered: bool) -> Step<()> {
    let now: bool = tx.one("SELECT ordered FROM lp_group WHERE id = ?1", [group], |row| row.get(0))?;
    if now == ordered {
        return Ok(());
    }
    let living = "SELECT max(due) FROM lp_member WHERE grp = ?1 AND due > ?2";
    if let Some(due) = tx.one(living, [group, tx.now()], |row| row.get::<_, Option<i64>>(0))? {
        let after = std::time::Duration::from_millis((due - tx.now()).unsigned_abs());
        let error = Error::new(Kind::Conflict, "the group has living members with another order");
        let error = error.retry_as(Retry::Safe { after });
        return Err(error.help("give all members of a group an order, or none of them").into());
    }
    tx.run("UPDATE lp_group SET ordered = ?1 WHERE id = ?2", (ordered, group))?;
    tx.run("UPDATE lp_cursor SET owner = 0, fence = fence + 1 WHERE grp = ?1", [group])?;
    super::claim::give_up(tx, group, None, u32::MAX)
}

/// Where a group that starts so begins.
fn find_start(conn: &Connection, topic: &Topic, partition: u32, start: Start) -> Step<u64> {
    let part = topic.part(partition);
    let mut bounds = conn.prepare_cached("SELECT first, next FROM lp_partition WHERE id = ?1")?;
    let (first, next) = bounds.query_row([part], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match start {
        Start::Oldest => Ok(first),
        Start::Newest => Ok(next),
        Start::At(Position { partition: at, .. }) if at != partition => Ok(first),
        Start::At(Position { offset: Some(offset), .. }) => Ok(offset.clamp(first, next)),
        Start::At(_) => Ok(next),
        Start::Time(time) => {
            // A fraction of a millisecond would find messages stored before it.
            let at = time.as_nanosecond().div_euclid(1_000_000)
                + i128::from(time.subsec_nanosecond() % 1_000_000 != 0);
            first_since(conn, part, first, next, i64::try_from(at).unwrap_or(i64::MAX))
        }
    }
}

/// The first offset in `[first, next)` stored at `time` or later: a binary search, as times never fall.
pub(super) fn first_since(
    conn: &Connection,
    part: i64,
    mut first: u64,
    mut next: u64,
    time: i64,
) -> Step<u64> {
    let mut select = conn.prepare_cached(
        "SELECT time FROM lp_message WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT 1",
    )?;
    while first < next {
        let middle = first.midpoint(next);
        let mut rows = select.query([place(part, middle), place(part, next)])?;
        let earlier = match rows.next()? {
            Some(row) => row.get::<_, i64>(0)? < time,
            None => false,
        };
        if earlier {
            first = middle + 1;
        } else {
            next = middle;
        }
    }
    Ok(first)
}

/// Refuses a start that names a place the topic can't have.
pub(super) fn check_start(topic: &Topic, start: Start) -> Step<()> {
    let Start::At(position) = start else { return Ok(()) };
    if position.partition >= topic.partitions {
        let error = Error::new(Kind::Invalid, format!("partition {} doesn't exist", position.partition));
        return Err(error.help(format!("the topic has {}, numbered from 0", topic.partitions)).into());
    }
    if position.offset.is_none() {
        let error = Error::new(Kind::Invalid, "the position has no offset");
        return Err(error.help("name one, or start at Oldest or Newest").into());
    }
    Ok(())
}

/// Moves a group; its claims on the moved partitions go, so what was delivered before can't be settled.
pub(super) fn seek(tx: &Tx<'_>, topic: &str, group: &str, to: Start) -> Step<i64> {
    tx.begin()?;
    let topic = super::topic::get(tx.conn(), topic)?;
    check_start(&topic, to)?;
    tx.touch(topic.id);
    let Some(group) = find(tx.conn(), topic.id, group)? else {
        return create(tx, &topic, group, &SubscribeOptions { start: to, ..SubscribeOptions::group(group) });
    };
    let moved = match to {
        Start::At(position) => position.partition..position.partition + 1,
        _ => 0..topic.partitions,
    };
    for partition in moved {
        let next = find_start(tx.conn(), &topic, partition, to)?;
        let part = topic.part(partition);
        let sql = "UPDATE lp_cursor SET next = ?1, owner = 0, fence = fence + 1 WHERE grp = ?2 AND part = ?3";
        tx.run(sql, (next, group, part))?;
        tx.run("DELETE FROM lp_claim WHERE grp = ?1 AND part = ?2", [group, part])?;
    }
    Ok(group)
}

/// Removes a group by name.
pub(super) fn remove(tx: &Tx<'_>, topic: &str, name: &str) -> Step<()> {
    tx.begin()?;
    let topic = super::topic::get(tx.conn(), topic)?;
    let Some(group) = find(tx.conn(), topic.id, name)? else { return Err(missing(&topic.name, name).into()) };
    tx.touch(topic.id);
    drop_group(tx, group)
}

/// Removes a group and everything that hangs on it.
pub(super) fn drop_group(tx: &Tx<'_>, group: i64) -> Step<()> {
    for table in ["lp_claim", "lp_cursor", "lp_member"] {
        tx.run(&format!("DELETE FROM {table} WHERE grp = ?1"), [group])?;
    }
    tx.run("DELETE FROM lp_group WHERE id = ?1", [group])?;
    Ok(())
}

/// Refuses to go on for a group that was removed.
pub(super) fn check_there(tx: &Tx<'_>, scope: &Scope) -> Step<()> {
    match tx.maybe("SELECT 1 FROM lp_group WHERE id = ?1", [scope.group], |_| Ok(()))? {
        Some(()) => Ok(()),
        None => Err(missing(&scope.topic.name, scope.name.as_deref().unwrap_or("~")).into()),
    }
}

pub(super) fn missing(topic: &str, group: &str) -> Error {
    let error = Error::new(Kind::NotFound, format!("topic {topic:?} has no group {group:?}"));
    error.help("it was removed; subscribing creates it anew")
}

/// Tells that a member lives, also one that was silent for so long that it was counted as gone.
pub(super) fn beat(tx: &Tx<'_>, scope: &Scope, options: &SubscribeOptions) -> Step<()> {
    tx.begin()?;
    let due = tx.now() + lease(options);
    if tx.run("UPDATE lp_member SET due = ?1 WHERE id = ?2", [due, scope.member])? == 0 {
        let sql = "INSERT INTO lp_member(id, grp, due, active, only)
                   SELECT ?1, id, ?3, 1, ?4 FROM lp_group WHERE id = ?2";
        tx.run(sql, (scope.member, scope.group, due, only(options)))?;
    }
    Ok(())
}

/// Takes a member out: what it holds waits for others, a broadcast group goes with it.
pub(super) fn leave(tx: &Tx<'_>, scope: &Scope) -> Step<()> {
    tx.begin()?;
    tx.touch(scope.topic.id);
    if scope.name.is_none() {
        return drop_group(tx, scope.group);
    }
    super::claim::give_up(tx, scope.group, Some(scope.member), scope.max_attempts)?;
    tx.run("UPDATE lp_cursor SET owner = 0 WHERE grp = ?1 AND owner = ?2", [scope.group, scope.member])?;
    tx.run("DELETE FROM lp_member WHERE id = ?1", [scope.member])?;
    Ok(())
}

/// The partitions a member restricts itself to, as JSON.
pub(super) fn only(options: &SubscribeOptions) -> Option<String> {
    options.partitions.as_ref().map(|list| serde_json::json!(list).to_string())
}

/// Removes members that are long dead, and broadcast groups that have none. How long: a minute after their lease.
pub(super) fn collect(tx: &Tx<'_>) -> Step<()> {
    let gone = tx.now() - 60_000;
    let dead = "SELECT EXISTS(SELECT 1 FROM lp_member WHERE due < ?1)";
    if !tx.one(dead, [gone], |row| row.get(0))? {
        return Ok(());
    }
    tx.begin()?;
    tx.run("DELETE FROM lp_member WHERE due < ?1", [gone])?;
    let alone = "SELECT id FROM lp_group WHERE ephemeral AND NOT EXISTS (SELECT 1 FROM lp_member WHERE grp = lp_group.id)";
    for group in tx.all(alone, [], |row| row.get(0))? {
        drop_group(tx, group)?;
    }
    Ok(())
}
