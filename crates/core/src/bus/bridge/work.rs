//! The work of a bridge: fetch, publish, acknowledge, and know the end.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Bridge, Shared};
use crate::bus::{Delivery, Message, PublishOptions, Receipt, Settle, Subscription};
use crate::{Error, Kind, Result, Timestamp};

/// When nothing came for so long, that may be all there is: the source is asked.
const QUIET: Duration = Duration::from_millis(500);
/// The contract allows a second beyond `ack_wait` until the messages of a dead member come, and they travel.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Worker {
    bridge: Bridge,
    group: String,
    source: Box<dyn Subscription>,
    stopping: watch::Receiver<bool>,
    shared: Arc<Shared>,
    rng: fastrand::Rng,
    begun: Timestamp,
    /// The source is asked whether anything is left when nothing comes, and once so many are stored.
    goal: u64,
    last_any: Instant,
    /// When something last came that was stored before the beginning.
    last_old: Instant,
}

impl Worker {
    pub(super) fn new(
        bridge: Bridge,
        group: String,
        source: Box<dyn Subscription>,
        stopping: watch::Receiver<bool>,
        shared: Arc<Shared>,
        begun: Timestamp,
    ) -> Self {
        let (now, rng) = (Instant::now(), fastrand::Rng::new());
        Self { bridge, group, source, stopping, shared, rng, begun, goal: 0, last_any: now, last_old: now }
    }

    /// Notes how much is waiting.
    pub(super) async fn look_ahead(&mut self) -> Result<()> {
        self.goal = self.left().await?;
        self.shared.waiting.store(self.goal, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn run(mut self) -> Result<()> {
        let moved = self.transfer().await;
        let closed = self.source.close(Duration::from_secs(5)).await;
        if !moved? {
            return closed;
        }
        if self.bridge.group.is_none() {
            self.bridge.from.remove(&self.bridge.topic, Some(&self.group)).await?;
        }
        self.shared.complete.store(true, Ordering::Relaxed);
        closed
    }

    /// Whether it came to the end; else it was stopped.
    async fn transfer(&mut self) -> Result<bool> {
        let mut stopping = self.stopping.clone();
        let mut failures = 0;
        loop {
            let batch = tokio::select! {
                biased;
                () = async { drop(stopping.wait_for(|stop| *stop).await) } => return Ok(false),
                batch = self.source.next(self.bridge.batch, QUIET) => batch,
            };
            match batch {
                Ok(batch) => {
                    failures = 0;
                    let empty = batch.is_empty();
                    self.land(batch).await?;
                    if self.is_end(empty).await? {
                        return Ok(true);
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.pause(error, failures, &[]).await?;
                }
            }
        }
    }

    /// Publishes a batch until all of it is stored, and acknowledges what is.
    async fn land(&mut self, mut batch: Vec<Delivery>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let old = batch.iter().any(|delivery| delivery.time <= self.begun);
        batch.sort_by_key(|delivery| delivery.position);
        for attempt in 1.. {
            let stored = self.publish(&batch).await;
            let (done, open, error) = part(batch, stored);
            self.acknowledge(done).await;
            let Some(error) = error else { break };
            batch = open;
            self.pause(error, attempt, &batch).await?;
        }
        self.shared.tell(None);
        // Now, because leases were extended until now: what couldn't be acknowledged comes `ack_wait` later.
        self.last_any = Instant::now();
        if old {
            self.last_old = self.last_any;
        }
        Ok(())
    }

    async fn publish(&self, batch: &[Delivery]) -> Vec<Result<()>> {
        let messages: Vec<Message> = batch.iter().map(|delivery| delivery.message.clone()).collect();
        let Bridge { to, to_topic, .. } = &self.bridge;
        let options = PublishOptions::default();
        let stored = self.keeping(batch, to.publish_traced(to_topic, messages, &options));
        let mut stored = stored.await.into_iter();
        let answer = |delivery: &Delivery| match stored.next() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.with("message", &delivery.message.id)),
            None => Err(Error::new(Kind::Unexpected, "the engine gave no answer").op("publish")),
        };
        batch.iter().map(answer).collect()
    }

    /// Waits for `work`, and keeps the batch in hand meanwhile.
    async fn keeping<T>(&self, batch: &[Delivery], work: impl Future<Output = T>) -> T {
        let third = self.bridge.ack_wait / 3;
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(third) => {}
            }
            let extend = batch.iter().map(|delivery| (delivery.receipt, Settle::Extend)).collect();
            // What went to another member is stored twice: that is allowed.
            drop(self.source.settle(extend).await);
        }
    }

    async fn acknowledge(&self, done: Vec<(Receipt, u32)>) {
        if done.is_empty() {
            return;
        }
        let acks = done.iter().map(|(receipt, _)| (*receipt, Settle::Ack)).collect();
        let answers = self.source.settle(acks).await;
        for ((_, attempt), answer) in done.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    self.shared.stored.fetch_add(1, Ordering::Relaxed);
                    self.shared.again.fetch_add(u64::from(*attempt > 1), Ordering::Relaxed);
                }
                Err(error) => tracing::debug!(%error, "could not acknowledge; the message comes again"),
            }
        }
    }

    /// Waits before a further attempt; passes the error on if there is to be none.
    async fn pause(&mut self, error: Error, attempt: u32, batch: &[Delivery]) -> Result<()> {
        let Some(wait) = self.bridge.retry.wait(&error, attempt, &mut self.rng) else { return Err(error) };
        tracing::warn!(%error, attempt, "trying again");
        self.shared.tell(Some(error.clone()));
        let mut stopping = self.stopping.clone();
        tokio::select! {
            () = async { drop(stopping.wait_for(|stop| *stop).await) } => Err(error),
            () = self.keeping(batch, tokio::time::sleep(wait)) => Ok(()),
        }
    }

    async fn is_end(&mut self, empty: bool) -> Result<bool> {
        let stored = self.shared.stored.load(Ordering::Relaxed);
        if self.bridge.follow || !(empty || stored >= self.goal) {
            return Ok(false);
        }
        let left = self.left().await?;
        if left == 0 {
            return Ok(true);
        }
        self.goal = stored + left;
        let patience = self.bridge.ack_wait + GRACE;
        if self.last_any.elapsed() > patience {
            return Err(Error::new(Kind::Timeout, format!("{left} messages are left that nobody hands out"))
                .op("bridge")
                .with("topic", &self.bridge.topic)
                .with("group", &self.group)
                .help("another member of the group has them, or they wait for a retry: try again later"));
        }
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        Ok(stored >= waiting && self.last_old.elapsed() > patience)
    }

    /// How many messages the group has yet to settle.
    async fn left(&self) -> Result<u64> {
        let topics = self.bridge.from.stats(Some(&self.bridge.topic)).await?;
        let topic = super::one(topics, &self.bridge.topic)?;
        let group = topic.groups.iter().find(|g| g.group == self.group);
        Ok(group.map_or(topic.messages, |g| g.lag + g.in_flight + g.waiting))
    }
}

/// What is stored, by receipt and attempt; what is to be published again; and why.
type Parted = (Vec<(Receipt, u32)>, Vec<Delivery>, Option<Error>);

/// Of a key, everything behind the first message that isn't stored is published again: the last of its copies at the
/// target are in order.
fn part(batch: Vec<Delivery>, stored: Vec<Result<()>>) -> Parted {
    let (mut done, mut open, mut first) = (Vec::with_capacity(batch.len()), Vec::new(), None);
    let mut broken: HashSet<Bytes> = HashSet::new();
    for (delivery, stored) in batch.into_iter().zip(stored) {
        let key = delivery.message.key.as_ref();
        let behind = key.is_some_and(|key| broken.contains(key));
        match stored {
            Ok(()) if !behind => done.push((delivery.receipt, delivery.attempt)),
            stored => {
                broken.extend(key.cloned());
                first = first.or(stored.err());
                open.push(delivery);
            }
        }
    }
    (done, open, first)
}
