//! Numbers taken from a counter in segments, two of them at hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::engine::{IdEngine, Segment};
use super::one::Run;
use crate::telemetry::SEGMENTS;
use crate::{Error, Kind, Result, Retry};

/// The most numbers taken at a time, unless the counter's own step is larger.
const MAX_STEP: u64 = 1_000_000;
/// The next segment is fetched when this part of the current one is used: a fifth.
const PREFETCH: u64 = 5;
/// A segment that lasts less is too small.
const SHORT: Duration = Duration::from_secs(15 * 60);
/// One that lasts so long is too large.
const LONG: Duration = Duration::from_secs(30 * 60);
/// How long a failure answers for the attempts that callers would make otherwise.
const FRESH: Duration = Duration::from_millis(100);
/// The longest time between two attempts in the background.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long one call waits for a segment. Engines answer within their own timeout, which is shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// The numbers of one counter. Taking from the current segment is one atomic addition.
#[derive(Debug)]
pub(super) struct Numbers {
    engine: Arc<dyn IdEngine>,
    name: String,
    current: ArcSwap<Buffer>,
    stock: Mutex<Stock>,
    /// Counts the attempts to get a segment.
    attempts: watch::Sender<u64>,
    /// Somebody waits for a segment while an attempt is put off.
    demanded: Notify,
}

/// A segment in use.
#[derive(Debug)]
struct Buffer {
    first: i64,
    len: u64,
    /// How many were asked of it: may go past its end.
    used: AtomicU64,
    prefetch_at: u64,
}

#[derive(Debug, Default)]
struct Stock {
    spare: Option<Segment>,
    /// Somebody fetches the next one.
    loading: bool,
    /// The most that one call waits for.
    demand: u64,
    /// How many are taken at a time, and when that was last done.
    taken: Option<(u64, Instant)>,
    /// The counter's own step, below which it isn't halved.
    floor: u64,
    /// The largest number that was taken.
    highest: Option<i64>,
    failure: Option<(Error, Instant)>,
}

impl Buffer {
    fn new(segment: Segment) -> Self {
        let len = segment.last.abs_diff(segment.first).saturating_add(1);
        Self { first: segment.first, len, used: AtomicU64::new(0), prefetch_at: (len / PREFETCH).max(1) }
    }

    const fn empty() -> Self {
        Self { first: 0, len: 0, used: AtomicU64::new(0), prefetch_at: 0 }
    }
}

impl Stock {
    /// How many to take at a time from now on: the counter's own step at first, then what lasts 15 to 30 minutes.
    fn step(&self) -> Option<u64> {
        let (step, since) = self.taken?;
        let step = match since.elapsed() {
            lasted if lasted < SHORT => step.saturating_mul(2).min(MAX_STEP),
            lasted if lasted >= LONG => step / 2,
            _ => step,
        };
        Some(step.max(self.floor))
    }

    fn add(&mut self, segment: Segment, step: Option<u64>) {
        // Somebody may have changed the counter's own step.
        self.floor = segment.step;
        self.taken = Some((step.unwrap_or(0).max(segment.step), Instant::now()));
        self.highest = self.highest.max(Some(segment.last));
        self.spare = Some(segment);
        (self.failure, self.loading, self.demand) = (None, false, 0);
    }
}

impl Numbers {
    pub(super) fn new(engine: Arc<dyn IdEngine>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            engine,
            name: name.to_owned(),
            current: ArcSwap::from_pointee(Buffer::empty()),
            stock: Mutex::default(),
            attempts: watch::channel(0).0,
            demanded: Notify::new(),
        })
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `count` numbers that follow each other, if the current segment has any.
    pub(super) fn take_now(self: &Arc<Self>, count: u64) -> Option<Run> {
        let buffer = self.current.load();
        let at = buffer.used.fetch_add(count, Ordering::Relaxed);
        let after = at.saturating_add(count);
        // One caller alone crosses it.
        if at < buffer.prefetch_at && after >= buffer.prefetch_at {
            self.fetch(&mut self.stock(), 0);
        }
        let left = buffer.len.checked_sub(at).filter(|left| *left > 0)?;
        Some(Run { first: buffer.first.saturating_add_unsigned(at), count: count.min(left) })
    }

    /// Up to `count` numbers that follow each other. Waits for a segment if none is at hand.
    pub(super) async fn take(self: &Arc<Self>, count: u64) -> Result<Run> {
        let begun = Instant::now();
        loop {
            if let Some(run) = self.take_now(count) {
                return Ok(run);
            }
            let mut attempts = self.attempts.subscribe();
            if self.turn_over(count, begun)? {
                continue;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if timeout(left, attempts.changed()).await.is_err() {
                let message = format!("no numbers of {:?} came in time", self.name);
                return Err(Error::new(Kind::Timeout, message)
                    .op("next")
                    .help("see what keeps the engine busy"));
            }
        }
    }

    /// Puts the spare segment in the place of the used one; whether there are numbers now. If not, one is being fetched.
    /// A failure that is fresh, or came since the call began, is its answer.
    fn turn_over(self: &Arc<Self>, count: u64, begun: Instant) -> Result<bool> {
        let mut stock = self.stock();
        let current = self.current.load();
        if current.used.load(Ordering::Relaxed) < current.len {
            return Ok(true);
        }
        if let Some(spare) = stock.spare.take() {
            self.current.store(Arc::new(Buffer::new(spare)));
            return Ok(true);
        }
        match &stock.failure {
            Some((error, at)) if *at >= begun || at.elapsed() < FRESH => return Err(error.clone()),
            _ => self.fetch(&mut stock, count),
        }
        Ok(false)
    }

    /// Sees to it that a segment is being fetched, unless one is there.
    fn fetch(self: &Arc<Self>, stock: &mut Stock, demand: u64) {
        stock.demand = stock.demand.max(demand);
        if stock.spare.is_some() {
            return;
        }
        if stock.loading {
            self.demanded.notify_one();
            return;
        }
        stock.loading = true;
        tokio::spawn(load(Arc::downgrade(self)));
    }

    /// Takes a segment. One whose answer was lost is lost: another is taken.
    async fn segment(&self, asked: Option<u64>) -> Result<Segment> {
        let segment = match self.engine.take(&self.name, asked).await {
            Err(e) if matches!(e.retry(), Retry::Safe { .. } | Retry::Unknown) => {
                tracing::debug!(error = %e, counter = self.name, "a segment is taken again");
                self.engine.take(&self.name, asked).await
            }
            segment => segment,
        }?;
        metrics::counter!(SEGMENTS, "counter" => self.name.clone()).increment(1);
        if segment.last < segment.first {
            let message = format!("the engine gave numbers from {} to {}", segment.first, segment.last);
            return Err(Error::new(Kind::Unexpected, message).engine(self.engine.info().engine).op("next"));
        }
        match self.stock().highest {
            Some(highest) if segment.first <= highest => Err(self.went_back(segment, highest)),
            _ => Ok(segment),
        }
    }

    fn went_back(&self, segment: Segment, highest: i64) -> Error {
        let Segment { first, last, .. } = segment;
        let message = format!(
            "the counter {:?} went back: it gave {first} to {last}, and numbers up to {highest} were given out before",
            self.name
        );
        Error::new(Kind::Corrupt, message).engine(self.engine.info().engine).op("next").help(format!(
            "was an older state restored? set the counter past every number in use, {highest} at least, before \
             ids are issued anywhere"
        ))
    }

    /// Tries once to get the spare segment.
    async fn attempt(&self) -> Result<()> {
        let (step, demand) = {
            let stock = self.stock();
            (stock.step(), stock.demand)
        };
        let outcome = self.segment(step.map(|step| step.max(demand))).await;
        let mut stock = self.stock();
        let done = match outcome {
            Ok(segment) => {
                stock.add(segment, step);
                Ok(())
            }
            Err(error) => {
                // What can't go better by itself is tried again when somebody asks.
                stock.loading = error.retry() != Retry::Never;
                stock.failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        };
        drop(stock);
        self.attempts.send_modify(|attempts| *attempts += 1);
        done
    }
}

/// Gets a segment, however long that takes, while somebody may want it.
async fn load(numbers: Weak<Numbers>) {
    let mut pause = FRESH;
    while let Some(numbers) = numbers.upgrade() {
        match numbers.attempt().await {
            Ok(()) => return,
            Err(error) if error.retry() == Retry::Never => return,
            Err(error) => tracing::warn!(%error, counter = numbers.name, "no new segment yet"),
        }
        let wait = async {
            sleep(FRESH).await;
            tokio::select! {
                () = sleep(pause) => {}
                () = numbers.demanded.notified() => {}
            }
        };
        wait.await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
