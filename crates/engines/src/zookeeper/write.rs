//! Writes under a condition.
//!
//! ZooKeeper's own condition is a node's version, which begins at 0 again when the node is made again. A holder that
//! looked at its key, was frozen past its lease and then deletes "version 0" would delete the key of the next holder. So
//! whoever makes a key writes its guard in the same transaction, and a condition is on both versions: the key's, and
//! its guard's from before the key was looked at. See [`Paths::guard`](super::path::Paths::guard).

use std::time::Duration;

use linchpin_core::coord::{Rev, When};
use linchpin_core::{Error, Result};
use tokio::time::sleep;

use super::conn::Conn;
use super::error::{self, Code};
use super::link::Link;
use super::op::{self, ANY, Mode, Request};
use super::wire::{Stat, Take};

/// How often a write is tried over what others write in between.
const ATTEMPTS: u32 = 200;

/// One key that is to be written.
pub(super) struct Write<'a> {
    pub(super) link: &'a Link,
    pub(super) conn: &'a Conn,
    pub(super) key: &'a str,
    leaf: String,
    guard: String,
}

/// What is there.
struct Seen {
    guard: Option<Stat>,
    leaf: Option<Stat>,
}

/// What came of an attempt.
enum Tried {
    /// Done, in this transaction.
    Done(Rev),
    /// Something changed in between.
    Changed,
    /// The key, or what is above it, isn't there.
    Missing,
    /// The key is there.
    There,
}

pub(super) fn rev(zxid: i64) -> Rev {
    Rev(zxid.unsigned_abs())
}

impl<'a> Write<'a> {
    pub(super) fn new(link: &'a Link, conn: &'a Conn, key: &'a str) -> Self {
        Self { link, conn, key, leaf: link.paths.leaf(key), guard: link.paths.guard(key) }
    }

    /// Writes the key, with the session `owner` it vanishes with, or 0.
    pub(super) async fn put(&self, value: &[u8], when: When, owner: i64) -> Result<Rev> {
        let (mut fresh, mut refused) = (false, None);
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let seen = match when {
                When::Absent => Seen { guard: None, leaf: None },
                _ => self.look(fresh).await?,
            };
            if let Err(conflict) = self.met(when, seen.leaf) {
                if fresh {
                    return Err(conflict);
                }
                fresh = true;
                continue;
            }
            match self.write(value, when, owner, &seen).await? {
                Tried::Done(rev) => return Ok(rev),
                Tried::There if when == When::Absent => {
                    return Err(error::conflict(format!("{:?} is there", self.key)));
                }
                Tried::Changed | Tried::There => {}
                Tried::Missing if refused.is_some() => return Err(refused.unwrap_or_else(error::outrun)),
                Tried::Missing => refused = self.link.prepare(self.conn, Some(self.key)).await?,
            }
        }
        Err(error::outrun())
    }

    /// Removes the key; whether it was there.
    pub(super) async fn delete(&self, when: When) -> Result<bool> {
        let mut fresh = false;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let parts = match when {
                When::Is(_) => {
                    let seen = self.look(fresh).await?;
                    let unmet = self.met(when, seen.leaf).err();
                    match (seen.leaf, unmet) {
                        (None, _) if fresh => return Ok(false),
                        (Some(_), Some(conflict)) if fresh => return Err(conflict),
                        (Some(leaf), None) => self.guarded(&seen, op::delete(&self.leaf, leaf.version)),
                        _ => {
                            fresh = true;
                            continue;
                        }
                    }
                }
                _ => vec![op::delete(&self.leaf, ANY)],
            };
            match self.attempt(&parts).await? {
                Tried::Done(_) => return Ok(true),
                Tried::Missing if when == When::Always => return Ok(false),
                Tried::Missing | Tried::Changed | Tried::There => fresh = true,
            }
        }
        Err(error::outrun())
    }

    /// The guard, and then the key. What isn't `fresh` may be old: then the write says so.
    async fn look(&self, fresh: bool) -> Result<Seen> {
        let barrier = fresh.then(|| self.conn.ask(self.link.barrier()));
        let guard = self.conn.ask(op::exists(&self.guard));
        let leaf = self.conn.ask(op::exists(&self.leaf));
        if let Some(barrier) = barrier {
            barrier.await?.body()?;
        }
        let stat = |reply: super::conn::Reply| match reply.code {
            Code::NO_NODE => Ok(None),
            _ => reply.body()?.stat().map(Some),
        };
        Ok(Seen { guard: stat(guard.await?)?, leaf: stat(leaf.await?)? })
    }

    fn met(&self, when: When, leaf: Option<Stat>) -> Result<(), Error> {
        match (when, leaf.map(|stat| rev(stat.mzxid))) {
            (When::Always, _) | (When::Absent, None) => Ok(()),
            (When::Is(wanted), Some(is)) if wanted == is => Ok(()),
            (When::Is(wanted), Some(is)) => {
                Err(error::conflict(format!("{:?} is at revision {is}, not {wanted}", self.key)))
            }
            (When::Is(wanted), None) => {
                Err(error::conflict(format!("{:?} isn't there, least of all at revision {wanted}", self.key)))
            }
            (When::Absent, Some(is)) => {
                Err(error::conflict(format!("{:?} is there, at revision {is}", self.key)))
            }
        }
    }

    /// Does `write` unless a key of the guard was made since it was seen.
    fn guarded(&self, seen: &Seen, write: Request) -> Vec<Request> {
        // Without a guard, a check on it fails, and it is made.
        let version = seen.guard.map_or(0, |stat| stat.version);
        vec![op::check(&self.guard, version), write]
    }

    async fn write(&self, value: &[u8], when: When, owner: i64, seen: &Seen) -> Result<Tried> {
        let mode = if owner == 0 { Mode::Persistent } else { Mode::Ephemeral };
        let made = [op::create(&self.leaf, value, mode, self.link.access()), op::set(&self.guard, &[], ANY)];
        let Some(leaf) = seen.leaf else { return self.attempt(&made).await };
        let version = if when == When::Always { ANY } else { leaf.version };
        let parts = if leaf.owner == owner {
            self.guarded(seen, op::set(&self.leaf, value, version))
        } else {
            let mut parts = self.guarded(seen, op::delete(&self.leaf, version));
            parts.extend(made);
            parts
        };
        self.attempt(&parts).await
    }

    async fn attempt(&self, parts: &[Request]) -> Result<Tried> {
        let (answers, zxid) = self.conn.multi(op::multi(parts)).await?;
        match op::failure(&answers) {
            None => Ok(Tried::Done(rev(zxid))),
            Some(Code::NO_NODE) => Ok(Tried::Missing),
            Some(Code::BAD_VERSION) => Ok(Tried::Changed),
            Some(Code::NODE_EXISTS) => Ok(Tried::There),
            Some(Code::SESSION_EXPIRED) => Err(error::ended()),
            Some(code) => Err(error::said(code)),
        }
    }
}

/// Lets others finish what they are at, the longer the more often they were first.
async fn pause(attempt: u32) {
    if attempt > 2 {
        sleep(Duration::from_millis(fastrand::u64(0..=u64::from(attempt.min(32))))).await;
    }
}
