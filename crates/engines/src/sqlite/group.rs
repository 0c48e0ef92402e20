//! Groups: their members, and how far they are.

use linchpin_core::bus::{Order, Start, SubscribeOptions};
use rusqlite::Connection;
use uuid::Uuid;

use super::tx::{Step, Tx};
use crate::relational::group::{
    GONE, Joined, begin, check_start, gone, lease, missing, moved, only, other_order,
};
use crate::relational::store::Scope;
use crate::relational::topic::{Topic, place};

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
        return Err(other_order(after).into());
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
    begin(start, partition, first, next).or_else(|time| first_since(conn, part, first, next, time))
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

/// Moves a group; its claims on the moved partitions go, so what was delivered before can't be settled.
pub(super) fn seek(tx: &Tx<'_>, topic: &str, group: &str, to: Start) -> Step<i64> {
    tx.begin()?;
    let topic = super::topic::get(tx.conn(), topic)?;
    check_start(&topic, to)?;
    tx.touch(topic.id);
    let Some(group) = find(tx.conn(), topic.id, group)? else {
        return create(tx, &topic, group, &SubscribeOptions { start: to, ..SubscribeOptions::group(group) });
    };
    for partition in moved(&topic, to) {
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
        None => Err(gone(scope).into()),
    }
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

/// Removes members that are long dead, and broadcast groups that have none.
pub(super) fn collect(tx: &Tx<'_>) -> Step<()> {
    let gone = tx.now() - GONE;
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
