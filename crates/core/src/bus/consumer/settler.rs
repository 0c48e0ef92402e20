//! Settles what handlers finished, in batches: while one batch is under way the next one gathers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Counters;
use crate::bus::{Receipt, Settle, Subscriber};
use crate::{Error, Kind};

/// Pause before a settle that failed is sent again.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Settler {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(Receipt, Settle)>,
    finishing: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over everything in `batch`.
    pub(super) fn push(&self, batch: &mut Vec<(Receipt, Settle)>) {
        if batch.is_empty() {
            return;
        }
        self.lock().waiting.append(batch);
        self.work.notify_one();
    }
}

impl Settler {
    pub(super) fn start(subscriber: Subscriber, counters: Arc<Counters>, ack_wait: Duration) -> Self {
        let queue = Arc::new(Queue::default());
        let task = tokio::spawn(run(queue.clone(), subscriber, counters, ack_wait));
        Self { queue, task }
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Settles what is left, then ends.
    pub(super) async fn finish(&mut self) {
        self.queue.lock().finishing = true;
        self.queue.work.notify_one();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(queue: Arc<Queue>, subscriber: Subscriber, counters: Arc<Counters>, ack_wait: Duration) {
    loop {
        let (batch, finishing) = {
            let mut state = queue.lock();
            (std::mem::take(&mut state.waiting), state.finishing)
        };
        if batch.is_empty() {
            if finishing {
                return;
            }
            queue.work.notified().await;
            continue;
        }
        settle(batch, &subscriber, &counters, ack_wait).await;
    }
}

/// Settles a batch, again and again while the engine is away: settling twice is harmless, and after `ack_wait`
/// the deliveries belong to others.
async fn settle(
    mut batch: Vec<(Receipt, Settle)>,
    subscriber: &Subscriber,
    counters: &Counters,
    ack_wait: Duration,
) {
    let started = Instant::now();
    loop {
        let results = subscriber.settle_receipts(batch.clone()).await;
        let mut again = Vec::new();
        let mut last = None;
        for ((receipt, settle), result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => count(counters, &settle),
                Err(error) if passing(&error) => {
                    last = Some(error);
                    again.push((receipt, settle));
                }
                Err(error) => {
                    tracing::debug!(%error, "a delivery was lost");
                    counters.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let Some(error) = last else { return };
        if started.elapsed() >= ack_wait {
            tracing::warn!(%error, deliveries = again.len(), "could not settle; they will be delivered again");
            counters.lost.fetch_add(again.len() as u64, Ordering::Relaxed);
            return;
        }
        tokio::time::sleep(AGAIN).await;
        batch = again;
    }
}

fn passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Limited)
}

fn count(counters: &Counters, settle: &Settle) {
    let counter = match settle {
        Settle::Ack => &counters.acked,
        Settle::Nack { .. } => &counters.nacked,
        Settle::Dead { .. } => &counters.dead,
        Settle::Extend => return,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}
