//! Retention: what every group settled, and is too old or too much, goes.

use std::collections::VecDeque;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::try_join_all;
use linchpin_core::{Kind, Result};
use tokio::time::sleep;

use super::core::{Core, lock};
use super::entry::EntryId;
use super::error::map;
use super::group::BROADCAST;
use super::script::{Call, OLDEST};
use super::topic::Known;

/// Entries of a partition that are looked at in one step.
const STEP: usize = 1_000;
/// How often each process looks after the topics it uses.
const EVERY: Duration = Duration::from_secs(10);

/// What of one partition may go, oldest first.
struct Part {
    partition: u32,
    settled: VecDeque<EntryId>,
    /// The last one that goes.
    cut: Option<EntryId>,
    /// Whether there may be more than was looked at.
    full: bool,
}

impl Core {
    pub(super) async fn trim(&self, topic: &str) -> Result<u64> {
        let known = self.look_up(topic, "trim").await?;
        let mut gone = 0;
        loop {
            let (removed, more) = self.trim_step(&known).await?;
            gone += removed;
            if !more || removed == 0 {
                return Ok(gone);
            }
        }
    }

    async fn trim_step(&self, topic: &Known) -> Result<(u64, bool)> {
        let options = &topic.options;
        if options.retention_age.is_none() && options.retention_length.is_none() {
            return Ok((0, false));
        }
        let asking = (0..options.partitions).map(|n| async move {
            let call = Call::new(&OLDEST).key(self.keys.stream(&topic.name, n)).number(STEP);
            self.link.call::<(u64, u64, Vec<String>)>(&call, "trim").await
        });
        let answers = try_join_all(asking).await?;
        let total: u64 = answers.iter().map(|(_, length, _)| length).sum();
        let now = answers.iter().map(|(now, ..)| *now).max().unwrap_or(0);
        let mut parts: Vec<Part> = (0..)
            .zip(answers)
            .map(|(partition, (_, _, ids))| Part {
                partition,
                full: ids.len() == STEP,
                settled: ids.iter().filter_map(|id| EntryId::parse(id.as_bytes())).collect(),
                cut: None,
            })
            .collect();
        let surplus = options.retention_length.map_or(0, |keep| total.saturating_sub(keep));
        let age = options.retention_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        choose(&mut parts, surplus, age.map(|age| now.saturating_sub(age)));
        let more = parts.iter().any(|part| part.full);
        let cutting = parts.iter().filter_map(|part| {
            let cut = part.cut?;
            let mut cmd = redis::cmd("XTRIM");
            cmd.arg(self.keys.stream(&topic.name, part.partition))
                .arg("MINID")
                .arg("=")
                .arg(cut.after().to_string());
            Some(async move {
                let answer = self.link.command(&cmd, "trim").await?;
                redis::from_redis_value::<u64>(answer).map_err(|e| map(e.into(), "trim"))
            })
        });
        Ok((try_join_all(cutting).await?.into_iter().sum(), more))
    }

    /// Removes the groups of broadcast subscribers that are gone.
    async fn sweep(&self, topic: &Known) -> Result<()> {
        for (group, born) in self.groups_of(&topic.name, "trim").await? {
            if group.starts_with(BROADCAST) && self.living(&topic.name, &group).await? == 0 {
                self.drop_group(topic, &group, born.trim_start_matches('?')).await?;
            }
        }
        Ok(())
    }
}

/// Chooses the oldest of all: as many as are too many, and those stored before `before`, in milliseconds.
fn choose(parts: &mut [Part], mut surplus: u64, before: Option<u64>) {
    loop {
        // Beyond what was looked at of one partition may lie what is older than the next of another.
        if surplus > 0 && parts.iter().any(|part| part.full && part.settled.is_empty()) {
            return;
        }
        let oldest = parts.iter_mut().filter(|part| !part.settled.is_empty());
        let Some(part) = oldest.min_by_key(|part| part.settled.front().copied()) else { return };
        let Some(id) = part.settled.front().copied() else { return };
        if surplus == 0 && before.is_none_or(|before| id.ms >= before) {
            return;
        }
        surplus = surplus.saturating_sub(1);
        part.cut = Some(id);
        part.settled.pop_front();
    }
}

/// Looks after the topics this bus uses, until it is gone.
pub(super) async fn keep(core: Weak<Core>) {
    loop {
        sleep(EVERY).await;
        let Some(core) = core.upgrade() else { return };
        let topics: Vec<_> = lock(&core.topics).values().cloned().collect();
        for topic in topics {
            let looked = async {
                core.trim(&topic.name).await?;
                core.sweep(&topic).await
            };
            match looked.await {
                Err(error) if error.kind() != Kind::NotFound => {
                    tracing::warn!(%error, topic = topic.name, "retention is late");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(partition: u32, times: &[u64]) -> Part {
        let settled = times.iter().map(|ms| EntryId { ms: *ms, seq: 0 }).collect();
        Part { partition, settled, cut: None, full: false }
    }

    fn cuts(parts: &[Part]) -> Vec<Option<u64>> {
        parts.iter().map(|part| part.cut.map(|id| id.ms)).collect()
    }

    #[test]
    fn the_oldest_of_all_partitions_go() {
        let mut parts = [part(0, &[1, 4, 5]), part(1, &[2, 3, 9])];
        choose(&mut parts, 3, None);
        assert_eq!(cuts(&parts), [Some(1), Some(3)]);
        let mut parts = [part(0, &[1, 4, 5]), part(1, &[6])];
        choose(&mut parts, 0, Some(5));
        assert_eq!(cuts(&parts), [Some(4), None]);
        let mut parts = [part(0, &[1]), part(1, &[])];
        choose(&mut parts, 5, None);
        assert_eq!(cuts(&parts), [Some(1), None]);
    }

    #[test]
    fn what_was_not_looked_at_may_be_older() {
        let mut parts = [Part { full: true, ..part(0, &[1, 2]) }, part(1, &[5, 6])];
        choose(&mut parts, 4, None);
        assert_eq!(cuts(&parts), [Some(2), None]);
    }
}
