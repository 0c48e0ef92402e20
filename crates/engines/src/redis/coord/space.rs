//! The keys of a space, and calls to its scripts.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linchpin_core::coord::{Change, Entry, LeaseId, Rev, When};
use linchpin_core::{Error, Kind, Result, Retry};
use redis::{FromRedisValue, Value, from_redis_value};

use tokio::time::sleep;

use super::hub::Hub;
use crate::redis::core::lock;
use crate::redis::error::{error, map};
use crate::redis::link::Link;
use crate::redis::script::{Call, KEY_LIST, KEY_LOOK, KEY_TICK, Source};
use crate::redis::url::Config;

/// What a script answers first.
const BUSY: i64 = 0;
const FINE: i64 = 1;
const CONFLICT: i64 = 2;
const NO_LEASE: i64 = 3;

/// How long after an answer the connection is thought to be well.
const FRESH: Duration = Duration::from_millis(250);
/// How often a question is asked over connections that break, and the time between.
const TRIES: u32 = 3;
const AGAIN: Duration = Duration::from_millis(50);
const SOON: Retry = Retry::Safe { after: Duration::from_millis(200) };

#[derive(Debug)]
pub(super) struct Space {
    pub(super) link: Link,
    pub(super) config: Config,
    pub(super) channel: String,
    pub(super) hub: Hub,
    /// In the order that the scripts know.
    keys: [String; 9],
    /// When the server last answered.
    answered: Mutex<Option<Instant>>,
}

/// A page of a listing.
pub(super) struct Page {
    pub(super) rev: u64,
    pub(super) more: bool,
    pub(super) entries: Vec<Entry>,
}

/// What changed after a revision.
pub(super) struct Look {
    /// Up to here.
    pub(super) rev: u64,
    /// And there is no more.
    pub(super) all: bool,
    pub(super) changes: Vec<Change>,
    /// All keys and their revisions, where the server doesn't know all deletions any more.
    pub(super) there: Option<Vec<There>>,
}

/// A key, its record, its value.
type Row = (String, String, Vec<u8>);
/// A key, the revision of its change, its record (empty if it is gone), its value.
type Changed = (String, u64, String, Vec<u8>);
/// A key and the revision of its last change.
pub(super) type There = (String, u64);
/// What the server says of itself: see the script.
pub(super) type Tick = (u64, i64, String);

/// The first and the last of a range of keys, as `ZRANGE` takes them.
#[derive(Debug, Clone)]
pub(super) struct Range {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Range {
    /// The keys that begin with `prefix` and come after `after`.
    pub(super) fn of(prefix: &str, after: Option<&str>) -> Self {
        let first = match after.filter(|after| *after >= prefix) {
            Some(after) => [b"(", after.as_bytes()].concat(),
            None => [b"[", prefix.as_bytes()].concat(),
        };
        // The last byte of text is never the largest there is.
        let last = match prefix.as_bytes().split_last() {
            Some((end, begin)) => [b"(", begin, &[end.saturating_add(1)]].concat(),
            None => b"+".to_vec(),
        };
        Self { first, last }
    }
}

impl Space {
    pub(super) async fn open(config: Config) -> Result<Arc<Self>> {
        let link = Link::open(config.clone()).await?;
        let colon = if config.prefix.is_empty() { "" } else { ":" };
        let space = format!("{}{colon}lp-coord", config.prefix);
        // A server has one set of channels for all its databases.
        let database = if config.database == 0 { String::new() } else { format!("@{}", config.database) };
        let names = ["state", "meta", "values", "names", "changes", "graves", "leases", "times", "leased"];
        let keys = names.map(|name| format!("{{{space}}}:{name}"));
        let channel = space + &database;
        let (hub, answered) = (Hub::default(), Mutex::default());
        Ok(Arc::new(Self { link, config, channel, hub, keys, answered }))
    }

    pub(super) fn call(&self, script: &'static Source) -> Call {
        Call::new(script).keys(&self.keys).text(&self.channel)
    }

    /// What a script answers; one that had leases to end, and no more than that, is called again. So is one that may be called
    /// twice, when the connection broke: the driver notices that only when it is used.
    async fn said(&self, call: &Call, op: &'static str, mut tries: u32) -> Result<(i64, Value)> {
        let deadline = Instant::now() + self.config.timeout;
        loop {
            match self.link.call::<(i64, Value)>(call, op).await {
                Err(e) if e.kind() == Kind::Unavailable && tries > 1 => {
                    tries -= 1;
                    sleep(AGAIN).await;
                }
                Err(e) => return Err(e),
                Ok((status, answer)) => {
                    *lock(&self.answered) = Some(Instant::now());
                    if status != BUSY {
                        return Ok((status, answer));
                    }
                }
            }
            if Instant::now() > deadline {
                let message = "the server is busy with the ends of leases";
                return Err(error(Kind::Timeout, message)
                    .retry_as(SOON)
                    .op(op)
                    .help("try again in a moment"));
            }
        }
    }

    /// A connection that broke while nobody used it is noticed by a question, not by a write whose outcome is unknown then.
    async fn wake(&self, op: &'static str) -> Result<()> {
        if lock(&self.answered).is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let mut question = redis::cmd("EXISTS");
        question.arg(self.keys.first());
        let mut answer = self.link.command(&question, op).await;
        for _ in 1..TRIES {
            if answer.as_ref().is_err_and(|e| e.kind() == Kind::Unavailable) {
                sleep(AGAIN).await;
                answer = self.link.command(&question, op).await;
            }
        }
        answer.map(drop).map_err(|e| if e.retry() == Retry::Unknown { e.retry_as(SOON) } else { e })
    }

    /// What a script answers that may be called twice.
    pub(super) async fn ask<T: FromRedisValue>(&self, call: Call, op: &'static str) -> Result<T> {
        match self.said(&call, op, TRIES).await? {
            (FINE, answer) => from_redis_value(answer).map_err(|e| map(e.into(), op)),
            (NO_LEASE, _) => Err(no_lease().op(op)),
            (status, _) => Err(unread(&format!("the status {status}")).op(op)),
        }
    }

    /// A write under a condition.
    pub(super) async fn change(&self, call: Call, key: &str, when: When, op: &'static str) -> Result<u64> {
        self.wake(op).await.map_err(|e| e.with("key", key))?;
        match self.said(&call, op, 1).await.map_err(|e| e.with("key", key))? {
            (FINE, Value::Int(answer)) => {
                u64::try_from(answer).map_err(|_| unread("a negative revision").op(op))
            }
            (CONFLICT, Value::Int(at)) => Err(conflict(key, when, at).op(op)),
            (NO_LEASE, _) => Err(no_lease().op(op).with("key", key)),
            (status, _) => Err(unread(&format!("the status {status}")).op(op)),
        }
    }

    /// Up to `limit` keys of the range: fewer once their values have this many bytes.
    pub(super) async fn list(
        &self,
        range: &Range,
        limit: usize,
        bytes: usize,
        op: &'static str,
    ) -> Result<Page> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let call = self.call(&KEY_LIST).bytes(&range.first).bytes(&range.last);
        let call = call.number(limit).number(bytes);
        let (rev, more, rows): (u64, bool, Vec<Row>) = self.ask(call, op).await?;
        let entries = rows.into_iter().map(|(key, meta, value)| entry(key, &meta, value));
        Ok(Page { rev, more, entries: entries.collect::<Result<_>>()? })
    }

    /// What changed under `prefix` after the revision `after`; all deletions up to `handled` are known.
    pub(super) async fn look(&self, prefix: &str, range: &Range, after: u64, handled: u64) -> Result<Look> {
        let call = self.call(&KEY_LOOK).text(prefix).number(after).number(handled);
        let call = call.bytes(&range.first).bytes(&range.last);
        let (rev, all, rows, there): (u64, bool, Vec<Changed>, Option<Vec<There>>) =
            self.ask(call, "watch").await?;
        let changes = rows.into_iter().map(|(key, rev, meta, value)| match meta.as_str() {
            "" => Ok(Change::Delete { key, rev: Rev(rev) }),
            meta => entry(key, meta, value).map(Change::Put),
        });
        Ok(Look { rev, all, changes: changes.collect::<Result<_>>()?, there })
    }

    pub(super) async fn tick(&self) -> Result<Tick> {
        self.ask(self.call(&KEY_TICK), "watch").await
    }
}

/// `created rev lease` and a value as an entry.
pub(super) fn entry(key: String, meta: &str, value: Vec<u8>) -> Result<Entry> {
    let read = || {
        let mut parts = meta.splitn(3, ' ');
        let (created, rev, lease) = (parts.next()?, parts.next()?, parts.next()?);
        Some((created.parse().ok()?, rev.parse().ok()?, lease))
    };
    let Some((created, rev, lease)) = read() else {
        return Err(unread(&format!("{meta:?} as the record of {key:?}")));
    };
    let lease = (!lease.is_empty()).then(|| LeaseId(lease.to_owned()));
    Ok(Entry { key, value: value.into(), created: Rev(created), rev: Rev(rev), lease })
}

fn no_lease() -> Error {
    error(Kind::NotFound, "the lease has ended").help("grant another one, and write its keys again")
}

fn conflict(key: &str, when: When, at: i64) -> Error {
    let message = match (when, at) {
        (When::Is(rev), 0) => format!("{key:?} isn't there, least of all at revision {rev}"),
        (When::Is(rev), at) => format!("{key:?} is at revision {at}, not {rev}"),
        (_, at) => format!("{key:?} is there, at revision {at}"),
    };
    error(Kind::Conflict, message).help("read the key again, and decide anew")
}

fn unread(what: &str) -> Error {
    error(Kind::Corrupt, format!("the server answered {what}"))
        .help("was a key of the space changed by hand? See the hash tag with lp-coord")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_begins_with_the_prefix() {
        let of = |prefix, after| {
            let Range { first, last } = Range::of(prefix, after);
            (String::from_utf8(first).unwrap(), String::from_utf8_lossy(&last).into_owned())
        };
        let both = |first: &str, last: &str| (first.to_owned(), last.to_owned());
        assert_eq!(of("", None), both("[", "+"));
        assert_eq!(of("a/", None), both("[a/", "(a0"));
        assert_eq!(of("a/", Some("a/b")), both("(a/b", "(a0"));
        assert_eq!(of("b", Some("a")), both("[b", "(c"));
        assert_eq!(of("", Some("x")), both("(x", "+"));
    }

    #[test]
    fn records_are_read() {
        let read = entry("k".into(), "5 7 ", b"v".to_vec()).unwrap();
        assert_eq!((read.created, read.rev, read.lease), (Rev(5), Rev(7), None));
        assert_eq!(entry("k".into(), "5 7 a", vec![]).unwrap().lease, Some(LeaseId("a".into())));
        assert_eq!(entry("k".into(), "5 x a", vec![]).unwrap_err().kind(), Kind::Corrupt);
    }
}
