//! The engine over rows.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::coord::{
    Caps, CoordEngine, Entry, LeaseId, Rev, Watched, When, check_key, check_ttl, check_value,
};
use linchpin_core::{Error, Info, Kind, Result};
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::feed::{Feed, follow};
use super::{Ask, Range, Rows, Stored, watch};
use crate::relational::topic::millis_up;

/// Coordination in a relational database.
#[derive(Debug)]
pub(crate) struct RowCoord {
    info: Info,
    caps: Caps,
    inner: Arc<Inner>,
}

/// What the engine and its watches share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) rows: Arc<dyn Rows>,
    pub(super) feed: Arc<Feed>,
    /// What is put before each key.
    prefix: String,
    following: OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(following) = self.following.get() {
            following.abort();
        }
    }
}

/// A number for a lease that no other lease has or had.
fn new_lease() -> i64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    (high >> 1).cast_signed()
}

fn number(lease: &LeaseId) -> Result<i64> {
    let unknown = || Error::new(Kind::NotFound, format!("no lease is called {:?}", lease.0));
    lease.0.parse().map_err(|_| unknown())
}

impl RowCoord {
    /// Coordination over these rows. Must be called within a runtime.
    pub(crate) fn new(info: Info, caps: Caps, prefix: &str, rows: Arc<dyn Rows>) -> Self {
        let feed = rows.hub().feed.clone();
        let inner = Arc::new(Inner {
            rows,
            feed: feed.clone(),
            prefix: prefix.to_owned(),
            following: OnceLock::new(),
        });
        let following = tokio::spawn(follow(Arc::downgrade(&inner), feed)).abort_handle();
        inner.following.get_or_init(|| following);
        Self { info, caps, inner }
    }

    fn named<T>(&self, op: &'static str, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.engine(self.info.engine).op(op))
    }

    async fn write(&self, op: &'static str, key: &str, ask: Ask) -> Result<Option<Rev>> {
        self.inner.ask(op, ask).await.map_err(|e| e.with("key", key))
    }
}

impl Inner {
    /// Does one thing.
    async fn ask(&self, op: &'static str, ask: Ask) -> Result<Option<Rev>> {
        let answer = self.rows.ask(ask).await.and_then(|answer| answer.result);
        answer.map_err(|e| e.engine(self.rows.engine()).op(op))
    }

    /// A key as it is stored.
    pub(super) fn stored(&self, key: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    /// The keys that begin with `prefix`.
    pub(super) fn range(&self, prefix: &str) -> Range {
        Range::prefix(&self.stored(prefix))
    }

    /// A key as it is told.
    pub(super) fn shown(&self, key: Vec<u8>) -> Result<String> {
        let strange = |_| Error::new(Kind::Corrupt, "a stored key isn't text");
        let mut key = String::from_utf8(key).map_err(strange)?;
        key.drain(..self.prefix.len().min(key.len()));
        Ok(key)
    }

    pub(super) fn entry(&self, row: Stored) -> Result<Entry> {
        let Stored { key, value, created, rev, lease } = row;
        let lease = lease.map(|lease| LeaseId(lease.to_string()));
        Ok(Entry { key: self.shown(key)?, value, created: Rev(created), rev: Rev(rev), lease })
    }
}

#[async_trait]
impl CoordEngine for RowCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.named("get", check_key(key))?;
        let range = Range::one(&self.inner.stored(key));
        let (_, rows) = self.named("get", self.inner.rows.list(range, 1).await)?;
        self.named("get", rows.into_iter().next().map(|row| self.inner.entry(row)).transpose())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let mut range = self.inner.range(prefix);
        if let Some(after) = after {
            range = range.beyond(&self.inner.stored(after));
        }
        let (_, rows) = self.named("list", self.inner.rows.list(range, limit.max(1)).await)?;
        self.named("list", self.inner.entries(rows))
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        let checked = || {
            check_key(key)?;
            check_value(&value, self.caps.max_value)?;
            lease.map(number).transpose()
        };
        let lease = self.named("put", checked())?;
        let ask = Ask::Put { key: self.inner.stored(key), value, when, lease };
        let none = || Error::new(Kind::Unexpected, "a put has a revision");
        let put = self.write("put", key, ask).await?.ok_or_else(none);
        self.named("put", put)
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.named("delete", check_key(key))?;
        if when == When::Absent {
            let error = Error::new(Kind::Invalid, "what is absent can't be deleted");
            return self.named("delete", Err(error.help("use When::Always or When::Is")));
        }
        let ask = Ask::Delete { key: self.inner.stored(key), when };
        Ok(self.write("delete", key, ask).await?.is_some())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.named("grant", check_ttl(ttl, self.caps.min_ttl))?;
        let lease = new_lease();
        // The clock is read in whole milliseconds: one more, so that none ends early.
        let ttl = millis_up(ttl).saturating_add(1);
        self.inner.ask("grant", Ask::Grant { lease, ttl }).await?;
        Ok(LeaseId(lease.to_string()))
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        let lease = self.named("renew", number(lease))?;
        self.inner.ask("renew", Ask::Renew { lease }).await.map(drop)
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        match number(lease) {
            Ok(lease) => self.inner.ask("revoke", Ask::Revoke { lease }).await.map(drop),
            // It never was, so it is no more.
            Err(_) => Ok(()),
        }
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let begun = watch::begin(&self.inner, prefix).await;
        self.named("watch", begun)
    }
}
