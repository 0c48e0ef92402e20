//! A member of a group: its state, and the jobs it gives the threads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linchpin_core::bus::{Delivery, Order, Receipt, Settle, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};
use tokio::sync::{Notify, oneshot};

use super::group::{self, Joined};
use super::hand::{Group, Hand, SHELF};
use super::hub::lock;
use super::order::Partitions;
use super::store::{Scope, Settled, Store};
use super::topic::{Topic, millis};
use super::window::Window;

/// A living subscription.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) topic: Topic,
    pub(crate) options: SubscribeOptions,
    pub(crate) scope: Arc<Scope>,
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) hand: Hand,
    pub(crate) window: Window,
    /// A fetch is on its way.
    pub(crate) fetching: bool,
    /// Something was committed since the last fetch began.
    pub(crate) news: bool,
    /// When the last fetch began.
    pub(crate) asked: Option<Instant>,
    /// When to fetch again without news.
    pub(crate) again_at: Instant,
    pub(crate) failed: Option<Error>,
    pub(crate) closed: bool,
    /// `next` calls that wait, and when the last one ended.
    pub(crate) waiting: usize,
    pub(crate) last_next: Instant,
    /// What it owns, under an order.
    pub(crate) partitions: Option<Partitions>,
    beat_at: Instant,
    pub(crate) turn: u32,
}

impl Member {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        topic: Topic,
        options: SubscribeOptions,
        joined: &Joined,
    ) -> Arc<Self> {
        let lease = millis(options.ack_wait + 2 * SHELF);
        let scope = Scope {
            topic: topic.clone(),
            name: options.group.clone(),
            group: joined.group,
            member: joined.member,
            lease: (options.order == Order::None).then_some(lease),
            max_attempts: options.max_attempts,
        };
        let now = Instant::now();
        let state = State {
            hand: Hand::default(),
            window: Window::default(),
            fetching: false,
            news: true,
            asked: None,
            again_at: now,
            failed: None,
            closed: false,
            waiting: 0,
            last_next: now,
            partitions: (options.order != Order::None).then(|| Partitions::new(options.order, now)),
            beat_at: now + beat_every(&options),
            turn: 0,
        };
        let (scope, state) = (Arc::new(scope), Mutex::new(state));
        Arc::new(Self { store, topic, options, scope, state, changed: Notify::new() })
    }

    /// Something was committed that may concern this topic.
    pub(crate) fn wake(&self) {
        lock(&self.state).news = true;
        self.changed.notify_waiters();
    }

    /// Hands out what is there, or sees to it that something comes.
    pub(crate) fn step(self: &Arc<Self>, max: usize) -> Result<Vec<Delivery>> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if state.closed {
            return Err(self.closed());
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.partitions.is_none() {
            state.hand.overdue(now);
        }
        let out = state.hand.take(max, now, self.options.ack_wait);
        let left = state.hand.shelved();
        if out.is_empty() {
            if !state.fetching && (state.news || now >= state.again_at) {
                self.fetch(&mut state, max, now);
            }
        } else if state.partitions.is_none()
            && state.window.ahead(max, left)
            && !state.fetching
            && self.room(&state) >= max
        {
            self.fetch(&mut state, max, now);
        }
        Ok(out)
    }

    /// Whether the last fetch is too old to say that there is nothing.
    pub(crate) fn refresh(&self) {
        let mut state = lock(&self.state);
        if state.asked.is_none_or(|at| at.elapsed() >= self.store.poll()) {
            state.news = true;
        }
    }

    pub(crate) fn closed(&self) -> Error {
        Error::new(Kind::Closed, "the subscription is closed").engine(self.store.engine()).op("next")
    }

    /// Whether a `next` call waits for something.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(crate) fn waits(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    /// How many more it may hold.
    pub(crate) fn room(&self, state: &State) -> usize {
        self.options.max_in_flight.saturating_sub(state.hand.handed() + state.hand.shelved())
    }

    /// Settles; the state is brought up to date with the answer, also if the caller is gone by then.
    pub(crate) async fn settle(self: &Arc<Self>, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let count = batch.len();
        if let Err(error) = self.store.check_open() {
            return vec![Err(error.op("settle")); count];
        }
        let groups = Arc::new(lock(&self.state).hand.group(batch));
        let fenced = || Err(self.fenced());
        let mut answers: Vec<Result<()>> = (0..count).map(|_| fenced()).collect();
        if groups.is_empty() {
            return answers;
        }
        let (answer, answered) = oneshot::channel();
        let (member, theirs, began) = (self.clone(), groups.clone(), Instant::now());
        let batches = groups.iter().map(|group| group.batch.clone()).collect();
        let done = move |result: Result<Vec<Settled>>| {
            if let Ok(settled) = &result {
                member.settled(&theirs, settled, began);
            }
            let _gone = answer.send(result);
        };
        self.store.settle(&self.scope, batches, Box::new(done));
        let result = answered.await.unwrap_or_else(|_| Err(self.engine_closed().op("settle")));
        for (n, group) in groups.iter().enumerate() {
            for (k, at) in group.at.iter().enumerate() {
                let took =
                    |all: &Vec<Settled>| all.get(n).and_then(|settled| settled.took.get(k)) == Some(&true);
                if let Some(slot) = answers.get_mut(*at) {
                    *slot = match &result {
                        Err(error) => Err(error.clone()),
                        Ok(all) if took(all) => Ok(()),
                        Ok(_) => fenced(),
                    };
                }
            }
        }
        answers
    }

    fn engine_closed(&self) -> Error {
        Error::new(Kind::Closed, "the bus is closed").engine(self.store.engine())
    }

    fn fenced(&self) -> Error {
        let error = Error::new(Kind::Fenced, "the delivery was lost to another or settled before");
        error.engine(self.store.engine()).op("settle")
    }

    fn settled(&self, groups: &[Group], settled: &[Settled], began: Instant) {
        let mut state = lock(&self.state);
        let until = began + self.options.ack_wait;
        for (group, settled) in groups.iter().zip(settled) {
            state.hand.settled(group, settled, until);
        }
        if state.partitions.is_some() {
            Self::settled_ordered(&mut state, groups, settled);
            state.news = true;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Looked after by the engine, every tick.
    pub(crate) fn tick(self: &Arc<Self>, now: Instant) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        let late = state.hand.overdue(now);
        if state.partitions.is_some() {
            self.tick_ordered(&mut state, late, now);
        }
        let stale = state.hand.stale(Some(now));
        if !stale.is_empty() {
            state.window.unused();
        }
        let beat = now >= state.beat_at;
        if beat {
            state.beat_at = now + beat_every(&self.options);
        }
        drop(state);
        self.unfetch(stale);
        if beat {
            self.store.beat(&self.scope, &self.options);
        }
    }

    /// Forgets everything: the group was moved, and the claims are gone.
    pub(crate) fn forget_all(&self) {
        let mut state = lock(&self.state);
        state.hand.stale(None);
        state.hand.forget_all();
        if let Some(partitions) = &mut state.partitions {
            partitions.clear();
        }
    }

    /// Leaves the group: what it holds waits for others at once.
    pub(crate) async fn leave(self: &Arc<Self>) -> Result<()> {
        let settled = self.changed.notified();
        tokio::pin!(settled);
        loop {
            settled.as_mut().enable();
            {
                let mut state = lock(&self.state);
                state.closed = true;
                if !state.fetching {
                    break;
                }
            }
            settled.as_mut().await;
            settled.set(self.changed.notified());
        }
        let unused = {
            let mut state = lock(&self.state);
            let unused = state.hand.stale(None);
            state.hand.forget_all();
            if let Some(partitions) = &mut state.partitions {
                partitions.clear();
            }
            unused
        };
        self.changed.notify_waiters();
        self.store.check_open().map_err(|e| e.op("close"))?;
        let (answer, answered) = oneshot::channel();
        let done = move |left| {
            let _gone = answer.send(left);
        };
        self.store.leave(&self.scope, unused, Box::new(done));
        answered.await.unwrap_or_else(|_| Err(self.engine_closed().op("close")))
    }
}

fn beat_every(options: &SubscribeOptions) -> Duration {
    Duration::from_millis(group::lease(options).unsigned_abs()) / 3
}
