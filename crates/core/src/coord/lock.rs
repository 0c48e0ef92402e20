//! One holder at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::name::own_keys;
use super::queue::{Line, Ticket};
use super::{Coord, Entry, Rev, Session};
use crate::{Error, Kind, Result, Retry};

/// A lock by name. Cheap to clone; it isn't held until it is acquired.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, MemoryCoord};
/// # let coord = Coord::new(MemoryCoord::new());
/// let guard = coord.lock("orders/42").acquire().await?;
/// println!("UPDATE orders SET …, fence = {0} WHERE id = 42 AND fence <= {0}", guard.token());
/// guard.release().await?;
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// * The engine gives it to one at a time, in the order of asking. Who holds it, holds it until it is released or the
///   session's lease ends; who died, waiting or holding, is skipped when its lease has ended.
/// * [`LockGuard::token`] is larger than that of every holder before. That is what keeps a holder out that was frozen past its
///   lease and doesn't know: no lock on a lease can, but the place that is written to can, by refusing smaller tokens
///   (see [`fence`](super::fence)).
/// * Nobody releases it for another: a guard removes its own key only.
/// * Who stops waiting leaves nothing behind. A release wakes one waiter.
/// * Not re-entrant by name: asking again while holding it waits for oneself. [`LockGuard::reenter`] is the way.
///
/// A lock costs three calls of the engine, acquiring and releasing it, and three to hand it over.
#[derive(Debug, Clone)]
pub struct Lock {
    via: Via,
    name: String,
}

/// Under which session something is held.
#[derive(Debug, Clone)]
pub(super) enum Via {
    /// This one.
    Session(Session),
    /// The one that everything asked of this handle shares.
    Coord(Coord),
}

impl Via {
    pub(super) async fn line(&self, kind: &'static str, keys: &str, name: &str) -> Result<Line> {
        let prefix = own_keys(keys, name).map_err(|error| error.op("acquire"))?;
        let session = match self {
            Self::Session(session) => session.clone(),
            Self::Coord(coord) => coord.shared_session().await?,
        };
        Ok(Line { session, prefix, kind })
    }
}

/// What is held. Dropping it releases it in the background, with its last re-entry; the lease is the backstop.
#[derive(Debug)]
pub struct LockGuard {
    ticket: Arc<Ticket>,
}

impl Coord {
    /// The lock of this name, held under a session that all locks of this handle and its clones share.
    pub fn lock(&self, name: &str) -> Lock {
        Lock { via: Via::Coord(self.clone()), name: name.to_owned() }
    }
}

impl Session {
    /// The lock of this name, held under this session.
    pub fn lock(&self, name: &str) -> Lock {
        Lock { via: Via::Session(self.clone()), name: name.to_owned() }
    }
}

/// One waits for the one before.
pub(super) fn last(before: &[Entry]) -> Vec<&Entry> {
    before.last().into_iter().collect()
}

impl Lock {
    /// Waits for it, as long as the session lives. Cancel-safe: dropped, it leaves the line.
    ///
    /// # Errors
    /// `Invalid` for a name that [`check_key`](super::check_key) refuses, or with a segment that begins with `~`; `Fenced` if
    /// the session was lost meanwhile, `Closed` if it was closed; what the engine says otherwise. Outages shorter than
    /// the session's deadline are sat out.
    pub async fn acquire(&self) -> Result<LockGuard> {
        let (ticket, _) = self.line().await?.wait(Bytes::new(), &last).await?;
        Ok(LockGuard::new(ticket))
    }

    /// Takes it if it is free.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`].
    pub async fn try_acquire(&self) -> Result<Option<LockGuard>> {
        let taken = self.line().await?.try_now(Bytes::new(), &last).await?;
        Ok(taken.map(|(ticket, _)| LockGuard::new(ticket)))
    }

    /// Waits for it, at most this long.
    ///
    /// # Errors
    /// `Timeout` if it wasn't free in time, and nothing was left behind; those of [`Lock::acquire`].
    pub async fn acquire_within(&self, limit: Duration) -> Result<LockGuard> {
        within(limit, &self.name, self.acquire()).await
    }

    async fn line(&self) -> Result<Line> {
        self.via.line("lock", "lock", &self.name).await
    }
}

/// What `work` acquires, or `Timeout`.
pub(super) async fn within<T>(
    limit: Duration,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = |_| {
        let limit = humantime::format_duration(limit);
        Error::new(Kind::Timeout, format!("{name:?} wasn't free within {limit}"))
            .op("acquire")
            .retry_as(Retry::Safe { after: Duration::ZERO })
    };
    tokio::time::timeout(limit, work).await.map_err(late)?
}

impl LockGuard {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self { ticket: Arc::new(ticket) }
    }

    /// The fencing token: larger than that of every holder before. Have what is written under the lock refuse smaller ones.
    pub fn token(&self) -> Rev {
        self.ticket.created
    }

    /// Whether it is surely still held, by the monotonic clock. Once false, always false.
    pub fn is_held(&self) -> bool {
        self.ticket.session().is_alive()
    }

    /// Waits until it is lost, because its session is; the answer is why. Told before the engine can give it to another.
    /// Cancel-safe.
    pub async fn lost(&self) -> Error {
        self.ticket.session().lost().await
    }

    /// Once more what is held already, with the same token: it is released when the last guard is.
    ///
    /// # Errors
    /// `Fenced` or `Closed` if the session is over.
    pub fn reenter(&self) -> Result<Self> {
        self.ticket.session().check()?;
        Ok(Self { ticket: self.ticket.clone() })
    }

    /// Releases it and waits until that is so; does nothing yet if it was re-entered. Cancel-safe: dropped midway, it
    /// goes on in the background.
    ///
    /// # Errors
    /// `Fenced` if it wasn't held any more, `Closed` if the session is closed: what was done under it may have met another
    /// holder's work. What the engine says otherwise: then it goes on in the background.
    pub async fn release(self) -> Result<()> {
        match Arc::into_inner(self.ticket) {
            Some(ticket) => ticket.leave().await.map_err(|error| error.op("release")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
