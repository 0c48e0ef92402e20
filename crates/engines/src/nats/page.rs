//! A ledger as one member sees it: edits of concurrent callers go into one write.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linchpin_core::{Error, Kind, Result};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::ledger::Ledger;
use super::store::Store;
use super::{NAME, error};

/// The wait between two tries to write while the server is away.
const PAUSE: Duration = Duration::from_millis(50);

/// Locks; a panic of another holder leaves nothing half done that matters here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ledger of one partition.
#[derive(Debug)]
pub(super) struct Page {
    /// `None`: a broadcast subscriber's, which leaves nothing behind.
    store: Option<Arc<Store>>,
    subject: String,
    member: i64,
    born: u64,
    start: u64,
    cached: tokio::sync::Mutex<Cached>,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Cached {
    ledger: Ledger,
    rev: u64,
    /// Whether it may be edited without reading it first.
    fresh: bool,
    writes: u64,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Vec<Job>,
    running: bool,
}

struct Job {
    /// May run several times, each time on a newer ledger.
    edit: Box<dyn FnMut(&mut Ledger) + Send>,
    done: oneshot::Sender<Result<()>>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

impl Page {
    pub(super) fn new(
        store: Option<Arc<Store>>,
        subject: String,
        member: i64,
        born: u64,
        start: u64,
    ) -> Arc<Self> {
        let cached = Cached { ledger: Ledger::new(born, start), rev: 0, fresh: store.is_none(), writes: 0 };
        let cached = tokio::sync::Mutex::new(cached);
        Arc::new(Self { store, subject, member, born, start, cached, queue: Mutex::default() })
    }

    /// Edits the ledger, and answers what the edit did once it is stored. Not undone if the future is dropped.
    ///
    /// # Errors
    /// `NotFound` if the group was removed; what the server says.
    pub(super) async fn edit<R: Send + 'static>(
        self: &Arc<Self>,
        mut edit: impl FnMut(&mut Ledger) -> R + Send + 'static,
    ) -> Result<R> {
        let result = Arc::new(Mutex::new(None));
        let slot = result.clone();
        let (done, waiting) = oneshot::channel();
        let edit = Box::new(move |ledger: &mut Ledger| *lock(&slot) = Some(edit(ledger)));
        {
            let mut queue = lock(&self.queue);
            queue.jobs.push(Job { edit, done });
            if !std::mem::replace(&mut queue.running, true) {
                tokio::spawn(self.clone().run());
            }
        }
        let lost = || Error::new(Kind::Unavailable, "the runtime is shutting down").engine(NAME);
        waiting.await.map_err(|_| lost())??;
        let edited = lock(&result).take();
        edited.ok_or_else(lost)
    }

    /// Forgets what was read: the next edit reads anew.
    pub(super) async fn reread(&self) {
        if self.store.is_some() {
            self.cached.lock().await.fresh = false;
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let mut jobs = {
                let mut queue = lock(&self.queue);
                if queue.jobs.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.jobs)
            };
            let outcome = self.write(&mut jobs).await;
            for job in jobs {
                let _gone = job.done.send(outcome.clone());
            }
        }
    }

    async fn write(&self, jobs: &mut [Job]) -> Result<()> {
        let mut cached = self.cached.lock().await;
        let Some(store) = &self.store else {
            jobs.iter_mut().for_each(|job| (job.edit)(&mut cached.ledger));
            return Ok(());
        };
        let deadline = Instant::now() + store.link.timeout;
        let mut mine = None;
        loop {
            let trying = self.try_write(store, &mut cached, jobs, &mut mine);
            match timeout_at(deadline, trying).await.unwrap_or_else(|_| Err(error::unanswered())) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => {
                    cached.fresh = false;
                    let passing = matches!(e.kind(), Kind::Unavailable | Kind::Timeout);
                    if !passing || Instant::now() >= deadline {
                        return Err(e);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// One try; `false` if another wrote first. `mine` is the stamp of a write whose answer was lost.
    async fn try_write(
        &self,
        store: &Store,
        cached: &mut Cached,
        jobs: &mut [Job],
        mine: &mut Option<(i64, u64)>,
    ) -> Result<bool> {
        if !cached.fresh {
            self.read(store, cached).await?;
            if mine.is_some_and(|stamp| stamp == cached.ledger.stamp) {
                return Ok(true);
            }
        }
        jobs.iter_mut().for_each(|job| (job.edit)(&mut cached.ledger));
        if !cached.ledger.take_changed() {
            return Ok(true);
        }
        cached.writes += 1;
        cached.ledger.stamp = (self.member, cached.writes);
        *mine = Some(cached.ledger.stamp);
        cached.fresh = false;
        let Some(rev) = store.put(&self.subject, cached.ledger.encode()?, cached.rev).await? else {
            return Ok(false);
        };
        (cached.rev, cached.fresh) = (rev, true);
        Ok(true)
    }

    async fn read(&self, store: &Store, cached: &mut Cached) -> Result<()> {
        let record = store.get(&self.subject).await?;
        let (rev, ledger) = match record {
            Some(record) => (record.rev, Some(Ledger::decode(&record.bytes)?)),
            None => (0, None),
        };
        let ours = ledger.filter(|ledger| ledger.born == self.born);
        if ours.is_none() && cached.rev > 0 {
            return Err(Error::new(Kind::NotFound, "the group was removed").engine(NAME));
        }
        cached.ledger = ours.unwrap_or_else(|| Ledger::new(self.born, self.start));
        (cached.rev, cached.fresh) = (rev, true);
        Ok(())
    }
}
