//! The members of a group in this process: one member of the Kafka group, shared by their subscriptions.
//!
//! They compete for its partitions' messages as the order asks; other processes get other partitions. What is handed
//! out and what is settled is written into the group's commits before `next` and `settle` answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use linchpin_core::bus::{Delivery, Order, SubscribeOptions};
use linchpin_core::time::since;
use linchpin_core::{Error, Kind, Result, Timestamp};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::NAME;
use super::client::native;
use super::commits::Outcome;
use super::core::Core;
use super::error::map;
use super::member::Member;
use super::state::{State, fenced};

/// The pause after a commit that failed.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a new member waits for its first messages.
const WARM_UP: Duration = Duration::from_secs(1);

/// How partitions come to a hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// As a member of the Kafka group.
    Shared,
    /// By hand, with the group's commits.
    Chosen(Vec<u32>),
    /// By hand, for a subscriber by itself: nothing is committed.
    Broadcast,
}

/// What a hub is for.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) topic: String,
    pub(super) kafka: String,
    pub(super) partitions: u32,
    /// Empty for broadcast.
    pub(super) group: String,
    pub(super) kafka_group: String,
    pub(super) mode: Mode,
    pub(super) ack_wait: Duration,
    pub(super) order: Order,
}

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) core: Arc<Core>,
    pub(super) scope: Scope,
    state: Mutex<State>,
    /// Why it is over.
    end: OnceLock<Error>,
    member: Mutex<Option<Arc<Member>>>,
    /// Rung when there may be something to hand out, and at the end.
    pub(super) news: Arc<Notify>,
    /// Whether anything was fetched yet.
    pub(super) arrived: Arc<AtomicBool>,
    /// Rung when a commit came through or was lost, and at the end.
    commits: Notify,
    /// Rung when the member has left the Kafka group.
    pub(super) left: Notify,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Hub {
    pub(super) fn new(core: Arc<Core>, scope: Scope) -> Self {
        Self {
            state: Mutex::new(State::new(scope.order)),
            core,
            scope,
            end: OnceLock::new(),
            member: Mutex::default(),
            news: Arc::default(),
            arrived: Arc::default(),
            commits: Notify::new(),
            left: Notify::new(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_member(&self, member: Option<Arc<Member>>) {
        *self.member.lock().unwrap_or_else(PoisonError::into_inner) = member;
    }

    pub(super) fn member(&self) -> Option<Arc<Member>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody gets anything from here any more; the first reason stays.
    pub(super) fn end(&self, why: Error) {
        let _ = self.end.set(why);
        self.news.notify_waiters();
        self.commits.notify_waiters();
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.get().is_some()
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        self.end.get().map_or(Ok(()), |error| Err(error.clone().op(op)))
    }

    /// Up to `max` deliveries for a seat, as soon as there are any. Nothing is lost with a dropped future: what is
    /// written down for it goes to the next call.
    pub(super) async fn next(&self, seat: u64, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = tokio::time::Instant::now() + wait;
        let _waiting = Waiting::begin(self, seat);
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            self.check("next")?;
            let (out, until) = self.poll(seat, max.max(1))?;
            if !out.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(out);
            }
            let _ = timeout_at(until.map_or(deadline, |until| deadline.min(until)), news).await;
        }
    }

    /// What can be handed out now, or when time alone may change that.
    fn poll(&self, seat: u64, max: usize) -> Result<(Vec<Delivery>, Option<tokio::time::Instant>)> {
        let mut state = self.lock();
        let now = Instant::now();
        let mut hopeless = state.expire(now);
        let taken = state.take(seat, max, now, &mut hopeless);
        let clock = Timestamp::now();
        let due = state.next_due(clock).map(|due| now + since(due, clock));
        let until = due.into_iter().chain(state.next_lapse(now)).min().map(tokio::time::Instant::from_std);
        self.commit(&mut state);
        drop(state);
        self.bury_later(hopeless);
        match taken {
            Ok(out) => Ok((out, until)),
            Err(error) => {
                self.complain(&error);
                Err(map(error, "next"))
            }
        }
    }

    /// Waits a moment until what the first partitions hold is at hand.
    pub(super) async fn warm_up(&self) -> Result<()> {
        let ends = self.core.control.ends(&self.scope.kafka, self.scope.partitions, "subscribe").await?;
        let deadline = tokio::time::Instant::now() + WARM_UP;
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let left = |(n, _, high): &(u32, u64, u64)| {
                self.lock().parts.get(n).is_some_and(|part| part.tracker.left(*high) > 0)
            };
            let ready = self.arrived.load(Ordering::Acquire) || self.is_over() || !ends.iter().any(left);
            if ready || timeout_at(deadline, news).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Sends a commit with what has changed, unless one is under way.
    pub(super) fn commit(&self, state: &mut State) {
        let paused = state.commits.pause.is_some_and(|until| until > Instant::now());
        if state.commits.is_under_way() || paused || !state.is_dirty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (n, part) in state.parts.iter_mut().filter(|(_, part)| part.dirty) {
            let text = part.tracker.encode();
            let offset = Offset::Offset(i64::try_from(part.tracker.base()).unwrap_or(i64::MAX));
            let mut element = list.add_partition(&self.scope.kafka, native(*n));
            // An offset is never out of range.
            let _ = element.set_offset(offset);
            element.set_metadata(&text);
            part.written = text.len();
            part.dirty = false;
        }
        state.commits.send();
        if self.scope.mode == Mode::Broadcast {
            state.commits.succeed();
            self.news.notify_waiters();
            return;
        }
        if !self.member().is_some_and(|member| member.commit(list)) {
            self.failed(state, super::core::closed().op("commit"));
        }
    }

    fn failed(&self, state: &mut State, error: Error) {
        tracing::debug!(%error, group = self.scope.kafka_group, "not committed yet");
        state.commits.fail(error, Instant::now() + AGAIN);
        state.parts.values_mut().for_each(|part| part.dirty = true);
    }

    /// What the brokers said of the commit under way.
    pub(super) fn committed(&self, result: Result<(), KafkaError>, list: &TopicPartitionList) {
        let refused = list.elements().iter().find_map(|element| element.error().err());
        let mut state = self.lock();
        let error = result.err().or(refused);
        // A commit of the generation before is said again: what was really lost, librdkafka tells by a rebalance.
        let late = error.as_ref().and_then(KafkaError::rdkafka_error_code) == Some(Code::IllegalGeneration);
        match error.map(|error| map(error, "commit")) {
            None => {
                state.commits.succeed();
                self.commit(&mut state);
            }
            Some(error) if error.kind() == Kind::Fenced && !late => {
                tracing::debug!(%error, group = self.scope.group, "the partitions went to others");
                self.lose(&mut state);
                if matches!(self.scope.mode, Mode::Chosen(_)) {
                    drop(state);
                    return self.end(shared());
                }
            }
            Some(error) => self.failed(&mut state, error),
        }
        drop(state);
        self.news.notify_waiters();
        self.commits.notify_waiters();
    }

    /// Every partition is gone, without a last word.
    pub(super) fn lose(&self, state: &mut State) {
        state.commits.lose();
        for n in state.parts.keys().copied().collect::<Vec<_>>() {
            state.ground(n);
            state.parts.remove(&n);
        }
    }

    /// Waits until a change is written down.
    pub(super) async fn through(&self, version: u64) -> Result<()> {
        let deadline = tokio::time::Instant::now() + self.core.config.timeout;
        loop {
            let news = self.commits.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            match self.lock().commits.outcome(version) {
                Outcome::Through => return Ok(()),
                Outcome::Lost => return Err(fenced()),
                Outcome::Open => {}
            }
            self.check("settle")?;
            if timeout_at(deadline, news).await.is_err() {
                let late = || Error::new(Kind::Timeout, "the brokers gave no answer in time").engine(NAME);
                return Err(self.lock().commits.failure.clone().unwrap_or_else(late));
            }
        }
    }

    /// Leaves a seat. The last one closes the hub.
    pub(super) async fn leave(&self, seat: u64, within: Duration) -> Result<()> {
        let version = {
            let mut state = self.lock();
            state.leave(seat, true);
            if state.seats.is_empty() {
                state.parts.values_mut().for_each(super::part::Part::unstage);
            }
            let version = state.version();
            self.commit(&mut state);
            version
        };
        self.news.notify_waiters();
        let late =
            || Error::new(Kind::Timeout, "the brokers didn't take the last commit in time").engine(NAME);
        let through = match self.is_over() {
            true => Ok(()),
            false => {
                tokio::time::timeout(within, self.through(version)).await.unwrap_or_else(|_| Err(late()))
            }
        };
        self.close_if_empty().await;
        match through {
            Err(error) if matches!(error.kind(), Kind::Fenced | Kind::Closed) => Ok(()),
            other => other.map_err(|e| e.op("close")),
        }
    }

    /// Leaves every seat, for the bus is closed: they answer `Closed` from now on.
    pub(super) async fn leave_all(&self, within: Duration) -> Result<()> {
        let seats: Vec<u64> = self.lock().seats.keys().copied().collect();
        let mut left = Ok(());
        for seat in seats {
            left = left.and(self.leave(seat, within).await);
        }
        left
    }

    async fn close_if_empty(&self) {
        if !self.lock().seats.is_empty() {
            return;
        }
        self.end(Error::new(Kind::Closed, "the subscription is closed").engine(NAME));
        self.gone(self.core.config.timeout).await;
    }

    /// Waits until the member has left the Kafka group.
    pub(super) async fn gone(&self, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.member().is_none() || timeout_at(deadline, left).await.is_err() {
                return;
            }
        }
    }

    /// A seat died: what it holds comes back when its leases end.
    pub(super) fn abandon(&self, seat: u64) {
        let mut state = self.lock();
        state.leave(seat, false);
        if state.seats.is_empty() {
            self.end(Error::new(Kind::Closed, "the subscription is closed").engine(NAME));
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// An error that isn't an answer to anything: the topic may be gone.
    pub(super) fn complain(&self, error: &KafkaError) {
        tracing::debug!(%error, topic = self.scope.topic, "librdkafka complains");
    }

    /// What is to be done now and then.
    pub(super) fn tick(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        let lapsed = state.next_lapse(now).is_some_and(|lapse| lapse <= now);
        let hopeless = state.expire(now);
        self.commit(&mut state);
        drop(state);
        self.bury_later(hopeless);
        if lapsed {
            self.news.notify_waiters();
        }
    }

    pub(super) fn sit(&self, options: &SubscribeOptions) -> u64 {
        self.lock().sit(options)
    }
}

/// Kafka takes commits of partitions chosen by hand only while nobody shares the group's partitions.
pub(super) fn shared() -> Error {
    Error::new(Kind::Conflict, "the group's members share all partitions")
        .engine(NAME)
        .help("choose partitions in a group of their own, or let this member share too")
}

/// A fetch that waits keeps its seat alive.
struct Waiting<'a>(&'a Hub, u64);

impl<'a> Waiting<'a> {
    fn begin(hub: &'a Hub, seat: u64) -> Self {
        hub.lock().waits(seat, true);
        Self(hub, seat)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waits(self.1, false);
    }
}
