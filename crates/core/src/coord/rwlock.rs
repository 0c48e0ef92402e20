//! Many readers or one writer.

use std::time::Duration;

use bytes::Bytes;

use super::lock::{LockGuard, Via, last, within};
use super::queue::Rule;
use super::{Coord, Entry, Session};
use crate::Result;

/// A lock that many readers may hold at once, or one writer. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, MemoryCoord};
/// # let coord = Coord::new(MemoryCoord::new());
/// let prices = coord.rwlock("prices");
/// let (one, two) = (prices.read().await?, prices.read().await?);
/// assert!(prices.try_write().await?.is_none());
/// # drop((one, two));
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// Those of [`Lock`](super::Lock), with one line for readers and writers: a reader waits for the writers that asked before it,
/// a writer for everybody, so neither starves. A writer that is released wakes the readers behind it, up to the next
/// writer, all at once. A reader can't become a writer: release and ask again.
#[derive(Debug, Clone)]
pub struct RwLock {
    via: Via,
    name: String,
}

const READ: &[u8] = b"r";
const WRITE: &[u8] = b"w";

impl Coord {
    /// The read-write lock of this name, held under a session that everything of this handle and its clones shares.
    pub fn rwlock(&self, name: &str) -> RwLock {
        RwLock { via: Via::Coord(self.clone()), name: name.to_owned() }
    }
}

impl Session {
    /// The read-write lock of this name, held under this session.
    pub fn rwlock(&self, name: &str) -> RwLock {
        RwLock { via: Via::Session(self.clone()), name: name.to_owned() }
    }
}

fn last_writer(before: &[Entry]) -> Vec<&Entry> {
    before.iter().rfind(|entry| entry.value != READ).into_iter().collect()
}

impl RwLock {
    /// Waits until no writer is before it.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn read(&self) -> Result<LockGuard> {
        self.acquire("read", READ, &last_writer).await
    }

    /// Waits until nobody is before it.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn write(&self) -> Result<LockGuard> {
        self.acquire("write", WRITE, &last).await
    }

    /// Waits to read, at most this long.
    ///
    /// # Errors
    /// Those of [`Lock::acquire_within`](super::Lock::acquire_within).
    pub async fn read_within(&self, limit: Duration) -> Result<LockGuard> {
        within(limit, &self.name, self.read()).await
    }

    /// Waits to write, at most this long.
    ///
    /// # Errors
    /// Those of [`Lock::acquire_within`](super::Lock::acquire_within).
    pub async fn write_within(&self, limit: Duration) -> Result<LockGuard> {
        within(limit, &self.name, self.write()).await
    }

    /// Reads if no writer holds it or waits for it.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn try_read(&self) -> Result<Option<LockGuard>> {
        self.try_acquire("read", READ, &last_writer).await
    }

    /// Writes if nobody holds it.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn try_write(&self) -> Result<Option<LockGuard>> {
        self.try_acquire("write", WRITE, &last).await
    }

    async fn acquire(&self, kind: &'static str, value: &'static [u8], rule: Rule<'_>) -> Result<LockGuard> {
        let line = self.via.line(kind, "rwlock", &self.name).await?;
        let (ticket, _) = line.wait(Bytes::from_static(value), rule).await?;
        Ok(LockGuard::new(ticket))
    }

    async fn try_acquire(
        &self,
        kind: &'static str,
        value: &'static [u8],
        rule: Rule<'_>,
    ) -> Result<Option<LockGuard>> {
        let line = self.via.line(kind, "rwlock", &self.name).await?;
        let taken = line.try_now(Bytes::from_static(value), rule).await?;
        Ok(taken.map(|(ticket, _)| LockGuard::new(ticket)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::coord::MemoryCoord;
    use crate::coord::testing::rigged;

    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn readers_share_and_writers_dont() {
        let coord = Coord::new(MemoryCoord::new());
        let lock = coord.rwlock("a");
        let (one, two) = (lock.read().await.unwrap(), lock.try_read().await.unwrap().unwrap());
        assert!(lock.try_write().await.unwrap().is_none());
        one.release().await.unwrap();
        assert!(lock.write_within(TICK).await.is_err());
        two.release().await.unwrap();
        let writer = lock.try_write().await.unwrap().unwrap();
        assert!(lock.try_read().await.unwrap().is_none());
        assert!(lock.read_within(TICK).await.is_err());
        assert!(lock.try_write().await.unwrap().is_none());
        writer.release().await.unwrap();
        assert!(lock.try_read().await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_starves() {
        let (coord, rigged) = rigged();
        let lock = coord.rwlock("a");
        let reader = lock.read().await.unwrap();
        let mut waiting = JoinSet::new();
        for kind in ["write", "read", "read", "read", "write", "read"] {
            let lock = lock.clone();
            waiting.spawn(async move {
                let guard = if kind == "read" { lock.read().await } else { lock.write().await };
                (kind, guard.unwrap())
            });
            sleep(TICK).await;
        }
        rigged.calls();
        reader.release().await.unwrap();
        let (kind, writer) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(kind, "write", "readers that came later wait for it");
        sleep(TICK).await;
        assert_eq!(rigged.calls(), 2, "a delete and a list");
        writer.release().await.unwrap();
        let mut readers = Vec::new();
        for _ in 0..3 {
            readers.push(waiting.join_next().await.unwrap().unwrap());
        }
        assert!(readers.iter().all(|(kind, guard)| *kind == "read" && guard.is_held()), "all at once");
        sleep(TICK).await;
        assert_eq!(waiting.len(), 2, "the last reader waits behind the writer");
        drop(readers);
        assert_eq!(waiting.join_next().await.unwrap().unwrap().0, "write");
        assert_eq!(waiting.join_next().await.unwrap().unwrap().0, "read");
    }
}
