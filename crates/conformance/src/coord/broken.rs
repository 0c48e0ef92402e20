//! Deliberately broken engines: the memory engine with one fault. Each must turn a named case red.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin::coord::{Caps, Change, Coord, CoordEngine, Entry, LeaseId, Rev, Watch, Watched, When};
use linchpin::{Kind, Result};
use linchpin_core::Info;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    RepeatsRevision,
    DropsChange,
    IgnoresRevision,
    CreatesAnyway,
    KeepsLeases,
    IgnoresRenewal,
    ListsBackwards,
    IgnoresAfter,
    DeletesAnyway,
    EmptySnapshot,
    HidesDeletes,
    TakesAnyKey,
    WritesWithoutLease,
    CountsAnew,
    SwapsNeighbours,
    DeletesAnother,
    RenewsTheDead,
}

/// The engine with this fault.
pub(super) fn with(coord: Coord, fault: Fault) -> Coord {
    Coord::new(Arc::new(Faulty { inner: coord.engine().clone(), fault, base: Arc::default() }))
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn CoordEngine>,
    fault: Fault,
    /// Where revisions of locks began anew.
    base: Arc<AtomicU64>,
}

/// What only keys of locks suffer from.
const LOCKS: &str = "lock/";

impl Faulty {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The revision of a key as it is shown.
    fn shown(&self, key: &str, rev: Rev) -> Rev {
        shown(self.fault, self.base.load(Ordering::SeqCst), key, rev)
    }

    fn show(&self, mut entry: Entry) -> Entry {
        (entry.created, entry.rev) =
            (self.shown(&entry.key, entry.created), self.shown(&entry.key, entry.rev));
        entry
    }

    /// After a key of a lock was deleted, or wasn't there to delete.
    async fn deleted(&self, key: &str, was_there: bool) -> Result<()> {
        let line = self.inner.list(LOCKS, None, 1).await?;
        if self.has(Fault::CountsAnew) && was_there && line.is_empty() {
            let last = self.inner.put("count", Bytes::new(), When::Always, None).await?;
            self.base.store(last.0, Ordering::SeqCst);
        }
        let another = line.first().filter(|_| self.has(Fault::DeletesAnother) && !was_there);
        if let Some(another) = another.filter(|_| key.starts_with(LOCKS)) {
            self.inner.delete(&another.key, When::Always).await?;
        }
        Ok(())
    }
}

fn shown(fault: Fault, base: u64, key: &str, rev: Rev) -> Rev {
    match fault {
        Fault::CountsAnew if key.starts_with(LOCKS) => Rev(rev.0 - base),
        Fault::SwapsNeighbours if key.starts_with(LOCKS) => Rev(((rev.0 + 1) ^ 1) - 1),
        _ => rev,
    }
}

#[async_trait]
impl CoordEngine for Faulty {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        match self.inner.get(key).await.map(|entry| entry.map(|entry| self.show(entry))) {
            Err(e) if e.kind() == Kind::Invalid && self.has(Fault::TakesAnyKey) => Ok(None),
            other => other,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let after = after.filter(|_| !self.has(Fault::IgnoresAfter));
        let mut entries = self.inner.list(prefix, after, limit).await?;
        if self.has(Fault::IgnoresAfter) && entries.len() == limit {
            entries.pop();
        }
        if self.has(Fault::ListsBackwards) {
            entries.reverse();
        }
        Ok(entries.into_iter().map(|entry| self.show(entry)).collect())
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        let when = match when {
            When::Is(_) if self.has(Fault::IgnoresRevision) => When::Always,
            When::Absent if self.has(Fault::CreatesAnyway) => When::Always,
            other => other,
        };
        let done = match self.inner.put(key, value.clone(), when, lease).await {
            Err(e) if e.kind() == Kind::Invalid && self.has(Fault::TakesAnyKey) => Ok(Rev(1)),
            Err(e) if e.kind() == Kind::NotFound && self.has(Fault::WritesWithoutLease) => {
                self.inner.put(key, value, when, None).await
            }
            other => other,
        };
        let half = |rev: Rev| Rev(rev.0.saturating_sub(1) / 2);
        done.map(|rev| if self.has(Fault::RepeatsRevision) { half(rev) } else { self.shown(key, rev) })
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        let when = if self.has(Fault::DeletesAnyway) { When::Always } else { when };
        let was_there = self.inner.delete(key, when).await?;
        if matches!(self.fault, Fault::CountsAnew | Fault::DeletesAnother) {
            self.deleted(key, was_there).await?;
        }
        Ok(was_there)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let ttl = if self.has(Fault::KeepsLeases) { ttl * 1_000 } else { ttl };
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        match self.fault {
            Fault::IgnoresRenewal => Ok(()),
            Fault::RenewsTheDead => self.inner.renew(lease).await.or(Ok(())),
            _ => self.inner.renew(lease).await,
        }
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let Watched { mut snapshot, changes } = self.inner.watch(prefix).await?;
        if self.has(Fault::EmptySnapshot) {
            snapshot.clear();
        }
        let snapshot = snapshot.into_iter().map(|entry| self.show(entry)).collect();
        let (fault, base) = (self.fault, self.base.clone());
        let watch = FaultyWatch { inner: changes, fault, base, told: AtomicU64::new(0) };
        Ok(Watched { snapshot, changes: Box::new(watch) })
    }
}

#[derive(Debug)]
struct FaultyWatch {
    inner: Box<dyn Watch>,
    fault: Fault,
    base: Arc<AtomicU64>,
    told: AtomicU64,
}

#[async_trait]
impl Watch for FaultyWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let mut changes = self.inner.next(wait).await?;
        changes.retain(|change| match self.fault {
            // Late enough that nobody writes the key once more.
            Fault::DropsChange => {
                !change.key().starts_with("w/1")
                    || !self.told.fetch_add(1, Ordering::Relaxed).is_multiple_of(5)
            }
            Fault::HidesDeletes => matches!(change, Change::Put(_)),
            _ => true,
        });
        let base = self.base.load(Ordering::SeqCst);
        let show = |key: &str, rev: &mut Rev| *rev = shown(self.fault, base.min(rev.0), key, *rev);
        for change in &mut changes {
            match change {
                Change::Put(Entry { key, created, rev, .. }) => {
                    show(key, created);
                    show(key, rev);
                }
                Change::Delete { key, rev } => show(key, rev),
            }
        }
        Ok(changes)
    }
}
