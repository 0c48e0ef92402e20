//! One task of a consumer: fetches, runs handlers side by side, keeps their leases alive.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout};

use super::settler::Queue;
use super::{Counters, Failure, Handling};
use crate::bus::{Delivery, Receipt, Settle, Subscriber};
use crate::telemetry::{TRACEPARENT, TraceContext, within};
use crate::{Error, Kind, Result};

/// How long one fetch waits for messages.
const POLL: Duration = Duration::from_secs(5);
/// How long handlers that never await may keep a lane from its other duties.
const TURN: Duration = Duration::from_millis(2);
/// Pause after a fetch that failed.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Lane<H> {
    pub(super) subscriber: Subscriber,
    pub(super) settles: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) handling: Handling,
    pub(super) handler: Arc<H>,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;
type Done = (Receipt, u32, Result<(), Failure>);
/// `Err` is a panic.
type Handled = Result<Result<(), Failure>, Box<dyn Any + Send>>;

/// What a lane has in hand.
#[derive(Default)]
struct Busy {
    works: FuturesUnordered<Work>,
    /// Fetched, and not begun: every handler slot was taken, or its turn was over.
    waiting: VecDeque<Delivery>,
    /// Since when each lease of the above was last told to be alive.
    leases: HashMap<Receipt, Instant, RandomState>,
    finished: Vec<(Receipt, Settle)>,
    rng: fastrand::Rng,
    appetite: Appetite,
}

/// How much more than there are free slots is fetched at once: nothing, unless handlers are done faster than messages are
/// fetched. A handler that awaits keeps what it could be handed with the engine, for other members to take.
#[derive(Default)]
struct Appetite(usize);

impl Appetite {
    fn size(&self, room: usize, most: usize) -> usize {
        room.max(self.0.min(most))
    }

    /// After a batch: the slots were all free again at once, or they weren't.
    fn fed(&mut self, batch: usize, at_once: bool) {
        self.0 = if at_once { self.0.max(2 * batch) } else { 0 };
    }
}

impl<H, F> Lane<H>
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    pub(super) async fn run(self) -> Result<()> {
        let mut busy = Busy::default();
        let result = self.fetch_and_handle(&mut busy).await;
        let _ = timeout(self.handling.drain, self.drain(&mut busy)).await;
        self.settles.push(&mut busy.finished);
        result
    }

    async fn fetch_and_handle(&self, busy: &mut Busy) -> Result<()> {
        let mut stopping = self.stopping.clone();
        let mut beat = self.beat();
        // A fetch survives the turns of this loop. Meanwhile handlers only finish; what finds no slot waits.
        let mut fetch = std::pin::pin!(Fuse::terminated());
        loop {
            let room = self.handling.concurrency - busy.works.len();
            if fetch.is_terminated() && room > 0 && busy.waiting.is_empty() {
                let size = busy.appetite.size(room, self.handling.fetch);
                fetch.set(fetch_some(&self.subscriber, size).fuse());
            }
            tokio::select! {
                biased;
                () = async { drop(stopping.wait_for(|stop| *stop).await) } => return Ok(()),
                Some(done) = busy.works.next(), if !busy.works.is_empty() => self.finish(busy, done),
                _ = beat.tick() => self.extend(busy),
                () = ready(()), if room > 0 && !busy.waiting.is_empty() => self.begin(busy).await,
                batch = fetch.as_mut(), if !fetch.is_terminated() => self.arrived(busy, batch?).await,
            }
            self.settles.push(&mut busy.finished);
        }
    }

    async fn drain(&self, busy: &mut Busy) {
        let mut beat = self.beat();
        while !(busy.works.is_empty() && busy.waiting.is_empty()) {
            let room = self.handling.concurrency - busy.works.len();
            tokio::select! {
                biased;
                _ = beat.tick() => self.extend(busy),
                () = ready(()), if room > 0 && !busy.waiting.is_empty() => self.begin(busy).await,
                Some(done) = busy.works.next() => self.finish(busy, done),
            }
            self.settles.push(&mut busy.finished);
        }
    }

    fn beat(&self) -> Interval {
        let mut beat = tokio::time::interval(self.handling.ack_wait / 6);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    async fn arrived(&self, busy: &mut Busy, batch: Vec<Delivery>) {
        if batch.is_empty() {
            return;
        }
        let size = batch.len();
        let again = batch.iter().filter(|delivery| delivery.attempt > 1).count();
        self.counters.redelivered.fetch_add(again as u64, Ordering::Relaxed);
        // A fetch begins only when nothing waits any more.
        busy.waiting = batch.into();
        self.begin(busy).await;
        busy.appetite.fed(size, busy.works.is_empty() && busy.waiting.is_empty());
        let now = Instant::now();
        for delivery in &busy.waiting {
            busy.leases.insert(delivery.receipt, now);
        }
    }

    /// Starts handlers while there are slots, for one turn. One that is done at its first poll never becomes a task of
    /// its own, and leaves its memory to the next.
    async fn begin(&self, busy: &mut Busy) {
        let began = Instant::now();
        let mut handled = Box::pin(Fuse::terminated());
        for n in 0_u32.. {
            // The clock costs as much as a quick handler: it is looked at ever less often.
            let look = n.is_power_of_two() || n.is_multiple_of(32);
            if busy.works.len() >= self.handling.concurrency || (look && began.elapsed() >= TURN) {
                return;
            }
            let Some(delivery) = busy.waiting.pop_front() else { return };
            let (receipt, attempt) = (delivery.receipt, delivery.attempt);
            handled.set(self.handle(delivery).fuse());
            match poll_fn(|cx| Poll::Ready(handled.as_mut().poll(cx))).await {
                Poll::Ready(result) => self.finish(busy, (receipt, attempt, outcome(result))),
                Poll::Pending => {
                    busy.leases.insert(receipt, Instant::now());
                    let handled = std::mem::replace(&mut handled, Box::pin(Fuse::terminated()));
                    let limit = self.handling.timeout;
                    busy.works.push(Box::pin(async move {
                        let late = |_| Err(Failure::retry(format!("still running after {limit:?}")));
                        (receipt, attempt, timeout(limit, handled).await.map_or_else(late, outcome))
                    }));
                }
            }
        }
    }

    /// What the handler makes of a delivery, or its panic.
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Handled> + Send + use<H, F> {
        let context = delivery.message.headers.text(TRACEPARENT).and_then(|t| t.parse::<TraceContext>().ok());
        let handler = self.handler.clone();
        // Inside the block, so that a panic of the closure itself is caught too.
        let handled = AssertUnwindSafe(async move { handler(delivery).await }).catch_unwind();
        within(context.map(|context| context.child()), handled)
    }

    fn finish(&self, busy: &mut Busy, (receipt, attempt, result): Done) {
        busy.leases.remove(&receipt);
        let settle = match result {
            Ok(()) => Settle::Ack,
            Err(Failure { reason, hopeless }) if hopeless || attempt >= self.handling.max_attempts => {
                Settle::Dead { reason }
            }
            Err(Failure { reason, .. }) => {
                let delay = self.handling.backoff.delay(attempt, &mut busy.rng);
                Settle::Nack { delay, reason }
            }
        };
        busy.finished.push((receipt, settle));
    }

    /// Extends every lease that is a third through.
    fn extend(&self, busy: &mut Busy) {
        let now = Instant::now();
        for (receipt, told) in &mut busy.leases {
            if now.duration_since(*told) >= self.handling.ack_wait / 3 {
                *told = now;
                busy.finished.push((*receipt, Settle::Extend));
            }
        }
    }
}

/// A batch, or nothing after a while or after an error that may pass.
async fn fetch_some(subscriber: &Subscriber, room: usize) -> Result<Vec<Delivery>> {
    match subscriber.next(room, POLL).await {
        Err(error) if lasting(&error) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "could not fetch; trying again");
            tokio::time::sleep(AGAIN).await;
            Ok(Vec::new())
        }
        batch => batch,
    }
}

fn lasting(error: &Error) -> bool {
    use Kind::{Closed, Config, Corrupt, Denied, Invalid, NotFound, Unsupported};
    matches!(error.kind(), Closed | Config | Corrupt | Denied | Invalid | NotFound | Unsupported)
}

fn outcome(handled: Handled) -> Result<(), Failure> {
    handled.unwrap_or_else(|panic| Err(Failure::retry(format!("panicked: {}", text(&*panic)))))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
