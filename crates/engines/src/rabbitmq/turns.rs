//! Turns: who has a partition's in hand owns it. Members that want partitions wait for as many as are their share.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use linchpin_core::Result;
use tokio::time::Instant;

use super::core::lock;
use super::driver::{Driver, Event, enrol};
use super::error;
use super::link::asked;
use super::ordered::CHANGE;

/// How often a member looks whether its share has changed.
const SHARE: Duration = Duration::from_millis(200);

/// The turns a member waits for, and has.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) channel: Option<Channel>,
    pub(super) waiting: Vec<u32>,
    pub(super) came: Vec<(u32, u64)>,
    pub(super) held: BTreeMap<u32, u64>,
    pub(super) look_at: Option<Instant>,
    pub(super) members: u64,
    pub(super) changed_at: Option<Instant>,
    pub(super) began_at: Option<Instant>,
}

impl Turns {
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.channel.is_some())
    }

    pub(super) fn came(&mut self, partition: u32, tag: u64) {
        self.came.push((partition, tag));
    }

    pub(super) fn end(&mut self) -> Option<Channel> {
        let channel = self.channel.take();
        *self = Self::default();
        channel
    }
}

impl Driver {
    /// Gives a turn back, without waiting.
    pub(super) fn pass_on(&mut self, partition: u32) {
        if let (Some(tag), Some(channel)) = (self.turns.held.remove(&partition), self.turns.channel.clone()) {
            let options = BasicNackOptions { requeue: true, multiple: false };
            tokio::spawn(async move { channel.basic_nack(tag, options).await });
        }
    }

    /// Tells the others that it wants partitions.
    pub(super) async fn want(&mut self) -> Result<()> {
        let channel = self.member.link.channel().await?;
        let within = self.member.core.config.timeout;
        asked(within, channel.basic_qos(1, BasicQosOptions::default())).await?;
        let wanting = enrol(&channel, &self.slot()?.wanting(), within).await?;
        // That it ends is heard with the turns.
        self.streams.push(wanting.filter_map(async |_| None).boxed());
        let began_at = Some(Instant::now());
        self.turns = Turns { channel: Some(channel), began_at, ..Turns::default() };
        Ok(())
    }

    /// Keeps what is its share, waits for what may become its share, leaves what isn't any more.
    pub(super) async fn share(&mut self) -> Result<()> {
        let wanting = self.slot()?.wanting();
        let members = self.member.core.admin().count(&wanting).await?;
        let members = members.ok_or_else(|| error::missing(&self.member.topic.name))?.1.max(1);
        let now = Instant::now();
        self.turns.look_at = Some(now + SHARE);
        if members != self.turns.members {
            (self.turns.members, self.turns.changed_at) = (members, Some(now));
        }
        let parts = self.member.parts.clone();
        let owned: Vec<u32> = lock(&self.member.state).owned.keys().copied().collect();
        let allowed = self.allowed(parts.len(), owned.len());
        let surplus: Vec<u32> =
            owned.iter().rev().take(owned.len().saturating_sub(allowed)).copied().collect();
        if owned.len() >= allowed {
            self.wait_for(Vec::new()).await?;
        }
        for partition in owned {
            let out = self.is_out(partition);
            let leaving = surplus.contains(&partition);
            if let Some(owned) = lock(&self.member.state).owned.get_mut(&partition) {
                owned.leaving = leaving;
            }
            if leaving && !out {
                self.release(partition).await?;
            }
        }
        let owned = lock(&self.member.state).owned.len();
        if owned < allowed {
            let held = &self.turns.held;
            let missing = parts.into_iter().filter(|p| !held.contains_key(p)).collect();
            self.wait_for(missing).await?;
        }
        Ok(())
    }

    pub(super) fn allowed(&self, parts: usize, owned: usize) -> usize {
        let members = usize::try_from(self.turns.members).unwrap_or(usize::MAX).max(1);
        let (base, extra) = (parts / members, parts % members);
        let settled = self.turns.changed_at.is_none_or(|at| at.elapsed() > CHANGE);
        let allowed = match (extra, base) {
            (0, _) => base,
            (_, 0) if owned > 0 || settled => 1,
            _ if settled => base + 1,
            _ => base,
        };
        allowed.min(self.member.options.max_in_flight)
    }

    pub(super) fn is_out(&self, partition: u32) -> bool {
        lock(&self.member.state).held.values().any(|held| held.parcel.partition == partition)
    }

    /// Waits in line for these partitions, and for no others.
    pub(super) async fn wait_for(&mut self, partitions: Vec<u32>) -> Result<()> {
        let Some(channel) = self.turns.channel.clone() else { return Ok(()) };
        let (slot, within) = (self.slot()?, self.member.core.config.timeout);
        for partition in std::mem::take(&mut self.turns.waiting) {
            if partitions.contains(&partition) {
                self.turns.waiting.push(partition);
                continue;
            }
            let tag = partition.to_string().as_str().into();
            asked(within, channel.basic_cancel(tag, BasicCancelOptions::default())).await?;
        }
        for partition in partitions {
            if self.turns.waiting.contains(&partition) {
                continue;
            }
            let (queue, tag) = (slot.turn(partition), partition.to_string());
            let options = BasicConsumeOptions::default();
            let consuming = channel.basic_consume(
                queue.as_str().into(),
                tag.as_str().into(),
                options,
                FieldTable::default(),
            );
            let turns = asked(within, consuming).await?;
            self.turns.waiting.push(partition);
            let came = turns.filter_map(move |came| async move {
                came.ok().map(|delivery| Event::Turn(partition, delivery.delivery_tag))
            });
            self.streams.push(came.boxed());
        }
        Ok(())
    }

    pub(super) async fn stop_wanting(&mut self) {
        if let Some(channel) = self.turns.end() {
            let within = self.member.core.config.timeout;
            // One that is gone is as good.
            let _ = tokio::time::timeout(within, channel.close(200, "done".into())).await;
        }
    }
}
