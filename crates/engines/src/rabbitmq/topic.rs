//! Topics and groups: made and removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use linchpin_core::bus::{Order, Start, SubscribeOptions, TopicOptions};
use linchpin_core::{Error, Kind, Result};

use super::admin::{Admin, table};
use super::book::{Book, Entry, Group};
use super::core::{Core, Topic};
use super::error;
use super::names::Slot;
use super::send::{To, store};

/// Queues that are declared at a time.
const AT_ONCE: u32 = 4;
/// The shortest and the longest stage, as powers of two: 64 ms, and 24 days; the server has none above 49.
pub(super) const STAGES: std::ops::RangeInclusive<u32> = 6..=31;

/// How long each stage is, in milliseconds.
pub(super) fn stages() -> impl Iterator<Item = u64> {
    STAGES.map(|bits| 1 << bits)
}

impl Core {
    pub(super) async fn ensure(self: &Arc<Self>, name: &str, options: &TopicOptions) -> Result<Arc<Topic>> {
        self.check_open()?;
        let mut held = self.open_book().await?;
        let entry = match held.book.topics.get(name) {
            Some(entry) if entry.partitions != options.partitions => {
                let (has, message) = (entry.partitions, format!("topic {name:?} is there with"));
                return Err(error::error(Kind::AlreadyExists, format!("{message} {has} partitions"))
                    .with("wanted", options.partitions)
                    .help("the number of partitions is fixed; use another topic"));
            }
            Some(entry) => {
                let mut changed = entry.clone();
                changed.set(options);
                if changed == *entry {
                    return Ok(self.remember(name, changed));
                }
                changed
            }
            None => {
                let slot = held.book.new_slot();
                self.admin().exchange(&self.names.exchange(name), ExchangeKind::Direct).await?;
                self.make_slot(name, options.partitions, slot).await?;
                let mut entry = Entry { first: Some(slot), ..Entry::default() };
                entry.set(options);
                entry
            }
        };
        held.book.topics.insert(name.to_owned(), entry.clone());
        held.save().await?;
        Ok(self.remember(name, entry))
    }

    /// The queues of one group, or of the one that is to come.
    async fn make_slot(&self, topic: &str, partitions: u32, slot: u64) -> Result<()> {
        let (exchange, slot) = (self.names.exchange(topic), self.names.slot(topic, slot));
        let (exchange, slot) = (&exchange, &slot);
        let workers = (0..AT_ONCE.min(partitions)).map(|first| async move {
            let mut admin = self.admin();
            for partition in (first..partitions).step_by(AT_ONCE as usize) {
                let queue = slot.queue(partition);
                admin.quorum(&queue, FieldTable::default()).await?;
                admin.bind(&queue, exchange, &partition.to_string()).await?;
            }
            Ok::<_, Error>(())
        });
        let roster = async { self.admin().quorum(&slot.roster(), FieldTable::default()).await };
        tokio::try_join!(try_join_all(workers), roster)?;
        self.admin().seal(&self.names).await
    }

    /// What an order needs besides: a turn, and notes, for each partition.
    async fn make_turns(&self, slot: &Slot, partitions: u32) -> Result<()> {
        let workers = (0..AT_ONCE.min(partitions)).map(|first| async move {
            let mut admin = self.admin();
            for partition in (first..partitions).step_by(AT_ONCE as usize) {
                let turn = slot.turn(partition);
                admin.quorum(&slot.notes(partition), FieldTable::default()).await?;
                admin.quorum(&turn, FieldTable::default()).await?;
                let message = (To::queue(turn), Vec::new(), BasicProperties::default().with_delivery_mode(2));
                store(&admin.channel().await?, self.config.timeout, vec![message]).await?;
            }
            Ok::<_, Error>(())
        });
        let wanting = async { self.admin().quorum(&slot.wanting(), FieldTable::default()).await };
        tokio::try_join!(try_join_all(workers), wanting)?;
        self.admin().seal(&self.names).await
    }

    /// Finds or makes the group, and takes it for members that keep an order, or for such that don't. `enter` is done while nobody else
    /// joins.
    pub(super) async fn join<T>(
        self: &Arc<Self>,
        topic: &str,
        name: &str,
        options: &SubscribeOptions,
        enter: impl AsyncFnOnce(Slot) -> Result<T>,
    ) -> Result<T> {
        let mut held = self.open_book().await?;
        let before = held.book.topics.get(topic).cloned().ok_or_else(|| error::missing(topic))?;
        let mut entry = before.clone();
        let (partitions, ordered) = (entry.partitions, options.order != Order::None);
        let mut group = match entry.groups.remove(name) {
            Some(group) => group,
            None => self.new_group(&mut held.book, &mut entry, topic, options).await?,
        };
        let slot = self.names.slot(topic, group.slot);
        if group.ordered != ordered {
            let members = self.admin().count(&slot.roster()).await?.map_or(0, |(_, consumers)| consumers);
            if members > 0 {
                let message =
                    if ordered { "members that keep no order" } else { "members that keep an order" };
                return Err(error::error(Kind::Conflict, format!("the group has {message}"))
                    .with("group", name)
                    .help("use another group, or let them leave first"));
            }
            group.ordered = ordered;
        }
        if ordered && !group.turns {
            self.make_turns(&slot, partitions).await?;
            group.turns = true;
        }
        entry.groups.insert(name.to_owned(), group);
        let entered = enter(slot).await?;
        if entry != before {
            held.book.topics.insert(topic.to_owned(), entry.clone());
            held.save().await?;
        }
        self.remember(topic, entry);
        Ok(entered)
    }

    /// The first group takes over what was kept for it; others begin with what is published from now on.
    async fn new_group(
        &self,
        book: &mut Book,
        entry: &mut Entry,
        topic: &str,
        options: &SubscribeOptions,
    ) -> Result<Group> {
        let slot = match entry.first.take() {
            Some(slot) => {
                if options.start == Start::Newest {
                    let mut admin = self.admin();
                    let names = self.names.slot(topic, slot);
                    for partition in 0..entry.partitions {
                        admin.purge(&names.queue(partition)).await?;
                    }
                }
                slot
            }
            None => {
                let slot = book.new_slot();
                self.make_slot(topic, entry.partitions, slot).await?;
                slot
            }
        };
        Ok(Group { slot, ordered: options.order != Order::None, turns: false })
    }

    pub(super) async fn remove_topic(self: &Arc<Self>, name: &str) -> Result<()> {
        self.check_open()?;
        let mut held = self.open_book().await?;
        let entry = held.book.topics.remove(name).ok_or_else(|| error::missing(name))?;
        self.forget(name);
        let mut admin = self.admin();
        let exchange = self.names.exchange(name);
        admin.delete_exchange(&exchange).await?;
        for slot in entry.first.into_iter().chain(entry.groups.values().map(|group| group.slot)) {
            self.delete_slot(&self.names.slot(name, slot), entry.partitions).await?;
        }
        delete_stages(&mut admin, entry.stages.iter()).await?;
        // A topic of this name has the same stages again.
        admin.seal(&self.names).await?;
        self.end(name, None, &error::missing(name).op("next"));
        held.save().await
    }

    pub(super) async fn remove_group(self: &Arc<Self>, topic: &str, name: &str) -> Result<()> {
        self.check_open()?;
        let mut held = self.open_book().await?;
        let found = held.book.topics.get(topic).cloned();
        let mut entry = found.ok_or_else(|| error::missing(topic))?;
        let group = entry.groups.remove(name).ok_or_else(|| error::missing_group(topic, name))?;
        if entry.groups.is_empty() {
            // From now on it is kept for the next first one.
            let slot = held.book.new_slot();
            self.make_slot(topic, entry.partitions, slot).await?;
            entry.first = Some(slot);
        }
        let slot = self.names.slot(topic, group.slot);
        self.delete_slot(&slot, entry.partitions).await?;
        let stages: BTreeSet<_> = stages().map(|ttl| slot.stage(ttl)).collect();
        delete_stages(&mut self.admin(), entry.stages.intersection(&stages)).await?;
        entry.stages.retain(|stage| !stages.contains(stage));
        held.book.topics.insert(topic.to_owned(), entry.clone());
        // While nobody can join it again.
        self.end(topic, Some(name), &error::missing_group(topic, name).op("next"));
        held.save().await?;
        self.remember(topic, entry);
        Ok(())
    }

    async fn delete_slot(&self, slot: &Slot, partitions: u32) -> Result<()> {
        let mut admin = self.admin();
        // First, because members look at it.
        admin.delete_queue(&slot.roster()).await?;
        admin.delete_queue(&slot.wanting()).await?;
        for partition in 0..partitions {
            for queue in [slot.queue(partition), slot.turn(partition), slot.notes(partition)] {
                admin.delete_queue(&queue).await?;
            }
        }
        Ok(())
    }

    /// The exchange through which messages of a topic wait for about so many milliseconds, before they go on to the exchange `next`
    /// under the key they have.
    pub(super) async fn stage(
        self: &Arc<Self>,
        topic: &str,
        name: String,
        ttl: u64,
        next: &str,
    ) -> Result<String> {
        if self.topic(topic).await?.entry.stages.contains(&name) {
            return Ok(name);
        }
        let mut held = self.open_book().await?;
        let noted = held.book.topics.get_mut(topic).ok_or_else(|| error::missing(topic))?;
        let new = noted.stages.insert(name.clone());
        let entry = noted.clone();
        if new {
            self.make_stage(&name, ttl, next).await?;
            held.save().await?;
        }
        self.remember(topic, entry);
        Ok(name)
    }

    async fn make_stage(&self, name: &str, ttl: u64, next: &str) -> Result<()> {
        let text = |value: &str| AMQPValue::LongString(value.into());
        let ttl = i64::try_from(ttl).unwrap_or(i64::MAX);
        let arguments = table([
            ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
            ("x-dead-letter-exchange", text(next)),
            // Otherwise a crash between the two queues loses the message.
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]);
        let mut admin = self.admin();
        admin.quorum(name, arguments).await?;
        admin.seal(&self.names).await?;
        admin.exchange(name, ExchangeKind::Fanout).await?;
        admin.bind(name, name, "").await
    }
}

async fn delete_stages(admin: &mut Admin<'_>, names: impl Iterator<Item = &String>) -> Result<()> {
    for name in names {
        admin.delete_exchange(name).await?;
        admin.delete_queue(name).await?;
    }
    Ok(())
}
