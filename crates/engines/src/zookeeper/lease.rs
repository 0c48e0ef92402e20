//! Leases are sessions.
//!
//! A session ends when no server hears of it for its whole time. So nothing is sent on it but what renews it: see
//! [`Link::session`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linchpin_core::coord::LeaseId;
use linchpin_core::{Kind, Result};
use tokio::time::Instant;

use super::conn::Session;
use super::error;
use super::link::{LeaseConn, Link};
use super::op;

/// Connections that are kept for the next write under the same lease.
const KEPT: usize = 8;

/// Leases that ended, of which is known that they did.
const ENDED: usize = 4096;
/// A lease that nobody heard of for so long isn't kept in mind.
const LONG_AGO: Duration = Duration::from_secs(60 * 60);

/// The leases this engine granted.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<LeaseId, Held>,
    /// Those that ended last: ending them again is fine.
    ended: VecDeque<LeaseId>,
    kept: VecDeque<(LeaseId, Arc<LeaseConn>)>,
}

#[derive(Debug)]
struct Held {
    session: Session,
    /// When it was taken up last.
    heard: Instant,
}

/// What a session is called.
pub(super) fn name(session: i64) -> LeaseId {
    LeaseId(format!("{session:x}"))
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, id: &LeaseId) -> Result<Session> {
        self.lock().sessions.get(id).map(|held| held.session.clone()).ok_or_else(error::ended)
    }

    fn keep(&self, id: &LeaseId, conn: Arc<LeaseConn>) {
        let mut inner = self.lock();
        if let Some(held) = inner.sessions.get_mut(id) {
            held.heard = Instant::now();
        }
        inner.kept.retain(|(kept, _)| kept != id);
        inner.kept.push_back((id.clone(), conn));
        if inner.kept.len() > KEPT {
            inner.kept.pop_front();
        }
    }

    fn forget(&self, id: &LeaseId) {
        let mut inner = self.lock();
        inner.kept.retain(|(kept, _)| kept != id);
        if inner.sessions.remove(id).is_some() {
            inner.ended.push_back(id.clone());
        }
        if inner.ended.len() > ENDED {
            inner.ended.pop_front();
        }
    }

    /// Takes the session up again; forgets it if it has ended.
    async fn take_up(&self, link: &Link, id: &LeaseId) -> Result<Arc<LeaseConn>> {
        let opened = link.session(self.session(id)?).await;
        if opened.as_ref().is_err_and(|e| e.kind() == Kind::NotFound) {
            self.forget(id);
        }
        let conn = Arc::new(opened?);
        self.keep(id, conn.clone());
        Ok(conn)
    }

    pub(super) async fn grant(&self, link: &Link, ttl: Duration) -> Result<LeaseId> {
        let whole =
            Duration::from_millis(u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        let granted = link.session(Session::new(whole)).await?;
        let session = granted.conn.session.clone();
        if session.timeout < whole {
            drop(granted.conn.ask(op::close()));
            return Err(error::too_long(ttl, session.timeout));
        }
        let id = name(session.id);
        let mut inner = self.lock();
        // Nobody renews those any more; the servers have ended them long ago.
        inner.sessions.retain(|_, held| held.heard.elapsed() < held.session.timeout + LONG_AGO);
        inner.sessions.insert(id.clone(), Held { session, heard: Instant::now() });
        drop(inner);
        self.keep(&id, Arc::new(granted));
        Ok(id)
    }

    pub(super) async fn renew(&self, link: &Link, id: &LeaseId) -> Result<()> {
        self.take_up(link, id).await.map(drop)
    }

    /// A connection on the session of the lease.
    pub(super) async fn conn(&self, link: &Link, id: &LeaseId) -> Result<Arc<LeaseConn>> {
        self.session(id)?;
        let kept = self.lock().kept.iter().find(|(kept, _)| kept == id).map(|(_, conn)| conn.clone());
        match kept.filter(|kept| !kept.conn.is_dead()) {
            Some(kept) => Ok(kept),
            None => self.take_up(link, id).await,
        }
    }

    /// Closes the session, again if the connection goes meanwhile.
    ///
    /// # Errors
    /// `NotFound` for a lease of another engine: it may go on.
    pub(super) async fn revoke(&self, link: &Link, id: &LeaseId) -> Result<()> {
        let known = {
            let inner = self.lock();
            inner.sessions.contains_key(id) || inner.ended.contains(id)
        };
        if !known {
            return Err(error::ended());
        }
        loop {
            let closed = match self.conn(link, id).await {
                Ok(lease) => lease.conn.ask(op::close()).await.and_then(|reply| reply.body().map(drop)),
                Err(e) => Err(e),
            };
            match closed {
                Err(e) if e.kind() == Kind::NotFound => break,
                Err(e) if e.kind() == Kind::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(e) => return Err(e),
                Ok(()) => break,
            }
        }
        self.forget(id);
        Ok(())
    }
}
