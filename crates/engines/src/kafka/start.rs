//! Where groups begin, and what their commits say.

use std::time::Duration;

use linchpin_core::bus::Start;
use linchpin_core::{Kind, Result};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ends, list, native, offset};
use super::error::map;
use super::hub::Scope;
use super::tracker::Tracker;

/// The offset of `start` in each of `partitions`.
pub(super) fn resolve<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    kafka: &str,
    partitions: &[u32],
    start: Start,
    timeout: Duration,
) -> Result<Vec<(u32, u64)>> {
    let found = partitions.iter().map(|n| ends(consumer, kafka, *n, timeout, "subscribe"));
    let found: Vec<_> = found.collect::<Result<_>>()?;
    let by_time = match start {
        Start::Time(time) => {
            let mut asked = list(kafka, partitions.iter().copied());
            asked
                .set_all_offsets(Offset::Offset(time.as_millisecond().max(0)))
                .and_then(|()| consumer.offsets_for_times(asked, timeout))
                .map_err(|e| map(e, "subscribe"))?
        }
        _ => TopicPartitionList::new(),
    };
    let place = |(n, low, high): (u32, u64, u64)| {
        let place = match start {
            Start::Oldest => low,
            Start::Newest => high,
            Start::At(at) if at.partition == n => at.offset.unwrap_or(low).clamp(low, high),
            Start::At(_) => low,
            Start::Time(_) => match by_time.find_partition(kafka, native(n)).map(|e| e.offset()) {
                Some(Offset::Offset(found)) => offset(found),
                _ => high,
            },
        };
        (n, place)
    };
    Ok(found.into_iter().map(place).collect())
}

/// What the consumer's group has committed of these partitions; those without a commit are left out.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    asked: TopicPartitionList,
    timeout: Duration,
) -> Result<Vec<(u32, Tracker)>> {
    let answer = consumer.committed_offsets(asked, timeout).map_err(|e| map(e, "subscribe"))?;
    let mut found = Vec::new();
    for element in answer.elements() {
        element.error().map_err(|e| map(e, "subscribe"))?;
        if let Offset::Offset(at) = element.offset() {
            let n = u32::try_from(element.partition()).unwrap_or_default();
            found.push((n, Tracker::decode(offset(at), element.metadata())));
        }
    }
    Ok(found)
}

/// Commits trackers for a group without living members.
pub(super) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    kafka: &str,
    trackers: &[(u32, Tracker)],
) -> Result<()> {
    let mut tpl = TopicPartitionList::new();
    for (n, tracker) in trackers {
        let mut element = tpl.add_partition(kafka, native(*n));
        let place = Offset::Offset(i64::try_from(tracker.base()).unwrap_or(i64::MAX));
        element.set_offset(place).map_err(|e| map(e, "commit"))?;
        element.set_metadata(tracker.encode());
    }
    consumer.commit(&tpl, CommitMode::Sync).map_err(|e| map(e, "commit"))
}

/// Lets a group that has no commits begin at `start`. One that has living members began already.
pub(super) fn begin_group<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    scope: &Scope,
    start: Start,
    timeout: Duration,
) -> Result<()> {
    let all: Vec<u32> = (0..scope.partitions).collect();
    if !committed(consumer, list(&scope.kafka, all.iter().copied()), timeout)?.is_empty() {
        return Ok(());
    }
    let starts = resolve(consumer, &scope.kafka, &all, start, timeout)?;
    let trackers: Vec<_> = starts.into_iter().map(|(n, place)| (n, Tracker::at(place))).collect();
    match commit(consumer, &scope.kafka, &trackers) {
        Err(error) if error.kind() != Kind::Fenced => Err(error),
        _ => Ok(()),
    }
}
