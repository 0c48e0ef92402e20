//! Running a handler over a topic: concurrency, backoff, leases kept alive, dead letters, a clean stop.

mod lane;
mod settler;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::lane::Lane;
use self::settler::Settler;
use super::{Bus, Delivery, Order, Start, SubscribeOptions, Subscriber};
use crate::retry::Backoff;
use crate::{Error, Kind, Result};

/// The most deliveries of one fetch.
const MAX_FETCH: usize = 1024;

/// Builds a consumer: `bus.consume("orders").group("billing").concurrency(64).run(handler)`.
///
/// Each delivery is handed to the handler; `Ok` acknowledges it, `Err` hands it back with backoff, and at the last attempt it
/// becomes a dead letter with the error as its reason. A panic is an error. While a handler runs its lease is extended,
/// so a slow handler keeps its message and a dead process loses it. Settling is batched: an acknowledgement is on its
/// way, not yet durable, when the next handler starts; a crash in between delivers that message again.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::bus::{Bus, MemoryBus, Message, TopicOptions};
/// # let bus = Bus::new(MemoryBus::new());
/// # bus.ensure("orders", &TopicOptions::default()).await?;
/// let billing = bus.consume("orders").group("billing").concurrency(8);
/// let running = billing
///     .run(|order| async move {
///         println!("billing {:?}, attempt {}", order.message.payload, order.attempt);
///         Ok(())
///     })
///     .await?;
/// let totals = running.stop().await?;
/// assert_eq!(totals.lost, 0);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Consumer {
    bus: Bus,
    topic: String,
    subscribe: SubscribeOptions,
    handling: Handling,
}

#[derive(Debug, Clone, Copy)]
struct Handling {
    concurrency: usize,
    /// The most deliveries of one fetch, more than there are slots.
    fetch: usize,
    backoff: Backoff,
    timeout: Duration,
    drain: Duration,
    ack_wait: Duration,
    max_attempts: u32,
}

/// Why a handler failed. Any error turns into one by `?`, to be tried again.
#[derive(Debug)]
pub struct Failure {
    reason: String,
    hopeless: bool,
}

impl Failure {
    /// To be tried again after the backoff.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hopeless: false }
    }

    /// Not to be tried again: a dead letter now.
    pub fn dead(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hopeless: true }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error.to_string())
    }
}

/// What a consumer did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Deliveries acknowledged.
    pub acked: u64,
    /// Deliveries handed back to be tried again.
    pub nacked: u64,
    /// Deliveries that became dead letters through this consumer.
    pub dead: u64,
    /// Deliveries received with an attempt above one.
    pub redelivered: u64,
    /// Deliveries that went to another member before they could be settled.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counters {
    acked: AtomicU64,
    nacked: AtomicU64,
    dead: AtomicU64,
    redelivered: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    fn read(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            acked: get(&self.acked),
            nacked: get(&self.nacked),
            dead: get(&self.dead),
            redelivered: get(&self.redelivered),
            lost: get(&self.lost),
        }
    }
}

impl Consumer {
    pub(super) fn new(bus: Bus, topic: &str) -> Self {
        let handling = Handling {
            concurrency: 16,
            fetch: 0,
            backoff: Backoff::default(),
            timeout: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            ack_wait: Duration::ZERO,
            max_attempts: 0,
        };
        Self { bus, topic: topic.to_owned(), subscribe: SubscribeOptions::broadcast(), handling }
    }

    /// Joins this group. Without one, the consumer is a broadcast subscriber.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.subscribe.group = Some(group.into());
        self.subscribe.start = Start::Oldest;
        self
    }

    /// Where the group begins if it is new. Default [`Start::Oldest`] for a group. Call it after [`Consumer::group`].
    pub fn start(mut self, start: Start) -> Self {
        self.subscribe.start = start;
        self
    }

    /// How strictly order is kept. Default [`Order::None`]. Under [`Order::Partition`] the concurrency is 1.
    pub fn order(mut self, order: Order) -> Self {
        self.subscribe.order = order;
        self
    }

    /// How many handlers run at once, at least 1. Default 16. Handlers that are done without ever awaiting are fetched for
    /// in larger batches, up to 1,024.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.handling.concurrency = handlers.max(1);
        self
    }

    /// How long a failed message waits. Default 100 ms, doubling to 60 s, with jitter.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.handling.backoff = backoff;
        self
    }

    /// How often a message is tried before it is a dead letter. Default 10.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.subscribe.max_attempts = attempts;
        self
    }

    /// How soon another member gets the messages of a dead one, 1 s (RabbitMQ: 3 s) to 12 h. Default 30 s.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.subscribe.ack_wait = wait;
        self
    }

    /// The most messages held unsettled, at least 1. Default 4,096.
    pub fn max_in_flight(mut self, messages: usize) -> Self {
        self.subscribe.max_in_flight = messages;
        self
    }

    /// How long a handler may run before it is dropped and counts as failed. Default 5 min.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.handling.timeout = timeout;
        self
    }

    /// How long [`Running::stop`] waits for handlers before it drops them. Default 30 s.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.handling.drain = drain;
        self
    }

    /// Joins and starts handling, in tasks of their own, until [`Running::stop`].
    ///
    /// Handlers run on as many tasks as there are processors. A handler that blocks its thread blocks its neighbours:
    /// use `tokio::task::spawn_blocking` inside it.
    ///
    /// # Errors
    /// Those of [`Bus::subscribe`].
    pub async fn run<H, F>(self, handler: H) -> Result<Running>
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let subscriber = self.bus.subscribe(&self.topic, &self.subscribe).await?;
        // In partition order what comes after a failed message must not be in hand.
        let (concurrency, fetch) = match self.subscribe.order {
            Order::Partition => (1, 1),
            Order::None | Order::Key => {
                (self.handling.concurrency, MAX_FETCH.min(self.subscribe.max_in_flight))
            }
        };
        let handling = Handling {
            concurrency,
            fetch,
            ack_wait: self.subscribe.ack_wait,
            max_attempts: self.subscribe.max_attempts,
            ..self.handling
        };
        Ok(Running::start(subscriber, handling, handler))
    }
}

/// A consumer at work. Dropping it aborts the handlers, like a crash: [`Running::stop`] is the clean way.
#[derive(Debug)]
pub struct Running {
    subscriber: Subscriber,
    stop: watch::Sender<bool>,
    lanes: JoinSet<Result<()>>,
    settler: Settler,
    counters: Arc<Counters>,
}

impl Running {
    fn start<H, F>(subscriber: Subscriber, handling: Handling, handler: H) -> Self
    where
        H: Fn(Delivery) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let (stop, stopping) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let settler = Settler::start(subscriber.clone(), counters.clone(), handling.ack_wait);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let lanes = processors.min(handling.concurrency);
        let handler = Arc::new(handler);
        let mut tasks = JoinSet::new();
        for n in 0..lanes {
            // The shares add up to the concurrency exactly.
            let share = (handling.concurrency + n) / lanes;
            let lane = Lane {
                subscriber: subscriber.clone(),
                settles: settler.queue(),
                counters: counters.clone(),
                stopping: stopping.clone(),
                handling: Handling { concurrency: share, ..handling },
                handler: handler.clone(),
            };
            tasks.spawn(lane.run());
        }
        Self { subscriber, stop, lanes: tasks, settler, counters }
    }

    /// What it did so far.
    pub fn totals(&self) -> Totals {
        self.counters.read()
    }

    /// Waits until the consumer ends by itself, which it does only on an error it can't outlive: the topic or group was
    /// removed, the bus was closed. Cancel-safe.
    ///
    /// # Errors
    /// That error.
    pub async fn wait(&mut self) -> Result<()> {
        match self.lanes.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(Error::new(Kind::Unexpected, "a consumer task panicked").source(panic)),
            None => Ok(()),
        }
    }

    /// Takes no more messages, lets the running handlers finish, settles what they did and leaves the group.
    ///
    /// # Errors
    /// What ended the consumer before, or what leaving says.
    pub async fn stop(mut self) -> Result<Totals> {
        self.stop.send_replace(true);
        let mut first = Ok(());
        while !self.lanes.is_empty() {
            first = first.and(self.wait().await);
        }
        self.settler.finish().await;
        let closed = self.subscriber.close(Duration::from_secs(5)).await;
        let totals = self.counters.read();
        first.and(closed).map(|()| totals)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, nacked, dead, redelivered, lost } = self;
        write!(f, "{acked} acked, {nacked} nacked, {dead} dead, {redelivered} redelivered, {lost} lost")
    }
}

#[cfg(test)]
mod tests;
