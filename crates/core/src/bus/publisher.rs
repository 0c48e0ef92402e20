//! Pipelined publishing: batches by linger and size, bounded memory, an answer per message.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Ready, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{Bus, Message, Partitioner, Position, PublishOptions};
use crate::telemetry::TraceContext;
use crate::{Error, Kind, Result};

/// What a message costs beside its bytes, in the count against [`PublisherOptions::max_memory`].
const OVERHEAD: usize = size_of::<Message>();
/// A batch of so many bytes is full, however few its messages.
const FULL: usize = 4 << 20;

/// How a [`Publisher`] batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherOptions {
    /// How long a batch waits for company. A full batch, or a flush, goes at once. Default 1 ms.
    pub linger: Duration,
    /// The most messages in a batch; one that has reached 4 MiB takes no more either. Default 10,000.
    pub max_batch: usize,
    /// The most memory of accepted, unanswered messages, in bytes; [`Publisher::send`] waits beyond it. A single larger
    /// message goes through alone. Default 32 MiB.
    pub max_memory: usize,
    /// Who picks the partition. Default by key hash.
    pub partitioner: Partitioner,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(1),
            max_batch: 10_000,
            max_memory: 32 << 20,
            partitioner: Partitioner::default(),
        }
    }
}

/// Publishes to one topic, many messages in flight. Cheap to clone.
///
/// Messages are stored in the order they were sent: one batch is under way at a time, and while it is, the next one fills.
/// On engines that keep the order of calls a full one goes along with it. When the last clone is dropped, what was
/// accepted is still published; [`Publisher::close`] waits for that.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::bus::{Bus, MemoryBus, Message, PublisherOptions, TopicOptions};
/// # let bus = Bus::new(MemoryBus::new());
/// # bus.ensure("readings", &TopicOptions::default()).await?;
/// let publisher = bus.publisher("readings", PublisherOptions::default());
/// let first = publisher.send(Message::new("20.4 °C")).await?;
/// publisher.send(Message::new("20.5 °C")).await?;
/// publisher.flush().await?;
/// println!("stored at {}", first.await?);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    _last: Arc<CloseOnDrop>,
}

/// The answer to one message: awaiting it gives its position, or the error. Dropping it is fine.
#[derive(Debug)]
pub struct Stored {
    batch: Arc<Batch>,
    index: usize,
}

#[derive(Debug)]
struct Shared {
    bus: Bus,
    topic: String,
    options: PublisherOptions,
    state: Mutex<State>,
    /// Rung when there is something to publish, to flush or to close.
    work: Notify,
    /// Rung when memory was freed.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What waits to be published, the oldest first. All but the last are full; none is empty.
    waiting: VecDeque<Filling>,
    /// How many messages the last batch had: the next one is likely to have as many.
    last_size: usize,
    /// Bytes accepted and not answered, the batch under way included.
    bytes: usize,
    urgent: bool,
    closed: bool,
    first_error: Option<Error>,
    /// The batches that are under way, to wait for.
    under_way: Vec<Arc<Batch>>,
}

#[derive(Debug)]
struct Filling {
    messages: Vec<Message>,
    bytes: usize,
    since: Instant,
    batch: Arc<Batch>,
}

#[derive(Debug, Default)]
struct Batch {
    results: OnceLock<Vec<Result<Position>>>,
    done: Notify,
}

impl Batch {
    async fn wait(&self) -> &[Result<Position>] {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            if let Some(results) = self.results.get() {
                return results;
            }
            done.await;
        }
    }
}

#[derive(Debug)]
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Publisher {
    pub(super) fn start(bus: Bus, topic: &str, options: PublisherOptions) -> Self {
        let options = PublisherOptions { max_batch: options.max_batch.max(1), ..options };
        let shared = Arc::new(Shared {
            bus,
            topic: topic.to_owned(),
            options,
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        });
        tokio::spawn(run(shared.clone()));
        Self { _last: Arc::new(CloseOnDrop(shared.clone())), shared }
    }

    /// Accepts a message, waiting for room if too much is unanswered. The answer comes through [`Stored`].
    ///
    /// Cancel-safe: dropped before it is ready, the message wasn't accepted.
    ///
    /// # Errors
    /// `Closed` after [`Publisher::close`].
    pub async fn send(&self, mut message: Message) -> Result<Stored> {
        if let Some(context) = TraceContext::current() {
            super::handle::trace(&mut message, context);
        }
        let size = message.size() + OVERHEAD;
        loop {
            let room = {
                let mut state = self.shared.lock();
                if state.closed {
                    return Err(Error::new(Kind::Closed, "the publisher is closed").op("publish"));
                }
                if state.bytes == 0 || state.bytes + size <= self.shared.options.max_memory {
                    return Ok(self.shared.accept(&mut state, message, size));
                }
                // Under the lock, so that no room is made unheard.
                let mut room = Box::pin(self.shared.room.notified());
                room.as_mut().enable();
                room
            };
            room.await;
        }
    }

    /// Publishes what was accepted so far without lingering, and waits for it.
    ///
    /// # Errors
    /// The first error since the last flush. Each message's own answer tells which.
    pub async fn flush(&self) -> Result<()> {
        let accepted = {
            let mut state = self.shared.lock();
            state.urgent = !state.waiting.is_empty();
            let waiting = state.waiting.iter().map(|filling| &filling.batch);
            state.under_way.iter().chain(waiting).cloned().collect::<Vec<_>>()
        };
        self.shared.work.notify_one();
        for batch in accepted {
            batch.wait().await;
        }
        self.shared.lock().first_error.take().map_or(Ok(()), Err)
    }

    /// Publishes what was accepted, waits for it, and accepts no more, from any clone.
    ///
    /// # Errors
    /// The first error since the last flush.
    pub async fn close(&self) -> Result<()> {
        self.shared.lock().closed = true;
        self.flush().await
    }
}

impl IntoFuture for Stored {
    type Output = Result<Position>;
    type IntoFuture = Either<Ready<Self::Output>, BoxFuture<'static, Self::Output>>;

    fn into_future(self) -> Self::IntoFuture {
        match self.batch.results.get() {
            Some(results) => Either::Left(ready(self.pick(results))),
            None => Either::Right(Box::pin(async move { self.pick(self.batch.wait().await) })),
        }
    }
}

impl Stored {
    fn pick(&self, results: &[Result<Position>]) -> Result<Position> {
        let missing = || Err(Error::new(Kind::Unexpected, "the engine gave no answer").op("publish"));
        results.get(self.index).cloned().unwrap_or_else(missing)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, state: &mut State, message: Message, size: usize) -> Stored {
        state.bytes += size;
        let crowded = self.crowded(state);
        match state.waiting.back_mut().filter(|last| !self.is_full(last)) {
            Some(last) => {
                let index = last.messages.len();
                last.messages.push(message);
                last.bytes += size;
                if self.is_full(last) || crowded {
                    self.work.notify_one();
                }
                Stored { batch: last.batch.clone(), index }
            }
            None => {
                let batch = Arc::new(Batch::default());
                let mut messages = Vec::with_capacity(state.last_size);
                messages.push(message);
                let since = Instant::now();
                state.waiting.push_back(Filling { messages, bytes: size, since, batch: batch.clone() });
                self.work.notify_one();
                Stored { batch, index: 0 }
            }
        }
    }

    /// The next batch, once it is full, flushed, or has lingered; one that goes along with others only if it is full. `None`
    /// when closed and empty.
    async fn gather(&self, along: bool) -> Option<Filling> {
        loop {
            let due = {
                let mut state = self.lock();
                let hurry = state.urgent || state.closed || self.crowded(&state);
                let due = state.waiting.front().filter(|first| !along || self.is_full(first)).map(|first| {
                    let now = hurry || self.is_full(first);
                    if now { first.since } else { first.since + self.options.linger }
                });
                match due {
                    Some(due) if due <= Instant::now() => return state.cut(),
                    None if state.closed && state.waiting.is_empty() => return None,
                    due => due,
                }
            };
            match due {
                Some(due) => drop(timeout_at(due, self.work.notified()).await),
                None => self.work.notified().await,
            }
        }
    }

    async fn publish(&self, filling: Filling, options: &PublishOptions) {
        let Filling { messages, bytes, batch, .. } = filling;
        let results = self.bus.publish_traced(&self.topic, messages, options).await;
        {
            let mut state = self.lock();
            state.bytes -= bytes;
            state.under_way.retain(|other| !Arc::ptr_eq(other, &batch));
            if state.first_error.is_none() {
                state.first_error = results.iter().find_map(|r| r.as_ref().err().cloned());
            }
        }
        // Never set before: a batch is cut once.
        let _ = batch.results.set(results);
        batch.done.notify_waiters();
        self.room.notify_waiters();
    }

    fn is_full(&self, filling: &Filling) -> bool {
        filling.messages.len() >= self.options.max_batch || filling.bytes >= FULL
    }

    // Senders wait for room: lingering would make them wait for nothing.
    fn crowded(&self, state: &State) -> bool {
        state.bytes >= self.options.max_memory / 2
    }
}

impl State {
    fn cut(&mut self) -> Option<Filling> {
        let first = self.waiting.pop_front()?;
        self.urgent &= !self.waiting.is_empty();
        self.under_way.push(first.batch.clone());
        self.last_size = first.messages.len();
        Some(first)
    }
}

async fn run(shared: Arc<Shared>) {
    let options = PublishOptions { partitioner: shared.options.partitioner };
    let most = shared.bus.engine().publishes_at_once().max(1);
    // In the order they are begun: each is polled before the next one is gathered.
    let mut under_way = FuturesUnordered::new();
    loop {
        let along = !under_way.is_empty();
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if along => {}
            next = shared.gather(along), if under_way.len() < most => match next {
                Some(filling) => under_way.push(shared.publish(filling, &options)),
                None if under_way.is_empty() => return,
                None => drop(under_way.next().await),
            },
        }
    }
}

#[cfg(test)]
mod tests;
