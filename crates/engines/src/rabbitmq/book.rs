//! The book: which topics and groups there are. AMQP can't list queues, nor tell their options.
//!
//! It is one message in a queue of its own. Who works with it has the lock, an exclusive queue that ends with its
//! connection, and the message in hand. A new edition is stored before the old one is acknowledged: a crash between the two
//! leaves both, and the next reader, who has the lock, keeps the later one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use linchpin_core::bus::TopicOptions;
use linchpin_core::{Kind, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout};

use super::admin::Admin;
use super::core::Core;
use super::error;
use super::message;
use super::send::{To, prove, store};

/// The longest pauses between two tries to get the lock: each that fails is an error in the server's log.
const PAUSES_MS: [u64; 5] = [10, 20, 40, 80, 160];
/// How often the message goes back before a new one takes its place: a quorum queue keeps all it ever did since the oldest
/// message in it.
const WORN: u32 = 1000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Book {
    edition: u64,
    /// The number of the last slot that was given away.
    slots: u64,
    pub(super) topics: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) partitions: u32,
    pub(super) age_ms: Option<u64>,
    pub(super) length: Option<u64>,
    pub(super) max_message: u64,
    /// The slot that waits for the first group.
    pub(super) first: Option<u64>,
    pub(super) groups: BTreeMap<String, Group>,
    /// The stages that were made, of the topic and of its groups: none is used that isn't here.
    pub(super) stages: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) slot: u64,
    /// Whether those that are in it keep an order.
    pub(super) ordered: bool,
    /// Whether the queues that an order needs were made.
    pub(super) turns: bool,
}

impl Book {
    pub(super) fn new_slot(&mut self) -> u64 {
        self.slots += 1;
        self.slots
    }
}

impl Entry {
    pub(super) fn set(&mut self, options: &TopicOptions) {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.partitions = options.partitions;
        self.age_ms = options.retention_age.map(millis);
        self.length = options.retention_length;
        self.max_message = options.max_message;
    }

    pub(super) fn options(&self) -> TopicOptions {
        TopicOptions {
            partitions: self.partitions,
            retention_age: self.age_ms.map(Duration::from_millis),
            retention_length: self.length,
            max_message: self.max_message,
        }
    }
}

/// The book in hand. It goes back when this is dropped.
pub(super) struct Held {
    core: Arc<Core>,
    tag: u64,
    pub(super) book: Book,
    /// How often the message went back.
    returns: u32,
    channel: lapin::Channel,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Core {
    /// Takes the book in hand.
    pub(super) async fn open_book(self: &Arc<Self>) -> Result<Held> {
        let within = self.config.timeout;
        let opening = async {
            loop {
                let held = self.take_book().await?;
                if held.returns < WORN {
                    return Ok(held);
                }
                held.save().await?;
            }
        };
        let opened = timeout(within, opening).await;
        opened.unwrap_or_else(|_| Err(error::late(within))).map_err(error::not_applied)
    }

    async fn take_book(self: &Arc<Self>) -> Result<Held> {
        let turn = self.book.clone().lock_owned().await;
        let mut admin = self.admin();
        self.take_lock(&mut admin).await?;
        // From here on the lock goes with `held`.
        let (core, channel) = (self.clone(), admin.channel().await?);
        let mut held = Held { core, tag: 0, book: Book::default(), returns: 0, channel, turn: Some(turn) };
        self.make_book(&mut admin).await?;
        held.read(&mut admin).await?;
        Ok(held)
    }

    async fn take_lock(&self, admin: &mut Admin<'_>) -> Result<()> {
        let longest = PAUSES_MS.last().copied().into_iter().cycle();
        for pause in PAUSES_MS.into_iter().chain(longest) {
            if admin.own(&self.names.lock()).await? {
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(1..pause))).await;
        }
        Ok(())
    }

    /// Makes the book if it isn't there. The exchange of its name says that it is: who finds the exchange, and no
    /// message, knows that another still has it in hand.
    async fn make_book(&self, admin: &mut Admin<'_>) -> Result<()> {
        let name = self.names.book();
        if self.made.load(Ordering::Acquire) || admin.is_exchange(&name).await? {
            self.made.store(true, Ordering::Release);
            return Ok(());
        }
        admin.quorum(&name, FieldTable::default()).await?;
        admin.seal(&self.names).await?;
        let first = write(&Book::default())?;
        let properties = BasicProperties::default().with_delivery_mode(2);
        let message = vec![(To::queue(&name), first, properties)];
        store(&admin.channel().await?, self.config.timeout, message).await?;
        admin.exchange(&name, ExchangeKind::Fanout).await
    }
}

impl Held {
    /// Takes every edition there is, and keeps the last.
    async fn read(&mut self, admin: &mut Admin<'_>) -> Result<()> {
        let name = self.core.names.book();
        let started = Instant::now();
        self.channel = admin.channel().await?;
        loop {
            let mut found = Vec::new();
            while let Some(got) = admin.get(&name).await? {
                let book = parse(&got.delivery.data)?;
                let returns = message::read(&got.delivery.properties, Vec::new()).returns;
                found.push((got.delivery.delivery_tag, book, returns));
            }
            self.channel = admin.channel().await?;
            if let Some(last) = found.iter().map(|(_, book, _)| book.edition).max() {
                for (tag, book, returns) in found {
                    if book.edition == last && self.tag == 0 {
                        (self.tag, self.book, self.returns) = (tag, book, returns);
                    } else {
                        prove(&self.channel, self.core.config.timeout, &name, None, &[tag]).await?;
                    }
                }
                return Ok(());
            }
            if started.elapsed() > self.core.config.timeout {
                return Err(error::late(self.core.config.timeout));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stores a new edition.
    pub(super) async fn save(mut self) -> Result<()> {
        self.book.edition += 1;
        let (name, within) = (self.core.names.book(), self.core.config.timeout);
        let properties = BasicProperties::default().with_delivery_mode(2);
        let message = vec![(To::queue(&name), write(&self.book)?, properties)];
        store(&self.channel, within, message).await?;
        prove(&self.channel, within, &name, None, &[self.tag]).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (core, channel, turn) = (self.core.clone(), self.channel.clone(), self.turn.take());
        tokio::spawn(async move {
            let within = core.config.timeout;
            let returned = timeout(within, channel.close(200, "done".into())).await;
            let freed = core.admin().delete_queue(&core.names.lock()).await;
            if channel.status().connected() && (returned.is_err() || freed.is_err()) {
                // The lock must not outlive its use: it ends with the connection.
                core.link.close().await;
            }
            drop(turn);
        });
    }
}

fn parse(bytes: &[u8]) -> Result<Book> {
    serde_json::from_slice(bytes).map_err(|e| {
        let help = "it was written by a newer version, or by hand; use another prefix= to begin anew";
        error::error(Kind::Corrupt, "the record of topics can't be read").help(help).source(e)
    })
}

fn write(book: &Book) -> Result<Vec<u8>> {
    serde_json::to_vec(book)
        .map_err(|e| error::error(Kind::Unexpected, "the record of topics can't be written").source(e))
}
