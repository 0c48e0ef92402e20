//! The bus in memory: for tests of one's own handlers, and the contract in its plainest form.

mod group;
mod log;
mod subscription;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::Notify;

use self::group::Group;
use self::log::Log;
use self::subscription::MemorySubscription;
use super::{
    BusEngine, Caps, GroupStats, Info, Message, Position, PublishOptions, Round, Start, SubscribeOptions,
    Subscription, TopicOptions, TopicStats, check_name, check_options,
};
use crate::time::{SharedClock, TokioClock};
use crate::url::EngineUrl;
use crate::{Error, Kind, Result};

static NAMED: Mutex<BTreeMap<String, Weak<MemoryBus>>> = Mutex::new(BTreeMap::new());

/// A bus that lives in this process and dies with it. It keeps the whole contract but durability.
///
/// Its clock is tokio's: under `tokio::time::pause` delays, leases and retention pass without waiting.
#[derive(Debug)]
pub struct MemoryBus {
    info: Info,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: SharedClock,
    state: Mutex<State>,
    /// Rung when something became deliverable.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    /// Receipts, members and fencing tokens all come from here: none repeats.
    last_number: u64,
    closed: bool,
}

#[derive(Debug)]
struct Topic {
    options: TopicOptions,
    log: Log,
    groups: BTreeMap<String, Group>,
    round: Round,
}

impl State {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn check_open(&self) -> Result<()> {
        if self.closed {
            return Err(error(Kind::Closed, "the bus is closed"));
        }
        Ok(())
    }

    fn topic(&mut self, name: &str) -> Result<&mut Topic> {
        self.check_open()?;
        self.topics.get_mut(name).ok_or_else(|| missing(name))
    }
}

fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine("memory")
}

fn missing(topic: &str) -> Error {
    error(Kind::NotFound, format!("topic {topic:?} doesn't exist"))
        .help("create it with `Bus::ensure`, or open the URL with auto_create=true")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryBus {
    /// A new bus on tokio's clock.
    #[expect(clippy::new_ret_no_self, reason = "engines are shared")]
    pub fn new() -> Arc<dyn BusEngine> {
        Self::at("memory://", Arc::new(TokioClock::new()))
    }

    fn at(url: &str, clock: SharedClock) -> Arc<Self> {
        let durability = "in this process's memory: lost when it ends";
        let shared = Shared { clock, state: Mutex::default(), news: Notify::new() };
        Arc::new(Self {
            info: Info { engine: "memory", url: url.to_owned(), durability },
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn open(url: &EngineUrl) -> Result<Arc<Self>> {
        url.options(&["auto_create"]).finish()?;
        let name = url.file_path();
        let clock = || Arc::new(TokioClock::new());
        if name.is_empty() {
            return Ok(Self::at("memory://", clock()));
        }
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, bus| bus.strong_count() > 0);
        let open = named.get(&name).and_then(Weak::upgrade).filter(|bus| !bus.shared.lock().closed);
        Ok(open.unwrap_or_else(|| {
            let bus = Self::at(&url.to_string(), clock());
            named.insert(name, Arc::downgrade(&bus));
            bus
        }))
    }
}

#[async_trait]
impl BusEngine for MemoryBus {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: false,
            shared: false,
            groups: true,
            broadcast: true,
            ordered: true,
            redelivery: true,
            delay: true,
            replay: true,
            metadata: true,
            retention: true,
            offsets: true,
            failover: true,
        }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        check_name("topic", topic)
            .and_then(|()| check_options(options))
            .map_err(|e| e.engine("memory").op("ensure"))?;
        let mut state = self.shared.lock();
        match state.topic(topic) {
            Ok(there) if there.options.partitions != options.partitions => {
                let message = format!("topic {topic:?} has {} partitions", there.options.partitions);
                Err(error(Kind::AlreadyExists, message)
                    .op("ensure")
                    .help("a topic keeps its number of partitions"))
            }
            Ok(there) => {
                there.options = options.clone();
                Ok(())
            }
            Err(e) if e.kind() == Kind::NotFound => {
                state.topics.insert(topic.to_owned(), Topic::new(options.clone()));
                Ok(())
            }
            Err(e) => Err(e.op("ensure")),
        }
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        let mut state = self.shared.lock();
        let there = state.topic(topic).map_err(|e| e.op("remove"))?;
        let removed = match group {
            Some(group) => there.groups.remove(group).is_some(),
            None => state.topics.remove(topic).is_some(),
        };
        self.shared.news.notify_waiters();
        let group = group.unwrap_or_default();
        let none = || error(Kind::NotFound, format!("topic {topic:?} has no group {group:?}")).op("remove");
        removed.then_some(()).ok_or_else(none)
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        let there = match state.topic(topic) {
            Ok(there) => there,
            Err(e) => return messages.iter().map(|_| Err(e.clone().op("publish"))).collect(),
        };
        let stored = messages.into_iter().map(|message| there.store(message, options, now));
        let results =
            stored.map(|r| r.map_err(|e| e.engine("memory").op("publish").with("topic", topic))).collect();
        there.trim(now);
        self.shared.news.notify_waiters();
        results
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let opened = MemorySubscription::open(&self.shared, topic, options);
        opened.map(|s| Box::new(s) as _).map_err(|e| e.engine("memory").op("subscribe"))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        let mut state = self.shared.lock();
        let now = self.shared.clock.now();
        state.check_open().map_err(|e| e.op("stats"))?;
        if let Some(topic) = topic {
            return Ok(vec![state.topic(topic).map_err(|e| e.op("stats"))?.stats(topic, now)]);
        }
        Ok(state.topics.iter_mut().map(|(name, topic)| topic.stats(name, now)).collect())
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        check_name("group", group).map_err(|e| e.engine("memory").op("seek"))?;
        let mut state = self.shared.lock();
        let fence = state.number();
        let there = state.topic(topic).map_err(|e| e.op("seek"))?;
        if let Start::At(Position { partition, .. }) = to
            && partition >= there.options.partitions
        {
            return Err(error(Kind::Invalid, format!("partition {partition} doesn't exist")).op("seek"));
        }
        let new = || Group::new(&there.log, Start::Oldest, fence);
        there.groups.entry(group.to_owned()).or_insert_with(new).seek(&there.log, to, fence);
        self.shared.news.notify_waiters();
        Ok(())
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        let now = self.shared.clock.now();
        Ok(self.shared.lock().topic(topic).map_err(|e| e.op("trim"))?.trim(now))
    }

    async fn close(&self) -> Result<()> {
        self.shared.lock().closed = true;
        self.shared.news.notify_waiters();
        Ok(())
    }
}

impl Topic {
    fn new(options: TopicOptions) -> Self {
        let log = Log::new(options.partitions);
        Self { options, log, groups: BTreeMap::new(), round: Round::default() }
    }

    fn store(
        &mut self,
        message: Message,
        options: &PublishOptions,
        now: crate::Timestamp,
    ) -> Result<Position> {
        let (size, limit) = (message.size() as u64, self.options.max_message);
        if size > limit {
            return Err(error(
                Kind::Invalid,
                format!("a message of {size} bytes is over the limit of {limit}"),
            )
            .help("raise the topic's `max_message`, or store the content elsewhere and send a reference"));
        }
        let partition = options.partitioner.choose(&message, self.options.partitions, &self.round)?;
        Ok(self.log.append(partition, message, now))
    }

    /// Removes what retention lets go and every group has settled.
    fn trim(&mut self, now: crate::Timestamp) -> u64 {
        self.log.release_due(now);
        let groups = &self.groups;
        let settled = |partition: u32| groups.values().map(|g| g.settled_below(partition)).min();
        self.log.trim(&self.options, now, settled)
    }

    fn stats(&mut self, name: &str, now: crate::Timestamp) -> TopicStats {
        self.log.release_due(now);
        let groups = self.groups.iter().filter(|(_, group)| !group.broadcast);
        let groups = groups.map(|(name, group)| GroupStats { group: name.clone(), ..group.stats(&self.log) });
        TopicStats {
            topic: name.to_owned(),
            options: self.options.clone(),
            messages: self.log.len(),
            delayed: self.log.delayed(),
            oldest: self.log.oldest(),
            groups: groups.collect(),
        }
    }
}
