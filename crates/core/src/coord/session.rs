//! A lease that is kept alive, shared by many things.

mod keep;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use self::keep::Litter;
use super::call::answer_within;
use super::{Coord, CoordEngine, LeaseId, Rev, When};
use crate::telemetry::SESSIONS_LOST;
use crate::{Error, Kind, Result};

/// The time of a session's lease unless another is asked for: 15 s, or the engine's shortest if that is longer.
pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

/// A lease kept alive by one task in the background, for any number of locks, elections and keys. Cheap to clone.
///
/// The lease is renewed every third of its time. When the last clone is dropped — locks held under it hold one — it is
/// revoked in the background; [`Session::close`] waits for that.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, DEFAULT_TTL, MemoryCoord, When};
/// # let coord = Coord::new(MemoryCoord::new());
/// let session = coord.session(DEFAULT_TTL).await?;
/// session.put("printers/cellar", "ready", When::Absent).await?;
/// session.close().await?;
/// assert_eq!(coord.get("printers/cellar").await?, None);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// * Loss is told before the lease can have ended on the engine: the session counts as lost once nine tenths of
///   the lease's time have passed since the last renewal that succeeded was *sent*. The last tenth is the safety margin, for
///   clocks that run at different speeds and for who is told to stop in.
/// * What isn't known counts as lost: an outage that outlasts the deadline ends the session, even if the lease lives on.
///   A session that was lost stays lost.
/// * The deadline is judged by the monotonic clock whenever it is asked for, not only by the task that renews. What no
///   clock can tell, a process or machine that was frozen between the question and the write, is what the fencing token is for.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _last: Arc<CloseOnDrop>,
}

struct Shared {
    engine: Arc<dyn CoordEngine>,
    lease: LeaseId,
    ttl: Duration,
    state: watch::Sender<State>,
    /// Keys to be removed.
    litter: Mutex<Vec<Litter>>,
    /// Rung when there is more of it.
    more: Notify,
}

#[derive(Debug)]
struct State {
    /// When the lease may end on the engine, less the margin.
    deadline: Instant,
    /// Why it is over. Set once.
    over: Option<Error>,
    /// The lease isn't to be revoked, but to run out.
    runs_out: bool,
    /// What revoking said, once the task has ended.
    end: Option<Result<()>>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = self.shared.state.borrow().over.is_some();
        write!(f, "Session({}, {:?}, over: {over})", self.shared.lease.0, self.shared.ttl)
    }
}

impl Coord {
    /// A session whose lease ends `ttl` after this process was last heard of. Call it inside a tokio runtime: it starts a
    /// task.
    ///
    /// # Errors
    /// `Invalid` if `ttl` is under [`Caps::min_ttl`](super::Caps::min_ttl); what the engine says otherwise.
    pub async fn session(&self, ttl: Duration) -> Result<Session> {
        Session::begin(self.engine().clone(), ttl).await
    }
}

impl Session {
    pub(super) async fn begin(engine: Arc<dyn CoordEngine>, ttl: Duration) -> Result<Self> {
        let begun = Instant::now();
        let lease = answer_within(ttl, engine.grant(ttl)).await.map_err(|error| error.op("session"))?;
        let state = State { deadline: begun + safe(ttl), over: None, runs_out: false, end: None };
        let shared = Arc::new(Shared {
            engine,
            lease,
            ttl,
            state: watch::Sender::new(state),
            litter: Mutex::default(),
            more: Notify::new(),
        });
        tokio::spawn(keep::run(shared.clone(), begun));
        Ok(Self { _last: Arc::new(CloseOnDrop(shared.clone())), shared })
    }

    /// The lease.
    pub fn lease(&self) -> &LeaseId {
        &self.shared.lease
    }

    /// How long the lease lives after it was last renewed.
    pub fn ttl(&self) -> Duration {
        self.shared.ttl
    }

    /// Whether the lease can't have ended yet. Once false, always false.
    pub fn is_alive(&self) -> bool {
        self.check().is_ok()
    }

    /// Fine while the lease can't have ended yet.
    ///
    /// # Errors
    /// `Fenced` with the reason once it can have; `Closed` after [`Session::close`]. Once an error, always an error.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Waits until the session is lost or closed; the answer is why. Cancel-safe.
    pub async fn lost(&self) -> Error {
        self.shared.lost().await
    }

    /// Writes a key that vanishes with the session, under a condition. The answer is the revision of this write.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met; `Fenced` or `Closed` if the session is over; what the engine says otherwise.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, when: When) -> Result<Rev> {
        self.check()?;
        let put = self.shared.engine.put(key, value.into(), when, Some(&self.shared.lease));
        let done = answer_within(super::call::LIMIT, put).await;
        done.map_err(|error| self.shared.judge(error))
    }

    /// Gives up the lease, and with it everything under this session, in all its clones; waits for that, at most for the
    /// time of the lease.
    ///
    /// Cancel-safe: dropped midway, it goes on in the background.
    ///
    /// # Errors
    /// `Fenced` if it was lost before; what the engine says if it couldn't be told within the lease's time, after which
    /// the lease ends by itself.
    pub async fn close(&self) -> Result<()> {
        self.shared.close();
        let mut state = self.shared.state.subscribe();
        let ended = state.wait_for(|state| state.end.is_some()).await;
        let gone = || Error::new(Kind::Unexpected, "the session's task is gone").op("close");
        ended.map_err(|_| gone())?.end.clone().unwrap_or_else(|| Err(gone()))
    }

    /// Ends the session and lets the lease run out: what is under it stays until then.
    pub(super) fn abandon(&self) {
        self.shared.state.send_modify(|state| state.runs_out = true);
        self.shared.close();
    }

    pub(super) fn engine(&self) -> &Arc<dyn CoordEngine> {
        &self.shared.engine
    }

    /// Removes the key in the background, and tries until it is done or the lease is over. `doubtful` says that a
    /// write of it may still be on its way: then it is removed again later.
    pub(super) fn remove_later(&self, key: String, doubtful: bool) {
        if self.shared.state.borrow().over.is_none() {
            self.shared.lock().push(Litter::new(key, doubtful));
            self.shared.more.notify_one();
        }
    }
}

/// How long after it was last renewed a lease surely lives: all but a tenth of its time.
fn safe(ttl: Duration) -> Duration {
    ttl - ttl / 10
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Litter>> {
        self.litter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<()> {
        {
            let state = self.state.borrow();
            match &state.over {
                Some(error) => return Err(error.clone()),
                None if Instant::now() < state.deadline => return Ok(()),
                None => {}
            }
        }
        self.end_if(
            |state| Instant::now() >= state.deadline,
            || lost("its lease couldn't be renewed in time"),
        );
        self.state.borrow().over.clone().map_or(Ok(()), Err)
    }

    async fn lost(&self) -> Error {
        let mut state = self.state.subscribe();
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            let deadline = state.borrow_and_update().deadline;
            tokio::select! {
                // The sender is in `self`: it can't be gone.
                _ = state.changed() => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// Ends the session unless it is over, if the condition holds under the lock.
    fn end_if(&self, condition: impl Fn(&State) -> bool, why: impl Fn() -> Error) {
        let ended = self.state.send_if_modified(|state| {
            let ends = state.over.is_none() && condition(state);
            if ends {
                state.over = Some(why().engine(self.engine.info().engine));
            }
            ends
        });
        if ended && let Some(error) = self.state.borrow().over.as_ref().filter(|e| e.kind() != Kind::Closed) {
            counter!(SESSIONS_LOST).increment(1);
            tracing::warn!(lease = self.lease.0, %error, "session lost");
        }
    }

    fn close(&self) {
        self.end_if(|_| true, || Error::new(Kind::Closed, "the session is closed"));
    }

    /// Takes note of a renewal that was sent at `begun` and succeeded: too late counts for nothing.
    fn renewed(&self, begun: Instant) {
        if self.check().is_ok() {
            self.state.send_if_modified(|state| {
                if state.over.is_none() && Instant::now() < state.deadline {
                    state.deadline = state.deadline.max(begun + safe(self.ttl));
                }
                // Who sleeps until the old deadline finds the new one then.
                false
            });
        }
    }

    /// An error of a write under the lease. That there is no lease ends the session.
    fn judge(&self, error: Error) -> Error {
        if error.kind() != Kind::NotFound {
            return error;
        }
        self.end_if(|_| true, || lost("its lease has ended on the engine"));
        self.state.borrow().over.clone().unwrap_or(error)
    }
}

fn lost(why: &str) -> Error {
    Error::new(Kind::Fenced, format!("the session is lost: {why}"))
        .help("stop what it protected; whoever goes on needs a new session")
}

#[cfg(test)]
mod tests;
