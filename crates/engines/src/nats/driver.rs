//! A member's own task: tells that it lives, owns and hands over partitions, and leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use linchpin_core::bus::Order;
use linchpin_core::time::from_millis;
use linchpin_core::{Kind, Result};
use tokio::time::{Instant, sleep_until};

use super::hold::{Hold, Item};
use super::ledger::{Ledger, NOBODY};
use super::member::{Flight, Member, State};
use super::reader::Reader;
use super::roster::{Roster, Seat};

/// Messages read ahead of what is asked for, in each partition.
const AHEAD: usize = 512;
/// A member that nobody asked for messages for this long leaves its partitions to others.
const IDLE: Duration = Duration::from_millis(50);
/// So does one that competes and has had no room for this long.
const FULL: Duration = IDLE;
/// The longest time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time between two signs of life.
const BEAT: Duration = Duration::from_secs(10);
/// The wait before trying again what others, or the server, stand in the way of.
const AGAIN: Duration = Duration::from_millis(30);

/// What the task knows between two rounds.
struct Round {
    roster: Roster,
    /// The revision `roster` was read or written at.
    rev: Option<u64>,
    beat_at: Instant,
    meet_at: Instant,
    /// Others' doings may concern what is owned here.
    news: bool,
}

impl Member {
    /// Owns everything from the start: a broadcast subscriber shares with nobody.
    pub(super) async fn own_all(self: &Arc<Self>) -> Result<()> {
        let alone = Roster::new("", self.born, self.topic.created, vec![0; self.pages.len()]);
        let wanted = |n: u32| self.options.partitions.as_ref().is_none_or(|only| only.contains(&n));
        for partition in (0..self.topic.options.partitions).filter(|n| wanted(*n)) {
            self.own(partition, &alone).await?;
        }
        Ok(())
    }

    /// Runs until the member left, or is gone.
    pub(super) async fn drive(self: Arc<Self>, roster: Roster) {
        let Some(group) = self.options.group.clone() else { return };
        let subject = self.core.names.news(&self.topic.name, &group);
        let mut told = self.core.link.client.subscribe(subject).await.ok();
        let now = Instant::now();
        let beat = self.beat_every();
        let mut round = Round { roster, rev: None, beat_at: now + beat, meet_at: now + beat, news: false };
        loop {
            let again = match self.go_round(&mut round).await {
                Ok(again) => again,
                Err(e) if e.kind() == Kind::NotFound => {
                    self.end();
                    return;
                }
                Err(e) => {
                    tracing::debug!(error = %e, "the group can't be reached");
                    Instant::now() + 4 * AGAIN
                }
            };
            if self.lock().closed || self.core.link.check_open().is_err() {
                return;
            }
            let telling = async {
                match told.as_mut() {
                    Some(told) => told.next().await.is_some(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = telling => {
                    round.news |= news;
                    if !news {
                        told = None;
                    }
                }
                () = self.nudge.notified() => {}
                () = sleep_until(again) => {}
            }
        }
    }

    fn beat_every(&self) -> Duration {
        (self.options.ack_wait / 3).min(BEAT)
    }

    /// One look at everything that is due; answers when to look again.
    async fn go_round(self: &Arc<Self>, round: &mut Round) -> Result<Instant> {
        let now = Instant::now();
        let (active, told) = {
            let mut state = self.lock();
            self.pump(&mut state);
            (self.is_active(&state), state.active)
        };
        let beat = now >= round.beat_at || active != told;
        let news = std::mem::take(&mut round.news);
        if beat || news || now >= round.meet_at {
            self.core.clock.refresh(&self.core.store).await?;
            self.meet(round, beat, active).await?;
        }
        if news {
            self.resync().await?;
        }
        let handing = self.share(&round.roster).await?;
        let unsettled = self.unshelve(active).await? || handing;
        self.core.trim_now_and_then(&self.topic);
        let soon = Instant::now() + if unsettled { AGAIN } else { LOOK };
        let quiet = self.quiet_at(&self.lock());
        Ok(round.beat_at.min(round.meet_at).min(soon).min(quiet.unwrap_or(soon)))
    }

    /// When an active member will count as idle or full if nothing happens.
    fn quiet_at(&self, state: &State) -> Option<Instant> {
        let full = (self.options.order == Order::None).then(|| state.last_room + FULL);
        let full = full.filter(|_| state.held() >= self.options.max_in_flight);
        let idle = state.last_next.filter(|_| state.wanted == 0).map(|last| last + IDLE);
        let soonest = idle.into_iter().chain(full).min().filter(|_| state.active)?;
        Some(soonest.max(Instant::now()) + Duration::from_millis(1))
    }

    fn is_active(&self, state: &State) -> bool {
        let asked = state.wanted > 0 || state.last_next.is_some_and(|last| last.elapsed() < IDLE);
        match self.options.order {
            Order::None => asked && state.last_room.elapsed() < FULL,
            Order::Key | Order::Partition => asked || state.held() > 0,
        }
    }

    /// Reads the roster; writes it if this member is due to, or another is dead.
    async fn meet(&self, round: &mut Round, beat: bool, active: bool) -> Result<()> {
        let store = &self.core.store;
        let subject =
            self.core.names.roster(&self.topic.name, self.options.group.as_deref().unwrap_or_default());
        loop {
            let now = self.core.clock.earliest();
            let seat = Seat::new(self.id, &self.options, now, active);
            // Who is due to write tries it over what it knows: one request, unless another wrote since.
            let (mut roster, mut rev) = match round.rev.take().filter(|_| beat) {
                Some(rev) => (round.roster.clone(), rev),
                None => {
                    let Some(record) = store.get(&subject).await? else { return Err(self.removed()) };
                    (Roster::decode(&record.bytes)?, record.rev)
                }
            };
            if roster.born != self.born {
                return Err(self.removed());
            }
            let dead = roster.members.iter().any(|seat| seat.lapses() < now);
            if beat || dead || !roster.lives(self.id) {
                let before = roster.owners.clone();
                roster.beat(&seat);
                let Some(written) = store.put(&subject, roster.encode()?, rev).await? else { continue };
                rev = written;
                round.beat_at = Instant::now() + self.beat_every();
                self.lock().active = active;
                if roster.owners != before {
                    self.tell().await;
                }
            }
            let lapse = roster.members.iter().filter(|seat| seat.id != self.id).map(Seat::lapses).min();
            let until = lapse.map_or(BEAT, |lapse| millis(lapse.saturating_sub(now)));
            round.meet_at = Instant::now() + until.min(BEAT) + AGAIN;
            self.lock().alone = roster.members.len() == 1;
            (round.roster, round.rev) = (roster, Some(rev));
            return Ok(());
        }
    }

    async fn tell(&self) {
        if let Some(group) = &self.options.group {
            self.core.tell(&self.topic.name, group).await;
        }
    }

    /// Takes over what is dealt to this member and hands over what isn't; true if something is still to be done.
    async fn share(self: &Arc<Self>, roster: &Roster) -> Result<bool> {
        let mut changes = Vec::new();
        for (partition, owner) in (0..).zip(&roster.owners) {
            let mine = *owner == self.id;
            match self.lock().hold(partition) {
                Some(hold) if mine => hold.leaving = false,
                None if !mine => {}
                _ => changes.push(async move {
                    if mine { self.own(partition, roster).await } else { self.hand_over(partition).await }
                }),
            }
        }
        let done = join_all(changes).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(done.contains(&false))
    }

    /// Becomes the owner of a partition, unless a living one keeps its order.
    async fn own(self: &Arc<Self>, partition: u32, roster: &Roster) -> Result<bool> {
        let Some(page) = self.pages.get(partition as usize) else { return Ok(true) };
        page.reread().await;
        let (member, now) = (self.id, self.core.clock.latest());
        let ordered = self.options.order != Order::None;
        let roster = roster.clone();
        let owned = page.edit(move |ledger| {
            let other = ledger.owner != NOBODY && ledger.owner != member;
            if ordered && other && roster.lives(ledger.owner) {
                return None;
            }
            ledger.own(member, now);
            Some(ledger.clone())
        });
        let Some(ledger) = owned.await? else { return Ok(false) };
        let keys = self.keys(&ledger).await?;
        let ahead = AHEAD.min(self.options.max_in_flight.max(1));
        let (link, topic) = (self.core.link.clone(), self.topic.clone());
        let reader = Reader::start(link, topic, partition, ledger.cursor, ahead, self.listener());
        let mut hold = Hold::new(ledger.fence, ledger.epoch, self.options.order, reader);
        for ((offset, open), key) in ledger.open().zip(keys) {
            hold.insert(offset, from_millis(open.due), Item::There(key));
        }
        {
            let mut state = self.lock();
            let fenced = |flight: &Flight| flight.partition == partition && flight.epoch != ledger.epoch;
            state.flights.retain(|_, flight| !fenced(flight));
            state.shelf.retain(|ready| !fenced(&ready.flight));
            let closed = state.closed;
            if let Some(slot) = state.holds.get_mut(partition as usize).filter(|_| !closed) {
                *slot = Some(hold);
            }
        }
        self.changed.notify_waiters();
        Ok(true)
    }

    /// What a reader tells: that something came, or that nothing will any more.
    fn listener(self: &Arc<Self>) -> impl Fn(Result<()>) + Send + Sync + 'static {
        let member = Arc::downgrade(self);
        move |came| {
            let Some(member) = member.upgrade() else { return };
            let mut state = member.lock();
            if let Err(e) = came {
                member.fail(&mut state, e);
            }
            let wake = state.wanted > 0 && state.taking == 0 || state.gone.is_some();
            drop(state);
            if wake {
                member.changed.notify_waiters();
            }
        }
    }

    /// The keys of what is open, where they matter.
    async fn keys(&self, ledger: &Ledger) -> Result<Vec<Option<Bytes>>> {
        let offsets: Vec<_> = ledger.open().map(|(offset, _)| offset).collect();
        if self.options.order != Order::Key {
            return Ok(vec![None; offsets.len()]);
        }
        let mut keys = Vec::with_capacity(offsets.len());
        for some in offsets.chunks(64) {
            let reads = join_all(some.iter().map(|offset| self.core.fetch(&self.topic, *offset))).await;
            for read in reads {
                keys.push(read?.and_then(|read| read.message.key));
            }
        }
        Ok(keys)
    }

    /// Lets a partition go; under an order, only once nothing of it is in hand.
    async fn hand_over(&self, partition: u32) -> Result<bool> {
        let Some(page) = self.pages.get(partition as usize) else { return Ok(true) };
        if self.options.order != Order::None {
            // What is still being taken would overtake what goes back before it.
            if let Some(hold) = self.lock().hold(partition) {
                hold.leaving = true;
                if hold.taking {
                    return Ok(false);
                }
            }
            self.give_back(|flight| flight.partition == partition).await?;
        }
        {
            let mut state = self.lock();
            let busy = self.options.order != Order::None && state.busy(partition);
            if let Some(hold) = state.hold(partition) {
                hold.leaving = true;
                if busy || hold.taking {
                    return Ok(false);
                }
            }
            if let Some(slot) = state.holds.get_mut(partition as usize) {
                *slot = None;
            }
        }
        let member = self.id;
        page.edit(move |ledger| ledger.disown(member)).await?;
        self.tell().await;
        Ok(true)
    }

    /// What others did to partitions owned here: they took one over, moved the group, or left messages to be handed out.
    async fn resync(&self) -> Result<()> {
        let held: Vec<_> = {
            let state = self.lock();
            let held = (0..).zip(&state.holds).filter_map(|(n, hold)| Some((n, hold.as_ref()?.fence)));
            held.collect()
        };
        let looks = held.into_iter().map(|(partition, fence)| self.resync_one(partition, fence));
        join_all(looks).await.into_iter().collect::<Result<Vec<_>>>()?;
        self.changed.notify_waiters();
        Ok(())
    }

    async fn resync_one(&self, partition: u32, fence: u64) -> Result<()> {
        let Some(page) = self.pages.get(partition as usize) else { return Ok(()) };
        page.reread().await;
        let ledger = page.edit(|ledger| ledger.clone()).await?;
        if (ledger.owner, ledger.fence) != (self.id, fence) {
            self.lose(partition, fence);
            return Ok(());
        }
        let mut state = self.lock();
        let hold = state.hold(partition).filter(|_| self.options.order == Order::None);
        let Some(hold) = hold.filter(|hold| hold.fence == fence) else { return Ok(()) };
        for (offset, open) in ledger.open().filter(|(_, open)| open.holder != self.id) {
            hold.insert(offset, from_millis(open.due), Item::There(None));
        }
        Ok(())
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
