//! What topics hold.

use linchpin_core::bus::{GroupStats, TopicStats};
use linchpin_core::time::from_millis;
use rusqlite::{Connection, Row};

use super::claim;
use super::topic;
use super::tx::Step;
use crate::relational::topic::{Topic, place};

pub(super) fn stats(conn: &Connection, name: Option<&str>, now: i64) -> Step<Vec<TopicStats>> {
    let topics = match name {
        Some(name) => vec![topic::get(conn, name)?],
        None => topic::all(conn)?,
    };
    topics.iter().map(|topic| of(conn, topic, now)).collect()
}

fn of(conn: &Connection, topic: &Topic, now: i64) -> Step<TopicStats> {
    let mut bounds = conn.prepare_cached("SELECT id, first, next FROM lp_partition WHERE topic = ?1")?;
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let parts: Vec<(i64, u64, u64)> = bounds.query_map([topic.id], read)?.collect::<Result<_, _>>()?;
    let mut oldest: Option<i64> = None;
    for (part, first, next) in &parts {
        let sql = "SELECT min(time) FROM (SELECT time FROM lp_message WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT 1)";
        let mut head = conn.prepare_cached(sql)?;
        let time: Option<i64> =
            head.query_row([place(*part, *first), place(*part, *next)], |row| row.get(0))?;
        oldest = [oldest, time].into_iter().flatten().min();
    }
    let ends = [topic.base, topic.part(topic.partitions)];
    let mut delayed =
        conn.prepare_cached("SELECT count(*) FROM lp_delayed WHERE part >= ?1 AND part < ?2")?;
    Ok(TopicStats {
        topic: topic.name.clone(),
        options: topic.options(),
        messages: parts.iter().map(|(_, first, next)| next - first).sum(),
        delayed: delayed.query_row(ends, |row| row.get(0))?,
        oldest: oldest.map(from_millis),
        groups: groups(conn, topic, now)?,
    })
}

fn groups(conn: &Connection, topic: &Topic, now: i64) -> Step<Vec<GroupStats>> {
    let sql = "SELECT g.id, g.name,
            (SELECT coalesce(sum(p.next - c.next), 0) FROM lp_cursor c JOIN lp_partition p ON p.id = c.part WHERE c.grp = g.id),
            (SELECT count(*) FROM lp_member m WHERE m.grp = g.id AND m.due > ?2)
        FROM lp_group g WHERE g.topic = ?1 AND NOT g.ephemeral ORDER BY g.name";
    let mut select = conn.prepare_cached(sql)?;
    let mut rows = select.query([topic.id, now])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let mut group = GroupStats {
            group: row.get(1)?,
            lag: row.get(2)?,
            in_flight: 0,
            waiting: 0,
            members: row.get(3)?,
        };
        count_claims(conn, row.get(0)?, now, &mut group)?;
        out.push(group);
    }
    Ok(out)
}

/// What was given back unused was never handed out; a lease that ran out is no longer in hand.
fn count_claims(conn: &Connection, group: i64, now: i64, stats: &mut GroupStats) -> Step<()> {
    let mut select = conn.prepare_cached(&format!("{} WHERE grp = ?1", claim::COLUMNS))?;
    let mut rows = select.query([group])?;
    while let Some(row) = rows.next()? {
        let claim = claim::read(row)?;
        let count = claim.span.len();
        match claim {
            claim if claim.owner != 0 && claim.due > now => stats.in_flight += count,
            claim if claim.attempt == 0 => stats.lag += count,
            _ => stats.waiting += count,
        }
    }
    Ok(())
}
