//! Moving and removing groups.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{Position, Start};
use linchpin_core::{Error, Kind, Result, Timestamp};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;

use super::client::{asker, blocking, native};
use super::core::Core;
use super::error::{map, of_code};
use super::hub::Hub;
use super::start;
use super::topic::{kafka_group, named};
use super::tracker::Tracker;

/// The pause before something is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// Moves a group: what this process has in hand at once, the rest as soon as no other process has it.
pub(super) async fn seek(core: &Arc<Core>, topic: &str, group: &str, to: Start) -> Result<()> {
    let known = core.look(topic, "seek").await?;
    let all: Vec<u32> = match to {
        Start::At(Position { partition, .. }) if partition >= known.options.partitions => {
            return Err(Error::new(Kind::Invalid, format!("partition {partition} doesn't exist"))
                .help(format!("the topic has {}, numbered from 0", known.options.partitions)));
        }
        Start::At(Position { partition, .. }) => vec![partition],
        _ => (0..known.options.partitions).collect(),
    };
    let (asker, kafka, timeout) = (core.control.asker.clone(), known.kafka.clone(), core.config.timeout);
    let mut targets = blocking("seek", move || start::resolve(&*asker, &kafka, &all, to, timeout)).await?;
    for hub in core.hubs(Some(topic)).into_iter().filter(|hub| hub.scope.group == group) {
        let moved = hub.seek(&targets).await?;
        targets.retain(|(n, _)| !moved.contains(n));
    }
    if targets.is_empty() {
        return Ok(());
    }
    elsewhere(
        core,
        &known.kafka,
        kafka_group(&core.config.prefix, topic, group),
        known.options.partitions,
        targets,
    )
    .await
}

/// Moves partitions that no process has in hand.
async fn elsewhere(
    core: &Arc<Core>,
    kafka: &str,
    group: String,
    partitions: u32,
    to: Vec<(u32, u64)>,
) -> Result<()> {
    let (config, kafka) = (core.config.clone(), kafka.to_owned());
    blocking("seek", move || {
        let asker = asker(&config, &group)?;
        let all = super::client::list(&kafka, 0..partitions);
        let there = start::committed(&asker, all, config.timeout)?;
        let fence = |n: u32| there.iter().find(|(m, _)| *m == n).map_or(0, |(_, tracker)| tracker.fence);
        let seek = Timestamp::now().as_microsecond().unsigned_abs();
        let mut trackers: Vec<_> = Vec::new();
        for n in 0..partitions {
            match to.iter().find(|(m, _)| *m == n) {
                Some((_, place)) => {
                    trackers.push((n, Tracker::moved(*place, fence(n), seek)));
                }
                // A new group begins at the oldest where it isn't told otherwise.
                None if there.is_empty() => {
                    let (_, low, _) = super::client::ends(&asker, &kafka, n, config.timeout, "seek")?;
                    trackers.push((n, Tracker::at(low)));
                }
                None => {}
            }
        }
        start::commit(&asker, &kafka, &trackers).map_err(|error| match error.kind() {
            Kind::Fenced => {
                Error::new(Kind::Conflict, format!("group {group:?} has members in other processes"))
                    .help("seek from the process that has them, or close them first")
            }
            _ => error,
        })
    })
    .await
}

impl Hub {
    /// Moves the partitions of this hub; says which they were.
    async fn seek(self: &Arc<Self>, targets: &[(u32, u64)]) -> Result<Vec<u32>> {
        let mut moved = Vec::new();
        let mine: Vec<_> = {
            let mut state = self.lock();
            let mine = targets.iter().copied().filter(|(n, _)| state.parts.contains_key(n));
            let mine: Vec<_> = mine.collect();
            for (n, _) in &mine {
                if let Some(part) = state.parts.get_mut(n) {
                    part.resting = true;
                }
                state.ground(*n);
            }
            mine
        };
        if mine.is_empty() {
            return Ok(moved);
        }
        let (hub, places) = (self.clone(), mine.clone());
        let sought = blocking("seek", move || hub.move_log(&places)).await;
        let version = {
            let mut state = self.lock();
            let seek = Timestamp::now().as_microsecond().unsigned_abs();
            for (n, place) in mine {
                let born = state.number();
                let Some(part) = state.parts.get_mut(&n) else { continue };
                part.resting = false;
                if sought.is_ok() {
                    let fence = part.tracker.fence;
                    part.reset(born, Tracker::moved(place, fence, seek));
                    moved.push(n);
                }
            }
            let version = state.version();
            self.commit(&mut state);
            version
        };
        sought?;
        self.through(version).await?;
        self.news.notify_waiters();
        Ok(moved)
    }

    fn move_log(&self, places: &[(u32, u64)]) -> Result<()> {
        let member = self.member().ok_or_else(super::core::closed)?;
        let deadline = Instant::now() + self.core.config.timeout;
        for (n, place) in places {
            let place = Offset::Offset(i64::try_from(*place).unwrap_or(i64::MAX));
            // A partition that was assigned a moment ago can't be moved yet.
            while let Err(error) =
                member.consumer.seek(&self.scope.kafka, native(*n), place, self.core.config.timeout)
            {
                if Instant::now() > deadline {
                    return Err(map(error, "seek"));
                }
                std::thread::sleep(AGAIN);
            }
        }
        Ok(())
    }
}

/// Ends the hubs of a group or of a whole topic.
async fn end(core: &Arc<Core>, topic: &str, group: Option<&str>, why: &Error) {
    let hubs = core.hubs(Some(topic)).into_iter();
    let hubs: Vec<_> = hubs.filter(|hub| group.is_none_or(|group| hub.scope.group == group)).collect();
    hubs.iter().for_each(|hub| hub.end(why.clone()));
    for hub in hubs {
        hub.gone(core.config.timeout).await;
    }
}

pub(super) async fn remove_group(core: &Arc<Core>, topic: &str, group: &str) -> Result<()> {
    let name = kafka_group(&core.config.prefix, topic, group);
    let gone = || {
        Error::new(Kind::NotFound, format!("topic {topic:?} has no group {group:?}"))
            .help("subscribe to the topic as that group to create it")
    };
    let found = core.control.groups(&name, "remove").await?;
    if !found.contains_key("") {
        return Err(gone());
    }
    end(core, topic, Some(group), &gone().engine(super::NAME)).await;
    delete_group(core, &name).await
}

async fn delete_group(core: &Arc<Core>, name: &str) -> Result<()> {
    let deadline = Instant::now() + core.config.timeout;
    loop {
        let answers = core.control.admin.delete_groups(&[name], &core.control.options()).await;
        let answer = answers.map_err(|e| map(e, "remove"))?.into_iter().next();
        let error = match answer {
            Some(Err((_, code))) => of_code(code, "remove"),
            _ => return Ok(()),
        };
        match error.kind() {
            Kind::NotFound => return Ok(()),
            // Those who leave are on their way.
            Kind::Conflict | Kind::Unavailable if Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await
            }
            _ => return Err(error),
        }
    }
}

/// Removes a topic with its groups, and what waits for its time.
pub(super) async fn remove_topic(core: &Arc<Core>, topic: &str, kafka: &str) -> Result<()> {
    let room = super::delay::waiting_room(topic);
    if let Ok(known) = core.known(&room, "remove").await {
        remove_one(core, &room, &known.kafka).await?;
        core.forget(&room);
    }
    remove_one(core, topic, kafka).await
}

async fn remove_one(core: &Arc<Core>, topic: &str, kafka: &str) -> Result<()> {
    let why = named(of_code(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition, "next"), topic);
    end(core, topic, None, &why).await;
    let groups = core.control.groups(&kafka_group(&core.config.prefix, topic, ""), "remove").await?;
    for (group, found) in groups {
        // Members of other processes learn of it from the brokers; their group goes with its commits.
        if found.members == 0 {
            delete_group(core, &kafka_group(&core.config.prefix, topic, &group)).await?;
        }
    }
    core.control.delete(kafka).await.map_err(|e| named(e, topic))
}
