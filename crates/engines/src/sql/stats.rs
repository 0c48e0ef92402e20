//! What topics hold.

use linchpin_core::bus::{GroupStats, TopicStats};
use linchpin_core::time::from_millis;

use super::claim;
use super::topic;
use super::tx::{Step, Tx};
use crate::relational::topic::{Topic, place};

/// All of it as of one moment.
pub(super) async fn stats(tx: &mut Tx, name: Option<&str>) -> Step<Vec<TopicStats>> {
    tx.snapshot().await?;
    let topics = match name {
        Some(name) => vec![topic::get(tx, name).await?],
        None => topic::all(tx).await?,
    };
    let mut out = Vec::with_capacity(topics.len());
    for topic in &topics {
        out.push(of(tx, topic).await?);
    }
    Ok(out)
}

async fn of(tx: &mut Tx, topic: &Topic) -> Step<TopicStats> {
    let sql = "SELECT id, first, next FROM lp_partition WHERE topic = ?";
    let mut messages = 0;
    let mut oldest: Option<i64> = None;
    for row in tx.all(sql, &[topic.id.into()]).await? {
        let (part, first, next) = (row.int(0)?, row.count::<u64>(1)?, row.count::<u64>(2)?);
        messages += next - first;
        let sql = "SELECT time FROM lp_message WHERE place >= ? AND place < ? ORDER BY place LIMIT 1";
        let head = tx.maybe(sql, &[place(part, first).into(), place(part, next).into()]).await?;
        oldest = [oldest, head.map(|row| row.int(0)).transpose()?].into_iter().flatten().min();
    }
    let ends = [topic.base.into(), topic.part(topic.partitions).into()];
    let delayed = tx.one("SELECT count(*) FROM lp_delayed WHERE part >= ? AND part < ?", &ends).await?;
    Ok(TopicStats {
        topic: topic.name.clone(),
        options: topic.options(),
        messages,
        delayed: delayed.count(0)?,
        oldest: oldest.map(from_millis),
        groups: groups(tx, topic).await?,
    })
}

async fn groups(tx: &mut Tx, topic: &Topic) -> Step<Vec<GroupStats>> {
    let sql = "SELECT id, name FROM lp_group WHERE topic = ? AND ephemeral = 0 ORDER BY name";
    let mut out = Vec::new();
    for row in tx.all(sql, &[topic.id.into()]).await? {
        let (id, name) = (row.int(0)?, row.text(1)?);
        let mut group = GroupStats { group: name, lag: 0, in_flight: 0, waiting: 0, members: 0 };
        let sql =
            "SELECT p.next - c.next FROM lp_cursor c JOIN lp_partition p ON p.id = c.part WHERE c.grp = ?";
        for behind in tx.all(sql, &[id.into()]).await? {
            group.lag += behind.count::<u64>(0)?;
        }
        let sql = "SELECT count(*) FROM lp_member WHERE grp = ? AND due > ?";
        group.members = tx.one(sql, &[id.into(), tx.now().into()]).await?.count(0)?;
        count_claims(tx, id, &mut group).await?;
        out.push(group);
    }
    Ok(out)
}

/// What was given back unused was never handed out; a lease that ran out is no longer in hand.
async fn count_claims(tx: &mut Tx, group: i64, stats: &mut GroupStats) -> Step<()> {
    let rows = tx.all(&format!("{} WHERE grp = ?", claim::COLUMNS), &[group.into()]).await?;
    for claim in claim::read_all(&rows)? {
        let count = claim.span.len();
        match claim {
            claim if claim.owner != 0 && claim.due > tx.now() => stats.in_flight += count,
            claim if claim.attempt == 0 => stats.lag += count,
            _ => stats.waiting += count,
        }
    }
    Ok(())
}
