//! Running a pipe.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Item, Landed, Row, Sink};
use crate::bus::{Bus, Delivery, Order, Receipt, Settle, Start, SubscribeOptions, Subscriber};
use crate::retry::Backoff;
use crate::{Error, Kind, Result};

type Map = Arc<dyn Fn(&Delivery) -> Result<Vec<Row>, String> + Send + Sync>;

/// Builds a pipe: `Pipe::new(&bus, "orders", "tables").map(rows).run(sink)`.
///
/// It consumes under [`Order::Partition`]: each partition has one fenced owner in the group, so several processes may run the
/// same pipe, share the partitions, and take over from each other. A message the mapping refuses becomes a dead
/// letter with that reason, and so does one the sink refuses. While the sink is away the pipe waits and tries again.
#[derive(Clone)]
pub struct Pipe {
    bus: Bus,
    topic: String,
    subscribe: SubscribeOptions,
    map: Option<Map>,
    batch: usize,
    linger: Duration,
    backoff: Backoff,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipe({:?}, {} → {:?})", self.bus, self.topic, self.subscribe.group)
    }
}

/// What a pipe did so far, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PipeTotals {
    /// Landed by this pipe.
    pub applied: u64,
    /// Recognised as landed before.
    pub repeats: u64,
    /// Refused by mapping or sink: dead letters.
    pub dead: u64,
    /// Left to a later owner of their partition.
    pub fenced: u64,
}

#[derive(Debug, Default)]
struct Counters {
    applied: AtomicU64,
    repeats: AtomicU64,
    dead: AtomicU64,
    fenced: AtomicU64,
}

impl Pipe {
    /// A pipe that reads `topic` as `group`, from the oldest message on.
    pub fn new(bus: &Bus, topic: &str, group: &str) -> Self {
        let subscribe = SubscribeOptions { order: Order::Partition, ..SubscribeOptions::group(group) };
        Self {
            bus: bus.clone(),
            topic: topic.to_owned(),
            subscribe,
            map: None,
            batch: 1000,
            linger: Duration::from_millis(20),
            backoff: Backoff::default(),
        }
    }

    /// What a message means in rows; `Err` says why it means nothing, and makes it a dead letter.
    pub fn map(
        mut self,
        map: impl Fn(&Delivery) -> Result<Vec<Row>, String> + Send + Sync + 'static,
    ) -> Self {
        self.map = Some(Arc::new(map));
        self
    }

    /// The most messages in one transaction, at least 1. Default 1,000.
    pub fn batch(mut self, messages: usize) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// How long a batch that isn't full waits for company. Default 20 ms.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How long to wait before the sink is tried again. Default 100 ms, doubling to 60 s, with jitter.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Where the group begins if it is new. Default [`Start::Oldest`].
    pub fn start(mut self, start: Start) -> Self {
        self.subscribe.start = start;
        self
    }

    /// How soon another process takes over from a dead one, 1 s (RabbitMQ: 3 s) to 12 h. Default 30 s.
    pub fn ack_wait(mut self, wait: Duration) -> Self {
        self.subscribe.ack_wait = wait;
        self
    }

    /// Joins the group and starts moving, in a task of its own, until [`Piping::stop`].
    ///
    /// # Errors
    /// `Config` without a mapping; those of [`Bus::subscribe`].
    pub async fn run(mut self, sink: Arc<dyn Sink>) -> Result<Piping> {
        let map = self.map.take().ok_or_else(|| {
            Error::new(Kind::Config, "the pipe has no mapping")
                .help("say what a message means with `Pipe::map`")
        })?;
        self.subscribe.max_in_flight = self.subscribe.max_in_flight.max(2 * self.batch);
        let subscriber = self.bus.subscribe(&self.topic, &self.subscribe).await?;
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let worker = Worker { pipe: self, map, sink, subscriber, stopping, shared: shared.clone() };
        Ok(Piping { stop, shared, task: tokio::spawn(worker.run()) })
    }
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    trouble: RwLock<Option<Error>>,
}

/// A pipe at work. Dropping it is like a crash: [`Piping::stop`] is the clean way.
#[derive(Debug)]
pub struct Piping {
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    task: JoinHandle<Result<()>>,
}

impl Piping {
    /// What it did so far.
    pub fn totals(&self) -> PipeTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { applied, repeats, dead, fenced } = &self.shared.counters;
        PipeTotals { applied: get(applied), repeats: get(repeats), dead: get(dead), fenced: get(fenced) }
    }

    /// Why the sink is being tried again at the moment, if it is.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the pipe ends by itself, which it does only on an error it can't outlive: the topic or group was
    /// removed, the bus was closed, the sink is misconfigured. Cancel-safe.
    ///
    /// # Errors
    /// That error.
    pub async fn wait(&mut self) -> Result<()> {
        let ended = (&mut self.task).await;
        ended.unwrap_or_else(|panic| Err(Error::new(Kind::Unexpected, "the pipe panicked").source(panic)))
    }

    /// Lands and settles the batch at hand, then leaves the group.
    ///
    /// # Errors
    /// What ended the pipe before, or what leaving says.
    pub async fn stop(mut self) -> Result<PipeTotals> {
        self.stop.send_replace(true);
        self.wait().await?;
        Ok(self.totals())
    }
}

impl Drop for Piping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Worker {
    pipe: Pipe,
    map: Map,
    sink: Arc<dyn Sink>,
    subscriber: Subscriber,
    stopping: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(self) -> Result<()> {
        let mut stopping = self.stopping.clone();
        loop {
            let batch = tokio::select! {
                biased;
                () = async { drop(stopping.wait_for(|stop| *stop).await) } => break,
                batch = self.gather() => batch?,
            };
            if !batch.is_empty() {
                self.land(batch).await?;
            }
        }
        self.subscriber.close(Duration::from_secs(5)).await
    }

    /// A batch: full, or as much as came until the linger was over. Cancelled by a stop, what it
    /// gathered is handed back by closing.
    async fn gather(&self) -> Result<Vec<Delivery>> {
        let mut batch = match self.subscriber.next(self.pipe.batch, Duration::from_secs(5)).await {
            Err(error) if passing(&error) => {
                tracing::warn!(%error, "could not fetch; trying again");
                tokio::time::sleep(self.pipe.backoff.first).await;
                return Ok(Vec::new());
            }
            batch => batch?,
        };
        let until = Instant::now() + self.pipe.linger;
        while !batch.is_empty() && batch.len() < self.pipe.batch {
            let left = until.saturating_duration_since(Instant::now());
            match self.subscriber.next(self.pipe.batch - batch.len(), left).await {
                Ok(more) if more.is_empty() => break,
                Ok(more) => batch.extend(more),
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    /// Maps, writes until the sink has an answer, settles.
    async fn land(&self, mut batch: Vec<Delivery>) -> Result<()> {
        batch.sort_by_key(|delivery| delivery.position);
        let mut refused = Vec::new();
        let mut receipts = Vec::with_capacity(batch.len());
        let mut items = Vec::with_capacity(batch.len());
        for delivery in batch {
            match (self.map)(&delivery) {
                Ok(rows) => {
                    let Delivery { position, time, fence, message, receipt, .. } = delivery;
                    items.push(Item { position, time, fence, message, rows });
                    receipts.push(receipt);
                }
                Err(reason) => refused.push((delivery.receipt, Settle::Dead { reason })),
            }
        }
        self.shared.counters.dead.fetch_add(refused.len() as u64, Ordering::Relaxed);
        self.settle(refused).await;
        let Some(landed) = self.write(&items, &receipts).await? else { return Ok(()) };
        let mut settles = Vec::with_capacity(receipts.len());
        for (receipt, landed) in receipts.into_iter().zip(landed) {
            let (counter, settle) = match landed {
                Landed::Applied => (&self.shared.counters.applied, Some(Settle::Ack)),
                Landed::Repeat => (&self.shared.counters.repeats, Some(Settle::Ack)),
                Landed::Dead(reason) => (&self.shared.counters.dead, Some(Settle::Dead { reason })),
                Landed::Fenced => (&self.shared.counters.fenced, None),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            settles.extend(settle.map(|settle| (receipt, settle)));
        }
        self.settle(settles).await;
        Ok(())
    }

    /// The sink's verdicts; `None` once the messages went to others while it was away.
    async fn write(&self, items: &[Item], receipts: &[Receipt]) -> Result<Option<Vec<Landed>>> {
        if items.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut rng = fastrand::Rng::new();
        for attempt in 1.. {
            let error = match self.sink.write(&self.pipe.topic, items).await {
                Ok(landed) => {
                    self.tell(None);
                    return Ok(Some(landed));
                }
                Err(error) if passing(&error) => error,
                Err(error) => return Err(error),
            };
            tracing::warn!(%error, attempt, "the sink is away; trying again");
            self.tell(Some(error));
            let third = self.pipe.subscribe.ack_wait / 3;
            tokio::time::sleep(self.pipe.backoff.delay(attempt, &mut rng).min(third)).await;
            let extend = receipts.iter().map(|receipt| (*receipt, Settle::Extend)).collect();
            let lost = |r: &Result<()>| r.as_ref().is_err_and(|e| e.kind() == Kind::Fenced);
            if self.subscriber.settle_receipts(extend).await.iter().any(lost) {
                self.shared.counters.fenced.fetch_add(items.len() as u64, Ordering::Relaxed);
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn tell(&self, trouble: Option<Error>) {
        *self.shared.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    // A delivery that can't be settled comes again, and the sink knows it.
    async fn settle(&self, settles: Vec<(Receipt, Settle)>) {
        if settles.is_empty() {
            return;
        }
        if let Some(error) = self.subscriber.settle_receipts(settles).await.into_iter().find_map(Result::err)
        {
            tracing::debug!(%error, "some of a batch could not be settled; it comes again");
        }
    }
}

fn passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Limited | Kind::Conflict)
}
