//! Groups: their members, and how far they are.

use std::fmt::Write;

use linchpin_core::bus::{Order, Start, SubscribeOptions};
use uuid::Uuid;

use super::topic;
use super::tx::{Step, Tx};
use crate::relational::group::{
    GONE, Joined, begin, check_start, gone, lease, missing, moved, only, other_order,
};
use crate::relational::store::Scope;
use crate::relational::topic::{Topic, place};

/// Adds a member to the group, creating the group if need be.
pub(super) async fn join(tx: &mut Tx, name: &str, options: &SubscribeOptions) -> Step<(Topic, Joined)> {
    tx.begin().await?;
    let topic = topic::get(tx, name).await?;
    options.check(topic.partitions)?;
    check_start(&topic, options.start)?;
    let group = match &options.group {
        Some(name) => match find(tx, topic.id, name).await? {
            Some(group) => group,
            None => create(tx, &topic, name, options).await?,
        },
        // No group can be called this: '~' isn't allowed in names.
        None => create(tx, &topic, &format!("~{}", Uuid::now_v7()), options).await?,
    };
    agree(tx, group, options.order != Order::None).await?;
    let due = tx.now() + lease(options);
    let sql = "INSERT INTO lp_member(grp, due, active, wants) VALUES (?, ?, 1, ?)";
    let member = tx.insert(sql, &[group.into(), due.into(), only(options).as_deref().into()]).await?;
    // The others have to share with it.
    tx.touch(topic.id);
    Ok((topic, Joined { group, member }))
}

async fn find(tx: &mut Tx, topic: i64, name: &str) -> Step<Option<i64>> {
    let sql = "SELECT id FROM lp_group WHERE topic = ? AND name = ?";
    let row = tx.maybe(sql, &[topic.into(), name.into()]).await?;
    Ok(row.map(|row| row.int(0)).transpose()?)
}

/// Two that create the same group at once: the second one's insert fails when the first commits, and its transaction is
/// run again.
async fn create(tx: &mut Tx, topic: &Topic, name: &str, options: &SubscribeOptions) -> Step<i64> {
    let sql = "INSERT INTO lp_group(topic, name, ephemeral, ordered) VALUES (?, ?, ?, ?)";
    let ephemeral = options.group.is_none().into();
    let ordered = (options.order != Order::None).into();
    let group = tx.insert(sql, &[topic.id.into(), name.into(), ephemeral, ordered]).await?;
    let mut rows = String::from("INSERT INTO lp_cursor(grp, part, next, owner, fence) VALUES ");
    for (part, next) in starts(tx, topic, 0..topic.partitions, options.start).await? {
        let comma = if part > topic.base { ", " } else { "" };
        // Writing to a string can't fail.
        let _written = write!(rows, "{comma}({group}, {part}, {next}, 0, 0)");
    }
    tx.script(rows).await?;
    Ok(group)
}

/// Members of a group keep the same kind of order: owners of partitions and competitors can't share messages. When the
/// last member of one kind is gone, the group takes the other on: what was held waits again.
async fn agree(tx: &mut Tx, group: i64, ordered: bool) -> Step<()> {
    // Those that join at once come one after another.
    let sql = "SELECT ordered FROM lp_group WHERE id = ? FOR UPDATE";
    if tx.one(sql, &[group.into()]).await?.flag(0)? == ordered {
        return Ok(());
    }
    let living = "SELECT max(due) FROM lp_member WHERE grp = ? AND due > ?";
    if let Some(due) = tx.one(living, &[group.into(), tx.now().into()]).await?.opt_int(0)? {
        let after = std::time::Duration::from_millis((due - tx.now()).unsigned_abs());
        return Err(other_order(after).into());
    }
    tx.run("UPDATE lp_group SET ordered = ? WHERE id = ?", &[ordered.into(), group.into()]).await?;
    tx.run("UPDATE lp_cursor SET owner = 0, fence = fence + 1 WHERE grp = ?", &[group.into()]).await?;
    super::claim::give_up(tx, group, None, u32::MAX).await
}

/// Where a group that starts so begins in each of these partitions, by partition id.
async fn starts(
    tx: &mut Tx,
    topic: &Topic,
    partitions: std::ops::Range<u32>,
    start: Start,
) -> Step<Vec<(i64, u64)>> {
    let sql = "SELECT id, first, next FROM lp_partition WHERE id >= ? AND id < ? ORDER BY id";
    let range = [topic.part(partitions.start).into(), topic.part(partitions.end).into()];
    let mut out = Vec::new();
    for row in tx.all(sql, &range).await? {
        let (part, first, next) = (row.int(0)?, row.count(1)?, row.count(2)?);
        let at = match begin(start, topic.partition(part), first, next) {
            Ok(at) => at,
            Err(time) => first_since(tx, part, first, next, time).await?,
        };
        out.push((part, at));
    }
    Ok(out)
}

/// The first offset in `[first, next)` stored at `time` or later: a binary search, as times never fall.
pub(super) async fn first_since(
    tx: &mut Tx,
    part: i64,
    mut first: u64,
    mut next: u64,
    time: i64,
) -> Step<u64> {
    let sql = "SELECT time FROM lp_message WHERE place >= ? AND place < ? ORDER BY place LIMIT 1";
    while first < next {
        let middle = first.midpoint(next);
        let row = tx.maybe(sql, &[place(part, middle).into(), place(part, next).into()]).await?;
        let earlier = row.map(|row| row.int(0)).transpose()?.is_some_and(|at| at < time);
        if earlier {
            first = middle + 1;
        } else {
            next = middle;
        }
    }
    Ok(first)
}

/// Moves a group; its claims on the moved partitions go, so what was delivered before can't be settled.
pub(super) async fn seek(tx: &mut Tx, topic: &str, group: &str, to: Start) -> Step<i64> {
    tx.begin().await?;
    let topic = topic::get(tx, topic).await?;
    check_start(&topic, to)?;
    tx.touch(topic.id);
    let Some(group) = find(tx, topic.id, group).await? else {
        let options = SubscribeOptions { start: to, ..SubscribeOptions::group(group) };
        return create(tx, &topic, group, &options).await;
    };
    for (part, next) in starts(tx, &topic, moved(&topic, to), to).await? {
        let sql = "UPDATE lp_cursor SET next = ?, owner = 0, fence = fence + 1 WHERE grp = ? AND part = ?";
        tx.run(sql, &[next.into(), group.into(), part.into()]).await?;
        tx.run("DELETE FROM lp_claim WHERE grp = ? AND part = ?", &[group.into(), part.into()]).await?;
    }
    Ok(group)
}

/// Removes a group by name.
pub(super) async fn remove(tx: &mut Tx, topic: &str, name: &str) -> Step<()> {
    tx.begin().await?;
    let topic = topic::get(tx, topic).await?;
    let Some(group) = find(tx, topic.id, name).await? else {
        return Err(missing(&topic.name, name).into());
    };
    tx.touch(topic.id);
    drop_group(tx, group).await
}

/// Removes a group and everything that hangs on it. Cursors before claims, as everywhere.
pub(super) async fn drop_group(tx: &mut Tx, group: i64) -> Step<()> {
    for table in ["lp_cursor", "lp_claim", "lp_member"] {
        tx.run(&format!("DELETE FROM {table} WHERE grp = ?"), &[group.into()]).await?;
    }
    tx.run("DELETE FROM lp_group WHERE id = ?", &[group.into()]).await?;
    Ok(())
}

/// Refuses to go on for a group that was removed.
pub(super) async fn check_there(tx: &mut Tx, scope: &Scope) -> Step<()> {
    match tx.maybe("SELECT id FROM lp_group WHERE id = ?", &[scope.group.into()]).await? {
        Some(_) => Ok(()),
        None => Err(gone(scope).into()),
    }
}

/// Tells that a member lives, also one that was silent for so long that it was counted as gone.
pub(super) async fn beat(tx: &mut Tx, scope: &Scope, options: &SubscribeOptions) -> Step<()> {
    tx.begin().await?;
    let (due, member) = ((tx.now() + lease(options)).into(), scope.member.into());
    if tx.run("UPDATE lp_member SET due = ? WHERE id = ?", &[due, member]).await? == 0 {
        let sql = "INSERT INTO lp_member(id, grp, due, active, wants)
                   SELECT ?, id, ?, 1, ? FROM lp_group WHERE id = ?";
        tx.run(sql, &[member, due, only(options).as_deref().into(), scope.group.into()]).await?;
    }
    Ok(())
}

/// Takes a member out: what it holds waits for others, a broadcast group goes with it.
pub(super) async fn leave(tx: &mut Tx, scope: &Scope) -> Step<()> {
    tx.begin().await?;
    tx.touch(scope.topic.id);
    if scope.name.is_none() {
        return drop_group(tx, scope.group).await;
    }
    let (group, member) = (scope.group.into(), scope.member.into());
    tx.run("UPDATE lp_cursor SET owner = 0 WHERE grp = ? AND owner = ?", &[group, member]).await?;
    super::claim::give_up(tx, scope.group, Some(scope.member), scope.max_attempts).await?;
    tx.run("DELETE FROM lp_member WHERE id = ?", &[member]).await?;
    Ok(())
}

/// Removes members that are long dead, and broadcast groups that have none.
pub(super) async fn collect(tx: &mut Tx) -> Step<()> {
    let gone = [(tx.now() - GONE).into()];
    if tx.maybe("SELECT id FROM lp_member WHERE due < ? LIMIT 1", &gone).await?.is_none() {
        return Ok(());
    }
    tx.begin().await?;
    tx.run("DELETE FROM lp_member WHERE due < ?", &gone).await?;
    let alone = "SELECT id FROM lp_group g
                 WHERE ephemeral = 1 AND NOT EXISTS (SELECT 1 FROM lp_member m WHERE m.grp = g.id)";
    for group in tx.all(alone, &[]).await? {
        drop_group(tx, group.int(0)?).await?;
    }
    Ok(())
}
