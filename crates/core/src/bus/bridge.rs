//! From one bus to another: copying or moving a topic.
//!
//! Not a pipe into a sink: a sink knows again what it has landed, and a bus can't.

mod work;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::work::Worker;
use super::{Bus, Caps, Order, SubscribeOptions, TopicOptions, TopicStats, murmur2};
use crate::retry::{Backoff, Policy};
use crate::{Error, Kind, Result, Timestamp};

/// Builds a bridge: `Bridge::new(&from, "orders", &to, "orders").run()`.
///
/// Ids, keys, headers and payloads stay as they are. The time of a message is when its engine stored it, so copies carry the
/// time of copying. A missing target topic is created with the source's options.
///
/// # Guarantees
/// * **At least once.** The group of the bridge at the source is its progress: a message is acknowledged there after
///   the target answered `Ok`. A bridge that was killed goes on where it stood when it is run again; up to one batch may
///   be stored twice, under the same id. No bus takes both steps as one, so consumers that mind deduplicate by id.
/// * **Order per key**, where the source's [`Caps::ordered`](super::Caps) says so; [`Bridging::ordered`] tells. Target partitions
///   are chosen by key, so the messages of a key share one, whatever the numbers of partitions. Repeats don't change the
///   order in which messages are first stored, unless the target stores a message and refuses an earlier one.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use linchpin_core::bus::{Bridge, Bus, MemoryBus, Message, TopicOptions};
///
/// let (old, new) = (Bus::new(MemoryBus::new()), Bus::new(MemoryBus::new()));
/// old.ensure("orders", &TopicOptions::default()).await?;
/// old.publish("orders", Message::new("two lanterns").key("customer-7")).await?;
///
/// let mut bridging = Bridge::new(&old, "orders", &new, "orders").run().await?;
/// bridging.wait().await?;
/// assert_eq!(bridging.totals().stored, 1);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Bridge {
    from: Bus,
    topic: String,
    to: Bus,
    to_topic: String,
    group: Option<String>,
    partitions: Option<u32>,
    follow: bool,
    batch: usize,
    ack_wait: Duration,
    retry: Policy,
}

/// What a bridge did so far, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeTotals {
    /// Waiting at the source when it began.
    pub waiting: u64,
    /// Stored at the target and acknowledged at the source.
    pub stored: u64,
    /// Of these, handed out by the source before, to a run that ended early perhaps: the target may have them twice.
    pub again: u64,
}

impl Bridge {
    /// A copy of `topic` of `from` as `to_topic` of `to`. It reads as a group of its own, `lp-copy-…`, which is named
    /// after the target, so that the same copy finds its progress; the group goes when the copy is complete.
    pub fn new(from: &Bus, topic: &str, to: &Bus, to_topic: &str) -> Self {
        Self {
            from: from.clone(),
            topic: topic.to_owned(),
            to: to.clone(),
            to_topic: to_topic.to_owned(),
            group: None,
            partitions: None,
            follow: false,
            batch: 1000,
            ack_wait: Duration::from_secs(30),
            retry: Policy { attempts: 10, backoff: Backoff::default(), idempotent: true },
        }
    }

    /// Moves instead: consumes as this group, which stays. What is stored at the target is done at the source.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// How many partitions the target topic is created with. Default as many as the source has.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Goes on with what is published later. Default: it ends when the group has nothing left, or, where publishing
    /// never rests, once nothing older than its beginning came for `ack_wait` and two seconds.
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// The most messages in hand, at least 1. Default 1,000.
    pub fn batch(mut self, messages: usize) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// How soon a later run gets what a killed one had in hand, 1 s (RabbitMQ: 3 s) to 12 h. Default 30 s.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.ack_wait = wait;
        self
    }

    /// When to give up on a source or target that is away. Default 10 attempts over about 40 s.
    pub fn retry(mut self, policy: Policy) -> Self {
        self.retry = Policy { idempotent: true, ..policy };
        self
    }

    /// Creates the target topic if need be, joins the group and starts, in a task of its own, until [`Bridging::stop`] or
    /// the end.
    ///
    /// # Errors
    /// `NotFound` without the source topic; `Invalid` if the target is the source; `AlreadyExists` if the target topic is
    /// there with other [`partitions`](Bridge::partitions) than were asked for; `Unsupported` if the source has no groups, or gives a
    /// new group nothing that was published before it ([`Caps::replay`](super::Caps)); `Conflict` while the group has
    /// living members that keep another order.
    pub async fn run(self) -> Result<Bridging> {
        self.check_apart()?;
        let source = one(self.from.stats(Some(&self.topic)).await?, &self.topic)?;
        let group = self.group.clone().unwrap_or_else(|| self.own_group());
        let known = self.group.is_some() || source.groups.iter().any(|g| g.group == group);
        check_source(self.from.caps(), known).map_err(|e| e.engine(self.from.info().engine).op("bridge"))?;
        self.ensure_target(source).await?;
        let order = if self.from.caps().ordered { Order::Partition } else { Order::None };
        let options = SubscribeOptions {
            order,
            ack_wait: self.ack_wait,
            max_attempts: u32::MAX,
            max_in_flight: self.batch,
            ..SubscribeOptions::group(&group)
        };
        let begun = Timestamp::now();
        // The engine's own: what was redriven for other groups travels too.
        let subscription = self.from.engine().subscribe(&self.topic, &options).await?;
        let shared = Arc::new(Shared::default());
        let (stop, stopping) = watch::channel(false);
        let mut worker = Worker::new(self, group.clone(), subscription, stopping, shared.clone(), begun);
        worker.look_ahead().await?;
        let ordered = order == Order::Partition;
        Ok(Bridging { group, ordered, stop, shared, task: Some(tokio::spawn(worker.run())) })
    }

    /// The same for every run of the same copy, and not a secret's: the URL is redacted.
    fn own_group(&self) -> String {
        let target = format!("{} {}", self.to.info().url, self.to_topic);
        format!("lp-copy-{:08x}", murmur2(target.as_bytes()))
    }

    fn same(&self) -> Error {
        let message = format!("{:?} is both source and target", self.topic);
        Error::new(Kind::Invalid, message).op("bridge").help("name another topic, or another engine")
    }

    fn check_apart(&self) -> Result<()> {
        let (from, to) = (self.from.info(), self.to.info());
        // Two buses in memory share a URL and nothing else.
        let one_place = Arc::ptr_eq(self.from.engine(), self.to.engine())
            || (self.from.caps().durable && from.url == to.url);
        if one_place && self.topic == self.to_topic { Err(self.same()) } else { Ok(()) }
    }

    async fn ensure_target(&self, source: TopicStats) -> Result<()> {
        let there = match self.to.stats(Some(&self.to_topic)).await {
            Err(error) if error.kind() == Kind::NotFound => None,
            there => Some(one(there?, &self.to_topic)?),
        };
        // A place may have several URLs; what agrees to the oldest message's time is one topic.
        if source.messages > 0 && there.as_ref() == Some(&source) {
            return Err(self.same());
        }
        let asked = |options: &TopicOptions| self.partitions.is_some_and(|n| n != options.partitions);
        let options = match there {
            None => source.options,
            Some(there) if asked(&there.options) => there.options,
            Some(_) => return Ok(()),
        };
        let partitions = self.partitions.unwrap_or(options.partitions);
        self.to.ensure(&self.to_topic, &TopicOptions { partitions, ..options }).await
    }
}

/// `known`: the group has its messages already, or it isn't for us to say that it has none.
fn check_source(caps: Caps, known: bool) -> Result<()> {
    if !caps.groups {
        return Err(Error::new(Kind::Unsupported, "there are no groups, so nothing keeps the progress")
            .help("use this engine as a target only"));
    }
    if !caps.replay && !known {
        let message = "a new group doesn't get what was published before it: there is nothing to copy";
        return Err(Error::new(Kind::Unsupported, message)
            .help("move the topic instead, through the group that has the messages"));
    }
    Ok(())
}

fn one(mut stats: Vec<TopicStats>, topic: &str) -> Result<TopicStats> {
    stats.pop().ok_or_else(|| Error::new(Kind::NotFound, format!("topic {topic:?} doesn't exist")))
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicU64,
    stored: AtomicU64,
    again: AtomicU64,
    complete: AtomicBool,
    trouble: RwLock<Option<Error>>,
}

impl Shared {
    fn tell(&self, trouble: Option<Error>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// A bridge at work. Dropping it is like a crash: [`Bridging::stop`] is the clean way.
#[derive(Debug)]
pub struct Bridging {
    group: String,
    ordered: bool,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    /// None once its end was told.
    task: Option<JoinHandle<Result<()>>>,
}

impl Bridging {
    /// The group it reads as.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether the source keeps an order, so that the order per key is kept.
    pub fn ordered(&self) -> bool {
        self.ordered
    }

    /// What it did so far.
    pub fn totals(&self) -> BridgeTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { waiting, stored, again, .. } = &*self.shared;
        BridgeTotals { waiting: get(waiting), stored: get(stored), again: get(again) }
    }

    /// Whether it reached the end.
    pub fn complete(&self) -> bool {
        self.shared.complete.load(Ordering::Relaxed)
    }

    /// Why it is trying again at the moment, if it is.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it ends by itself. Cancel-safe.
    ///
    /// # Errors
    /// What ended it early: a topic was removed, a message is larger than the target takes, an engine stayed away, or
    /// (`Timeout`) messages are left that the source doesn't hand out. Its group stays: the next run goes on from there.
    pub async fn wait(&mut self) -> Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await;
        self.task = None;
        ended.unwrap_or_else(|panic| Err(Error::new(Kind::Unexpected, "the bridge panicked").source(panic)))
    }

    /// Finishes the batch at hand and leaves the group, which stays: the next run goes on from there.
    ///
    /// # Errors
    /// What ended it before, or what leaving says.
    pub async fn stop(mut self) -> Result<BridgeTotals> {
        self.stop.send_replace(true);
        self.wait().await?;
        Ok(self.totals())
    }
}

impl Drop for Bridging {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl fmt::Display for BridgeTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiting, stored, again } = self;
        write!(f, "{waiting} waiting, {stored} stored, {again} of them handed out before")
    }
}

#[cfg(test)]
mod tests;
