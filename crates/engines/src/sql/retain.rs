//! Retention: removing what is old or beyond the length, and was settled by every group.

use std::cmp::Reverse;

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
pub(super) async fn step(tx: &mut Tx, topic: &Topic, limit: u64) -> Step<u64> {
    let mut parts = parts(tx, topic).await?;
    if !worth_it(tx, topic, &parts).await? {
        return Ok(0);
    }
    tx.begin().await?;
    let by_age = age(tx, topic, &mut parts, limit).await?;
    Ok(by_age + length(tx, topic, &mut parts, limit - by_age).await?)
}

async fn worth_it(tx: &mut Tx, topic: &Topic, parts: &[Part]) -> Step<bool> {
    let excess = topic.length.is_some_and(|length| stored(parts) > length.unsigned_abs());
    if excess && parts.iter().any(|part| part.first < part.settled) {
        return Ok(true);
    }
    let Some(age) = topic.age else { return Ok(false) };
    for part in parts.iter().filter(|part| part.first < part.settled) {
        if head_time(tx, part).await?.is_some_and(|time| time < tx.now() - age) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn stored(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.next - part.first).sum()
}

/// What was settled once stays settled, unless a group is moved back meanwhile: that one then finds less.
async fn parts(tx: &mut Tx, topic: &Topic) -> Step<Vec<Part>> {
    let sql = "SELECT p.id, p.first, p.next,
            least(p.next,
                coalesce((SELECT min(c.next) FROM lp_group g JOIN lp_cursor c ON c.grp = g.id AND c.part = p.id
                          WHERE g.topic = p.topic), p.next),
                coalesce((SELECT min(k.first) FROM lp_group g JOIN lp_claim k ON k.grp = g.id AND k.part = p.id
                          WHERE g.topic = p.topic), p.next))
        FROM lp_partition p WHERE p.topic = ? ORDER BY p.id";
    let mut parts = Vec::new();
    for row in tx.all(sql, &[topic.id.into()]).await? {
        parts.push(Part {
            id: row.int(0)?,
            first: row.count(1)?,
            next: row.count(2)?,
            settled: row.count(3)?,
        });
    }
    Ok(parts)
}

async fn age(tx: &mut Tx, topic: &Topic, parts: &mut [Part], limit: u64) -> Step<u64> {
    let Some(age) = topic.age else { return Ok(0) };
    let mut gone = 0;
    for part in parts {
        let end = part.settled.min(part.first.saturating_add(limit - gone));
        let end = first_since(tx, part.id, part.first, end, tx.now().saturating_sub(age)).await?;
        gone += cut(tx, part, end).await?;
    }
    Ok(gone)
}

/// Cuts what is oldest until the length is right: from the partition with the oldest head, up to where another's is
/// older; of several whose heads are of one millisecond, from the fullest its part.
async fn length(tx: &mut Tx, topic: &Topic, parts: &mut [Part], limit: u64) -> Step<u64> {
    let Some(length) = topic.length else { return Ok(0) };
    let mut excess = stored(parts).saturating_sub(length.unsigned_abs()).min(limit);
    let mut gone = 0;
    while excess > 0 {
        let mut heads = Vec::new();
        for (at, part) in parts.iter().enumerate().filter(|(_, part)| part.first < part.settled) {
            heads.extend(head_time(tx, part).await?.map(|time| (time, Reverse(part.next - part.first), at)));
        }
        heads.sort_unstable();
        let Some((time, _, at)) = heads.first() else { break };
        let Some(part) = parts.get_mut(*at) else { break };
        let level = heads.iter().filter(|(head, ..)| head == time).count() as u64;
        let mut end = part.settled.min(part.first + excess.div_ceil(level));
        if let Some((next, ..)) = heads.get(1) {
            end = first_since(tx, part.id, part.first, end, next.saturating_add(1)).await?;
        }
        let cut = cut(tx, part, end.max(part.first + 1)).await?;
        excess -= cut.min(excess);
        gone += cut;
    }
    Ok(gone)
}

async fn head_time(tx: &mut Tx, part: &Part) -> Step<Option<i64>> {
    let sql = "SELECT time FROM lp_message WHERE place >= ? AND place < ? ORDER BY place LIMIT 1";
    let range = [place(part.id, part.first).into(), place(part.id, part.next).into()];
    Ok(tx.maybe(sql, &range).await?.map(|row| row.int(0)).transpose()?)
}

/// Messages first, the partition's row last: publishers wait for that row.
async fn cut(tx: &mut Tx, part: &mut Part, end: u64) -> Step<u64> {
    let count = end.saturating_sub(part.first);
    if count > 0 {
        let range = [place(part.id, part.first).into(), place(part.id, end).into()];
        tx.run("DELETE FROM lp_message WHERE place >= ? AND place < ?", &range).await?;
        let sql = "UPDATE lp_partition SET first = greatest(first, ?) WHERE id = ?";
        tx.run(sql, &[end.into(), part.id.into()]).await?;
        part.first = end;
    }
    Ok(count)
}
