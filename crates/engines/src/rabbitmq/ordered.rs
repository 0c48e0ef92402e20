//! Order: a partition has one owner, who has its turn in hand, and lets its messages out through a gate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use linchpin_core::bus::Gate;
use linchpin_core::{Result, Timestamp};
use tokio::time::{Instant, sleep};

use super::admin::Admin;
use super::core::lock;
use super::driver::{Driver, Event, enrol, events};
use super::error;
use super::link::asked;
use super::member::Member;
use super::message::Stored;
use super::notes::{Fact, Facts};
use super::source::Source;
use super::state::{Held, Parcel};

/// How often a member looks whether its share has changed.
const SHARE: Duration = Duration::from_millis(200);
/// How long after a change of members each keeps to what all can have, so that none has two more than another.
const CHANGE: Duration = Duration::from_millis(300);
/// The pause between two looks at what must end soon.
const SOON: Duration = Duration::from_millis(5);
/// The most that is read of one partition: behind it, messages wait in the queue for one of these to be settled.
const AHEAD: usize = 1024;

/// A partition in the hands of this member.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) source: Arc<Source>,
    pub(super) gate: Gate<Parcel>,
    pub(super) fence: u64,
    facts: Facts,
    /// It goes to another as soon as nothing of it is in hand.
    pub(super) leaving: bool,
    /// Messages in the gate that were handed out before.
    pub(super) failed: usize,
}

impl Owned {
    pub(super) fn new(
        source: Arc<Source>,
        order: linchpin_core::bus::Order,
        fence: u64,
        facts: Facts,
    ) -> Self {
        Self { source, gate: Gate::new(order), fence, facts, leaving: false, failed: 0 }
    }

    /// Messages that failed and wait in the gate: they aren't in hand, nor were they never handed out.
    pub(super) fn waiting(&self) -> usize {
        self.failed.min(self.gate.len())
    }
}

/// The turns a member waits for, and has.
#[derive(Debug, Default)]
pub(super) struct Turns {
    channel: Option<Channel>,
    waiting: Vec<u32>,
    came: Vec<(u32, u64)>,
    held: BTreeMap<u32, u64>,
    look_at: Option<Instant>,
    members: u64,
    changed_at: Option<Instant>,
    began_at: Option<Instant>,
}

impl Turns {
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.channel.is_some())
    }

    pub(super) fn came(&mut self, partition: u32, tag: u64) {
        self.came.push((partition, tag));
    }

    fn end(&mut self) -> Option<Channel> {
        let channel = self.channel.take();
        *self = Self::default();
        channel
    }
}

impl Driver {
    fn slot(&self) -> Result<super::names::Slot> {
        self.member.slot.clone().ok_or_else(|| error::missing(&self.member.topic.name))
    }

    pub(super) fn fence(&self, partition: u32) -> u64 {
        lock(&self.member.state).owned.get(&partition).map_or(0, |owned| owned.fence)
    }

    /// How often a message was handed out, and when it is due.
    pub(super) fn history(&self, partition: u32, stored: &Stored, returns: u32) -> (u32, Option<Timestamp>) {
        if self.member.slot.is_none() {
            return (stored.attempts, stored.due);
        }
        let mut state = lock(&self.member.state);
        let Some(owned) = state.owned.get_mut(&partition) else {
            return (stored.attempts.saturating_add(returns), stored.due);
        };
        let history = owned.facts.of(stored, returns);
        if returns == 0 {
            owned.facts.clear();
        }
        history
    }

    /// Whoever lost its turns has lost its partitions, and the other way round.
    pub(super) fn prune_ordered(&mut self) {
        let mut state = lock(&self.member.state);
        let lost = |owned: &Owned| owned.source.is_broken();
        let mut broken: Vec<u32> = state.owned.iter().filter(|(_, o)| lost(o)).map(|(p, _)| *p).collect();
        let turns_lost = self.turns.channel.as_ref().is_some_and(|channel| !channel.status().connected());
        if turns_lost {
            broken = state.owned.keys().copied().collect();
        }
        for partition in &broken {
            if let Some(owned) = state.owned.get(partition) {
                let source = owned.source.clone();
                if !source.is_broken() {
                    source.fail();
                }
                state.lose(source.id);
            }
        }
        drop(state);
        if turns_lost {
            self.turns.end();
        }
        for partition in broken {
            self.pass_on(partition);
        }
    }

    /// Gives a turn back, without waiting.
    fn pass_on(&mut self, partition: u32) {
        if let (Some(tag), Some(channel)) = (self.turns.held.remove(&partition), self.turns.channel.clone()) {
            let options = BasicNackOptions { requeue: true, multiple: false };
            tokio::spawn(async move { channel.basic_nack(tag, options).await });
        }
    }

    pub(super) async fn tend_ordered(&mut self, asks: bool, idle: bool) -> Result<()> {
        if !asks {
            return if idle { self.rest_ordered().await } else { Ok(()) };
        }
        if self.turns.channel.is_none() {
            self.want().await?;
        }
        if self.turns.look_at.is_none_or(|at| Instant::now() >= at) {
            self.share().await?;
        }
        for (partition, tag) in std::mem::take(&mut self.turns.came) {
            self.turn_came(partition, tag).await?;
        }
        let patience = self.turns.began_at.is_none_or(|at| at.elapsed() > 2 * CHANGE);
        if patience || !lock(&self.member.state).owned.is_empty() {
            self.begin_look();
        }
        Ok(())
    }

    /// Tells the others that it wants partitions.
    async fn want(&mut self) -> Result<()> {
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
    async fn share(&mut self) -> Result<()> {
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

    fn allowed(&self, parts: usize, owned: usize) -> usize {
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

    fn is_out(&self, partition: u32) -> bool {
        lock(&self.member.state).held.values().any(|held| held.parcel.partition == partition)
    }

    /// Waits in line for these partitions, and for no others.
    async fn wait_for(&mut self, partitions: Vec<u32>) -> Result<()> {
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

    async fn turn_came(&mut self, partition: u32, tag: u64) -> Result<()> {
        let owned = lock(&self.member.state).owned.len();
        self.turns.held.insert(partition, tag);
        if owned >= self.allowed(self.member.parts.len(), owned) {
            self.wait_for(Vec::new()).await?;
            self.pass_on(partition);
            return Ok(());
        }
        let taken = self.take_over(partition).await;
        if taken.is_err() {
            self.wait_for(Vec::new()).await?;
            self.pass_on(partition);
        }
        taken
    }

    /// Becomes the owner. The turn may come before the queues know that the owner before is gone: only when
    /// nobody reads them any more have they taken back, in order, what it had.
    async fn take_over(&mut self, partition: u32) -> Result<()> {
        let slot = self.slot()?;
        let (queue, notes) = (slot.queue(partition), slot.notes(partition));
        let mut admin = Admin::new(&self.member.link, self.member.core.config.timeout);
        loop {
            unread(&self.member, &mut admin, &notes).await?;
            unread(&self.member, &mut admin, &queue).await?;
            let (fence, facts) = self.member.take_notes(partition).await?;
            let source = self.member.source(queue.clone()).await?;
            let most = self.member.options.max_in_flight / self.member.parts.len().max(1);
            let most = u32::try_from(most.clamp(1, AHEAD)).unwrap_or(1);
            let Some((grant, consumer)) = source.grant(most).await? else { continue };
            if admin.sure_count(&queue).await?.is_none_or(|(_, readers)| readers != 1) {
                source.store(vec![self.member.farewell(partition, fence, Vec::new())?]).await?;
                source.close().await;
                continue;
            }
            let owned = Owned::new(source.clone(), self.member.options.order, fence, facts);
            lock(&self.member.state).owned.insert(partition, owned);
            self.streams.push(events(&source, grant, consumer));
            admin.close().await;
            return Ok(());
        }
    }

    /// Leaves a partition to others: everything unsettled goes back, in order, behind a note on each.
    ///
    /// That it goes back in order, what is on its way as well, takes that the channel ends with its consumer: what is on its way to
    /// one that was cancelled goes back first.
    async fn release(&mut self, partition: u32) -> Result<()> {
        let found = lock(&self.member.state).owned.get(&partition).map(|owned| owned.source.clone());
        let Some(source) = found else { return Ok(()) };
        let noted = self.note_all(partition, &source).await;
        lock(&self.member.state).lose(source.id);
        source.close().await;
        self.pass_on(partition);
        noted
    }

    async fn note_all(&mut self, partition: u32, source: &Arc<Source>) -> Result<()> {
        self.read_all().await?;
        let last = self.member.options.max_attempts - 1;
        let (fence, facts) = {
            let mut state = lock(&self.member.state);
            let mine = |held: &Held| held.parcel.source.id == source.id && !held.settling;
            let held: Vec<Held> = state.held.extract_if(|_, held| mine(held)).map(|(_, held)| held).collect();
            let Some(owned) = state.owned.get_mut(&partition) else { return Ok(()) };
            let time = Timestamp::now();
            let mut facts: Vec<Fact> = owned.facts.list();
            // The queue takes each back once more.
            let again = |parcel: &Parcel, attempts| {
                parcel.fact(attempts, parcel.returns + 1, parcel.stored.due.filter(|due| *due > time))
            };
            // A clean leave never uses up the last attempt.
            facts.extend(held.iter().map(|held| again(&held.parcel, held.attempt().min(last))));
            let inside = owned.gate.drain();
            facts.extend(inside.iter().map(|(_, parcel)| again(parcel, parcel.attempts)));
            (owned.fence, facts)
        };
        source.store(vec![self.member.farewell(partition, fence, facts)?]).await
    }

    /// Leaves the partitions of which nothing is in hand to others, while nobody asks.
    async fn rest_ordered(&mut self) -> Result<()> {
        if self.turns.channel.is_none() {
            return Ok(());
        }
        self.wait_for(Vec::new()).await?;
        for (partition, _) in std::mem::take(&mut self.turns.came) {
            self.pass_on(partition);
        }
        let owned: Vec<u32> = lock(&self.member.state).owned.keys().copied().collect();
        for partition in owned.into_iter().filter(|partition| !self.is_out(*partition)).collect::<Vec<_>>() {
            self.release(partition).await?;
        }
        if lock(&self.member.state).owned.is_empty() {
            self.stop_wanting().await;
        }
        Ok(())
    }

    async fn stop_wanting(&mut self) {
        if let Some(channel) = self.turns.end() {
            let within = self.member.core.config.timeout;
            // One that is gone is as good.
            let _ = tokio::time::timeout(within, channel.close(200, "done".into())).await;
        }
    }

    pub(super) async fn leave_all(&mut self) -> Result<()> {
        let owned: Vec<u32> = lock(&self.member.state).owned.keys().copied().collect();
        let mut left = Ok(());
        for partition in owned {
            left = left.and(self.release(partition).await);
        }
        self.stop_wanting().await;
        left
    }
}

/// Until a queue has no consumer.
async fn unread(member: &Member, admin: &mut Admin<'_>, queue: &str) -> Result<()> {
    let (started, within) = (Instant::now(), member.core.config.timeout);
    loop {
        match admin.sure_count(queue).await? {
            None => return Err(error::missing(&member.topic.name)),
            Some((_, 0)) => return Ok(()),
            Some(_) if started.elapsed() > within => return Err(error::late(within)),
            Some(_) => sleep(SOON).await,
        }
    }
}
