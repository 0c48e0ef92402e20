//! Groups: joined, moved, removed; and where they begin.

use std::sync::Arc;

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info};
use futures_util::future::join_all;
use linchpin_core::bus::{Position, Start, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

use super::NAME;
use super::core::Core;
use super::error;
use super::ledger::{Ledger, NOBODY};
use super::page::Page;
use super::roster::Roster;
use super::topic::Topic;

/// How long the server keeps a consumer that was only asked for a place.
const ASKED: Duration = Duration::from_secs(2);

fn born() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// What a consumer that began at `policy` would know.
pub(super) async fn probe(core: &Core, topic: &Topic, filter: &str, policy: DeliverPolicy) -> Result<Info> {
    core.link.ready().await?;
    let config = PullConfig {
        ack_policy: AckPolicy::None,
        deliver_policy: policy,
        filter_subject: filter.to_owned(),
        inactive_threshold: ASKED,
        memory_storage: true,
        num_replicas: 1,
        ..PullConfig::default()
    };
    let creating = core.link.js.create_consumer_on_stream(config, topic.stream.clone());
    let created = timeout(core.link.timeout, creating).await.map_err(|_| error::unanswered())?;
    Ok(created.map_err(error::consumer)?.cached_info().clone())
}

/// Where `start` lies in each partition of a topic as it was just looked up.
pub(super) async fn places(core: &Core, topic: &Topic, start: Start) -> Result<Vec<u64>> {
    let (end, count) = (topic.state.last_sequence + 1, topic.options.partitions);
    if let Start::At(Position { partition, .. }) = start
        && partition >= count
    {
        let help = format!("the topic has {count}, numbered from 0");
        return Err(Error::new(Kind::Invalid, format!("partition {partition} doesn't exist")).help(help));
    }
    let place = match start {
        Start::Oldest | Start::At(_) => 1,
        Start::Newest => end,
        Start::Time(time) => {
            let unusable = |e: async_nats::Error| {
                Error::new(Kind::Invalid, format!("the time {time} can't be used"))
                    .engine(NAME)
                    .help(e.to_string())
            };
            let start_time = async_nats::datetime::from_nanos(time.as_nanosecond()).map_err(unusable)?;
            let info = probe(core, topic, "", DeliverPolicy::ByStartTime { start_time }).await?;
            info.delivered.stream_sequence + 1
        }
    };
    let mut places = vec![place; count as usize];
    if let Start::At(Position { partition, offset }) = start
        && let Some(place) = places.get_mut(partition as usize)
    {
        *place = offset.unwrap_or(1).min(end);
    }
    Ok(places)
}

/// The roster, if the group is there.
pub(super) async fn find(core: &Core, topic: &Topic, group: &str) -> Result<Option<(Roster, u64)>> {
    let Some(record) = core.store.get(&core.names.roster(&topic.name, group)).await? else { return Ok(None) };
    let roster = Roster::decode(&record.bytes)?;
    Ok((roster.topic == topic.created).then_some((roster, record.rev)))
}

/// Adds a member to a group, which is made if it isn't there.
pub(super) async fn join(
    core: &Core,
    topic: &Topic,
    group: &str,
    options: &SubscribeOptions,
) -> Result<(Roster, i64)> {
    let subject = core.names.roster(&topic.name, group);
    loop {
        let record = core.store.get(&subject).await?;
        let rev = record.as_ref().map_or(0, |record| record.rev);
        let there = record.map(|record| Roster::decode(&record.bytes)).transpose()?;
        let mut roster = match there.filter(|roster| roster.topic == topic.created) {
            Some(roster) => roster,
            None => Roster::new(group, born(), topic.created, places(core, topic, options.start).await?),
        };
        let id = roster.join(options, core.clock.earliest())?;
        if core.store.put(&subject, roster.encode()?, rev).await?.is_some() {
            core.tell(&topic.name, group).await;
            return Ok((roster, id));
        }
    }
}

fn page(core: &Core, topic: &Topic, group: &str, roster: &Roster, partition: u32, member: i64) -> Arc<Page> {
    let subject = core.names.ledger(&topic.name, group, &partition.to_string());
    let start = roster.starts.get(partition as usize).copied().unwrap_or(1);
    Page::new(Some(core.store.clone()), subject, member, roster.born, start)
}

/// The ledgers of a group as `member` sees them, by partition.
pub(super) fn pages(core: &Core, topic: &Topic, group: &str, roster: &Roster, member: i64) -> Vec<Arc<Page>> {
    (0..topic.options.partitions).map(|n| page(core, topic, group, roster, n, member)).collect()
}

/// The ledgers of a group as they stand, by partition.
pub(super) async fn ledgers(core: &Core, topic: &Topic, group: &str, roster: &Roster) -> Result<Vec<Ledger>> {
    let pages = pages(core, topic, group, roster, NOBODY);
    join_all(pages.iter().map(|page| page.edit(|ledger| ledger.clone()))).await.into_iter().collect()
}

/// The groups of a topic, by name as subjects have it.
pub(super) async fn list(core: &Core, topic: &Topic) -> Result<Vec<(String, Roster)>> {
    let pattern = core.names.roster(&topic.name, "*");
    let mut groups = Vec::new();
    for (subject, _) in core.store.subjects(&core.names.state(), &pattern).await? {
        let Some(record) = core.store.get(&subject).await? else { continue };
        let roster = Roster::decode(&record.bytes)?;
        if roster.topic == topic.created {
            groups.push((roster.name.clone(), roster));
        }
    }
    groups.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(groups)
}

/// Moves a group, which is made if it isn't there.
pub(super) async fn seek(core: &Core, topic: &Topic, group: &str, to: Start) -> Result<()> {
    let places = places(core, topic, to).await?;
    let subject = core.names.roster(&topic.name, group);
    let roster = loop {
        let record = core.store.get(&subject).await?;
        let rev = record.as_ref().map_or(0, |record| record.rev);
        let there = record.map(|record| Roster::decode(&record.bytes)).transpose()?;
        if let Some(roster) = there.filter(|roster| roster.topic == topic.created) {
            break roster;
        }
        let roster = Roster::new(group, born(), topic.created, places.clone());
        if core.store.put(&subject, roster.encode()?, rev).await?.is_some() {
            return Ok(());
        }
    };
    let pages = pages(core, topic, group, &roster, NOBODY);
    let moved = pages.iter().zip(&places).enumerate().filter(|(n, _)| match to {
        Start::At(at) => *n == at.partition as usize,
        _ => true,
    });
    let moves = moved.map(|(n, (page, place))| {
        let place = *place;
        let edit = page.edit(move |ledger| {
            ledger.seek(place);
            ledger.epoch
        });
        async move { Ok((n, edit.await?)) }
    });
    let moved = join_all(moves).await.into_iter().collect::<Result<Vec<_>>>()?;
    for member in core.members() {
        if member.topic.name == topic.name && member.options.group.as_deref() == Some(group) {
            member.moved(&moved);
        }
    }
    core.tell(&topic.name, group).await;
    Ok(())
}

/// Removes a group.
pub(super) async fn remove(core: &Core, topic: &Topic, group: &str) -> Result<()> {
    let Some((roster, _)) = find(core, topic, group).await? else {
        let message = format!("topic {:?} has no group {group:?}", topic.name);
        return Err(Error::new(Kind::NotFound, message).engine(NAME));
    };
    core.store.purge(&core.names.roster(&topic.name, group)).await?;
    core.end(|member| member.born == roster.born);
    core.store.purge(&core.names.ledger(&topic.name, group, "*")).await?;
    core.tell(&topic.name, group).await;
    Ok(())
}
