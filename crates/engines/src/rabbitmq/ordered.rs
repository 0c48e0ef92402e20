//! Order: a partition has one owner, who has its turn in hand, and lets its messages out through a gate.

use std::sync::Arc;
use std::time::Duration;

use linchpin_core::bus::Gate;
use linchpin_core::{Result, Timestamp};
use tokio::time::{Instant, sleep};

use super::admin::Admin;
use super::core::lock;
use super::driver::{Driver, events};
use super::error;
use super::member::Member;
use super::message::Stored;
use super::notes::{Fact, Facts};
use super::source::Source;
use super::state::{Held, Parcel};

/// How long after a change of members each keeps to what all can have, so that none has two more than another.
pub(super) const CHANGE: Duration = Duration::from_millis(300);
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

impl Driver {
    pub(super) fn slot(&self) -> Result<super::names::Slot> {
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
    pub(super) async fn release(&mut self, partition: u32) -> Result<()> {
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
        for (partition, tag) in std::mem::take(&mut self.turns.came) {
            self.turns.held.insert(partition, tag);
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
