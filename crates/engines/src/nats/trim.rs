//! Retention: what is too old or too many goes, as far as every group has settled it.

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::future::join_all;
use linchpin_core::Result;
use linchpin_core::time::since;
use serde::Deserialize;
use serde_json::json;

use super::core::Core;
use super::group;
use super::topic::{Topic, get};

/// Rounds of one call: each removes what the last one left too many.
const ROUNDS: usize = 100;

/// Removes what retention lets go, and says how many messages went.
pub(super) async fn trim(core: &Core, mut topic: Topic) -> Result<u64> {
    let mut gone = 0;
    if !topic.ours || topic.state.messages == 0 {
        return Ok(0);
    }
    let floors = floors(core, &topic).await?;
    let old = too_old(core, &topic).await?;
    gone += purge(core, &topic, &floors, old).await?;
    let Some(keep) = topic.options.retention_length else { return Ok(gone) };
    let most = floors.iter().copied().max().unwrap_or_default();
    let mut cut = old;
    for _ in 0..ROUNDS {
        topic = get(&core.link, &core.names, &topic.name).await?;
        let surplus = topic.state.messages.saturating_sub(keep);
        if surplus == 0 || cut >= most {
            break;
        }
        // Every offset below the cut held one message at most, so no more than the surplus goes.
        cut = cut.max(topic.state.first_sequence).saturating_add(surplus);
        gone += purge(core, &topic, &floors, cut).await?;
    }
    Ok(gone)
}

/// By partition, below what everything is settled by every group.
async fn floors(core: &Core, topic: &Topic) -> Result<Vec<u64>> {
    let end = topic.state.last_sequence + 1;
    let mut floors = vec![end; topic.options.partitions as usize];
    for (name, roster) in group::list(core, topic).await? {
        let ledgers = group::ledgers(core, topic, &name, &roster).await?;
        for (floor, ledger) in floors.iter_mut().zip(&ledgers) {
            *floor = (*floor).min(ledger.floor());
        }
    }
    Ok(floors)
}

/// The first offset that isn't too old.
async fn too_old(core: &Core, topic: &Topic) -> Result<u64> {
    let Some(age) = topic.options.retention_age else { return Ok(0) };
    core.clock.refresh(&core.store).await?;
    let now = core.clock.now();
    if since(now, super::message::time(topic.state.first_timestamp)) <= age {
        return Ok(0);
    }
    let Ok(oldest) = now.checked_sub(age) else { return Ok(0) };
    let Ok(start_time) = async_nats::datetime::from_nanos(oldest.as_nanosecond()) else { return Ok(0) };
    let info = group::probe(core, topic, "", DeliverPolicy::ByStartTime { start_time }).await?;
    Ok(info.delivered.stream_sequence + 1)
}

/// Removes what lies below `cut` and below the floor of its partition.
async fn purge(core: &Core, topic: &Topic, floors: &[u64], cut: u64) -> Result<u64> {
    #[derive(Deserialize)]
    struct Purged {
        purged: u64,
    }
    let first = topic.state.first_sequence;
    let purges = (0..).zip(floors).filter(|(_, floor)| cut.min(**floor) > first).map(|(partition, floor)| {
        let body = json!({ "filter": topic.filter(partition), "seq": cut.min(*floor) });
        let subject = format!("STREAM.PURGE.{}", topic.stream);
        async move { core.link.call::<Purged>(&subject, &body).await.map(|purged| purged.purged) }
    });
    join_all(purges).await.into_iter().sum()
}
