//! What topics hold, and how far groups are.
//!
//! A queue tells how many messages wait in it. What members have in hand it keeps to itself: of that,
//! those of this process are known.

use std::sync::Arc;

use linchpin_core::bus::{GroupStats, TopicStats};
use linchpin_core::{Result, Timestamp};

use super::admin::Admin;
use super::book::{Entry, Group};
use super::core::{Core, lock};
use super::error;
use super::member::Member;
use super::names::{Slot, stage};
use super::topic::stages;

impl Core {
    pub(super) async fn stats(self: &Arc<Self>, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.check_open()?;
        let book = self.open_book().await?.book.clone();
        if let Some(name) = topic {
            let entry = book.topics.get(name).ok_or_else(|| error::missing(name))?;
            return Ok(vec![self.stats_of(name, entry).await?]);
        }
        let mut all = Vec::with_capacity(book.topics.len());
        for (name, entry) in &book.topics {
            all.push(self.stats_of(name, entry).await?);
        }
        Ok(all)
    }

    async fn stats_of(&self, name: &str, entry: &Entry) -> Result<TopicStats> {
        let mut admin = self.admin();
        let members = self.members();
        let mut groups = Vec::with_capacity(entry.groups.len());
        let mut messages = 0;
        if let Some(first) = entry.first {
            messages = ready(&mut admin, &self.names.slot(name, first), entry.partitions).await?;
        }
        for (group, found) in &entry.groups {
            let mine = members.iter().filter(|member| member.topic.name == name && member.group() == group);
            let stats = self.group_stats(&mut admin, name, entry, (group, found), mine.collect()).await?;
            messages = messages.max(stats.lag + stats.in_flight + stats.waiting);
            groups.push(stats);
        }
        let base = self.names.exchange(name);
        let delayed = staged(&mut admin, entry, |ttl| stage(&base, ttl)).await?;
        let options = entry.options();
        let oldest = oldest(members.iter().filter(|member| member.topic.name == name));
        admin.close().await;
        Ok(TopicStats { topic: name.to_owned(), options, messages, delayed, oldest, groups })
    }

    async fn group_stats(
        &self,
        admin: &mut Admin<'_>,
        topic: &str,
        entry: &Entry,
        (name, group): (&str, &Group),
        mine: Vec<&Arc<Member>>,
    ) -> Result<GroupStats> {
        let slot = self.names.slot(topic, group.slot);
        let lag = ready(admin, &slot, entry.partitions).await?;
        let members = admin.count(&slot.roster()).await?.map_or(0, |(_, consumers)| consumers);
        let waiting = staged(admin, entry, |ttl| slot.stage(ttl)).await?;
        let (mut in_flight, mut parked) = (0, 0);
        for member in mine {
            let state = lock(&member.state);
            let owned = state.owned.values();
            let failed: usize = owned.map(|owned| owned.waiting()).sum();
            parked += failed as u64;
            in_flight += (state.holds() - failed) as u64;
        }
        Ok(GroupStats { group: name.to_owned(), lag, in_flight, waiting: waiting + parked, members })
    }
}

async fn ready(admin: &mut Admin<'_>, slot: &Slot, partitions: u32) -> Result<u64> {
    let mut all = 0;
    for partition in 0..partitions {
        all += admin.count(&slot.queue(partition)).await?.map_or(0, |(messages, _)| messages);
    }
    Ok(all)
}

/// Messages in those of the stages that were made.
async fn staged(admin: &mut Admin<'_>, entry: &Entry, name: impl Fn(u64) -> String) -> Result<u64> {
    let mut all = 0;
    for stage in stages().map(name).filter(|name| entry.stages.contains(name)) {
        all += admin.count(&stage).await?.map_or(0, |(messages, _)| messages);
    }
    Ok(all)
}

/// Of what members of this process hold, the oldest; of what waits in queues nothing is known but how much it is.
fn oldest<'m>(members: impl Iterator<Item = &'m Arc<Member>>) -> Option<Timestamp> {
    let oldest = members.filter_map(|member| {
        let state = lock(&member.state);
        let held = state.held.values().map(|held| held.parcel.stored.time);
        held.chain(state.shelf.iter().map(|parcel| parcel.stored.time)).min()
    });
    oldest.min()
}
