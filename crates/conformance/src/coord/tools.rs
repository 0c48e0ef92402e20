//! What cases of coordination have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use linchpin::coord::{Change, Coord, Entry, LeaseId, Rev, Watched, When};
use linchpin::{Kind, Result};
use tokio::time::Instant;

use crate::tools::{GRACE, SOON};

/// The shortest lease a case asks for.
pub(super) fn ttl(coord: &Coord) -> Duration {
    coord.caps().min_ttl.max(Duration::from_secs(1))
}

/// How long a lease that isn't renewed may still be seen.
pub(super) fn latest(coord: &Coord) -> Duration {
    ttl(coord) + coord.caps().slack + GRACE
}

pub(super) async fn put(coord: &Coord, key: &str, value: &str) -> Rev {
    coord.put(key, value.to_owned(), When::Always).await.unwrap()
}

/// Writes the key under a lease.
pub(super) async fn lend(coord: &Coord, key: &str, lease: &LeaseId) -> Result<Rev> {
    coord.engine().put(key, Bytes::from_static(b"leased"), When::Always, Some(lease)).await
}

pub(super) async fn keys(coord: &Coord, prefix: &str) -> Vec<String> {
    coord.list(prefix).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

pub(super) async fn is_there(coord: &Coord, key: &str) -> bool {
    coord.get(key).await.unwrap().is_some()
}

pub(super) fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).unwrap()
}

/// Until the key is gone; the time that took.
pub(super) async fn gone(coord: &Coord, key: &str, started: Instant, limit: Duration) -> Duration {
    while is_there(coord, key).await {
        assert!(started.elapsed() <= limit, "{key} is still there after {:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// Adds one to the number under the key, by compare-and-set. An error other than a lost race is the caller's affair.
pub(super) async fn increment(coord: &Coord, key: &str) -> Result<Rev> {
    loop {
        let there = coord.get(key).await?;
        let (number, when) = match &there {
            Some(entry) => (text(entry).parse::<u64>().unwrap(), When::Is(entry.rev)),
            None => (0, When::Absent),
        };
        match coord.put(key, (number + 1).to_string(), when).await {
            Err(error) if error.kind() == Kind::Conflict => {}
            other => return other,
        }
    }
}

pub(super) async fn number(coord: &Coord, key: &str) -> u64 {
    coord.get(key).await.unwrap().map_or(0, |entry| text(&entry).parse().unwrap())
}

/// What someone knows who was told everything.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) entries: BTreeMap<String, Entry>,
    watched: Watched,
    /// The last change that was told of each key.
    last: BTreeMap<String, Rev>,
    /// Changes told.
    pub(super) told: usize,
}

impl Picture {
    pub(super) async fn of(coord: &Coord, prefix: &str) -> Self {
        let mut watched = coord.watch(prefix).await.unwrap();
        let snapshot = std::mem::take(&mut watched.snapshot);
        assert!(snapshot.is_sorted_by(|a, b| a.key < b.key), "the snapshot is in the order of keys");
        let last = snapshot.iter().map(|entry| (entry.key.clone(), entry.rev)).collect();
        let entries = snapshot.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Self { entries, watched, last, told: 0 }
    }

    /// What comes within `wait`.
    pub(super) async fn look(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let changes = self.watched.changes.next(wait).await?;
        for change in &changes {
            self.apply(change.clone());
        }
        Ok(changes)
    }

    fn apply(&mut self, change: Change) {
        self.told += 1;
        let (key, rev) = (change.key().to_owned(), change.rev());
        let last = self.last.insert(key.clone(), rev);
        assert!(last.is_none_or(|last| last <= rev), "{key} goes back from {last:?} to {rev}");
        match change {
            Change::Put(entry) => _ = self.entries.insert(key, entry),
            Change::Delete { .. } => _ = self.entries.remove(&key),
        }
    }

    /// Until this key is told of as being there, through lost connections.
    pub(super) async fn until(&mut self, key: &str, limit: Duration) {
        let started = Instant::now();
        while !self.entries.contains_key(key) {
            assert!(
                started.elapsed() < limit,
                "{key} wasn't told of within {limit:?}, of {} changes",
                self.told
            );
            if self.look(Duration::from_secs(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// It is what is really there.
    pub(super) async fn check(&mut self, coord: &Coord, prefix: &str) {
        let there: BTreeMap<_, _> =
            coord.list(prefix).await.unwrap().into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let missing: Vec<_> = there.iter().filter(|(key, is)| self.entries.get(*key) != Some(*is)).collect();
        let left: Vec<_> = self.entries.keys().filter(|key| !there.contains_key(*key)).collect();
        assert!(missing.is_empty() && left.is_empty(), "not told {missing:?}, told and not there {left:?}");
    }
}

/// The changes that come until there are as many; in batches, or one by one.
pub(super) async fn changes(watched: &mut Watched, count: usize) -> Vec<Change> {
    let deadline = Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        let came = watched.changes.next(left).await.unwrap();
        assert!(!came.is_empty(), "{} of {count} came within {SOON:?}: {all:?}", all.len());
        all.extend(came);
    }
    all
}
