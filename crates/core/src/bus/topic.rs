//! Topics of a type: JSON at the edge.

use std::future::Future;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::consumer::Failure;
use super::{Bus, Consumer, Delivery, Message, Position, Running};
use crate::{Error, Kind, Result};

/// The header that says how a payload is coded.
pub const CONTENT_TYPE: &str = "content-type";

/// A topic whose payloads are `T`, as JSON.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::bus::{Bus, MemoryBus, TopicOptions};
/// # let bus = Bus::new(MemoryBus::new());
/// # bus.ensure("orders", &TopicOptions::default()).await?;
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order { customer: u64, lines: Vec<String> }
///
/// let orders = bus.topic::<Order>("orders");
/// orders.publish(&Order { customer: 7, lines: vec!["lantern".into()] }).await?;
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct TypedTopic<T> {
    bus: Bus,
    topic: String,
    of: PhantomData<fn() -> T>,
}

/// A decoded payload with the delivery it came in.
#[derive(Debug)]
pub struct Typed<T> {
    /// The payload.
    pub value: T,
    /// The rest.
    pub delivery: Delivery,
}

impl<T> TypedTopic<T> {
    pub(super) fn new(bus: Bus, topic: &str) -> Self {
        Self { bus, topic: topic.to_owned(), of: PhantomData }
    }

    /// A consumer of this topic, for [`TypedTopic::run`].
    pub fn consume(&self) -> Consumer {
        self.bus.consume(&self.topic)
    }
}

impl<T: Serialize> TypedTopic<T> {
    /// The message that carries `value`; set its key, headers and delay, and publish it on any publisher.
    ///
    /// # Errors
    /// `Invalid` if `value` has no JSON form.
    pub fn message(&self, value: &T) -> Result<Message> {
        let json = serde_json::to_vec(value);
        let json =
            json.map_err(|e| Error::new(Kind::Invalid, "the value has no JSON form").op("encode").source(e))?;
        Ok(Message::new(json).header(CONTENT_TYPE, "application/json"))
    }

    /// Publishes `value` and waits until it is stored.
    ///
    /// # Errors
    /// Those of [`TypedTopic::message`] and [`Bus::publish`].
    pub async fn publish(&self, value: &T) -> Result<Position> {
        self.bus.publish(&self.topic, self.message(value)?).await
    }
}

impl<T: DeserializeOwned + Send + 'static> TypedTopic<T> {
    /// Reads a payload.
    ///
    /// # Errors
    /// `Invalid`, saying where the JSON isn't a `T`.
    pub fn decode(delivery: &Delivery) -> Result<T> {
        serde_json::from_slice(&delivery.message.payload)
            .map_err(|e| Error::new(Kind::Invalid, "the payload can't be read").op("decode").source(e))
    }

    /// Runs `handler` on what `consumer` receives. A payload that isn't a `T` becomes a dead letter at once.
    ///
    /// # Errors
    /// Those of [`Consumer::run`].
    pub async fn run<H, F>(&self, consumer: Consumer, handler: H) -> Result<Running>
    where
        H: Fn(Typed<T>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let run = move |delivery: Delivery| {
            let decoded = Self::decode(&delivery).map(|value| handler(Typed { value, delivery }));
            async move {
                match decoded {
                    Ok(work) => work.await,
                    Err(error) => Err(Failure::dead(error.to_string())),
                }
            }
        };
        consumer.run(run).await
    }
}
