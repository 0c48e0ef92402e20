//! A membership in a group of the memory bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::group::{Group, Hopeless};
use super::log::Log;
use super::{Shared, State, Topic, error};
use crate::bus::{Delivery, Origin, Receipt, Settle, SubscribeOptions, Subscription, TopicOptions};
use crate::bus::{dead_letter, dead_topic};
use crate::time::since;
use crate::{Error, Kind, Result, Timestamp};

#[derive(Debug)]
pub(super) struct MemorySubscription {
    shared: Arc<Shared>,
    topic: String,
    group: String,
    /// Tells the group from a later one of the same name.
    born: u64,
    member: u64,
    options: SubscribeOptions,
    closed: AtomicBool,
}

impl MemorySubscription {
    pub(super) fn open(shared: &Arc<Shared>, topic: &str, options: &SubscribeOptions) -> Result<Self> {
        let mut state = shared.lock();
        let now = shared.clock.now();
        let member = state.number();
        let there = state.topic(topic)?;
        there.log.release_due(now);
        options.check(there.options.partitions)?;
        let name = options.group.clone().unwrap_or_else(|| format!("lp-broadcast-{member}"));
        let new = || Group::new(&there.log, options.start, member);
        let group = there.groups.entry(name.clone()).or_insert_with(new);
        group.broadcast = options.group.is_none();
        group.join(member, &there.log, options, now)?;
        let born = group.born;
        Ok(Self {
            born,
            shared: shared.clone(),
            topic: topic.to_owned(),
            group: name,
            member,
            options: options.clone(),
            closed: AtomicBool::new(false),
        })
    }

    fn find<'a>(&self, state: &'a mut State) -> Result<(&'a mut Log, &'a mut Group)> {
        let Topic { log, groups, .. } = state.topic(&self.topic)?;
        let group = groups.get_mut(&self.group).filter(|group| group.born == self.born);
        let gone =
            || error(Kind::NotFound, format!("group {:?} of topic {:?} was removed", self.group, self.topic));
        Ok((log, group.ok_or_else(gone)?))
    }

    /// What can be handed out now, or how long until time alone may change that.
    fn poll(&self, max: usize) -> Result<(Vec<Delivery>, Option<Duration>)> {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        let mut last = state.last_number;
        let (log, group) = self.find(&mut state)?;
        log.release_due(now);
        let hopeless = group.expire(log, now);
        let number = || {
            last += 1;
            last
        };
        let taken = group.take(self.member, &self.options, max, log, now, number);
        let due = group.next_due(now).into_iter().chain(log.next_due()).min();
        state.last_number = last;
        if !hopeless.is_empty() {
            self.bury(&mut state, hopeless, now);
            self.shared.news.notify_waiters();
        }
        Ok((taken?, due.map(|due| since(due, now))))
    }

    /// Moves hopeless messages to their dead-letter topic. Broadcast subscribers leave none behind.
    fn bury(&self, state: &mut State, hopeless: Vec<Hopeless>, now: Timestamp) {
        let Some(group) = self.options.group.as_deref() else { return };
        for Hopeless { position, attempts, reason } in hopeless {
            let Some((origin, offset)) = state.topic(&self.topic).ok().zip(position.offset) else { continue };
            let Some(stored) = origin.log.get(position.partition, offset) else { continue };
            let options =
                TopicOptions { retention_age: None, retention_length: None, ..origin.options.clone() };
            let origin = Origin { topic: &self.topic, group, position, attempts };
            let letter = dead_letter(stored.message.clone(), origin, &reason, now);
            let grave = dead_topic(&self.topic, group);
            let dead = state.topics.entry(grave).or_insert_with(|| Topic::new(options));
            let partition = position.partition % dead.log.partitions();
            dead.log.append(partition, letter, now);
        }
    }

    fn settle_all(&self, batch: Vec<(Receipt, Settle)>) -> Result<Vec<Result<()>>> {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        let (log, group) = self.find(&mut state)?;
        let mut hopeless = Vec::new();
        let settled = batch.into_iter().map(|(receipt, settle)| {
            let buried = group.settle(self.member, receipt, settle, log, now);
            buried.map(|one| hopeless.extend(one)).map_err(|e| e.engine("memory").op("settle"))
        });
        let settled = settled.collect();
        self.bury(&mut state, hopeless, now);
        Ok(settled)
    }

    fn leave(&self, release: bool) {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        if let Ok((log, group)) = self.find(&mut state) {
            group.leave(self.member, release, log, now);
        }
        if self.options.group.is_none()
            && let Ok(topic) = state.topic(&self.topic)
        {
            topic.groups.remove(&self.group);
        }
        self.shared.news.notify_waiters();
    }
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        loop {
            let news = self.shared.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.closed.load(Ordering::Acquire) {
                return Err(error(Kind::Closed, "the subscription is closed").op("next"));
            }
            let (out, pause) = self.poll(max.max(1)).map_err(|e| e.op("next"))?;
            if !out.is_empty() || Instant::now() >= deadline {
                return Ok(out);
            }
            let until = pause.map_or(deadline, |pause| deadline.min(Instant::now() + pause));
            let _ = timeout_at(until, news).await;
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let count = batch.len();
        let settled = self.settle_all(batch).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::Fenced, "the group is gone").source(e),
            _ => e,
        });
        self.shared.news.notify_waiters();
        settled.unwrap_or_else(|e| vec![Err(e.engine("memory").op("settle")); count])
    }

    async fn close(&self, _within: Duration) -> Result<()> {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.leave(true);
        }
        Ok(())
    }
}

/// A death: what is unsettled stays away until its lease runs out.
impl Drop for MemorySubscription {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.leave(false);
        }
    }
}
