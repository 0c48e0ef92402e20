//! The handle.

use std::fmt;
use std::sync::Arc;

use metrics::counter;
use tracing::Instrument;

use super::layer::Layered;
use super::layers::AutoCreate;
use super::{
    BusEngine, Caps, Consumer, Info, Layer, Message, Position, PublishOptions, Publisher, PublisherOptions,
    Start, SubscribeOptions, Subscriber, TopicOptions, TopicStats, TypedTopic, check_name,
};
use crate::scheme::{self, Scheme};
use crate::telemetry::{PUBLISH_FAILED, PUBLISHED, TRACEPARENT, TraceContext};
use crate::url::EngineUrl;
use crate::{Error, Kind, Result};

/// Messages, on any engine. Cheap to clone; clones share the engine.
///
/// Opened by URL — `Bus::open` of the facade crate `linchpin`, which holds the table of engines — or around an engine with
/// [`Bus::new`]. Every URL takes the option `auto_create=true`: topics then appear, with default
/// [`TopicOptions`], when they are first published or subscribed to. Default `false`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use linchpin_core::bus::{Bus, MemoryBus, Message, SubscribeOptions, TopicOptions};
/// use std::time::Duration;
///
/// let bus = Bus::new(MemoryBus::new());
/// bus.ensure("orders", &TopicOptions::default()).await?;
/// bus.publish("orders", Message::new("two lanterns").key("customer-7")).await?;
///
/// let billing = bus.subscribe("orders", &SubscribeOptions::group("billing")).await?;
/// for delivery in billing.next(10, Duration::from_secs(1)).await? {
///     assert_eq!(delivery.message.payload, "two lanterns");
///     billing.ack(delivery).await?;
/// }
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Bus {
    engine: Arc<dyn BusEngine>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus({})", self.engine.info().url)
    }
}

impl Bus {
    /// A bus on this engine.
    pub fn new(engine: Arc<dyn BusEngine>) -> Self {
        Self { engine }
    }

    /// Opens `url` with the engine that `schemes` names for it.
    ///
    /// # Errors
    /// [`Kind::Config`] for a URL that doesn't parse, an unknown scheme (the error lists the known ones and the cargo feature
    /// that is missing), or an unknown option; what the engine says otherwise.
    pub async fn open_with(url: &str, schemes: &[Scheme]) -> Result<Self> {
        let mut url: EngineUrl = url.parse()?;
        let auto_create = match url.take("auto_create").as_deref() {
            None | Some("false") => false,
            Some("true" | "") => true,
            Some(other) => {
                return Err(Error::new(Kind::Config, format!("auto_create={other}: expected true or false")));
            }
        };
        let open = scheme::find(&url, schemes, "bus", |scheme| scheme.bus)?;
        let bus = Self::new(open(url).await?);
        Ok(if auto_create { bus.layer(AutoCreate::default()) } else { bus })
    }

    /// With one more layer, outside those that are there.
    pub fn layer(self, layer: impl Layer) -> Self {
        Self { engine: Arc::new(Layered { layer: Arc::new(layer), inner: self.engine }) }
    }

    /// The engine, layers included.
    pub fn engine(&self) -> &Arc<dyn BusEngine> {
        &self.engine
    }

    /// Name, URL and durability of the engine.
    pub fn info(&self) -> &Info {
        self.engine.info()
    }

    /// What the engine can do.
    pub fn caps(&self) -> Caps {
        self.engine.caps()
    }

    /// Creates the topic, or changes retention and size limit of one that is there: [`BusEngine::ensure`].
    ///
    /// # Errors
    /// `Invalid` for a bad name or option; `AlreadyExists` if it is there with another number of partitions.
    pub async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        self.engine.ensure(topic, options).await
    }

    /// Removes a group, or a topic with all its groups: [`BusEngine::remove`].
    ///
    /// # Errors
    /// `NotFound` if it isn't there.
    pub async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        self.engine.remove(topic, group).await
    }

    /// What one topic, or every topic, holds: [`BusEngine::stats`].
    ///
    /// # Errors
    /// `NotFound` if the named topic isn't there.
    pub async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.engine.stats(topic).await
    }

    /// Moves a group: [`BusEngine::seek`].
    ///
    /// # Errors
    /// `NotFound` without the topic, `Unsupported` where there is no replay.
    pub async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.engine.seek(topic, group, to).await
    }

    /// Applies retention now and says how many messages went: [`BusEngine::trim`].
    ///
    /// # Errors
    /// `NotFound` without the topic.
    pub async fn trim(&self, topic: &str) -> Result<u64> {
        self.engine.trim(topic).await
    }

    /// Closes the engine, for all clones of this handle.
    ///
    /// # Errors
    /// What the engine says; it is closed all the same.
    pub async fn close(&self) -> Result<()> {
        self.engine.close().await
    }

    /// Publishes one message and waits until it is stored.
    ///
    /// # Errors
    /// `Invalid` if it is too large, `NotFound` without the topic; by its [`Retry`](crate::Retry) an error says whether
    /// the message may have been stored.
    pub async fn publish(&self, topic: &str, message: Message) -> Result<Position> {
        let mut results = self.publish_all(topic, vec![message], &PublishOptions::default()).await;
        results
            .pop()
            .unwrap_or_else(|| Err(Error::new(Kind::Unexpected, "the engine gave no answer").op("publish")))
    }

    /// Publishes messages in this order and waits until they are stored; one answer each.
    pub async fn publish_all(
        &self,
        topic: &str,
        mut messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        if let Some(context) = TraceContext::current() {
            messages.iter_mut().for_each(|message| trace(message, context));
        }
        self.publish_traced(topic, messages, options).await
    }

    /// Publishes messages that carry their trace context already.
    pub(super) async fn publish_traced(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        if let Err(error) = check_name("topic", topic).map_err(|e| e.op("publish")) {
            return vec![Err(error); messages.len()];
        }
        let span = tracing::debug_span!("bus.publish", topic, messages = messages.len());
        let results = self.engine.publish(topic, messages, options).instrument(span).await;
        let failed = results.iter().filter(|r| r.is_err()).count();
        counter!(PUBLISHED, "topic" => topic.to_owned()).increment((results.len() - failed) as u64);
        if failed > 0 {
            counter!(PUBLISH_FAILED, "topic" => topic.to_owned()).increment(failed as u64);
        }
        results
    }

    /// A pipelined publisher for `topic`: batches by linger and size, bounded memory, an answer per message.
    /// Call it inside a tokio runtime: it starts a task.
    pub fn publisher(&self, topic: &str, options: PublisherOptions) -> Publisher {
        Publisher::start(self.clone(), topic, options)
    }

    /// Joins a group of `topic`, or listens by itself, to receive batches by hand.
    ///
    /// # Errors
    /// `NotFound` without the topic, `Invalid` for options out of range, `Unsupported` for what [`Bus::caps`] exclude.
    pub async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Subscriber> {
        check_name("topic", topic).map_err(|e| e.op("subscribe"))?;
        let subscription = self.engine.subscribe(topic, options).await?;
        Ok(Subscriber::new(subscription, topic, options))
    }

    /// A consumer of `topic` that runs a handler: `bus.consume("orders").group("billing").run(…)`.
    pub fn consume(&self, topic: &str) -> Consumer {
        Consumer::new(self.clone(), topic)
    }

    /// `topic` as a topic of `T`, JSON on the wire.
    pub fn topic<T>(&self, topic: &str) -> TypedTopic<T> {
        TypedTopic::new(self.clone(), topic)
    }
}

pub(super) fn trace(message: &mut Message, context: TraceContext) {
    if message.headers.get(TRACEPARENT).is_none() {
        message.headers.add(TRACEPARENT, context.to_string());
    }
}
