//! What topics hold, and how far groups are.

use async_nats::jetstream::consumer::DeliverPolicy;
use linchpin_core::Result;
use linchpin_core::bus::{GroupStats, TopicStats};

use super::core::Core;
use super::group;
use super::ledger::{Ledger, NOBODY};
use super::message::time;
use super::topic::Topic;

pub(super) async fn of(core: &Core, topic: &Topic) -> Result<TopicStats> {
    core.clock.refresh(&core.store).await?;
    let pattern = core.names.delayed_of(&topic.name);
    let delayed = core.store.subjects(&core.names.delayed(), &pattern).await?;
    let mut groups = Vec::new();
    for (name, roster) in group::list(core, topic).await? {
        let ledgers = group::ledgers(core, topic, &name, &roster).await?;
        let now = core.clock.earliest();
        let members = roster.members.iter().filter(|seat| now <= seat.lapses()).count() as u64;
        let mut stats = GroupStats { group: name, lag: 0, in_flight: 0, waiting: 0, members };
        for (partition, ledger) in (0..).zip(&ledgers) {
            count(ledger, now, &mut stats);
            stats.lag += behind(core, topic, partition, ledger.cursor).await?;
        }
        groups.push(stats);
    }
    let state = &topic.state;
    Ok(TopicStats {
        topic: topic.name.clone(),
        options: topic.options.clone(),
        messages: state.messages,
        delayed: delayed.iter().map(|(_, count)| count).sum(),
        oldest: (state.messages > 0).then(|| time(state.first_timestamp)),
        groups,
    })
}

fn count(ledger: &Ledger, now: i64, stats: &mut GroupStats) {
    for (_, open) in ledger.open() {
        if open.holder != NOBODY && open.due > now {
            stats.in_flight += 1;
        } else if open.attempt > 0 {
            stats.waiting += 1;
        } else {
            stats.lag += 1;
        }
    }
}

/// Messages of a partition from `cursor` on.
async fn behind(core: &Core, topic: &Topic, partition: u32, cursor: u64) -> Result<u64> {
    if cursor > topic.state.last_sequence || topic.state.messages == 0 {
        return Ok(0);
    }
    let policy = DeliverPolicy::ByStartSequence { start_sequence: cursor.max(1) };
    Ok(group::probe(core, topic, topic.filter(partition), policy).await?.num_pending)
}
