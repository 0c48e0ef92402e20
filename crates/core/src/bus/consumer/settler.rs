//! Settles what handlers finished, in batches: while one batch is under way the next one gathers. A large one of
//! acknowledgements goes along, so that handlers don't wait for an engine whose answers take their time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Counters;
use crate::bus::{Receipt, Settle, Subscriber};
use crate::{Error, Kind};

/// Pause before a settle that failed is sent again.
const AGAIN: Duration = Duration::from_millis(100);
/// From how many on acknowledgements don't wait for the batch before.
const LARGE: usize = 512;
/// How many batches are under way at most.
const MOST: usize = 4;

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
    /// Something of it isn't an acknowledgement.
    mixed: bool,
    finishing: bool,
}

/// What there is to do.
enum Next {
    Batch(Vec<(Receipt, Settle)>),
    Wait,
    End,
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
        let mut state = self.lock();
        state.mixed |= batch.iter().any(|(_, settle)| *settle != Settle::Ack);
        state.waiting.append(batch);
        drop(state);
        self.work.notify_one();
    }

    /// What goes out beside so many batches that are under way; `alone` if one of them must have no company. What is said
    /// of one delivery stays in order: acknowledgements alone go side by side, each the last word on its own.
    fn next(&self, under_way: usize, alone: &mut bool) -> Next {
        let mut state = self.lock();
        let joins = !*alone && !state.mixed && under_way < MOST && state.waiting.len() >= LARGE;
        match (state.waiting.is_empty(), under_way) {
            (true, 0) if state.finishing => Next::End,
            (false, n) if n == 0 || joins => {
                *alone = std::mem::take(&mut state.mixed);
                Next::Batch(std::mem::take(&mut state.waiting))
            }
            _ => Next::Wait,
        }
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
    let (mut under_way, mut alone) = (FuturesUnordered::new(), false);
    loop {
        match queue.next(under_way.len(), &mut alone) {
            Next::End => return,
            Next::Batch(batch) => under_way.push(settle(batch, &subscriber, &counters, ack_wait)),
            Next::Wait => tokio::select! {
                biased;
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                () = queue.work.notified() => {}
            },
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, count: usize, settle: &Settle) {
        queue.push(&mut (0..count as u64).map(|n| (Receipt(n), settle.clone())).collect());
    }

    fn size(next: Next) -> usize {
        match next {
            Next::Batch(batch) => batch.len(),
            Next::Wait | Next::End => 0,
        }
    }

    #[test]
    fn large_batches_of_acknowledgements_go_side_by_side_and_nothing_else_does() {
        let (queue, mut alone) = (Queue::default(), false);
        push(&queue, 1, &Settle::Ack);
        assert_eq!(size(queue.next(0, &mut alone)), 1);
        push(&queue, LARGE - 1, &Settle::Ack);
        assert_eq!(size(queue.next(1, &mut alone)), 0, "too small to go along");
        push(&queue, 1, &Settle::Ack);
        assert_eq!(size(queue.next(MOST, &mut alone)), 0, "too many are under way");
        assert_eq!(size(queue.next(1, &mut alone)), LARGE);
        push(&queue, LARGE, &Settle::Ack);
        push(&queue, 1, &Settle::Extend);
        assert_eq!(size(queue.next(1, &mut alone)), 0, "what is said of one delivery stays in order");
        assert_eq!((size(queue.next(0, &mut alone)), alone), (LARGE + 1, true));
        push(&queue, LARGE, &Settle::Ack);
        assert_eq!(size(queue.next(1, &mut alone)), 0, "behind the extension");
        assert_eq!((size(queue.next(0, &mut alone)), alone), (LARGE, false));
        queue.lock().finishing = true;
        assert!(matches!(queue.next(1, &mut alone), Next::Wait));
        assert!(matches!(queue.next(0, &mut alone), Next::End));
    }
}
