//! What a member lets come, and what it puts back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use lapin::message::Delivery;
use linchpin_core::bus::{NO_REPLY, is_for};
use linchpin_core::{Error, Result, Timestamp};
use tokio::time::{Instant, sleep};

use super::core::lock;
use super::delay::ttl;
use super::driver::{Driver, events, look};
use super::message;
use super::names::Slot;
use super::source::Source;
use super::state::{Held, Parcel};

/// How long partitions with something for nobody are listened to before others get their turn, where not all can.
pub(super) const TURN: Duration = Duration::from_millis(30);
/// How long a queue is looked at until its consumer has what it may have, and the pause between two looks.
const STOPPING: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(3);
/// The most that is fetched ahead from one queue. A member that dies counts as handed out what it had fetched.
const AHEAD: u32 = 1024;

impl Driver {
    /// A listener's queue is there from the beginning.
    pub(super) async fn listen(&mut self, source: Arc<Source>) -> Result<()> {
        let most = u32::try_from(self.member.options.max_in_flight).unwrap_or(u32::MAX);
        if let Some((grant, consumer)) = source.grant(most.min(4 * AHEAD)).await? {
            self.streams.push(events(&source, grant, consumer));
        }
        self.sources.insert(0, source);
        Ok(())
    }

    /// Lets deliveries come: from every queue, as many as are asked for, and more ahead for those who are quick.
    pub(super) async fn let_come(&mut self) -> Result<()> {
        let Some(slot) = self.member.slot.clone() else { return self.listen_again().await };
        self.open_missing(&slot).await?;
        let (wanted, ready) = {
            let state = lock(&self.member.state);
            (state.wanted, state.is_ready())
        };
        if ready {
            return Ok(());
        }
        let mut starving: Vec<Arc<Source>> =
            self.sources.values().filter(|source| source.free() == 0).cloned().collect();
        if self.room() == 0 && !starving.is_empty() && Instant::now() >= self.turn_at {
            self.make_room().await?;
            let turn = fastrand::usize(..starving.len());
            starving.rotate_left(turn);
        }
        let room = self.room();
        if room == 0 || starving.is_empty() {
            return Ok(());
        }
        let each = wanted.div_ceil(self.sources.len().max(1)).max(self.window as usize).max(1);
        let count = starving.len();
        let shares = starving.into_iter().enumerate();
        let shares =
            shares.map(|(n, source)| (source, (room / count + usize::from(n < room % count)).min(each)));
        self.grant(shares.filter(|(_, share)| *share > 0).collect()).await
    }

    async fn open_missing(&mut self, slot: &Slot) -> Result<()> {
        let missing: Vec<u32> =
            self.member.parts.iter().copied().filter(|p| !self.sources.contains_key(p)).collect();
        let opening = missing.into_iter().map(|p| {
            let source = self.member.source(slot.queue(p));
            async move { Ok::<_, Error>((p, source.await?)) }
        });
        let opened = try_join_all(opening).await?;
        self.sources.extend(opened);
        Ok(())
    }

    /// How many more may come than those that were let.
    fn room(&self) -> usize {
        let free: u32 = self.sources.values().map(|source| source.free()).sum();
        let holds = lock(&self.member.state).holds();
        self.member.options.max_in_flight.saturating_sub(holds + free as usize)
    }

    /// Not all can have something at once: those who had nothing for anybody make room.
    async fn make_room(&mut self) -> Result<()> {
        let idle: Vec<_> = self.sources.values().filter(|source| source.free() > 0).cloned().collect();
        for source in &idle {
            self.stop(source).await?;
        }
        self.turn_at = Instant::now() + TURN;
        self.read_all().await
    }

    async fn listen_again(&mut self) -> Result<()> {
        if !self.sources.is_empty() {
            return Ok(());
        }
        let source = super::bus::listen(&self.member).await?;
        self.listen(source).await
    }

    async fn grant(&mut self, shares: Vec<(Arc<Source>, usize)>) -> Result<()> {
        let granting = shares.iter().map(|(source, share)| async move {
            let granted = source.grant(u32::try_from(*share).unwrap_or(u32::MAX)).await;
            granted.map(|granted| granted.map(|(grant, consumer)| (source.clone(), grant, consumer)))
        });
        let mut result = Ok(());
        for granted in join_all(granting).await {
            match granted {
                Ok(None) => {}
                Ok(Some((source, grant, consumer))) => {
                    if grant > 1 {
                        self.window = (self.window * 2).clamp(8, AHEAD);
                    }
                    self.came.insert(source.id, 0);
                    self.streams.push(events(&source, grant, consumer));
                }
                Err(failure) => result = Err(failure),
            }
        }
        result
    }

    pub(super) async fn received(
        &mut self,
        source: Arc<Source>,
        grant: u32,
        delivery: Delivery,
    ) -> Result<()> {
        let Delivery { delivery_tag: tag, properties, data, routing_key, .. } = delivery;
        let came = message::read(&properties, data);
        if came.marker {
            source.drop_marker(tag).await;
            return Ok(());
        }
        if source.is_broken() {
            // It goes back.
            return Ok(());
        }
        source.arrived(tag, grant);
        self.grow(&source).await?;
        let member = self.member.clone();
        let partition = self.partition(&source).unwrap_or_else(|| routing_key.as_str().parse().unwrap_or(0));
        let mine = match member.options.group {
            Some(_) => is_for(&came.stored.message, member.group()),
            None => member.parts.contains(&partition),
        };
        if !mine {
            return source.done(&[tag]).await;
        }
        let seq = lock(&member.state).number();
        let (mut stored, returns) = (came.stored, came.returns);
        let early = stored.due.filter(|due| member.slot.is_some() && ttl(*due, Timestamp::now()).is_some());
        let (attempts, due) = self.history(partition, &stored, returns);
        stored.due = due;
        let fence = self.fence(partition);
        self.place(Parcel { source, tag, partition, stored, attempts, returns, seq, fence }, early).await
    }

    /// Puts a message that came where it belongs: among the dead letters, before a stage if it came `early`, or where it waits to be
    /// handed out.
    async fn place(&mut self, parcel: Parcel, early: Option<Timestamp>) -> Result<()> {
        let (member, attempts, due) = (self.member.clone(), parcel.attempts, parcel.stored.due);
        if attempts >= member.options.max_attempts {
            let last = Parcel { attempts: attempts - 1, ..parcel };
            let held = Held { parcel: last, until: Instant::now(), settling: true };
            return member.bury(&held.parcel.source, vec![(&held, NO_REPLY)]).await;
        }
        if early.is_some() {
            // On its way to when it is due.
            return member.give_back(vec![(parcel, attempts, early)]).await;
        }
        lock(&member.state).arrange(parcel, due, member.options.order);
        Ok(())
    }

    /// Whoever is quick gets more ahead.
    async fn grow(&mut self, source: &Arc<Source>) -> Result<()> {
        let Some(came) = self.came.get_mut(&source.id) else { return Ok(()) };
        *came += 1;
        let most = self.member.options.max_in_flight / self.sources.len().max(1);
        let most = AHEAD.min(u32::try_from(most).unwrap_or(AHEAD));
        let granted = source.granted();
        if source.free() > 0 || *came < granted.saturating_mul(8).max(16) || granted * 2 > most {
            return Ok(());
        }
        self.window = (granted * 2).max(self.window).min(most);
        let window = self.window as usize;
        let holds = lock(&self.member.state).holds();
        let free: u32 = self.sources.values().map(|source| source.free()).sum();
        if holds + free as usize + window > self.member.options.max_in_flight {
            return Ok(());
        }
        self.grant(vec![(source.clone(), window)]).await
    }

    fn partition(&self, source: &Arc<Source>) -> Option<u32> {
        self.member.slot.as_ref()?;
        let unordered = self.sources.iter().find(|(_, s)| s.id == source.id).map(|(p, _)| *p);
        unordered.or_else(|| {
            let state = lock(&self.member.state);
            state.owned.iter().find(|(_, owned)| owned.source.id == source.id).map(|(p, _)| *p)
        })
    }

    /// Lets nothing more come, once the consumer has got all it may have, or there is nothing for it: what is on its way would be
    /// taken back, and counted.
    pub(super) async fn stop(&mut self, source: &Arc<Source>) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < STOPPING {
            let full = source.hold().await;
            if source.free() == 0 {
                return source.cancel().await;
            }
            drop(full);
            let waiting = look(&source.channel, &source.queue, self.member.core.config.timeout).await?;
            self.read_all().await?;
            if waiting == 0 {
                break;
            }
            // An acknowledgement is on its way through the queue's log, and lets one more come.
            sleep(SOON).await;
        }
        source.cancel().await
    }

    /// Puts back what nobody asked for, and lets nothing more come.
    pub(super) async fn rest(&mut self) -> Result<()> {
        let sources: Vec<Arc<Source>> = self.sources.values().cloned().collect();
        for source in &sources {
            self.stop(source).await?;
        }
        self.window = 0;
        self.read_all().await?;
        let back: Vec<_> = {
            let mut state = lock(&self.member.state);
            let early = std::mem::take(&mut state.early);
            state.shelf.drain(..).chain(early.into_values()).collect()
        };
        if back.is_empty() || self.member.slot.is_none() {
            return Ok(());
        }
        let back = back.into_iter().map(|parcel| {
            let (attempts, due) = (parcel.attempts, parcel.stored.due);
            (parcel, attempts, due)
        });
        self.member.give_back(back.collect()).await
    }
}
