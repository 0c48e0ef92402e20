//! What an engine implements: [`BusEngine`] and [`Subscription`], with the whole contract.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::{Delivery, Info, Message, Partitioner, Position, Receipt};
use crate::{Result, Timestamp};

/// A message bus.
///
/// # Contract
/// Every engine keeps these; what it can't keep, its [`Caps`] say, and the matrix shows.
///
/// 1. **Stored.** `publish` answered `Ok` ⇒ the message is stored as durably as [`Info::durability`] says.
///    An error says by its [`Retry`](crate::Retry) whether the message may have been stored all the same.
/// 2. **At least once.** A group gets every message at least once. Once `settle` answered `Ok` to an
///    [`Settle::Ack`], that message isn't delivered to the group again.
/// 3. **Death.** A consumer that dies — killed, frozen, cut off — loses its unsettled deliveries to another member
///    within [`ack_wait`](SubscribeOptions::ack_wait) + 1 s. Settling a lost delivery answers
///    [`Kind::Fenced`](crate::Kind::Fenced) and changes nothing.
/// 4. **Attempts.** [`Delivery::attempt`] counts up across nack, death and restart. A message that failed
///    [`max_attempts`](SubscribeOptions::max_attempts) times goes to the topic [`dead_topic`](super::dead_topic)
///    with reason, attempts and origin. A crash between the two steps may leave it in both, never in neither.
/// 5. **Delay.** A nacked or delayed message comes no sooner than its delay, and within the delay + 1 s.
/// 6. **Order.** Under [`Order::Key`] and [`Order::Partition`] messages come in publish order, across nack, death and
///    redelivery too, as these say; a partition has one fenced owner in the group at a time.
/// 7. **Bounds.** Never more than [`max_in_flight`](SubscribeOptions::max_in_flight) unsettled per subscription:
///    a slow consumer doesn't grow memory.
/// 8. **Close.** Closing a subscription hands what is unsettled back at once. What it fetched but never
///    handed out doesn't count as an attempt, and a close never uses up the last one.
///
/// Retention removes only what is older or beyond what [`TopicOptions`] keep *and* was settled by every group of the
/// topic: a group that lags delays removal, it doesn't lose.
///
/// Every wait has a deadline. All futures are cancel-safe unless a method says otherwise; a `publish` dropped midway
/// has an unknown outcome.
#[async_trait]
pub trait BusEngine: Send + Sync + Debug {
    /// Name, URL and durability.
    fn info(&self) -> &Info;

    /// What this engine can do. It never changes while the engine lives.
    fn caps(&self) -> Caps;

    /// Creates the topic, or changes the retention and size limit of one that is there.
    ///
    /// # Errors
    /// `Invalid` for a bad name or option; `AlreadyExists` if it is there with another number of partitions.
    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()>;

    /// Removes one group, or, without a group, the topic with its messages and groups.
    /// Its subscriptions answer `NotFound` from then on.
    ///
    /// # Errors
    /// `NotFound` if it isn't there.
    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()>;

    /// Stores messages in this order; one answer each, in the same order.
    ///
    /// Messages of a call that go to one partition get rising offsets. A message that is refused (`Invalid`: too large,
    /// no such partition) doesn't hold back the others. A missing topic is `NotFound` for each.
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>>;

    /// How many calls of [`BusEngine::publish`] a [`Publisher`](super::Publisher) may have under way at once. More than 1 only
    /// if calls on one topic store their messages in the order in which they were begun.
    fn publishes_at_once(&self) -> usize {
        1
    }

    /// Joins a group of the topic, or listens by itself.
    ///
    /// # Errors
    /// `NotFound` without the topic, `Invalid` for options out of range, `Unsupported` for what [`Caps`] exclude, `Conflict` while
    /// the group has living members and only they, or only this one, keep an [`Order`].
    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>>;

    /// What one topic, or every topic, holds, by name. Dead-letter topics are topics like any other.
    ///
    /// # Errors
    /// `NotFound` if the named topic isn't there.
    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>>;

    /// Moves a group, on every partition (or the one that `to` names), creating it if need be: what follows the place
    /// is delivered again, what lies before it is not, nacked and unsettled messages included. Deliveries
    /// made before are fenced.
    ///
    /// # Errors
    /// `NotFound` without the topic; `Unsupported` without [`Caps::replay`].
    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()>;

    /// Applies the topic's retention now and says how many messages went. Engines do this by themselves too.
    ///
    /// # Errors
    /// `NotFound` without the topic.
    async fn trim(&self, topic: &str) -> Result<u64>;

    /// Finishes what was accepted, hands back what is unsettled, and lets go of files and connections. Later calls, those of
    /// its subscriptions included, answer `Closed`. Closing twice is fine.
    ///
    /// # Errors
    /// What the engine says; it is closed all the same.
    async fn close(&self) -> Result<()>;
}

/// A membership in a group. Dropping it without [`Subscription::close`] is a death: see point 3 of the contract.
#[async_trait]
pub trait Subscription: Send + Sync + Debug {
    /// Up to `max` deliveries (at least 1 is asked for), as soon as there are any; none after `wait`.
    ///
    /// Several tasks may call it at once. Cancel-safe: a delivery lost with a dropped future would be a lost message,
    /// so nothing is counted as handed out before the future is ready.
    ///
    /// # Errors
    /// `NotFound` if the topic or group was removed, `Closed` after [`Subscription::close`].
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// Settles deliveries; one answer each, in the same order: `Fenced` for one that was lost or settled before.
    ///
    /// Not cancel-safe: a dropped call has an unknown outcome, and the deliveries must be taken as unsettled.
    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>>;

    /// Leaves the group within `within`; what is unsettled goes to the others at once. Closing twice is fine.
    ///
    /// # Errors
    /// `Timeout` if `within` passed first: the deliveries then come back after `ack_wait`.
    async fn close(&self, within: Duration) -> Result<()>;
}

/// The fate of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// Done: never again for this group.
    Ack,
    /// Failed: again after `delay`. At the last attempt it becomes a dead letter with `reason`.
    Nack {
        /// The least time until it comes back.
        delay: Duration,
        /// Why, for the dead letter.
        reason: String,
    },
    /// Still at work: `ack_wait` starts over. The receipt stays valid.
    Extend,
    /// Hopeless: to the dead letters now.
    Dead {
        /// Why.
        reason: String,
    },
}

/// Observable facts about an engine: what is `false` answers `Unsupported` or is weaker than the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Stored messages and group state survive the death of every process that uses the engine.
    pub durable: bool,
    /// Several processes share the same topics.
    pub shared: bool,
    /// Groups exist: members compete, progress is kept.
    pub groups: bool,
    /// A subscriber without a group gets everything published while it lives.
    pub broadcast: bool,
    /// [`Order::Key`] and [`Order::Partition`] are kept.
    pub ordered: bool,
    /// Failed messages come back, attempts are counted, the last one makes a dead letter.
    pub redelivery: bool,
    /// Messages can be delayed, when published and when nacked.
    pub delay: bool,
    /// A group can start at, and seek to, oldest, newest, offsets and times. Without it a new group begins with what is
    /// published from then on; only what was published while the topic had no group at all is kept, for the first.
    pub replay: bool,
    /// The id, the key and the headers travel with the payload. Without it only the payload does: a key and headers
    /// are refused, a delivery's id is made up where it is received, and dead letters don't say why they are.
    pub metadata: bool,
    /// Age and length retention are applied. Without it nothing is kept that every group has settled.
    pub retention: bool,
    /// `publish` answers with the offset. Offsets of a partition rise; only where engines say so are they dense.
    pub offsets: bool,
    /// Points 1 and 2 of the contract hold when a replica takes over from a server that died, too. Without it, what was
    /// answered `Ok` shortly before can be lost then. An engine without replicas has it.
    pub failover: bool,
}

/// How a topic is kept. `Default` is documented per field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOptions {
    /// Number of partitions, 1 to 1,024, fixed at creation. Default 4.
    pub partitions: u32,
    /// Settled messages older than this go. Default 7 days; `None` keeps them for ever.
    pub retention_age: Option<Duration>,
    /// Settled messages beyond this many per topic go, oldest first. Default `None`, no limit.
    pub retention_length: Option<u64>,
    /// The largest [`Message::size`] accepted, in bytes. Default 1 MiB.
    pub max_message: u64,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            partitions: 4,
            retention_age: Some(Duration::from_secs(7 * 24 * 3600)),
            retention_length: None,
            max_message: 1 << 20,
        }
    }
}

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishOptions {
    /// Who picks the partition. Default by key hash.
    pub partitioner: Partitioner,
}

/// Where a new group begins, and where a group is moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The oldest message that is still there. The default of a group.
    #[default]
    Oldest,
    /// Only what is published from now on. The default of a broadcast subscriber.
    Newest,
    /// This place of one partition; as a start, other partitions begin at their oldest. An offset that was trimmed
    /// means the oldest after it, one beyond the end means the newest.
    At(Position),
    /// The first message stored at this time or later.
    Time(Timestamp),
}

/// How strictly order is kept between the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// Members compete for every message. The fastest, and the default.
    #[default]
    None,
    /// Messages of one key come one after another in publish order: none is handed out while an earlier one of its key is
    /// unsettled. Messages without a key, and other keys, go on.
    Key,
    /// A partition's messages come in publish order, several in hand at once. After a nack nothing later comes before
    /// that message does; what is already in hand is the holder's to put in order.
    Partition,
}

/// How a subscription behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The group to join; `None` broadcasts: this subscriber gets everything by itself, and leaves nothing behind.
    pub group: Option<String>,
    /// Where the group begins if it is new. Default [`Start::Oldest`] ([`Start::Newest`] for broadcast).
    pub start: Start,
    /// Only these partitions. Default `None`: a fair share of all under an order, else any.
    pub partitions: Option<Vec<u32>>,
    /// Default [`Order::None`].
    pub order: Order,
    /// How long a delivery may stay unsettled before another member gets it, 1 s (RabbitMQ: 3 s) to 12 h. Default 30 s.
    pub ack_wait: Duration,
    /// How often a message is handed out before it is a dead letter, at least 1. Default 10.
    pub max_attempts: u32,
    /// The most messages this subscription holds unsettled, handed out or fetched ahead, at least 1. Default 4,096.
    pub max_in_flight: usize,
}

impl SubscribeOptions {
    /// A member of `group`, otherwise by default.
    pub fn group(group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), start: Start::Oldest, ..Self::broadcast() }
    }

    /// A subscriber by itself that gets everything published from now on.
    pub fn broadcast() -> Self {
        Self {
            group: None,
            start: Start::Newest,
            partitions: None,
            order: Order::None,
            ack_wait: Duration::from_secs(30),
            max_attempts: 10,
            max_in_flight: 4096,
        }
    }
}

/// What a topic holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicStats {
    /// Its name.
    pub topic: String,
    /// How it is kept.
    pub options: TopicOptions,
    /// Messages stored, settled ones that are still retained included.
    pub messages: u64,
    /// Messages that wait for their publish delay.
    pub delayed: u64,
    /// When the oldest stored message was stored.
    pub oldest: Option<Timestamp>,
    /// Its groups by name, broadcast subscribers left out.
    pub groups: Vec<GroupStats>,
}

/// How far a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStats {
    /// Its name.
    pub group: String,
    /// Messages it was never handed.
    pub lag: u64,
    /// Messages in hand of a member, or fetched ahead by one.
    pub in_flight: u64,
    /// Nacked messages that wait for their delay.
    pub waiting: u64,
    /// Members that are alive.
    pub members: u64,
}
