//! A queue with one connection behind it: what many callers ask at once is done in one transaction.

use std::sync::Arc;

use linchpin_core::{Error, Kind, Result};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::core::Tell;
use super::session::Session;
use super::tx::{self, Tx};
use crate::relational::store::Done;

/// The most messages or settles of one transaction: what a hundred callers with small batches fill within the time of a
/// commit, and little enough that nobody waits long for the rows.
const ROUND: usize = 16_384;

/// What a lane does.
pub(super) trait Work: Send + Sync + 'static {
    /// What one caller asks.
    type Ask: Send + Sync + 'static;
    /// What it is answered.
    type Answer: Send + 'static;
    /// The operation, in errors.
    const OP: &'static str;

    /// How many messages it is about.
    fn weight(ask: &Self::Ask) -> usize;

    /// Does what all callers ask; one answer each, in the same order. May be run again after a rollback.
    fn run<'t>(tx: &'t mut Tx, asks: &'t [Self::Ask]) -> tx::Work<'t, Vec<Self::Answer>>;
}

struct Entry<W: Work> {
    ask: W::Ask,
    done: Done<W::Answer>,
    deadline: Instant,
}

/// The queue's end that callers see.
#[derive(Debug)]
pub(super) struct Lane<W: Work> {
    queue: mpsc::UnboundedSender<Entry<W>>,
    stop: Arc<Notify>,
    stopped: std::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl<W: Work> std::fmt::Debug for Entry<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(W::OP).finish_non_exhaustive()
    }
}

impl<W: Work> Lane<W> {
    pub(super) fn start(session: Session, tell: Arc<Tell>) -> Self {
        let (queue, entries) = mpsc::unbounded_channel();
        let stop = Arc::new(Notify::new());
        let (ended, stopped) = oneshot::channel();
        let worker = Worker::<W> { entries, session, tell, stop: stop.clone() };
        tokio::spawn(async move {
            worker.work().await;
            let _gone = ended.send(());
        });
        Self { queue, stop, stopped: std::sync::Mutex::new(Some(stopped)) }
    }

    /// Asks; `done` takes the answer.
    pub(super) fn ask(&self, ask: W::Ask, deadline: Instant, done: Done<W::Answer>) {
        // A closed lane drops it, and that says that the engine is closed.
        let _closed = self.queue.send(Entry { ask, done, deadline });
    }

    /// Does what is queued, and lets go of the connection.
    pub(super) async fn close(&self) {
        self.stop.notify_one();
        let stopped = crate::relational::hub::lock(&self.stopped).take();
        if let Some(stopped) = stopped {
            let _gone = stopped.await;
        }
    }
}

struct Worker<W: Work> {
    entries: mpsc::UnboundedReceiver<Entry<W>>,
    session: Session,
    tell: Arc<Tell>,
    stop: Arc<Notify>,
}

impl<W: Work> Worker<W> {
    async fn work(mut self) {
        loop {
            let first = tokio::select! {
                entry = self.entries.recv() => entry,
                () = self.stop.notified() => {
                    self.entries.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut weight = W::weight(&first.ask);
            let mut entries = vec![first];
            while weight < ROUND
                && let Ok(entry) = self.entries.try_recv()
            {
                weight += W::weight(&entry.ask);
                entries.push(entry);
            }
            self.round(entries).await;
        }
    }

    /// Does them together; if one of them is refused, each by itself, so that none spoils another.
    async fn round(&mut self, entries: Vec<Entry<W>>) {
        let Some(deadline) = entries.iter().map(|entry| entry.deadline).min() else { return };
        let (asks, dones): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|e| (e.ask, (e.done, e.deadline))).unzip();
        match self.session.transact(W::OP, deadline, &asks, |tx, asks| W::run(tx, asks)).await {
            Ok((answers, touched)) => {
                dones.into_iter().zip(answers).for_each(|((done, _), answer)| done(Ok(answer)));
                self.tell.touched(&touched);
            }
            Err(error) if is_one_to_blame(&error) && dones.len() > 1 => {
                for (ask, (done, deadline)) in asks.into_iter().zip(dones) {
                    Box::pin(self.round(vec![Entry { ask, done, deadline }])).await;
                }
            }
            Err(error) => dones.into_iter().for_each(|(done, _)| done(Err(error.clone()))),
        }
    }
}

/// Whether the error may be about one of several asks, rather than about the server.
fn is_one_to_blame(error: &Error) -> bool {
    !matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Limited | Kind::Denied | Kind::Closed)
}

/// The answer of a call whose lane is gone.
pub(super) fn gone<T>(answer: Result<Result<T>, oneshot::error::RecvError>, closed: Error) -> Result<T> {
    answer.unwrap_or(Err(closed))
}
