//! The task that looks after a member: lets deliveries come while somebody asks for them, and puts back what nobody asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, try_join_all};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use linchpin_core::bus::{NO_REPLY, Order, is_for};
use linchpin_core::{Error, Result, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::GUESS;
use super::core::lock;
use super::delay::ttl;
use super::error;
use super::link::asked;
use super::member::Member;
use super::message;
use super::ordered::Turns;
use super::source::Source;
use super::state::{Held, Parcel};

/// The wait after a failure.
const AGAIN: Duration = Duration::from_millis(200);
/// How long nobody may have asked until what came goes back to where others find it.
const IDLE: Duration = Duration::from_millis(250);
/// How long partitions with something for nobody are listened to before others get their turn, where not all can.
const TURN: Duration = Duration::from_millis(30);
/// How long a queue is looked at until its consumer has what it may have, and the pause between two looks.
const STOPPING: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_millis(3);
/// The most that is fetched ahead from one queue. A member that dies counts as handed out what it had fetched.
const AHEAD: u32 = 256;

pub(super) enum Event {
    Came(Arc<Source>, u32, Box<Delivery>),
    Ended(Arc<Source>, u32, Option<lapin::Error>),
    /// The member isn't counted any more.
    Uncounted(Option<lapin::Error>),
    /// The turn at this partition, by its tag.
    Turn(u32, u64),
}

pub(super) struct Driver {
    pub(super) member: Arc<Member>,
    pub(super) streams: SelectAll<BoxStream<'static, Event>>,
    /// Without order: by partition.
    sources: BTreeMap<u32, Arc<Source>>,
    /// How many came by the present grant, by source.
    came: BTreeMap<u64, u32>,
    window: u32,
    turn_at: Instant,
    control: Option<Channel>,
    look: Option<(u64, BoxFuture<'static, Result<()>>)>,
    pub(super) turns: Turns,
}

/// What comes from a consumer of a source, and that it ends.
pub(super) fn events(source: &Arc<Source>, grant: u32, consumer: Consumer) -> BoxStream<'static, Event> {
    let (source, last) = (source.clone(), source.clone());
    let came = consumer.map(move |delivery| match delivery {
        Ok(delivery) => Event::Came(source.clone(), grant, Box::new(delivery)),
        Err(failure) => Event::Ended(source.clone(), grant, Some(failure)),
    });
    came.chain(futures_util::stream::once(async move { Event::Ended(last, grant, None) })).boxed()
}

/// Hears when a roster ends.
pub(super) fn roster_events(roster: Consumer) -> BoxStream<'static, Event> {
    let ended = roster.filter_map(async |entry| entry.err().map(|e| Event::Uncounted(Some(e))));
    ended.chain(futures_util::stream::once(async { Event::Uncounted(None) })).boxed()
}

impl Driver {
    pub(super) fn new(member: Arc<Member>, control: Option<(Channel, Consumer)>) -> Self {
        let mut streams = SelectAll::new();
        let control = control.map(|(channel, roster)| {
            streams.push(roster_events(roster));
            channel
        });
        Self {
            member,
            streams,
            sources: BTreeMap::new(),
            came: BTreeMap::new(),
            window: 0,
            turn_at: Instant::now(),
            control,
            look: None,
            turns: Turns::default(),
        }
    }

    /// A listener's queue is there from the beginning.
    pub(super) async fn listen(&mut self, source: Arc<Source>) -> Result<()> {
        let most = u32::try_from(self.member.options.max_in_flight).unwrap_or(u32::MAX);
        if let Some((grant, consumer)) = source.grant(most.min(4 * AHEAD)).await? {
            self.streams.push(events(&source, grant, consumer));
        }
        self.sources.insert(0, source);
        Ok(())
    }

    /// Looks after the member until it left.
    pub(super) async fn run(mut self) {
        let left = loop {
            match self.step().await {
                Ok(None) => {}
                Ok(Some(left)) => break left,
                Err(failure) => {
                    self.member.fail(failure);
                    sleep(AGAIN).await;
                }
            }
        };
        lock(&self.member.state).left = Some(left);
        self.member.changed.notify_waiters();
    }

    /// One thing after another; `Some` when there is nothing left to do.
    async fn step(&mut self) -> Result<Option<Result<()>>> {
        self.prune();
        let (closed, dropped, gone) = {
            let state = lock(&self.member.state);
            (state.closed, state.dropped && state.held.is_empty(), state.gone.is_some())
        };
        if closed || dropped {
            return Ok(Some(self.depart().await));
        }
        self.member.reap().await?;
        if !gone && let Err(failure) = self.tend().await {
            return Err(self.tell_gone(failure).await);
        }
        self.wait().await?;
        Ok(None)
    }

    async fn tend(&mut self) -> Result<()> {
        let (asks, idle) = {
            let state = lock(&self.member.state);
            let idle = state.waiting == 0 && state.last_next.is_none_or(|last| last.elapsed() >= IDLE);
            (state.waiting > 0 && !state.dropped, idle || state.dropped)
        };
        if asks && self.member.slot.is_some() && self.control.is_none() {
            self.count_again().await?;
        }
        if self.member.options.order != Order::None && self.member.slot.is_some() {
            return self.tend_ordered(asks, idle).await;
        }
        if asks {
            self.let_come().await?;
            self.begin_look();
        } else if idle && (self.member.slot.is_some() || lock(&self.member.state).dropped) {
            self.rest().await?;
        }
        Ok(())
    }

    /// A queue that isn't there means that the group, or the topic, was removed.
    async fn tell_gone(&mut self, failure: Error) -> Error {
        if failure.kind() != linchpin_core::Kind::NotFound || self.member.slot.is_none() {
            return failure;
        }
        match self.member.why_gone().await {
            Ok(Some(gone)) => {
                let mut state = lock(&self.member.state);
                state.lose_all();
                state.gone = Some(gone.clone());
                gone
            }
            Ok(None) => error::interrupted(),
            Err(failure) => failure,
        }
    }

    /// Joins the roster again after the connection was lost.
    async fn count_again(&mut self) -> Result<()> {
        let Some(slot) = &self.member.slot else { return Ok(()) };
        let channel = self.member.link.channel().await?;
        let roster = enrol(&channel, &slot.roster(), self.member.core.config.timeout).await?;
        self.streams.push(roster_events(roster));
        self.control = Some(channel);
        Ok(())
    }

    /// Forgets sources that were lost, and what came from them.
    fn prune(&mut self) {
        let mut state = lock(&self.member.state);
        self.sources.retain(|_, source| {
            let lost = source.is_broken();
            if lost {
                state.lose(source.id);
            }
            !lost
        });
        drop(state);
        self.prune_ordered();
        self.control.take_if(|channel| !channel.status().connected());
    }

    /// Lets deliveries come: from every queue, as many as are asked for, and more ahead for those who are quick.
    async fn let_come(&mut self) -> Result<()> {
        let Some(slot) = self.member.slot.clone() else { return self.listen_again().await };
        let missing: Vec<u32> =
            self.member.parts.iter().copied().filter(|p| !self.sources.contains_key(p)).collect();
        let opening = missing.into_iter().map(|p| {
            let source = self.member.source(slot.queue(p));
            async move { Ok::<_, Error>((p, source.await?)) }
        });
        let opened = try_join_all(opening).await?;
        self.sources.extend(opened);
        let (wanted, holds, empty) = {
            let state = lock(&self.member.state);
            (state.wanted, state.holds(), !state.is_ready())
        };
        if !empty {
            return Ok(());
        }
        let free: u32 = self.sources.values().map(|source| source.free()).sum();
        let room = self.member.options.max_in_flight.saturating_sub(holds + free as usize);
        let mut starving: Vec<Arc<Source>> =
            self.sources.values().filter(|source| source.free() == 0).cloned().collect();
        let room = if room == 0 && !starving.is_empty() && free > 0 && Instant::now() >= self.turn_at {
            // Not all can have something at once: those who had nothing for anybody make room.
            let idle: Vec<_> = self.sources.values().filter(|source| source.free() > 0).cloned().collect();
            for source in &idle {
                self.stop(source).await?;
            }
            self.turn_at = Instant::now() + TURN;
            let turn = fastrand::usize(..starving.len());
            starving.rotate_left(turn);
            self.read_all().await?;
            let free: u32 = self.sources.values().map(|source| source.free()).sum();
            let holds = lock(&self.member.state).holds();
            self.member.options.max_in_flight.saturating_sub(holds + free as usize)
        } else {
            room
        };
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

    /// Makes sure that what is there has come.
    pub(super) fn begin_look(&mut self) {
        let mut state = lock(&self.member.state);
        if self.look.is_some() || state.done >= state.look_for {
            return;
        }
        state.begun += 1;
        let number = state.begun;
        drop(state);
        let within = self.member.core.config.timeout;
        let sources: Vec<Arc<Source>> = self.looked_at();
        let looking = async move {
            let each = sources.iter().map(async |source| {
                match look(&source.channel, &source.queue, within).await {
                    // A partition that was left meanwhile is another's to look at.
                    Err(_) if source.is_left() => Ok(0),
                    looked => looked,
                }
            });
            try_join_all(each).await.map(drop)
        };
        self.look = Some((number, looking.boxed()));
    }

    fn looked_at(&self) -> Vec<Arc<Source>> {
        if self.member.options.order == Order::None || self.member.slot.is_none() {
            return self.sources.values().cloned().collect();
        }
        lock(&self.member.state).owned.values().map(|owned| owned.source.clone()).collect()
    }

    async fn end_look(&mut self, looked: Result<()>) -> Result<()> {
        let Some((number, _)) = self.look.take() else { return Ok(()) };
        looked?;
        self.read_all().await?;
        lock(&self.member.state).done = number;
        self.member.changed.notify_waiters();
        Ok(())
    }

    /// Until something happens, and what that is.
    async fn wait(&mut self) -> Result<()> {
        let until = self.next_event();
        let member = self.member.clone();
        let Self { look, streams, .. } = self;
        let looking = async {
            match look {
                Some((_, look)) => look.await,
                None => std::future::pending().await,
            }
        };
        let looked = tokio::select! {
            looked = looking => looked,
            Some(event) = streams.next(), if !streams.is_empty() => return self.handle_all(event).await,
            () = member.asked.notified() => return Ok(()),
            () = sleep_until(until) => {
                member.changed.notify_waiters();
                return Ok(());
            }
        };
        if let Err(failure) = looked {
            self.look = None;
            return Err(self.tell_gone(failure).await);
        }
        self.end_look(Ok(())).await
    }

    fn next_event(&self) -> Instant {
        let now = Instant::now();
        let state = lock(&self.member.state);
        let idle =
            state.last_next.filter(|_| state.waiting == 0).map(|last| last + IDLE).filter(|at| *at > now);
        let starved = state.waiting > 0 && self.sources.values().any(|source| source.free() == 0);
        let turn = starved.then_some(self.turn_at.max(now + TURN / 3));
        let tick = (self.member.options.order != Order::None).then(|| self.turns.look_at());
        let until = [state.next_event(), idle, turn, tick.flatten()].into_iter().flatten().min();
        until.unwrap_or(now + Duration::from_secs(1)).max(now + Duration::from_millis(1))
    }

    /// Reads what has come by now.
    pub(super) async fn read_all(&mut self) -> Result<()> {
        while let Some(Some(event)) = self.streams.next().now_or_never() {
            self.handle(event).await?;
        }
        Ok(())
    }

    async fn handle_all(&mut self, event: Event) -> Result<()> {
        self.handle(event).await?;
        self.read_all().await?;
        self.member.changed.notify_waiters();
        Ok(())
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Came(source, grant, delivery) => self.received(source, grant, *delivery).await,
            Event::Ended(source, grant, failure) if source.is_active(grant) && !source.is_broken() => {
                // The channel lives: the queue was removed.
                source.fail();
                self.prune();
                let failure = failure.map_or_else(|| error::missing(&self.member.topic.name), error::map);
                Err(self.tell_gone(failure).await)
            }
            Event::Uncounted(None) if self.control.as_ref().is_some_and(|c| c.status().connected()) => {
                self.control = None;
                let gone = error::missing(&self.member.topic.name);
                Err(self.tell_gone(gone).await)
            }
            Event::Uncounted(_) => {
                self.prune();
                Ok(())
            }
            Event::Ended(source, grant, Some(failure)) if source.is_active(grant) => {
                self.prune();
                Err(error::map(failure))
            }
            Event::Turn(partition, tag) => {
                self.turns.came(partition, tag);
                Ok(())
            }
            Event::Ended(..) => Ok(()),
        }
    }

    async fn received(&mut self, source: Arc<Source>, grant: u32, delivery: Delivery) -> Result<()> {
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
        if !is_for(&came.stored.message, member.group()) && member.options.group.is_some() {
            return source.done(&[tag]).await;
        }
        let partition = self.partition(&source).unwrap_or_else(|| routing_key.as_str().parse().unwrap_or(0));
        if member.slot.is_none() && !member.parts.contains(&partition) {
            return source.done(&[tag]).await;
        }
        let seq = lock(&member.state).number();
        let (mut stored, returns) = (came.stored, came.returns);
        let early = stored.due.filter(|due| member.slot.is_some() && ttl(*due, Timestamp::now()).is_some());
        let (attempts, due) = self.history(partition, &stored, returns);
        stored.due = due;
        let fence = self.fence(partition);
        let parcel = Parcel { source, tag, partition, stored, attempts, returns, seq, fence };
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
    async fn rest(&mut self) -> Result<()> {
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

    /// Leaves: what it holds goes to the others at once.
    async fn depart(&mut self) -> Result<()> {
        let mut left = if self.member.options.order == Order::None || self.member.slot.is_none() {
            let rested = self.rest().await;
            let last = self.member.options.max_attempts - 1;
            let held = {
                let mut state = lock(&self.member.state);
                let free = state.held.extract_if(|_, held| !held.settling);
                free.map(|(_, held)| held).collect::<Vec<_>>()
            };
            // A clean leave never uses up the last attempt.
            let back = held.into_iter().map(|held| (held.parcel.clone(), held.attempt().min(last), None));
            let back = if self.member.slot.is_some() { back.collect() } else { Vec::new() };
            rested.and(self.member.give_back(back).await)
        } else {
            self.leave_all().await
        };
        join_all(self.sources.values().map(|source| source.close())).await;
        if let Some(control) = self.control.take() {
            left = left.and(asked(self.member.core.config.timeout, control.close(200, "left".into())).await);
        }
        let gone = lock(&self.member.state).gone.is_some();
        if gone { Ok(()) } else { left }
    }
}

/// Becomes a consumer of a roster.
pub(super) async fn enrol(channel: &Channel, roster: &str, within: Duration) -> Result<Consumer> {
    let consuming =
        channel.basic_consume(roster.into(), "roster".into(), Default::default(), FieldTable::default());
    asked(within, consuming).await
}

/// Until all that was there for this channel when it was asked has come: its second answer comes behind that.
/// Answers how much is left in the queue.
pub(super) async fn look(channel: &Channel, queue: &str, within: Duration) -> Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let (started, mut sure) = (Instant::now(), 0);
    loop {
        let began = Instant::now();
        let left = asked(within, channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
        sure += u32::from(began.elapsed() < GUESS);
        if sure == 2 {
            return Ok(left.message_count());
        }
        if started.elapsed() > within {
            return Err(error::late(within));
        }
    }
}
