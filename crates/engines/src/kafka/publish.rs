//! Publishing: records go to the producer, answers come back through its delivery reports.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linchpin_core::bus::{Message, Position, PublishOptions};
use linchpin_core::{Error, Kind, Result, Retry};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::NAME;
use super::client::{native, offset, producer};
use super::error::{map, of_code};
use super::topic::Known;
use super::url::Config;
use super::wire::headers;

/// The answers to one call.
#[derive(Debug)]
pub(super) struct Batch {
    state: Mutex<(Vec<Option<Result<Position>>>, usize)>,
    done: Notify,
}

impl Batch {
    fn answer(&self, at: usize, answer: Result<Position>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.0.get_mut(at).filter(|slot| slot.is_none()) {
            *slot = Some(answer);
            state.1 -= 1;
            if state.1 == 0 {
                self.done.notify_one();
            }
        }
    }

    fn is_done(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 == 0
    }

    fn take(&self, otherwise: &Error) -> Vec<Result<Position>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = std::mem::take(&mut state.0);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(otherwise.clone()))).collect()
    }
}

/// Hands delivery reports to the calls that wait for them.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Rung when the producer's queue has shrunk.
    room: Notify,
}

impl ClientContext for Reports {}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<(Arc<Batch>, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (batch, at) = *opaque;
        batch.answer(
            at,
            match result {
                Ok(record) => {
                    let partition = u32::try_from(record.partition()).unwrap_or_default();
                    // Without acknowledgements nobody says which offset it got.
                    let place = (record.offset() >= 0).then(|| offset(record.offset()));
                    Ok(Position { partition, offset: place })
                }
                Err((error, _)) => Err(map(error.clone(), "publish")),
            },
        );
        self.room.notify_waiters();
    }
}

type Inner = ThreadedProducer<Reports>;

/// The producer of a bus.
pub(super) struct Producer {
    config: Config,
    inner: Mutex<Arc<Inner>>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    /// # Errors
    /// `Config` if librdkafka refuses the options.
    pub(super) fn new(config: Config) -> Result<Self> {
        let inner = Mutex::new(Arc::new(start(&config)?));
        Ok(Self { config, inner })
    }

    /// An idempotent producer that met a fatal error never publishes again: another takes its place.
    fn current(&self) -> Result<Arc<Inner>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.client().fatal_error().is_some() {
            *inner = Arc::new(start(&self.config)?);
        }
        Ok(inner.clone())
    }

    /// Publishes to a topic that is known; one answer each.
    pub(super) async fn publish(
        &self,
        topic: &Known,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let producer = match self.current() {
            Ok(producer) => producer,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let batch = Arc::new(Batch {
            state: Mutex::new((messages.iter().map(|_| None).collect(), messages.len())),
            done: Notify::new(),
        });
        for (at, message) in messages.iter().enumerate() {
            if let Err(error) = self.hand_in(&producer, topic, message, options, (&batch, at)).await {
                batch.answer(at, Err(error));
            }
        }
        // The producer answers within the timeout; a little later it is taken for silent.
        let patience = self.config.timeout + Duration::from_secs(2);
        if !messages.is_empty() && !batch.is_done() {
            let _ = tokio::time::timeout(patience, batch.done.notified()).await;
        }
        batch
            .take(&Error::new(Kind::Timeout, "the brokers gave no answer in time").engine(NAME).op("publish"))
    }

    async fn hand_in(
        &self,
        producer: &Inner,
        topic: &Known,
        message: &Message,
        options: &PublishOptions,
        (batch, at): (&Arc<Batch>, usize),
    ) -> Result<()> {
        check_size(message, topic.options.max_message)?;
        let partition = options.partitioner.choose(message, topic.options.partitions, &topic.round)?;
        let mut record = BaseRecord::with_opaque_to(&topic.kafka, Box::new((batch.clone(), at)))
            .partition(native(partition))
            .payload(message.payload.as_ref())
            .headers(headers(message)?);
        if let Some(key) = &message.key {
            record = record.key(key.as_ref());
        }
        let deadline = tokio::time::Instant::now() + self.config.timeout;
        loop {
            let room = producer.context().room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            record = match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => back,
                Err((error, _)) => return Err(map(error, "publish")),
            };
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(of_code(Code::QueueFull, "publish"));
            }
        }
    }

    /// Waits until everything was answered.
    pub(super) fn flush(&self) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Each call waits for its own answers; what is left here was dropped midway.
        let _ = inner.flush(self.config.timeout);
    }
}

fn start(config: &Config) -> Result<Inner> {
    producer(config).create_with_context(Reports::default()).map_err(|e| map(e, "open"))
}

pub(super) fn check_size(message: &Message, limit: u64) -> Result<()> {
    let size = message.size() as u64;
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("a message of {size} bytes is over the limit of {limit}"))
        .retry_as(Retry::Never)
        .help("raise the topic's `max_message`, or store the content elsewhere and send a reference"))
}
