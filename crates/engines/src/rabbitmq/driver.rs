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
use linchpin_core::bus::Order;
use linchpin_core::{Error, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::admin::GUESS;
use super::core::lock;
use super::error;
use super::fetch::TURN;
use super::link::asked;
use super::member::Member;
use super::source::Source;

use super::turns::Turns;

/// The wait after a failure.
const AGAIN: Duration = Duration::from_millis(200);
/// How long nobody may have asked, or settled, until what came goes back to where others find it.
const IDLE: Duration = Duration::from_millis(250);

pub(super) enum Event {
    Came(Arc<Source>, u32, Box<Delivery>),
    Ended(Arc<Source>, u32, Option<lapin::Error>),
    /// The roster, joined for the time with this number, doesn't count the member any more.
    Uncounted(u64, Option<lapin::Error>),
    /// The turn at this partition, by its tag.
    Turn(u32, u64),
}

pub(super) struct Driver {
    pub(super) member: Arc<Member>,
    pub(super) streams: SelectAll<BoxStream<'static, Event>>,
    /// Without order: by partition.
    pub(super) sources: BTreeMap<u32, Arc<Source>>,
    /// How many came by the present grant, by source.
    pub(super) came: BTreeMap<u64, u32>,
    pub(super) window: u32,
    pub(super) turn_at: Instant,
    control: Option<Channel>,
    /// How often it joined the roster again.
    joined: u64,
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
fn roster_events(joined: u64, roster: Consumer) -> BoxStream<'static, Event> {
    let ended = roster.filter_map(move |entry| {
        std::future::ready(entry.err().map(|failure| Event::Uncounted(joined, Some(failure))))
    });
    ended.chain(futures_util::stream::once(async move { Event::Uncounted(joined, None) })).boxed()
}

impl Driver {
    pub(super) fn new(member: Arc<Member>, control: Option<(Channel, Consumer)>) -> Self {
        let mut streams = SelectAll::new();
        let control = control.map(|(channel, roster)| {
            streams.push(roster_events(0, roster));
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
            joined: 0,
            look: None,
            turns: Turns::default(),
        }
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
            let never = state.waiting == 0 && state.last_next.is_none();
            let idle = never || state.idle_since().is_some_and(|since| since.elapsed() >= IDLE);
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
                self.member.end(gone.clone());
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
        self.joined += 1;
        self.streams.push(roster_events(self.joined, roster));
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
        let idle = state.idle_since().map(|since| since + IDLE).filter(|at| *at > now);
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
            // The end of one that it has left behind.
            Event::Uncounted(joined, _) if joined != self.joined => Ok(()),
            Event::Uncounted(_, None) if self.control.as_ref().is_some_and(|c| c.status().connected()) => {
                self.control = None;
                let gone = error::missing(&self.member.topic.name);
                Err(self.tell_gone(gone).await)
            }
            Event::Uncounted(..) => {
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
