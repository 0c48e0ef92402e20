//! Coordination in memory: for tests, and the contract in its plainest form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{
    Caps, Change, CoordEngine, Entry, Known, LeaseId, Rev, Watch, Watched, When, check_key, check_ttl,
    check_value,
};
use crate::url::EngineUrl;
use crate::{Error, Info, Kind, Result};

static NAMED: Mutex<BTreeMap<String, Weak<MemoryCoord>>> = Mutex::new(BTreeMap::new());

/// Keys that live in this process and die with it.
///
/// Its clock is tokio's: under `tokio::time::pause` leases end without waiting.
#[derive(Debug)]
pub struct MemoryCoord {
    info: Info,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told of every change.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    end: Instant,
    keys: BTreeSet<String>,
}

fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine("memory")
}

impl MemoryCoord {
    /// A new engine of its own.
    #[expect(clippy::new_ret_no_self, reason = "engines are shared")]
    pub fn new() -> Arc<dyn CoordEngine> {
        Self::at("memory://")
    }

    fn at(url: &str) -> Arc<Self> {
        let durability = "in this process's memory: lost when it ends";
        let info = Info { engine: "memory", url: url.to_owned(), durability };
        Arc::new(Self { info, shared: Arc::default() })
    }

    pub(crate) fn open(url: &EngineUrl) -> Result<Arc<Self>> {
        url.options(&[]).finish()?;
        let name = url.hosts().join(",") + url.path();
        if name.is_empty() {
            return Ok(Self::at("memory://"));
        }
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, engine| engine.strong_count() > 0);
        if let Some(engine) = named.get(&name).and_then(Weak::upgrade) {
            return Ok(engine);
        }
        let engine = Self::at(&format!("memory://{name}"));
        named.insert(name, Arc::downgrade(&engine));
        Ok(engine)
    }
}

impl Shared {
    /// The state without the keys of leases that have ended.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.sweep() {
            self.news.notify_waiters();
        }
        state
    }
}

impl State {
    fn next(&mut self) -> Rev {
        self.last += 1;
        Rev(self.last)
    }

    /// Ends the leases whose time is over; whether there were any.
    fn sweep(&mut self) -> bool {
        let now = Instant::now();
        let over: Vec<_> =
            self.leases.iter().filter(|(_, lease)| lease.end <= now).map(|(id, _)| id.clone()).collect();
        over.iter().for_each(|id| self.end(id));
        !over.is_empty()
    }

    fn end(&mut self, id: &LeaseId) {
        for key in self.leases.remove(id).into_iter().flat_map(|lease| lease.keys) {
            self.next();
            self.entries.remove(&key);
        }
    }

    fn detach(&mut self, key: &str) {
        let lease = self.entries.get(key).and_then(|entry| entry.lease.as_ref());
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(id)) {
            lease.keys.remove(key);
        }
    }

    fn check(&self, key: &str, when: When) -> Result<()> {
        let there = self.entries.get(key).map(|entry| entry.rev);
        match (when, there) {
            (When::Always, _) | (When::Absent, None) => Ok(()),
            (When::Is(rev), Some(is)) if rev == is => Ok(()),
            (When::Absent, Some(is)) => {
                Err(error(Kind::Conflict, format!("{key:?} is there, at revision {is}")))
            }
            (When::Is(rev), Some(is)) => {
                Err(error(Kind::Conflict, format!("{key:?} is at revision {is}, not {rev}")))
            }
            (When::Is(rev), None) => {
                Err(error(Kind::Conflict, format!("{key:?} isn't there, least of all at revision {rev}")))
            }
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Vec<Entry> {
        let begin = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let from_there = self.entries.range(begin.to_owned()..).map(|(_, entry)| entry);
        let after_it = from_there.skip_while(|entry| after == Some(entry.key.as_str()));
        after_it.take_while(|entry| entry.key.starts_with(prefix)).cloned().collect()
    }
}

#[async_trait]
impl CoordEngine for MemoryCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: false,
            shared: false,
            failover: true,
            min_ttl: Duration::from_millis(1),
            slack: Duration::ZERO,
            max_value: 1 << 30,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        Ok(self.shared.lock().entries.get(key).cloned())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let mut entries = self.shared.lock().list(prefix, after);
        entries.truncate(limit.max(1));
        Ok(entries)
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        check_key(key)?;
        check_value(&value, self.caps().max_value)?;
        let mut state = self.shared.lock();
        if lease.is_some_and(|id| !state.leases.contains_key(id)) {
            return Err(error(Kind::NotFound, "the lease has ended"));
        }
        state.check(key, when)?;
        state.detach(key);
        let rev = state.next();
        let created = state.entries.get(key).map_or(rev, |entry| entry.created);
        if let Some(lease) = lease.and_then(|id| state.leases.get_mut(id)) {
            lease.keys.insert(key.to_owned());
        }
        let entry = Entry { key: key.to_owned(), value, created, rev, lease: lease.cloned() };
        state.entries.insert(key.to_owned(), entry);
        self.shared.news.notify_waiters();
        Ok(rev)
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        check_key(key)?;
        if when == When::Absent {
            return Err(error(Kind::Invalid, "what is absent can't be deleted"));
        }
        let mut state = self.shared.lock();
        if !state.entries.contains_key(key) {
            return Ok(false);
        }
        state.check(key, when)?;
        state.detach(key);
        state.next();
        state.entries.remove(key);
        self.shared.news.notify_waiters();
        Ok(true)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl, self.caps().min_ttl)?;
        let mut state = self.shared.lock();
        let id = LeaseId(state.next().to_string());
        let lease = Lease { ttl, end: Instant::now() + ttl, keys: BTreeSet::new() };
        state.leases.insert(id.clone(), lease);
        // Watchers wait for the next end of a lease.
        self.shared.news.notify_waiters();
        Ok(id)
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        let mut state = self.shared.lock();
        let lease =
            state.leases.get_mut(lease).ok_or_else(|| error(Kind::NotFound, "the lease has ended"))?;
        lease.end = Instant::now() + lease.ttl;
        Ok(())
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.shared.lock().end(lease);
        self.shared.news.notify_waiters();
        Ok(())
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let snapshot = self.shared.lock().list(prefix, None);
        let known = Known::new(&snapshot);
        let changes = MemoryWatch { shared: self.shared.clone(), prefix: prefix.to_owned(), known };
        Ok(Watched { snapshot, changes: Box::new(changes) })
    }
}

#[derive(Debug)]
struct MemoryWatch {
    shared: Arc<Shared>,
    prefix: String,
    known: Known,
}

impl MemoryWatch {
    /// What changed, and when a lease ends next.
    fn look(&mut self) -> (Vec<Change>, Option<Instant>) {
        let state = self.shared.lock();
        let changes = self.known.catch_up(state.list(&self.prefix, None), Rev(state.last));
        (changes, state.leases.values().map(|lease| lease.end).min())
    }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait;
        let shared = self.shared.clone();
        loop {
            let news = shared.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            let (changes, next_end) = self.look();
            if !changes.is_empty() || Instant::now() >= deadline {
                return Ok(changes);
            }
            let until = next_end.map_or(deadline, |end| end.min(deadline));
            tokio::select! {
                () = news => {}
                () = sleep_until(until) => {}
            }
        }
    }
}
