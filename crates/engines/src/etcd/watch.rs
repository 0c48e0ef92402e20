//! Watches, which go on where they were.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Change, Entry, Known, Watch};
use linchpin_core::{Error, Kind, Result};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use super::coord::Reader;
use super::wire::{Event, WatchCreate, WatchResponse};
use super::{error, keys};

/// What a lost watch gets to be opened again, however short the wait.
const REOPEN: Duration = Duration::from_secs(1);
/// Longer than any wait.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
const DELETED: i32 = 1;

#[derive(Debug)]
pub(super) struct EtcdWatch {
    reader: Arc<Reader>,
    prefix: String,
    known: Known,
    /// Everything before this revision was told.
    next: i64,
    /// `None` when it is to be opened, at `next`.
    answers: Option<Streaming<WatchResponse>>,
    /// `next` was compacted away, so everything is to be read.
    compacted: bool,
    /// A new token was got since the last answer.
    renewed: bool,
}

impl EtcdWatch {
    pub(super) async fn begin(reader: Arc<Reader>, prefix: &str) -> Result<(Self, Vec<Entry>)> {
        let (snapshot, revision) = reader.list(prefix, None, usize::MAX).await?;
        let (known, next) = (Known::new(&snapshot), revision + 1);
        let prefix = prefix.to_owned();
        let mut watch = Self { reader, prefix, known, next, answers: None, compacted: false, renewed: false };
        watch.open(Instant::now() + watch.reader.client.timeout()).await?;
        Ok((watch, snapshot))
    }

    async fn open(&mut self, deadline: Instant) -> Result<()> {
        let (key, range_end) = self.reader.space.range(&self.prefix);
        let create = WatchCreate { key, range_end, start_revision: self.next, progress_notify: true };
        self.answers = Some(self.reader.client.watch(&create, deadline).await?);
        Ok(())
    }

    /// What changed while nobody watched.
    async fn read_anew(&mut self) -> Result<Vec<Change>> {
        let (now, revision) = self.reader.list(&self.prefix, None, usize::MAX).await?;
        self.compacted = false;
        self.next = revision + 1;
        Ok(self.known.catch_up(now, keys::rev(revision)))
    }

    /// # Errors
    /// Why the watch was ended, unless it can be opened again.
    async fn take(&mut self, answer: WatchResponse) -> Result<Vec<Change>> {
        if answer.compact_revision > 0 {
            self.compacted = true;
            self.answers = None;
        } else if answer.canceled {
            self.answers = None;
            self.ended(refusal(answer.cancel_reason)).await?;
        } else if let Some(last) = answer.events.last().and_then(|event| event.kv.as_ref()) {
            self.renewed = false;
            self.next = last.mod_revision + 1;
        } else if !answer.created {
            // Progress: everything until here was told.
            self.next = answer.header.map_or(self.next, |header| self.next.max(header.revision + 1));
        }
        let changes = answer.events.into_iter().filter_map(|event| self.change(event));
        let mut changes: Vec<_> = changes.collect();
        changes.retain(|change| self.known.learn(change));
        Ok(changes)
    }

    fn change(&self, event: Event) -> Option<Change> {
        let kv = event.kv?;
        if event.kind == DELETED {
            return Some(Change::Delete {
                key: self.reader.space.name(&kv.key)?,
                rev: keys::rev(kv.mod_revision),
            });
        }
        self.reader.space.entry(kv).map(Change::Put)
    }

    /// A server also says that the user may not when it doesn't know the token any more.
    async fn ended(&mut self, status: Status) -> Result<()> {
        let error = error::map(status, true);
        match error.kind() {
            Kind::Unavailable | Kind::Timeout => Ok(()),
            Kind::Denied if self.reader.client.has_login() && !self.renewed => {
                self.reader.client.forget_token().await;
                self.renewed = true;
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn step(&mut self, deadline: Instant) -> Result<Option<Vec<Change>>> {
        if self.compacted {
            return Ok(Some(self.read_anew().await?));
        }
        if self.answers.is_none() {
            let now = Instant::now();
            self.open(deadline.clamp(now + REOPEN, now + REOPEN.max(self.reader.client.timeout()))).await?;
        }
        let Some(answers) = &mut self.answers else { return Ok(None) };
        match timeout_at(deadline, answers.message()).await {
            Err(_) => Ok(None),
            Ok(Ok(Some(answer))) => Ok(Some(self.take(answer).await?)),
            Ok(lost) => {
                self.answers = None;
                self.ended(lost.err().unwrap_or_else(|| Status::unavailable("the watch was ended"))).await?;
                Ok(Some(Vec::new()))
            }
        }
    }
}

/// Why etcd doesn't go on with a watch, in the words of its gRPC errors.
fn refusal(reason: String) -> Status {
    if reason.contains("permission denied") {
        Status::permission_denied(reason)
    } else if reason.contains("auth token") {
        Status::unauthenticated(reason)
    } else if reason.contains("user name is empty") {
        Status::invalid_argument(reason)
    } else {
        Status::unavailable(reason)
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait.min(FOREVER);
        loop {
            match self.step(deadline).await.map_err(|e: Error| e.op("watch"))? {
                Some(changes) if changes.is_empty() => {}
                Some(changes) => return Ok(changes),
                None => return Ok(Vec::new()),
            }
        }
    }
}
