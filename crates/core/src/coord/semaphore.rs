//! So many at a time.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;

use super::lock::{LockGuard, Via, within};
use super::queue::Ticket;
use super::{Coord, Entry, Session};
use crate::Result;

/// So many may hold it at a time. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, MemoryCoord};
/// # let coord = Coord::new(MemoryCoord::new());
/// let slots = coord.semaphore("exports", 3.try_into().unwrap());
/// let slot = slots.acquire().await?;
/// slot.release().await?;
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// Those of [`Lock`](super::Lock), with as many holders as there are permits: never more at once, in the order of asking; a
/// holder or waiter that dies makes room when its lease ends. All who use it must agree on the number. The token of a permit
/// is larger than that of every permit asked for before, but several are held at once: it fences nothing by itself.
///
/// Only the first in the line watches the holders; the others watch the one before them. So a release wakes one waiter, who tells
/// the next that it is first now.
#[derive(Debug, Clone)]
pub struct Semaphore {
    via: Via,
    name: String,
    permits: NonZeroUsize,
}

impl Coord {
    /// The semaphore of this name and number of permits, held under a session that everything of this handle and its
    /// clones shares.
    pub fn semaphore(&self, name: &str, permits: NonZeroUsize) -> Semaphore {
        Semaphore { via: Via::Coord(self.clone()), name: name.to_owned(), permits }
    }
}

impl Session {
    /// The semaphore of this name and number of permits, held under this session.
    pub fn semaphore(&self, name: &str, permits: NonZeroUsize) -> Semaphore {
        Semaphore { via: Via::Session(self.clone()), name: name.to_owned(), permits }
    }
}

const WAITING: &[u8] = b"w";
const HOLDING: &[u8] = b"h";

/// Who has fewer than `permits` before it holds one. All before the first waiter hold one; behind it, one waits for the one
/// before to become first or go.
fn blockers(before: &[Entry], permits: usize) -> Vec<&Entry> {
    match before.len() {
        rank if rank < permits => Vec::new(),
        rank if rank == permits => before.iter().collect(),
        _ => before.last().into_iter().collect(),
    }
}

impl Semaphore {
    /// Waits for a permit. Cancel-safe: dropped, it leaves the line.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn acquire(&self) -> Result<LockGuard> {
        let line = self.via.line("permit", "semaphore", &self.name).await?;
        let permits = self.permits.get();
        let waiting = Bytes::from_static(WAITING);
        let (ticket, behind) = line.wait(waiting, &|before| blockers(before, permits)).await?;
        promoted(ticket, behind).await
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn try_acquire(&self) -> Result<Option<LockGuard>> {
        let line = self.via.line("permit", "semaphore", &self.name).await?;
        let permits = self.permits.get();
        match line.try_now(Bytes::from_static(WAITING), &|before| blockers(before, permits)).await? {
            Some((ticket, behind)) => promoted(ticket, behind).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits for a permit, at most this long.
    ///
    /// # Errors
    /// Those of [`Lock::acquire_within`](super::Lock::acquire_within).
    pub async fn acquire_within(&self, limit: Duration) -> Result<LockGuard> {
        within(limit, &self.name, self.acquire()).await
    }
}

/// Tells who stands behind that it may be first now. Who comes later sees it for itself, because the line before a
/// ticket only gets shorter.
async fn promoted(mut ticket: Ticket, behind: usize) -> Result<LockGuard> {
    if behind > 0 {
        ticket.update(Bytes::from_static(HOLDING)).await?;
    }
    Ok(LockGuard::new(ticket))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::coord::testing::rigged;
    use crate::coord::{DEFAULT_TTL, MemoryCoord};

    const TICK: Duration = Duration::from_millis(1);

    fn permits(n: usize) -> NonZeroUsize {
        n.try_into().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_and_no_more() {
        let coord = Coord::new(MemoryCoord::new());
        let slots = coord.semaphore("a", permits(3));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(slots.try_acquire().await.unwrap().unwrap());
        }
        assert!(slots.try_acquire().await.unwrap().is_none());
        assert!(slots.acquire_within(TICK).await.is_err());
        held.remove(1).release().await.unwrap();
        assert!(slots.try_acquire().await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_release_wakes_one_waiter() {
        let (coord, rigged) = rigged();
        let slots = coord.semaphore("a", permits(3));
        rigged.calls();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(slots.acquire().await.unwrap());
        }
        assert_eq!(rigged.calls(), 1 + 3 * 2, "a grant, and put and list each");
        let mut waiting = JoinSet::new();
        for n in 0..40 {
            let slots = slots.clone();
            waiting.spawn(async move { (n, slots.acquire().await.unwrap()) });
            sleep(TICK).await;
        }
        for expected in 0..40 {
            rigged.calls();
            held.remove(expected % 3).release().await.unwrap();
            let (n, guard) = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(n, expected);
            held.push(guard);
            sleep(TICK).await;
            let calls = rigged.calls();
            assert!(calls <= 5, "delete, list, update; list and watch of the next: {calls}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn never_too_many_and_nobody_forgotten() {
        for seed in 0..5 {
            let (coord, rigged) = rigged();
            let (inside, turns) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut tasks = JoinSet::new();
            for _ in 0..24 {
                let slots = coord.session(DEFAULT_TTL).await.unwrap().semaphore("a", permits(3));
                let (inside, turns, mut rng) = (inside.clone(), turns.clone(), rng.fork());
                tasks.spawn(async move {
                    for turn in 0..20 {
                        // Some give up; the last turn is waited for, however long it takes.
                        let patience =
                            Duration::from_millis(if turn == 19 { 600_000 } else { rng.u64(0..300) });
                        let Ok(guard) = slots.acquire_within(patience).await else {
                            assert!(turn < 19, "forgotten");
                            continue;
                        };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3, "seed {seed}");
                        turns.fetch_add(1, Ordering::SeqCst);
                        sleep(Duration::from_millis(rng.u64(0..50))).await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(guard);
                    }
                });
            }
            for _ in 0..50 {
                sleep(Duration::from_millis(rng.u64(1..50))).await;
                rigged.mute(["put", "list", "delete", "watch"][rng.usize(..4)], rng.u32(0..2));
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
            assert!(turns.load(Ordering::SeqCst) >= 24);
        }
    }
}
