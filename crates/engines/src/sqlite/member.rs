//! A member of a group: its state, and the jobs it gives the threads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linchpin_core::bus::{Delivery, Order, Receipt, Settle, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};
use tokio::sync::{Notify, oneshot};

use super::NAME;
use super::claim::{self, Claim, Scope};
use super::core::{Core, closed, lock};
use super::group::{self, Joined};
use super::hand::{Group, Hand, Lost, SHELF};
use super::order::Partitions;
use super::settle::{Settled, settle_all};
use super::topic::{Topic, millis};
use super::tx::{Step, Tx};
use super::window::Window;

/// A waiting `next` asks anew at least this often, whatever it was told.
pub(super) const AT_LEAST: Duration = Duration::from_secs(1);

/// A living subscription.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) core: Arc<Core>,
    pub(super) topic: Topic,
    pub(super) options: SubscribeOptions,
    pub(super) scope: Arc<Scope>,
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) hand: Hand,
    pub(super) window: Window,
    /// A fetch is on its way.
    pub(super) fetching: bool,
    /// Something was committed since the last fetch began.
    pub(super) news: bool,
    /// When the last fetch began.
    pub(super) asked: Option<Instant>,
    /// When to fetch again without news.
    pub(super) again_at: Instant,
    pub(super) failed: Option<Error>,
    pub(super) closed: bool,
    /// `next` calls that wait, and when the last one ended.
    pub(super) waiting: usize,
    pub(super) last_next: Instant,
    /// What it owns, under an order.
    pub(super) partitions: Option<Partitions>,
    beat_at: Instant,
    pub(super) turn: u32,
}

impl Member {
    pub(super) fn new(
        core: Arc<Core>,
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
        Arc::new(Self { core, topic, options, scope, state, changed: Notify::new() })
    }

    /// Something was committed that may concern this topic.
    pub(super) fn wake(&self) {
        lock(&self.state).news = true;
        self.changed.notify_waiters();
    }

    /// Hands out what is there, or sees to it that something comes.
    pub(super) fn step(self: &Arc<Self>, max: usize) -> Result<Vec<Delivery>> {
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
    pub(super) fn refresh(&self) {
        let mut state = lock(&self.state);
        if state.asked.is_none_or(|at| at.elapsed() >= self.core.config.poll) {
            state.news = true;
        }
    }

    pub(super) fn closed(&self) -> Error {
        Error::new(Kind::Closed, "the subscription is closed").engine(NAME).op("next")
    }

    /// How many more it may hold.
    pub(super) fn room(&self, state: &State) -> usize {
        self.options.max_in_flight.saturating_sub(state.hand.handed() + state.hand.shelved())
    }

    /// Settles; the state is brought up to date on the writer thread, also if the caller is gone by then.
    pub(super) async fn settle(self: &Arc<Self>, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let count = batch.len();
        if let Err(error) = self.core.check_open() {
            return vec![Err(error.op("settle")); count];
        }
        let groups = lock(&self.state).hand.group(batch);
        let mut answers: Vec<Result<()>> = (0..count).map(|_| Err(fenced())).collect();
        if groups.is_empty() {
            return answers;
        }
        let (answer, answered) = oneshot::channel();
        let (member, scope) = (self.clone(), self.scope.clone());
        let groups = Arc::new(groups);
        let (mine, began) = (groups.clone(), Instant::now());
        let work = move |tx: &Tx<'_>| -> Step<Vec<Settled>> {
            settle_all(tx, &scope, mine.iter().map(|group| &group.batch))
        };
        let theirs = groups.clone();
        self.core.submit("settle", true, count, work, move |result| {
            if let Ok(settled) = &result {
                member.settled(&theirs, settled, began);
            }
            let _gone = answer.send(result);
        });
        let result = answered.await.unwrap_or_else(|_| Err(closed().op("settle")));
        for (n, group) in groups.iter().enumerate() {
            for (k, at) in group.at.iter().enumerate() {
                let took =
                    |all: &Vec<Settled>| all.get(n).and_then(|settled| settled.took.get(k)) == Some(&true);
                if let Some(slot) = answers.get_mut(*at) {
                    *slot = result
                        .as_ref()
                        .map_err(Clone::clone)
                        .and_then(|all| took(all).then_some(()).ok_or_else(fenced));
                }
            }
        }
        answers
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

    /// Looked after by the writer thread, every tick.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) {
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
            let (scope, options) = (self.scope.clone(), self.options.clone());
            let work = move |tx: &Tx<'_>| group::beat(tx, &scope, &options);
            self.core.submit("beat", false, 1, work, |_| ());
        }
    }

    /// Forgets everything: the group was moved, and the claims are gone.
    pub(super) fn forget_all(&self) {
        let mut state = lock(&self.state);
        state.hand.stale(None);
        state.hand.forget_all();
        if let Some(partitions) = &mut state.partitions {
            partitions.clear();
        }
    }

    /// Leaves the group: what it holds waits for others at once.
    pub(super) async fn leave(self: &Arc<Self>) -> Result<()> {
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
        let scope = self.scope.clone();
        self.core
            .write("close", 1, move |tx| {
                unfetch(tx, &scope, &unused)?;
                group::leave(tx, &scope)
            })
            .await
    }
}

fn beat_every(options: &SubscribeOptions) -> Duration {
    Duration::from_millis(group::lease(options).unsigned_abs()) / 3
}

fn fenced() -> Error {
    Error::new(Kind::Fenced, "the delivery was lost to another or settled before").engine(NAME).op("settle")
}

pub(super) fn unfetch(tx: &Tx<'_>, scope: &Scope, unused: &[Lost]) -> Step<Vec<Claim>> {
    let mut back = Vec::new();
    for lost in unused {
        back.extend(claim::unfetch(tx, scope, lost.claim, &lost.offsets)?);
    }
    Ok(back)
}
