//! What topics and groups hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::bus::{GroupStats, Order, TopicStats};
use linchpin_core::time::from_millis;
use linchpin_core::{Error, Kind, Result, Timestamp};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::NAME;
use super::client::{Control, Ends, asker, blocking, list, native, patiently};
use super::core::Core;
use super::error::map;
use super::hub::{Mode, Scope};
use super::start;
use super::topic::{Known, kafka_group};
use super::tracker::Tracker;

/// A group of a topic: how many members the brokers know.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) members: u64,
}

impl Control {
    /// The Kafka groups whose names begin so, without that beginning.
    pub(super) async fn groups(&self, beginning: &str, op: &'static str) -> Result<BTreeMap<String, Found>> {
        let (asker, beginning, timeout) = (self.asker.clone(), beginning.to_owned(), self.config.timeout);
        blocking(op, move || {
            let groups =
                patiently(timeout, || asker.fetch_group_list(None, timeout).map_err(|e| map(e, op)))?;
            let ours = groups.groups().iter().filter_map(|group| {
                let name = group.name().strip_prefix(beginning.as_str())?;
                let found = Found { members: group.members().len() as u64 };
                (group.state() != "Dead").then_some((name.to_owned(), found))
            });
            Ok(ours.collect())
        })
        .await
    }

    /// What a group has committed, asked in its name.
    pub(super) async fn progress(
        &self,
        kafka: &str,
        group: String,
        partitions: u32,
        op: &'static str,
    ) -> Result<Vec<(u32, Tracker)>> {
        let (config, kafka) = (self.config.clone(), kafka.to_owned());
        blocking(op, move || {
            let asker = asker(&config, &group)?;
            start::committed(&asker, list(&kafka, 0..partitions), config.timeout)
        })
        .await
    }

    /// When the record at an offset was stored.
    async fn time_of(&self, kafka: &str, n: u32, offset: u64) -> Result<Option<Timestamp>> {
        let (config, kafka) = (self.config.clone(), kafka.to_owned());
        blocking("stats", move || {
            let reader: BaseConsumer = super::client::member(&config, "")
                .set("group.id", "lp-reader")
                .create()
                .map_err(|e| map(e, "stats"))?;
            let mut from = TopicPartitionList::new();
            let place = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            from.add_partition_offset(&kafka, native(n), place).map_err(|e| map(e, "stats"))?;
            reader.assign(&from).map_err(|e| map(e, "stats"))?;
            let found = reader.poll(config.timeout.min(Duration::from_secs(2)));
            let record = found.and_then(|record| record.ok());
            Ok(record.and_then(|record| record.timestamp().to_millis()).map(from_millis))
        })
        .await
    }
}

/// Refuses a member whose order the living members of other processes don't share.
pub(super) async fn check_order(control: &Control, scope: &Scope) -> Result<()> {
    let (asker, group, timeout) = (control.asker.clone(), scope.kafka_group.clone(), control.config.timeout);
    let clients = blocking("subscribe", move || {
        let list = || asker.fetch_group_list(Some(&group), timeout).map_err(|e| map(e, "subscribe"));
        let groups = patiently(timeout, list)?;
        let members = groups.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| member.client_id().to_owned()).collect::<Vec<_>>())
    });
    let clients = clients.await?;
    let is = |order: Order| format!("linchpin-{order:?}").to_lowercase();
    let mine = is(scope.order);
    let other = clients.iter().find(|client| client.starts_with("linchpin-") && **client != mine);
    if let Some(other) = other {
        let message = format!("the group is consumed by {other}, not {mine}");
        return Err(Error::new(Kind::Conflict, message).help("use one order for all members of a group"));
    }
    if scope.mode != Mode::Shared && !clients.is_empty() {
        return Err(super::hub::shared());
    }
    Ok(())
}

pub(super) async fn stats(core: &Arc<Core>, topic: Option<&str>) -> Result<Vec<TopicStats>> {
    let names = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => topics(core).await?,
    };
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        match core.look(&name, "stats").await {
            Ok(known) => {
                all.push(of_topic(core, &name, &known).await.map_err(|e| e.engine(NAME).op("stats"))?)
            }
            Err(error) if topic.is_none() && error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The names of the topics under the prefix; Kafka's own left out.
async fn topics(core: &Arc<Core>) -> Result<Vec<String>> {
    let (asker, timeout, prefix) =
        (core.control.asker.clone(), core.config.timeout, core.config.prefix.clone());
    let names = blocking("stats", move || {
        let metadata = asker.fetch_metadata(None, timeout).map_err(|e| map(e, "stats"))?;
        let ours = metadata.topics().iter().filter_map(|topic| topic.name().strip_prefix(prefix.as_str()));
        Ok(ours
            .filter(|name| !name.starts_with("__") && !name.starts_with("lp-"))
            .map(str::to_owned)
            .collect::<Vec<_>>())
    });
    let mut names = names.await?;
    names.sort_unstable();
    Ok(names)
}

async fn of_topic(core: &Arc<Core>, name: &str, known: &Known) -> Result<TopicStats> {
    let ends = core.control.ends(&known.kafka, known.options.partitions, "stats").await?;
    let messages = ends.iter().map(|(_, low, high)| high - low).sum();
    let mut oldest = None;
    for (n, low, high) in &ends {
        if high > low {
            let time = core.control.time_of(&known.kafka, *n, *low).await?;
            oldest = oldest.into_iter().chain(time).min();
        }
    }
    let found = core.control.groups(&kafka_group(&core.config.prefix, name, ""), "stats").await?;
    let mut groups = Vec::with_capacity(found.len());
    for (group, found) in found {
        if !group.starts_with("lp-broadcast-") {
            groups.push(of_group(core, name, known, &ends, group, &found).await?);
        }
    }
    Ok(TopicStats {
        topic: name.to_owned(),
        options: known.options.clone(),
        messages,
        delayed: super::delay::count(core, name).await?,
        oldest,
        groups,
    })
}

async fn of_group(
    core: &Arc<Core>,
    topic: &str,
    known: &Known,
    ends: &Ends,
    group: String,
    found: &Found,
) -> Result<GroupStats> {
    let name = kafka_group(&core.config.prefix, topic, &group);
    let progress = core.control.progress(&known.kafka, name, known.options.partitions, "stats").await?;
    let mut stats = GroupStats { group, lag: 0, in_flight: 0, waiting: 0, members: found.members };
    for (n, low, high) in ends {
        let fresh = Tracker::at(*low);
        let tracker = progress.iter().find(|(m, _)| m == n).map_or(&fresh, |(_, tracker)| tracker);
        let (held, back) = tracker.count();
        stats.lag += tracker.lag(*high);
        stats.in_flight += held;
        stats.waiting += back;
    }
    // The brokers know one member of this process; it stands for all of its subscriptions.
    for hub in core.hubs(Some(topic)).iter().filter(|hub| hub.scope.group == stats.group) {
        let known = u64::from(hub.scope.mode == Mode::Shared);
        stats.members = (stats.members + hub.lock().seats.len() as u64).saturating_sub(known);
    }
    Ok(stats)
}
