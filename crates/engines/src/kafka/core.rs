//! What everything of a bus shares: topics as they were last seen, the producer, the hubs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use linchpin_core::bus::{
    Message, Origin, Position, PublishOptions, Round, SubscribeOptions, TopicOptions, check_name,
    dead_letter, dead_topic,
};
use linchpin_core::{Error, Kind, Result, Timestamp};

use super::NAME;
use super::client::Control;
use super::error::passing;
use super::hub::{Hub, Mode, Scope};
use super::publish::Producer;
use super::state::Hopeless;
use super::topic::{Known, kafka_group, kafka_name, named};
use super::url::Config;
use super::{delay, pump, stats};

/// How long a topic's options are taken for known.
const FRESH: Duration = Duration::from_secs(30);

/// What everything of a bus shares.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) control: Control,
    pub(super) producer: Producer,
    topics: Mutex<HashMap<String, Arc<Known>>>,
    hubs: Mutex<Vec<Weak<Hub>>>,
    /// Held while a hub is made, so that there is one of a kind.
    joining: tokio::sync::Mutex<()>,
    /// The topics whose delayed messages this bus moves.
    moving: Mutex<HashSet<String>>,
    closed: AtomicBool,
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Closed, "the bus is closed").engine(NAME)
}

impl Core {
    pub(super) fn new(config: Config, control: Control, producer: Producer) -> Self {
        Self {
            config,
            control,
            producer,
            topics: Mutex::default(),
            hubs: Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            moving: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Whether it was open until now.
    pub(super) fn closes(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed().op(op)) } else { Ok(()) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn forget(&self, topic: &str) {
        self.topics().remove(topic);
    }

    /// The topics this bus has to do with.
    pub(super) fn in_use(&self) -> Vec<String> {
        self.topics().keys().cloned().collect()
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic, asked for unless it was seen a moment ago.
    pub(super) async fn known(&self, topic: &str, op: &'static str) -> Result<Arc<Known>> {
        let cached = self.topics().get(topic).cloned();
        if let Some(known) = cached.as_ref().filter(|known| known.seen.elapsed() < FRESH) {
            return Ok(known.clone());
        }
        match (self.look(topic, op).await, cached) {
            (Err(error), Some(known)) if passing(&error) => {
                tracing::debug!(%error, topic, "the topic is taken to be what it was");
                let known = Arc::new(Known { seen: Instant::now(), ..(*known).clone() });
                self.topics().insert(topic.to_owned(), known.clone());
                Ok(known)
            }
            (found, _) => found,
        }
    }

    /// A topic as it is now.
    pub(super) async fn look(&self, topic: &str, op: &'static str) -> Result<Arc<Known>> {
        check_name("topic", topic).map_err(|e| e.engine(NAME).op(op))?;
        let kafka = kafka_name(&self.config.prefix, topic);
        let found = async {
            let partitions = self.control.partitions(&kafka, op).await?;
            self.control.topic_options(&kafka, partitions, op).await
        };
        let options = found.await.map_err(|e| {
            if !passing(&e) {
                self.topics().remove(topic);
            }
            named(e, topic).op(op)
        })?;
        let mut topics = self.topics();
        // The round goes on where it was.
        let round = topics.get(topic).map_or_else(Arc::<Round>::default, |known| known.round.clone());
        let known = Arc::new(Known { kafka, options, round, seen: Instant::now() });
        topics.insert(topic.to_owned(), known.clone());
        Ok(known)
    }

    /// The hubs that live, of one topic or of all.
    pub(super) fn hubs(&self, topic: Option<&str>) -> Vec<Arc<Hub>> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.retain(|hub| hub.strong_count() > 0);
        let living = hubs.iter().filter_map(Weak::upgrade).filter(|hub| !hub.is_over());
        living.filter(|hub| topic.is_none_or(|topic| hub.scope.topic == topic)).collect()
    }

    /// Whether nobody of this bus moved the delayed messages of this topic so far.
    pub(super) fn begins_to_move(&self, topic: &str) -> bool {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.to_owned())
    }

    pub(super) fn ends_to_move(&self, topic: &str) {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    pub(super) async fn publish(
        self: &Arc<Self>,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let is_delayed = |message: &Message| message.delay.is_some_and(|delay| !delay.is_zero());
        if !messages.iter().any(is_delayed) {
            return self.store(topic, messages, options).await;
        }
        let known = match self.check("publish") {
            Ok(()) => self.known(topic, "publish").await,
            Err(error) => Err(error),
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let places: Vec<bool> = messages.iter().map(is_delayed).collect();
        let (later, now): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_delayed);
        let mut now = self.store(topic, now, options).await.into_iter();
        let mut later = delay::publish(self, topic, &known, later, options).await.into_iter();
        let none = || Err(Error::new(Kind::Unexpected, "no answer").engine(NAME).op("publish"));
        let answers = places.into_iter().map(|delayed| if delayed { later.next() } else { now.next() });
        answers.map(|answer| answer.unwrap_or_else(none)).collect()
    }

    /// Stores messages at once, delays left aside.
    pub(super) async fn store(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let count = messages.len();
        let known = match self.check("publish") {
            Ok(()) => self.known(topic, "publish").await,
            Err(error) => Err(error),
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => return (0..count).map(|_| Err(error.clone())).collect(),
        };
        let mut answers = self.producer.publish(&known, messages, options).await;
        for answer in &mut answers {
            if let Err(error) = answer {
                if error.kind() == Kind::NotFound {
                    self.topics().remove(topic);
                    *error = named(error.clone(), topic);
                }
                *error = error.clone().engine(NAME).op("publish").with("topic", topic);
            }
        }
        answers
    }

    /// Stores dead letters; one answer each. Broadcast subscribers leave none behind.
    pub(super) async fn bury(&self, scope: &Scope, hopeless: &[Hopeless]) -> Vec<Result<()>> {
        if scope.mode == Mode::Broadcast {
            return hopeless.iter().map(|_| Ok(())).collect();
        }
        let grave = dead_topic(&scope.topic, &scope.group);
        let partitions = match self.grave(&grave, scope).await {
            Ok(partitions) => partitions,
            Err(error) => return hopeless.iter().map(|_| Err(error.clone())).collect(),
        };
        let letter = |one: &Hopeless| {
            let position = Position::new(one.partition, one.offset);
            let origin =
                Origin { topic: &scope.topic, group: &scope.group, position, attempts: one.attempts };
            let letter = dead_letter(one.parcel.message.clone(), origin, &one.reason, Timestamp::now());
            letter.partition(one.partition % partitions)
        };
        let letters = hopeless.iter().map(letter).collect();
        let stored = self.store(&grave, letters, &PublishOptions::default()).await;
        stored.into_iter().map(|answer| answer.map(drop)).collect()
    }

    /// Makes the topic of dead letters if it isn't there.
    async fn grave(&self, grave: &str, scope: &Scope) -> Result<u32> {
        match self.known(grave, "settle").await {
            Ok(known) => return Ok(known.options.partitions),
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            Err(_) => {}
        }
        let origin = self.known(&scope.topic, "settle").await?;
        // A letter is its message and what is said of it.
        let max_message = (origin.options.max_message + (1 << 20)).min(1 << 30);
        let options = TopicOptions {
            partitions: scope.partitions,
            retention_age: None,
            retention_length: None,
            max_message,
        };
        let kafka = kafka_name(&self.config.prefix, grave);
        self.control.ensure(grave, &kafka, &options).await?;
        Ok(self.look(grave, "settle").await?.options.partitions)
    }

    pub(super) async fn hub(
        self: &Arc<Self>,
        topic: &str,
        options: &SubscribeOptions,
    ) -> Result<(Arc<Hub>, u64)> {
        let known = self.look(topic, "subscribe").await?;
        options.check(known.options.partitions)?;
        let scope = self.scope(topic, &known, options);
        let _one_at_a_time = self.joining.lock().await;
        let of_group = |hub: &Arc<Hub>| hub.scope.group == scope.group && scope.mode != Mode::Broadcast;
        let group: Vec<_> = self.hubs(Some(topic)).into_iter().filter(of_group).collect();
        if let Some(other) = group.iter().find(|hub| hub.scope.order != scope.order) {
            return Err(conflict(other.scope.order, options));
        }
        let same = |hub: &&Arc<Hub>| hub.scope.mode == scope.mode && hub.scope.ack_wait == scope.ack_wait;
        if let Some(hub) = group.iter().find(same) {
            return Ok((hub.clone(), hub.sit(options)));
        }
        if scope.mode != Mode::Broadcast {
            stats::check_order(&self.control, &scope).await?;
        }
        let hub = Arc::new(Hub::new(self.clone(), scope));
        let seat = hub.sit(options);
        let started = async {
            pump::start(&hub, options.start).await?;
            hub.warm_up().await
        };
        if let Err(error) = started.await {
            hub.end(error.clone());
            return Err(error);
        }
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&hub));
        // Closed while it joined: nobody else would close it.
        if let Err(error) = self.check("subscribe") {
            hub.leave(seat, self.config.timeout).await?;
            return Err(error);
        }
        Ok((hub, seat))
    }

    fn scope(&self, topic: &str, known: &Known, options: &SubscribeOptions) -> Scope {
        let group = options.group.clone().unwrap_or_default();
        let (mode, name) = match (&options.group, &options.partitions) {
            (None, _) => (Mode::Broadcast, format!("lp-broadcast-{}", uuid::Uuid::now_v7())),
            (Some(group), None) => (Mode::Shared, group.clone()),
            (Some(group), Some(chosen)) => {
                let mut chosen = chosen.clone();
                chosen.sort_unstable();
                chosen.dedup();
                (Mode::Chosen(chosen), group.clone())
            }
        };
        Scope {
            topic: topic.to_owned(),
            kafka: known.kafka.clone(),
            partitions: known.options.partitions,
            group,
            kafka_group: kafka_group(&self.config.prefix, topic, &name),
            mode,
            ack_wait: options.ack_wait,
            order: options.order,
        }
    }
}

pub(super) fn conflict(there: linchpin_core::bus::Order, options: &SubscribeOptions) -> Error {
    Error::new(Kind::Conflict, format!("the group is consumed under {there:?}, not {:?}", options.order))
        .engine(NAME)
        .help("use one order for all members of a group")
}
