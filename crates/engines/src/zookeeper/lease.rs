//! Leases are sessions.
//!
//! A session ends when no server hears of it for its whole time. So nothing is sent on it but what renews it: see
//! [`Link::session`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linchpin_core::coord::LeaseId;
use linchpin_core::{Kind, Result};

use super::conn::Session;
use super::error;
use super::link::{LeaseConn, Link};
use super::op;

/// Connections that are kept for the next write under the same lease.
const KEPT: usize = 8;

/// The leases this engine granted.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<LeaseId, Session>,
    kept: VecDeque<(LeaseId, Arc<LeaseConn>)>,
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
        self.lock().sessions.get(id).cloned().ok_or_else(error::ended)
    }

    fn keep(&self, id: &LeaseId, conn: Arc<LeaseConn>) {
        let mut inner = self.lock();
        inner.kept.retain(|(kept, _)| kept != id);
        inner.kept.push_back((id.clone(), conn));
        if inner.kept.len() > KEPT {
            inner.kept.pop_front();
        }
    }

    fn forget(&self, id: &LeaseId) {
        let mut inner = self.lock();
        inner.sessions.remove(id);
        inner.kept.retain(|(kept, _)| kept != id);
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
        self.lock().sessions.insert(id.clone(), session);
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
    pub(super) async fn revoke(&self, link: &Link, id: &LeaseId) -> Result<()> {
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
