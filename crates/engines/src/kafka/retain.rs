//! Retention: records that every group has settled and the topic's options don't keep are deleted.

use std::sync::Arc;
use std::time::Duration;

use linchpin_core::{Result, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Ends, blocking, native};
use super::core::Core;
use super::error::map;
use super::start;
use super::topic::{Known, kafka_group};

/// How often the topics that a bus uses are trimmed.
const EVERY: Duration = Duration::from_secs(60);

/// Trims the topics in use now and then, as long as the bus is there.
pub(super) fn spawn(core: &Arc<Core>) {
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let Some(core) = core.upgrade().filter(|core| !core.is_closed()) else { return };
            for topic in core.in_use() {
                if let Err(error) = trim(&core, &topic).await {
                    tracing::debug!(%error, topic, "not trimmed");
                }
            }
        }
    });
}

/// Deletes what may go; says how many messages went.
pub(super) async fn trim(core: &Arc<Core>, topic: &str) -> Result<u64> {
    let known = core.look(topic, "trim").await?;
    if known.options.retention_age.is_none() && known.options.retention_length.is_none() {
        return Ok(0);
    }
    let ends = core.control.ends(&known.kafka, known.options.partitions, "trim").await?;
    let wanted = unwanted(core, &known, &ends).await?;
    let settled = settled(core, topic, &known, &ends).await?;
    let mut cut = TopicPartitionList::new();
    let mut gone = 0;
    for (((n, low, _), wanted), settled) in ends.iter().zip(wanted).zip(settled) {
        let to = wanted.min(settled);
        if to > *low {
            gone += to - low;
            let to = Offset::Offset(i64::try_from(to).unwrap_or(i64::MAX));
            cut.add_partition_offset(&known.kafka, native(*n), to).map_err(|e| map(e, "trim"))?;
        }
    }
    if gone > 0 {
        let done = core.control.admin.delete_records(&cut, &core.control.options()).await;
        let done = done.map_err(|e| map(e, "trim"))?;
        for element in done.elements() {
            element.error().map_err(|e| map(e, "trim"))?;
        }
    }
    Ok(gone)
}

/// Up to where each partition was settled by every group.
async fn settled(core: &Arc<Core>, topic: &str, known: &Known, ends: &Ends) -> Result<Vec<u64>> {
    let mut settled: Vec<u64> = ends.iter().map(|(_, _, high)| *high).collect();
    let beginning = kafka_group(&core.config.prefix, topic, "");
    for group in core.control.groups(&beginning, "trim").await?.into_keys() {
        if group.starts_with("lp-broadcast-") {
            continue;
        }
        let name = format!("{beginning}{group}");
        let progress = core.control.progress(&known.kafka, name, known.options.partitions, "trim").await?;
        for ((n, low, _), settled) in ends.iter().zip(&mut settled) {
            let base = progress.iter().find(|(m, _)| m == n).map_or(*low, |(_, tracker)| tracker.base());
            *settled = (*settled).min(base);
        }
    }
    Ok(settled)
}

/// Up to where the topic's options don't keep each partition, settled or not.
async fn unwanted(core: &Arc<Core>, known: &Known, ends: &Ends) -> Result<Vec<u64>> {
    let mut unwanted: Vec<u64> = ends.iter().map(|(_, low, _)| *low).collect();
    if let Some(age) = known.options.retention_age {
        let since = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        let places = at_time(core, known, since.as_millisecond()).await?;
        unwanted.iter_mut().zip(places).for_each(|(unwanted, place)| *unwanted = (*unwanted).max(place));
    }
    if let Some(keep) = known.options.retention_length {
        let places = surplus(core, known, ends, keep).await?;
        unwanted.iter_mut().zip(places).for_each(|(unwanted, place)| *unwanted = (*unwanted).max(place));
    }
    Ok(unwanted)
}

/// The offsets of the first messages stored at this time or later.
async fn at_time(core: &Arc<Core>, known: &Known, millis: i64) -> Result<Vec<u64>> {
    let (asker, kafka, timeout) = (core.control.asker.clone(), known.kafka.clone(), core.config.timeout);
    let all: Vec<u32> = (0..known.options.partitions).collect();
    let time = linchpin_core::bus::Start::Time(linchpin_core::time::from_millis(millis));
    let places = blocking("trim", move || start::resolve(&*asker, &kafka, &all, time, timeout)).await?;
    Ok(places.into_iter().map(|(_, place)| place).collect())
}

/// Where the oldest messages beyond `keep` end: a moment is sought before which there are as many as must go.
async fn surplus(core: &Arc<Core>, known: &Known, ends: &Ends, keep: u64) -> Result<Vec<u64>> {
    let count = |places: &[u64]| -> u64 {
        ends.iter().zip(places).map(|((_, low, _), place)| place.saturating_sub(*low)).sum()
    };
    let lows: Vec<u64> = ends.iter().map(|(_, low, _)| *low).collect();
    let highs: Vec<u64> = ends.iter().map(|(_, _, high)| *high).collect();
    let surplus = count(&highs).saturating_sub(keep);
    if surplus == 0 {
        return Ok(lows);
    }
    let (mut before, mut after) = (0, Timestamp::now().as_millisecond() + 3_600_000);
    let (mut fewer, mut more) = (lows, highs);
    while after - before > 1 && fewer.len() > 1 {
        let middle = before + (after - before) / 2;
        let places = at_time(core, known, middle).await?;
        if count(&places) <= surplus {
            (before, fewer) = (middle, places);
        } else {
            (after, more) = (middle, places);
        }
    }
    // Those of the same millisecond go in the order of their partitions.
    let mut left = surplus - count(&fewer).min(surplus);
    for (place, most) in fewer.iter_mut().zip(&more) {
        let step = left.min(most.saturating_sub(*place));
        *place += step;
        left -= step;
    }
    Ok(fewer)
}
