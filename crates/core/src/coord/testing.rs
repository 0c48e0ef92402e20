//! An engine for tests: counts what is called, and fails as it is told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Caps, Change, Coord, CoordEngine, Entry, LeaseId, MemoryCoord, Rev, Watch, Watched, When};
use crate::{Error, Info, Kind, Result};

#[derive(Debug)]
pub(super) struct Rigged {
    inner: Arc<dyn CoordEngine>,
    calls: Mutex<BTreeMap<&'static str, u32>>,
    /// The next calls of this name are applied, but their answers are lost.
    mute: Mutex<BTreeMap<&'static str, u32>>,
    /// Nothing gets through.
    down: Arc<AtomicBool>,
}

pub(super) fn rigged() -> (Coord, Arc<Rigged>) {
    let engine = Rigged {
        inner: MemoryCoord::new(),
        calls: Mutex::default(),
        mute: Mutex::default(),
        down: Arc::default(),
    };
    let engine = Arc::new(engine);
    (Coord::new(engine.clone()), engine)
}

fn unavailable() -> Error {
    Error::new(Kind::Unavailable, "the connection broke")
}

impl Rigged {
    pub(super) fn mute(&self, call: &'static str, times: u32) {
        self.mute.lock().unwrap().insert(call, times);
    }

    pub(super) fn down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Calls since this was asked last, without renewals.
    pub(super) fn calls(&self) -> u32 {
        let mut calls = self.calls.lock().unwrap();
        calls.remove("renew");
        std::mem::take(&mut *calls).values().sum()
    }

    /// Calls of this name since the counts were taken last.
    pub(super) fn calls_of(&self, call: &str) -> u32 {
        self.calls.lock().unwrap().get(call).copied().unwrap_or(0)
    }

    fn begin(&self, call: &'static str) -> Result<()> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        if self.down.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
    }

    fn end<T>(&self, call: &'static str, answer: Result<T>) -> Result<T> {
        let mut mute = self.mute.lock().unwrap();
        match mute.get_mut(call).filter(|times| **times > 0) {
            Some(times) => {
                *times -= 1;
                Err(unavailable())
            }
            None => answer,
        }
    }
}

#[async_trait]
impl CoordEngine for Rigged {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.begin("get")?;
        self.end("get", self.inner.get(key).await)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        self.begin("list")?;
        // Where another task may get in between.
        tokio::task::yield_now().await;
        self.end("list", self.inner.list(prefix, after, limit).await)
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        self.begin("put")?;
        tokio::task::yield_now().await;
        self.end("put", self.inner.put(key, value, when, lease).await)
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.begin("delete")?;
        tokio::task::yield_now().await;
        self.end("delete", self.inner.delete(key, when).await)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.begin("grant")?;
        self.end("grant", self.inner.grant(ttl).await)
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        self.begin("renew")?;
        self.end("renew", self.inner.renew(lease).await)
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.begin("revoke")?;
        self.end("revoke", self.inner.revoke(lease).await)
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        self.begin("watch")?;
        let Watched { snapshot, changes } = self.inner.watch(prefix).await?;
        let changes = Box::new(Breakable { changes, down: self.down.clone() });
        self.end("watch", Ok(Watched { snapshot, changes }))
    }
}

/// A watch that fails while nothing gets through, once a second.
#[derive(Debug)]
struct Breakable {
    changes: Box<dyn Watch>,
    down: Arc<AtomicBool>,
}

#[async_trait]
impl Watch for Breakable {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let end = Instant::now() + wait;
        loop {
            let now = Instant::now();
            let news = self.changes.next(Duration::from_secs(1).min(end - now)).await?;
            if self.down.load(Ordering::SeqCst) {
                return Err(unavailable());
            }
            if !news.is_empty() || Instant::now() >= end {
                return Ok(news);
            }
        }
    }
}
