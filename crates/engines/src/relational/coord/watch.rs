//! A watch over rows.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Change, Entry, Known, Rev, Watch, Watched};
use linchpin_core::{Error, Kind, Result, Retry};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout_at};

use super::engine::Inner;
use super::feed::Slot;
use super::{Range, Seen};

/// A question to the database that was begun is waited for this long even if the caller waits less.
const PATIENCE: Duration = Duration::from_secs(1);
/// Who waits less than this asks the database himself.
const GLANCE: Duration = Duration::from_millis(50);

/// What changes under a prefix.
#[derive(Debug)]
pub(super) struct RowWatch {
    inner: Arc<Inner>,
    range: Range,
    /// While it lives, the feed tells.
    _slot: Arc<Slot>,
    told: Receiver<()>,
    /// There may be something that wasn't read yet.
    stale: bool,
    /// Everything up to this revision was told.
    last: u64,
    known: Known,
}

/// The snapshot, and what changes after it.
pub(super) async fn begin(inner: &Arc<Inner>, prefix: &str) -> Result<Watched> {
    let range = inner.range(prefix);
    let (slot, told) = inner.feed.join(range.clone());
    let (last, rows) = inner.rows.list(range.clone(), usize::MAX).await?;
    let snapshot = inner.entries(rows)?;
    let known = Known::new(&snapshot);
    let inner = inner.clone();
    let changes = RowWatch { inner, range, _slot: slot, told, stale: false, last, known };
    Ok(Watched { snapshot, changes: Box::new(changes) })
}

impl RowWatch {
    /// Reads what changed since. Nothing is noted before all of it is there: who drops this loses nothing.
    async fn read(&mut self) -> Result<Vec<Change>> {
        let seen = self.inner.rows.changes(self.range.clone(), self.last).await?;
        // Deletions are missing, or the database isn't what it was.
        let changes = if seen.forgotten > self.last || seen.rev < self.last {
            let (rev, rows) = self.inner.rows.list(self.range.clone(), usize::MAX).await?;
            let now = self.inner.entries(rows)?;
            self.last = rev;
            self.known.catch_up(now, Rev(rev))
        } else {
            self.learn(seen)?
        };
        self.stale = false;
        Ok(changes)
    }

    fn learn(&mut self, seen: Seen) -> Result<Vec<Change>> {
        let puts = self.inner.entries(seen.puts)?.into_iter().map(Change::Put);
        let gone = seen.gone.into_iter().map(|(rev, key)| {
            let key = self.inner.shown(key)?;
            Ok(Change::Delete { key, rev: Rev(rev) })
        });
        let mut changes = gone.collect::<Result<Vec<_>>>()?;
        changes.extend(puts);
        changes.sort_by_key(Change::rev);
        changes.retain(|change| self.known.learn(change));
        self.last = seen.rev;
        Ok(changes)
    }

    async fn read_until(&mut self, deadline: Instant) -> Result<Vec<Change>> {
        let patience = deadline.max(Instant::now() + PATIENCE);
        let late = || {
            Error::new(Kind::Timeout, "the database didn't answer in time")
                .retry_as(Retry::Safe { after: Duration::ZERO })
                .help("call again: the watch goes on where it was")
        };
        let read = timeout_at(patience, self.read()).await;
        let name = self.inner.rows.engine();
        read.unwrap_or_else(|_| Err(late())).map_err(|e| e.engine(name).op("next"))
    }

    /// Whether the feed told something since this was asked last.
    fn was_told(&mut self) -> bool {
        let told = self.told.has_changed().unwrap_or(false);
        // What is told from here on is told again.
        if told {
            self.told.mark_unchanged();
        }
        told
    }
}

#[async_trait]
impl Watch for RowWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait;
        let _waiting = Waiting::begin(self.inner.clone());
        self.stale |= wait < GLANCE;
        loop {
            self.stale |= self.was_told();
            if self.stale {
                let changes = self.read_until(deadline).await?;
                if !changes.is_empty() {
                    return Ok(changes);
                }
            }
            match timeout_at(deadline, self.told.changed()).await {
                Ok(_) => self.stale = true,
                Err(_) => return Ok(Vec::new()),
            }
        }
    }
}

/// A `next` call that waits.
struct Waiting(Arc<Inner>);

impl Waiting {
    fn begin(inner: Arc<Inner>) -> Self {
        if inner.rows.wait() {
            inner.feed.poke();
        }
        Self(inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.rows.hub().waited();
    }
}

impl Inner {
    /// Rows as they are told, in the order of keys.
    pub(super) fn entries(&self, rows: Vec<super::Stored>) -> Result<Vec<Entry>> {
        let mut entries = rows.into_iter().map(|row| self.entry(row)).collect::<Result<Vec<_>>>()?;
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }
}
