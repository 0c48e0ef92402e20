//! A member of a group: what it holds, and the task that looks after it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linchpin_core::bus::{Delivery, Order, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::core::{Core, lock};
use super::error::error;
use super::group::{Joined, gone, lease, only};
use super::hints::POLL;
use super::keys::PartKeys;
use super::ordered::Ordered;
use super::script::{BEAT, Call, LEAVE};
use super::settle::Act;
use super::state::{Grip, SHELF, State};
use super::topic::Known;

/// The wait after a failure.
const AGAIN: Duration = Duration::from_millis(200);

/// A living subscription.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) core: Arc<Core>,
    pub(super) topic: Arc<Known>,
    pub(super) joined: Joined,
    pub(super) options: SubscribeOptions,
    /// The partitions it may take from, with their keys.
    pub(super) parts: Vec<(u32, PartKeys)>,
    pub(super) channel: String,
    pub(super) state: Mutex<State>,
    /// Something came, or ended: for those who wait in `next`.
    pub(super) changed: Notify,
    /// Somebody asks: for the task.
    pub(super) asked: Notify,
}

/// A living member: its number, whether it wants partitions, those it restricts itself to, its consumer.
pub(super) type Living = (i64, bool, String, String);

/// What the task does next.
enum Plan {
    Stop,
    Fetch(usize),
    Wait(Instant),
}

impl Member {
    pub(super) fn new(
        core: Arc<Core>,
        topic: Arc<Known>,
        joined: Joined,
        options: SubscribeOptions,
    ) -> Arc<Self> {
        let all = 0..topic.options.partitions;
        let mine = |n: &u32| options.partitions.as_ref().is_none_or(|list| list.contains(n));
        let parts = all.filter(mine).map(|n| (n, core.keys.part(&topic.name, n, &joined.group))).collect();
        let state = State::new(&options);
        let channel = core.keys.hints(&topic.name);
        Arc::new(Self {
            core,
            topic,
            joined,
            options,
            parts,
            channel,
            state: Mutex::new(state),
            changed: Notify::new(),
            asked: Notify::new(),
        })
    }

    /// There may be something new.
    pub(super) fn wake(&self) {
        lock(&self.state).news = true;
        self.asked.notify_one();
    }

    /// Looks after the member until it is closed or dropped.
    pub(super) async fn run(self: Arc<Self>) {
        self.look_after().await;
        lock(&self.state).ended = true;
        self.changed.notify_waiters();
    }

    async fn look_after(&self) {
        loop {
            let worked = if self.options.order == Order::None {
                match self.plan() {
                    Plan::Stop => return,
                    Plan::Fetch(count) => self.fetch(count).await,
                    Plan::Wait(until) => {
                        let _woken = timeout_at(until.into(), self.asked.notified()).await;
                        self.tend().await
                    }
                }
            } else if lock(&self.state).closed {
                return;
            } else {
                self.step_ordered().await
            };
            if let Err(error) = worked {
                self.fail(error);
                let _woken = timeout_at((Instant::now() + AGAIN).into(), std::future::pending::<()>()).await;
            }
        }
    }

    fn plan(&self) -> Plan {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.closed {
            return Plan::Stop;
        }
        state.overdue(now);
        let room = self.options.max_in_flight.saturating_sub(state.held.len() + state.shelf.len());
        let asked = state.waiting > 0 && state.shelf.is_empty() && (state.news || now >= state.again_at);
        // What is asked for and the window ahead come in one go.
        let ahead = state.window > 0 && state.news && state.shelf.len() < state.window / 2;
        if room > 0 && (asked || ahead) {
            let wanted = if state.waiting > 0 { state.wanted } else { 1 };
            return Plan::Fetch(room.min(wanted.max(state.window)));
        }
        let stale = state.shelf.front().map(|parcel| parcel.filled + SHELF);
        let again = (state.waiting > 0 && room > 0).then_some(state.again_at.max(now));
        let full = (state.waiting > 0 && room == 0).then_some(now + POLL);
        let until = [stale, again, full, state.overdue_at, Some(state.beat_at)].into_iter().flatten().min();
        if state.waiting > 0 && room == 0 {
            // Nothing more may be held: that is an answer too.
            state.begun += 1;
            state.done = state.begun;
            drop(state);
            self.changed.notify_waiters();
        }
        Plan::Wait(until.unwrap_or(now + POLL))
    }

    /// Chores that don't wait for anybody: what lies on the shelf for too long goes back, and others are told it lives.
    async fn tend(&self) -> Result<()> {
        let now = Instant::now();
        let (stale, beat) = {
            let mut state = lock(&self.state);
            let stale = state.take_stale(now);
            if !stale.is_empty() {
                state.window = 0;
            }
            let beat = now >= state.beat_at;
            if beat {
                state.beat_at = now + lease(&self.options) / 3;
            }
            (stale, beat && !state.closed)
        };
        if !stale.is_empty() {
            self.give_back(stale.into_iter().map(|parcel| parcel.grip).collect()).await?;
        }
        if beat { self.beat(true).await.map(drop) } else { Ok(()) }
    }

    /// Tells that it lives, and whether it wants partitions; answers the living members.
    pub(super) async fn beat(&self, wants: bool) -> Result<Vec<Living>> {
        self.tell_members(lease(&self.options), wants).await
    }

    async fn tell_members(&self, lease: Duration, wants: bool) -> Result<Vec<Living>> {
        let (keys, joined) = (&self.core.keys, &self.joined);
        let call = Call::new(&BEAT).key(keys.groups(&self.topic.name));
        let call =
            call.key(keys.members(&self.topic.name, &joined.group)).text(&joined.group).text(&joined.born);
        let call = call.text(&joined.consumer).number(lease.as_millis()).number(joined.number);
        let call = call.number(u8::from(self.options.order != Order::None)).number(u8::from(wants));
        let told = self.core.link.call(&call.text(&only(&self.options)), "next").await;
        told.map_err(|e| self.gone(e))
    }

    pub(super) fn gone(&self, failure: Error) -> Error {
        gone(failure, &self.topic.name, &self.joined.group)
    }

    fn fail(&self, failure: Error) {
        let mut state = lock(&self.state);
        state.done = state.begun;
        (state.quiet, state.calm) = (0, false);
        state.failed = Some(failure.op("next").with("topic", &self.topic.name));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Hands out what is there; `waits`: to a call that counted as waiting until now.
    pub(super) fn take(&self, max: usize, waits: bool) -> Result<Vec<Delivery>> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.closed {
            return Err(self.closed());
        }
        if state.shelf.is_empty()
            && let Some(error) = state.failed.take()
        {
            return Err(error);
        }
        let mut out = Vec::new();
        while out.len() < max {
            let Some(parcel) = state.shelf.pop_front_if(|p| now < p.filled + SHELF) else { break };
            let mut delivery = state.hand_out(parcel, &self.options, now);
            delivery.position.offset.take_if(|_| !self.core.form.caps.offsets);
            out.push(delivery);
        }
        // At once: for one that still counted as waiting, more would be taken, which a nack of this would come behind.
        if waits && !out.is_empty() {
            state.leaves(now);
        }
        // Quick enough to be worth fetching ahead for.
        let low = state.shelf.len() < state.window / 2;
        drop(state);
        if !out.is_empty() && low {
            self.asked.notify_one();
        }
        Ok(out)
    }

    pub(super) fn closed(&self) -> Error {
        match self.core.check_open() {
            Ok(()) => error(Kind::Closed, "the subscription is closed").op("next"),
            Err(closed) => closed.op("next"),
        }
    }

    /// Forgets what was fetched: the group was moved.
    pub(super) fn forget_fetched(&self) {
        let mut state = lock(&self.state);
        state.moved += 1;
        state.shelf.clear();
        state.held.retain(|_, held| held.settling);
        if let Some(ordered) = &mut state.ordered {
            ordered.forget_all();
        }
    }

    /// Closes, and waits until the task is over: a fetch on its way brings what must go back.
    async fn end(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.state).ended {
                return;
            }
            self.asked.notify_one();
            changed.await;
        }
    }

    /// Leaves the group: what it holds waits for others at once.
    pub(super) async fn leave(&self) -> Result<()> {
        self.end().await;
        let (held, shelf, owned) = {
            let mut state = lock(&self.state);
            let held: Vec<Grip> =
                state.held.extract_if(|_, held| !held.settling).map(|(_, held)| held.grip).collect();
            let shelf: Vec<Grip> = state.shelf.drain(..).map(|parcel| parcel.grip).collect();
            (held, shelf, state.ordered.as_mut().map(Ordered::take_all).unwrap_or_default())
        };
        if self.options.group.is_none() {
            return self.core.drop_group(&self.topic, &self.joined.group, &self.joined.born).await;
        }
        // A clean leave never uses up the last attempt.
        let last = self.options.max_attempts - 1;
        let back = held.into_iter().map(|p| (p, Act::Back(p.attempt.min(last))));
        let back = back.chain(shelf.into_iter().map(|p| (p, Act::Unread(p.attempt - 1)))).collect();
        let mut left = self.put_back(back).await;
        for (partition, fence) in owned {
            left = left.and(self.lease(partition, fence, Duration::ZERO).await.map(drop));
        }
        // Lists keep no consumers.
        let parts = if self.core.form.lists { [].as_slice() } else { self.parts.as_slice() };
        let leaving = parts.iter().map(|(_, [stream, record, ..])| async move {
            let call = Call::new(&LEAVE).key(stream.clone()).key(record.clone());
            let call = call.text(&self.joined.group).text(&self.joined.consumer).text(&self.joined.born);
            self.core.link.call::<i64>(&call, "close").await
        });
        left = left.and(futures_util::future::try_join_all(leaving).await.map(drop));
        let told = self.tell_members(Duration::ZERO, false).await.map(drop);
        self.core.tell(&self.topic.name);
        left.and(match told {
            // There is nothing left to leave.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            told => told,
        })
    }
}
