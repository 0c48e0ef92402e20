//! What topics hold.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use linchpin_core::bus::{GroupStats, TopicStats};
use linchpin_core::{Kind, Result};
use redis::from_redis_value;

use super::core::Core;
use super::entry::EntryId;
use super::error::map;
use super::group::BROADCAST;
use super::script::Call;
use super::topic::Known;

/// Messages, delayed, the oldest id, and name, lag, in hand and waiting of each group.
type Part = (u64, u64, String, Vec<(String, u64, u64, u64)>);

impl Core {
    pub(super) async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.check_open().map_err(|e| e.op("stats"))?;
        if let Some(topic) = topic {
            let known = self.look_up(topic, "stats").await?;
            return Ok(vec![self.stats_of(&known).await?]);
        }
        let mut all = Vec::new();
        for name in self.catalogue().await? {
            match self.look_up(&name, "stats").await {
                Ok(known) => all.push(self.stats_of(&known).await?),
                // Removed meanwhile, or not complete.
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// The names of all topics, in order.
    pub(super) async fn catalogue(&self) -> Result<Vec<String>> {
        let mut cmd = redis::cmd("SMEMBERS");
        cmd.arg(self.keys.catalogue());
        let answer = self.link.command(&cmd, "stats").await?;
        let mut names: Vec<String> = from_redis_value(answer).map_err(|e| map(e.into(), "stats"))?;
        names.sort_unstable();
        Ok(names)
    }

    async fn stats_of(&self, topic: &Known) -> Result<TopicStats> {
        let asking = (0..topic.options.partitions).map(|n| async move {
            let call = Call::new(self.form.scripts.stats).key(self.keys.stream(&topic.name, n));
            let call = call.key(self.keys.delayed(&topic.name, n)).key(self.keys.record(&topic.name, n));
            self.link.call::<Part>(&call, "stats").await
        });
        let parts = try_join_all(asking).await?;
        let mut stats = TopicStats {
            topic: topic.name.clone(),
            options: topic.options.clone(),
            messages: 0,
            delayed: 0,
            oldest: None,
            groups: Vec::new(),
        };
        let mut groups: BTreeMap<String, GroupStats> = BTreeMap::new();
        for (messages, delayed, oldest, theirs) in parts {
            stats.messages += messages;
            stats.delayed += delayed;
            let time = EntryId::parse(oldest.as_bytes()).map(EntryId::time);
            stats.oldest = stats.oldest.into_iter().chain(time).min();
            for (group, lag, in_flight, waiting) in theirs {
                let sum = groups.entry(group.clone()).or_insert_with(|| GroupStats {
                    group,
                    lag: 0,
                    in_flight: 0,
                    waiting: 0,
                    members: 0,
                });
                sum.lag += lag;
                sum.in_flight += in_flight;
                sum.waiting += waiting;
            }
        }
        for (_, mut group) in groups.into_iter().filter(|(name, _)| !name.starts_with(BROADCAST)) {
            group.members = self.living(&topic.name, &group.group).await?;
            stats.groups.push(group);
        }
        Ok(stats)
    }

    /// How many members of a group are alive, by the server's clock.
    pub(super) async fn living(&self, topic: &str, group: &str) -> Result<u64> {
        let mut cmd = redis::cmd("HVALS");
        cmd.arg(self.keys.members(topic, group));
        let answer = self.link.command(&cmd, "stats").await?;
        let values: Vec<String> = from_redis_value(answer).map_err(|e| map(e.into(), "stats"))?;
        let now = self.link.now("stats").await?;
        let due = |value: &String| value.split('|').next().and_then(|due| due.parse::<i64>().ok());
        Ok(values.iter().filter(|value| due(value).is_some_and(|due| due > now)).count() as u64)
    }
}
