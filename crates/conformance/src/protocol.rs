//! What a case and the process it commands say to each other: one JSON value per line.

use std::time::Duration;

use linchpin::bus::{Delivery, Order, SubscribeOptions};
use serde::{Deserialize, Serialize};

/// What the child is told on its standard input. It answers with one [`Event`], or several where said.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Join a group: [`Event::Done`].
    Join {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// Under [`Order::Key`].
        by_key: bool,
        /// The lease, in milliseconds.
        ack_wait_ms: u64,
    },
    /// Fetch once: [`Event::Taken`].
    Next {
        /// At most so many.
        max: usize,
        /// For at most so long.
        wait_ms: u64,
    },
    /// Acknowledge: [`Event::Done`] or [`Event::Failed`].
    Ack {
        /// The receipt of a delivery taken before.
        receipt: u64,
    },
    /// Fetch and acknowledge for ever: an [`Event::Taken`] for every batch, after it was settled.
    Consume,
    /// Publish the numbers from `from` on, one call per `batch` of them: an [`Event::Stored`] for each call, then
    /// [`Event::Done`].
    Publish {
        /// The topic.
        topic: String,
        /// The first number.
        from: u64,
        /// How many.
        count: u64,
        /// How many per call.
        batch: u64,
    },
    /// How many messages a topic holds: [`Event::Holds`] or [`Event::Failed`].
    Count {
        /// The topic.
        topic: String,
    },
}

/// What a child is told that has coordination open. It answers each with one [`Event`], or several where said.
#[derive(Debug, Serialize, Deserialize)]
pub enum CoordCommand {
    /// Take a lease, put the key under it, and keep it alive: [`Event::Written`].
    Hold {
        /// The key.
        key: String,
        /// How long the lease is, in milliseconds.
        ttl_ms: u64,
    },
    /// Put a key under the lease of the last [`CoordCommand::Hold`]: [`Event::Written`] or [`Event::Failed`].
    PutHeld {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Count the keys: [`Event::Holds`].
    Count {
        /// How they begin.
        prefix: String,
    },
    /// Watch: [`Event::Holds`] with the size of the snapshot, then another one with the number of changes that come first.
    Watch {
        /// How the keys begin.
        prefix: String,
        /// For at most so long.
        wait_ms: u64,
    },
    /// Take a session and the lock, and keep both: [`Event::Held`].
    Lock {
        /// The lock.
        name: String,
        /// How long the session's lease is, in milliseconds.
        ttl_ms: u64,
    },
    /// Whether the lock is still held: [`Event::Done`] or [`Event::Failed`].
    IsHeld,
    /// Take the lock and release it, as often as said, with new sessions where they are lost: an [`Event::Held`] for each
    /// time, then [`Event::Done`].
    Contend {
        /// The lock.
        name: String,
        /// How often.
        rounds: u64,
        /// How long the session's lease is, in milliseconds.
        ttl_ms: u64,
    },
    /// Add one to a number by compare-and-set, as often as said: [`Event::Done`].
    Increment {
        /// The key of the number.
        key: String,
        /// How often.
        times: u64,
    },
    /// Register an instance, and keep it registered: [`Event::Done`].
    Register {
        /// The service.
        service: String,
        /// Where the instance is called.
        address: String,
        /// How long its lease is, in milliseconds.
        ttl_ms: u64,
    },
    /// Follow a service until so many of its instances take calls: [`Event::Holds`].
    Follow {
        /// The service.
        service: String,
        /// How many.
        count: usize,
    },
}

/// What a child is told that has ids open.
#[derive(Debug, Serialize, Deserialize)]
pub enum IdCommand {
    /// Draw so many, now one by one, now several at a time: [`Event::Ids`] or [`Event::Failed`].
    Draw {
        /// How many.
        count: usize,
    },
    /// Draw for ever: an [`Event::Ids`] for every batch. What fails is tried again.
    DrawForever,
}

/// What the child answers on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// It worked.
    Done,
    /// It didn't.
    Failed {
        /// The error's kind.
        kind: String,
        /// The error.
        error: String,
    },
    /// Deliveries.
    Taken(Vec<Seen>),
    /// Acknowledged by the engine: number, partition, offset.
    Stored(Vec<(u64, u32, Option<u64>)>),
    /// Messages in a topic, keys under a prefix, or changes.
    Holds(u64),
    /// Ids, as they print.
    Ids(Vec<String>),
    /// A lock was held.
    Held(Held),
    /// A key was written.
    Written {
        /// The revision.
        rev: u64,
    },
}

/// A time for which a lock was surely held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The fencing token.
    pub token: u64,
    /// From when, in nanoseconds of the machine's monotonic clock.
    pub from_ns: i64,
    /// Until when.
    pub until_ns: i64,
}

/// A delivery, as far as cases look at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The payload.
    pub text: String,
    /// The key.
    pub key: Option<String>,
    /// How often it was handed out.
    pub attempt: u32,
    /// The fencing token.
    pub fence: u64,
    /// What settles it.
    pub receipt: u64,
}

impl From<&Delivery> for Seen {
    fn from(delivery: &Delivery) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            text: text(&delivery.message.payload),
            key: delivery.message.key.as_deref().map(text),
            attempt: delivery.attempt,
            fence: delivery.fence,
            receipt: delivery.receipt.0,
        }
    }
}

/// The options of [`Command::Join`].
pub fn join_options(group: &str, by_key: bool, ack_wait_ms: u64) -> SubscribeOptions {
    SubscribeOptions {
        order: if by_key { Order::Key } else { Order::None },
        ack_wait: Duration::from_millis(ack_wait_ms),
        ..SubscribeOptions::group(group)
    }
}
