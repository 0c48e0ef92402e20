//! One task of a consumer: fetches, runs handlers side by side, keeps their leases alive.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
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
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::settler::Queue;
use super::{Counters, Failure, Handling};
use crate::bus::{Delivery, Receipt, Settle, Subscriber};
use crate::telemetry::{TRACEPARENT, TraceContext};
use crate::{Error, Kind, Result};

/// How long one fetch waits for messages.
const POLL: Duration = Duration::from_secs(5);
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

/// The handlers a lane has running, and since when each lease was last told to be alive.
#[derive(Default)]
struct Busy {
    works: FuturesUnordered<Work>,
    leases: HashMap<Receipt, Instant, RandomState>,
    finished: Vec<(Receipt, Settle)>,
    rng: fastrand::Rng,
}

impl<H, F> Lane<H>
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    pub(super) async fn run(self) -> Result<()> {
        let mut busy = Busy::default();
        let result = self.fetch_and_handle(&mut busy).await;
        let _ = tokio::time::timeout(self.handling.drain, self.drain(&mut busy)).await;
        self.settles.push(&mut busy.finished);
        result
    }

    async fn fetch_and_handle(&self, busy: &mut Busy) -> Result<()> {
        let mut stopping = self.stopping.clone();
        let mut beat = self.beat();
        // A fetch survives the turns of this loop. Meanwhile handlers only finish, so the room it asked for is there.
        let mut fetch = std::pin::pin!(Fuse::terminated());
        loop {
            let room = self.handling.concurrency - busy.works.len();
            if fetch.is_terminated() && room > 0 {
                fetch.set(fetch_some(&self.subscriber, room).fuse());
            }
            tokio::select! {
                biased;
                () = async { drop(stopping.wait_for(|stop| *stop).await) } => return Ok(()),
                Some(done) = busy.works.next(), if !busy.works.is_empty() => self.finish(busy, done),
                batch = fetch.as_mut(), if !fetch.is_terminated() => self.begin(busy, batch?).await,
                _ = beat.tick() => self.extend(busy),
            }
            self.settles.push(&mut busy.finished);
        }
    }

    async fn drain(&self, busy: &mut Busy) {
        let mut beat = self.beat();
        while !busy.works.is_empty() {
            tokio::select! {
                Some(done) = busy.works.next() => self.finish(busy, done),
                _ = beat.tick() => self.extend(busy),
            }
            self.settles.push(&mut busy.finished);
        }
    }

    fn beat(&self) -> Interval {
        let mut beat = tokio::time::interval(self.handling.ack_wait / 6);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    /// Starts a handler for each delivery. One that is done at its first poll never becomes a task of its own.
    async fn begin(&self, busy: &mut Busy, batch: Vec<Delivery>) {
        for delivery in batch {
            if delivery.attempt > 1 {
                self.counters.redelivered.fetch_add(1, Ordering::Relaxed);
            }
            let receipt = delivery.receipt;
            let mut work = self.work(delivery);
            match poll_fn(|cx| Poll::Ready(work.poll_unpin(cx))).await {
                Poll::Ready(done) => self.finish(busy, done),
                Poll::Pending => {
                    busy.leases.insert(receipt, Instant::now());
                    busy.works.push(work);
                }
            }
        }
    }

    fn work(&self, delivery: Delivery) -> Work {
        let (receipt, attempt) = (delivery.receipt, delivery.attempt);
        let context = delivery.message.headers.text(TRACEPARENT).and_then(|t| t.parse::<TraceContext>().ok());
        let (handler, timeout) = (self.handler.clone(), self.handling.timeout);
        // Inside the block, so that a panic of the closure itself is caught too.
        let handled = AssertUnwindSafe(async move { handler(delivery).await }).catch_unwind();
        let outcome = async move {
            match tokio::time::timeout(timeout, handled).await {
                Ok(Ok(result)) => (receipt, attempt, result),
                Ok(Err(panic)) => {
                    (receipt, attempt, Err(Failure::retry(format!("panicked: {}", text(&*panic)))))
                }
                Err(_) => (receipt, attempt, Err(Failure::retry(format!("still running after {timeout:?}")))),
            }
        };
        match context {
            Some(context) => Box::pin(context.child().scope(outcome)),
            None => Box::pin(outcome),
        }
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

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
