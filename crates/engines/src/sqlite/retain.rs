//! Retention: removing what is old or beyond the length, and was settled by every group.

use std::cmp::Reverse;

use rusqlite::Row;

use super::group::first_since;
use super::tx::{Step, Tx};
use crate::relational::topic::{Topic, place};

/// A partition, and how much of it may go.
#[derive(Debug)]
struct Part {
    id: i64,
    first: u64,
    next: u64,
    /// What lies below was settled by every group.
    settled: u64,
}

/// Removes up to `limit` messages, oldest first, and says how many went.
pub(super) fn step(tx: &Tx<'_>, topic: &Topic, limit: u64) -> Step<u64> {
    if !worth_it(tx, topic)? {
        return Ok(0);
    }
    tx.begin()?;
    let mut parts = parts(tx, topic)?;
    let by_age = age(tx, topic, &mut parts, limit)?;
    Ok(by_age + length(tx, topic, &mut parts, limit - by_age)?)
}

/// Whether taking the write lock may bring something.
fn worth_it(tx: &Tx<'_>, topic: &Topic) -> Step<bool> {
    let parts = parts(tx, topic)?;
    let excess = topic.length.is_some_and(|length| stored(&parts) > length.unsigned_abs());
    if excess && parts.iter().any(|part| part.first < part.settled) {
        return Ok(true);
    }
    let Some(age) = topic.age else { return Ok(false) };
    for part in parts.iter().filter(|part| part.first < part.settled) {
        if head_time(tx, part)?.is_some_and(|time| time < tx.now() - age) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn stored(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.next - part.first).sum()
}

fn parts(tx: &Tx<'_>, topic: &Topic) -> Step<Vec<Part>> {
    let sql = "SELECT p.id, p.first, p.next,
            min(p.next,
                coalesce((SELECT min(c.next) FROM lp_group g JOIN lp_cursor c ON c.grp = g.id AND c.part = p.id
                          WHERE g.topic = ?1), p.next),
                coalesce((SELECT min(k.first) FROM lp_group g JOIN lp_claim k ON k.grp = g.id AND k.part = p.id
                          WHERE g.topic = ?1), p.next))
        FROM lp_partition p WHERE p.topic = ?1";
    let read = |row: &Row<'_>| {
        Ok(Part { id: row.get(0)?, first: row.get(1)?, next: row.get(2)?, settled: row.get(3)? })
    };
    tx.all(sql, [topic.id], read)
}

fn age(tx: &Tx<'_>, topic: &Topic, parts: &mut [Part], limit: u64) -> Step<u64> {
    let Some(age) = topic.age else { return Ok(0) };
    let mut gone = 0;
    for part in parts {
        let end = part.settled.min(part.first.saturating_add(limit - gone));
        let end = first_since(tx.conn(), part.id, part.first, end, tx.now().saturating_sub(age))?;
        gone += cut(tx, part, end)?;
    }
    Ok(gone)
}

/// Cuts what is oldest until the length is right: from the partition with the oldest head, up to where another's is
/// older; of several whose heads are of one millisecond, from the fullest its part.
fn length(tx: &Tx<'_>, topic: &Topic, parts: &mut [Part], limit: u64) -> Step<u64> {
    let Some(length) = topic.length else { return Ok(0) };
    let mut excess = stored(parts).saturating_sub(length.unsigned_abs()).min(limit);
    let mut gone = 0;
    while excess > 0 {
        let mut heads = Vec::new();
        for (at, part) in parts.iter().enumerate().filter(|(_, part)| part.first < part.settled) {
            heads.extend(head_time(tx, part)?.map(|time| (time, Reverse(part.next - part.first), at)));
        }
        heads.sort_unstable();
        let Some((time, _, at)) = heads.first() else { break };
        let Some(part) = parts.get_mut(*at) else { break };
        let level = heads.iter().filter(|(head, ..)| head == time).count() as u64;
        let mut end = part.settled.min(part.first + excess.div_ceil(level));
        if let Some((next, ..)) = heads.get(1) {
            end = first_since(tx.conn(), part.id, part.first, end, next.saturating_add(1))?;
        }
        let cut = cut(tx, part, end.max(part.first + 1))?;
        excess -= cut;
        gone += cut;
    }
    Ok(gone)
}

fn head_time(tx: &Tx<'_>, part: &Part) -> Step<Option<i64>> {
    let sql = "SELECT time FROM lp_message WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT 1";
    tx.maybe(sql, [place(part.id, part.first), place(part.id, part.next)], |row| row.get(0))
}

fn cut(tx: &Tx<'_>, part: &mut Part, end: u64) -> Step<u64> {
    let count = end.saturating_sub(part.first);
    if count > 0 {
        let range = [place(part.id, part.first), place(part.id, end)];
        tx.run("DELETE FROM lp_message WHERE place >= ?1 AND place < ?2", range)?;
        tx.run("UPDATE lp_partition SET first = ?1 WHERE id = ?2", (end, part.id))?;
        part.first = end;
    }
    Ok(count)
}
