//! A member of a group, or a listener by itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use linchpin_core::bus::{Delivery, SubscribeOptions, dead_letter, dead_topic};
use linchpin_core::bus::{Origin, Position, TopicOptions};
use linchpin_core::{Error, Kind, Result, Timestamp};
use tokio::sync::Notify;

use super::core::{Core, Topic, lock};
use super::error;
use super::link::Link;
use super::message::Stored;
use super::names::Slot;
use super::send::To;
use super::source::{Copy, Source};
use super::state::{Held, Parcel, State};

/// A living subscription.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) core: Arc<Core>,
    pub(super) topic: Arc<Topic>,
    /// The queues of its group; a listener has none.
    pub(super) slot: Option<Slot>,
    pub(super) options: SubscribeOptions,
    /// The partitions it may take from.
    pub(super) parts: Vec<u32>,
    pub(super) link: Arc<Link>,
    pub(super) state: Mutex<State>,
    /// Something came, or ended: for those who wait in `next`.
    pub(super) changed: Notify,
    /// Somebody asks: for the task.
    pub(super) asked: Notify,
    sources: AtomicU64,
}

impl Member {
    pub(super) fn new(
        core: Arc<Core>,
        topic: Arc<Topic>,
        slot: Option<Slot>,
        options: SubscribeOptions,
    ) -> Self {
        let mine = |n: &u32| options.partitions.as_ref().is_none_or(|list| list.contains(n));
        let parts = (0..topic.entry.partitions).filter(mine).collect();
        let link = core.link_for(options.ack_wait);
        Self {
            core,
            topic,
            slot,
            options,
            parts,
            link,
            state: Mutex::default(),
            changed: Notify::new(),
            asked: Notify::new(),
            sources: AtomicU64::new(0),
        }
    }

    /// A channel of its own for one queue.
    pub(super) async fn source(&self, queue: String) -> Result<Arc<Source>> {
        let channel = self.link.channel().await?;
        let id = self.sources.fetch_add(1, Ordering::Relaxed);
        let durable = self.slot.is_some();
        Ok(Arc::new(Source::new(id, queue, channel, self.core.config.timeout, durable)))
    }

    pub(super) fn fail(&self, failure: Error) {
        let mut state = lock(&self.state);
        state.done = state.begun;
        state.failed = Some(failure.op("next").with("topic", &self.topic.name));
        drop(state);
        self.changed.notify_waiters();
    }

    /// There is nothing left to be a member of: what it has can't be settled any more.
    pub(super) fn end(&self, gone: Error) {
        let mut state = lock(&self.state);
        state.lose_all();
        state.gone = Some(gone);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Hands out what is there.
    pub(super) fn take(&self, max: usize) -> Result<Vec<Delivery>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(self.closed());
        }
        if let Some(gone) = &state.gone {
            return Err(gone.clone());
        }
        let out = state.take(max, &self.options);
        match state.failed.take_if(|_| out.is_empty()) {
            Some(failure) => Err(failure),
            None => Ok(out),
        }
    }

    pub(super) fn closed(&self) -> Error {
        match self.core.check_open() {
            Ok(()) => error::error(Kind::Closed, "the subscription is closed").op("next"),
            Err(closed) => closed.op("next"),
        }
    }

    /// Why a queue isn't there any more: the topic was removed, or the group; `None` if neither was.
    pub(super) async fn why_gone(&self) -> Result<Option<Error>> {
        let topic = match self.core.look_up(&self.topic.name).await {
            Err(e) if e.kind() == Kind::NotFound => return Ok(Some(e)),
            found => found?,
        };
        let now = topic.entry.groups.get(self.group());
        let now = now.map(|group| self.core.names.slot(&topic.name, group.slot).roster());
        let same = now.is_some() && now == self.slot.as_ref().map(|slot| slot.roster());
        Ok((!same).then(|| error::missing_group(&topic.name, self.group())))
    }

    pub(super) fn group(&self) -> &str {
        self.options.group.as_deref().unwrap_or_default()
    }

    /// Settles what is in hand with the fate `fate` gives, for deliveries of one source.
    pub(super) async fn bury(&self, source: &Source, dead: Vec<(&Held, &str)>) -> Result<()> {
        if dead.is_empty() {
            return Ok(());
        }
        let tags: Vec<u64> = dead.iter().map(|(held, _)| held.parcel.tag).collect();
        // A listener has nobody who could look after its dead letters.
        if self.options.group.is_some() {
            let exchange = self.grave().await?;
            let letters = dead.into_iter().map(|(held, reason)| self.letter(&exchange, held, reason));
            source.store(letters.collect()).await?;
        }
        source.moved(&tags).await
    }

    fn letter(&self, exchange: &str, held: &Held, reason: &str) -> (To, Stored) {
        let (parcel, time) = (&held.parcel, Timestamp::now());
        let origin = Origin {
            topic: &self.topic.name,
            group: self.group(),
            position: Position { partition: parcel.partition, offset: None },
            attempts: held.attempt(),
        };
        let message = dead_letter(parcel.stored.message.clone(), origin, reason, time);
        let to = To { exchange: exchange.to_owned(), key: parcel.partition.to_string() };
        (to, Stored { message, time, due: None, attempts: 0 })
    }

    /// The exchange of the topic of dead letters, which is made if it isn't there.
    async fn grave(&self) -> Result<String> {
        let name = dead_topic(&self.topic.name, self.group());
        let found = match self.core.topic(&name).await {
            Err(e) if e.kind() == Kind::NotFound => {
                let options = self.topic.entry.options();
                let forever = TopicOptions { retention_age: None, retention_length: None, ..options };
                self.core.ensure(&name, &forever).await
            }
            found => found,
        };
        found.map(|topic| self.core.names.exchange(&topic.name))
    }

    /// A copy in place of a delivery that comes again: into the same queue, or by a stage before it.
    pub(super) async fn copy(&self, parcel: &Parcel, attempts: u32, due: Option<Timestamp>) -> Result<Copy> {
        let stored = Stored { attempts, due, ..parcel.stored.clone() };
        let queue = parcel.source.queue.clone();
        let ttl = due.and_then(|due| super::delay::ttl(due, Timestamp::now()));
        let to = match (ttl, &self.slot) {
            (Some(ttl), Some(slot)) => {
                let stage = self.core.stage(&self.topic.name, slot.stage(ttl), ttl, "").await?;
                To { exchange: stage, key: queue }
            }
            _ => To::queue(queue),
        };
        Ok(Copy { tag: parcel.tag, to, stored })
    }

    /// Puts messages back, each as often handed out as said; copies, because a queue counts what it takes back.
    pub(super) async fn give_back(&self, back: Vec<(Parcel, u32, Option<Timestamp>)>) -> Result<()> {
        let ids: HashSet<u64> = back.iter().map(|(parcel, ..)| parcel.source.id).collect();
        let each = ids.into_iter().map(|id| {
            let mine = back.iter().filter(move |(parcel, ..)| parcel.source.id == id);
            async move {
                let mut copies = Vec::new();
                let mut source = None;
                for (parcel, attempts, due) in mine {
                    copies.push(self.copy(parcel, *attempts, *due).await?);
                    source = Some(&parcel.source);
                }
                match source {
                    Some(source) => source.replace(copies).await,
                    None => Ok(()),
                }
            }
        });
        futures_util::future::join_all(each).await.into_iter().collect()
    }
}

impl Member {
    /// Leaves the group, and waits until its task did.
    pub(super) async fn leave(&self) -> Result<()> {
        lock(&self.state).closed = true;
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(left) = &lock(&self.state).left {
                return left.clone().map_err(|e| e.op("close"));
            }
            self.asked.notify_one();
            changed.await;
        }
    }
}
