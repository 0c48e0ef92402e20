//! What coordination asks of its database: [`Rows`], and what comes back.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::Result;

use super::{Answer, Ask};
use crate::relational::hub::Hub;

/// The database under coordination.
#[async_trait]
pub(crate) trait Rows: Send + Sync + Debug + 'static {
    /// The engine's name.
    fn engine(&self) -> &'static str;

    /// Who is to be woken.
    fn hub(&self) -> &Hub;

    /// How often to look for what other processes commit while somebody waits; `None` if the hub is told of it.
    fn poll(&self) -> Option<Duration>;

    /// A `next` call begins to wait. Says whether it is the first.
    fn wait(&self) -> bool;

    /// Does one thing in a transaction, maybe with others. It is done whole even if the caller goes away.
    async fn ask(&self, ask: Ask) -> Result<Answer>;

    /// Up to `limit` living keys of the range, in order, and the last revision: all as of one moment.
    async fn list(&self, range: Range, limit: usize) -> Result<(u64, Vec<Stored>)>;

    /// What changed in the range after a revision, as of one moment.
    async fn changes(&self, range: Range, since: u64) -> Result<Seen>;

    /// Which keys changed after a revision, and when a lease ends next.
    async fn look(&self, since: u64) -> Result<Look>;
}

/// Keys from `begin` on that come before `end`, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) begin: Arc<[u8]>,
    pub(crate) end: Arc<[u8]>,
}

impl Range {
    /// The keys that begin with `prefix`, which is UTF-8.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        match end.last_mut() {
            // No byte of UTF-8 is the highest there is.
            Some(last) => *last = last.saturating_add(1),
            None => end.push(u8::MAX),
        }
        Self { begin: prefix.into(), end: end.into() }
    }

    /// The key alone.
    pub(crate) fn one(key: &[u8]) -> Self {
        Self { begin: key.into(), end: after(key) }
    }

    /// What of it comes after `key`.
    pub(crate) fn beyond(self, key: &[u8]) -> Self {
        let begin = self.begin.clone().max(after(key));
        Self { begin, ..self }
    }

    pub(crate) fn has(&self, key: &[u8]) -> bool {
        *self.begin <= *key && *key < *self.end
    }
}

/// The first that comes after the key.
fn after(key: &[u8]) -> Arc<[u8]> {
    [key, &[0]].concat().into()
}

/// A row of `lp_key`.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
    pub(crate) created: u64,
    pub(crate) rev: u64,
    pub(crate) lease: Option<i64>,
}

/// What changed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The last revision.
    pub(crate) rev: u64,
    /// Up to here deletions are forgotten.
    pub(crate) forgotten: u64,
    pub(crate) puts: Vec<Stored>,
    pub(crate) gone: Vec<(u64, Vec<u8>)>,
}

/// Which keys changed.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The last revision.
    pub(crate) rev: u64,
    /// Up to here deletions are forgotten.
    pub(crate) forgotten: u64,
    pub(crate) keys: Vec<Vec<u8>>,
    /// In how many milliseconds a lease ends next; not above zero if one is over.
    pub(crate) next_due: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range_of_bytes() {
        let of = |prefix: &str, key: &str| Range::prefix(prefix.as_bytes()).has(key.as_bytes());
        assert!(of("a/", "a/b") && of("a/", "a/") && of("", "a") && of("ä", "äb") && of("", "\u{10ffff}"));
        assert!(!of("a/", "a") && !of("a/", "a0") && !of("a_", "ab") && !of("ä", "å") && !of("a%", "ab"));
    }

    #[test]
    fn what_comes_after_a_key() {
        let page = Range::prefix(b"a/").beyond(b"a/b");
        assert!(!page.has(b"a/b") && page.has(b"a/b/c") && page.has(b"a/b ") && !page.has(b"a/a"));
        assert!(Range::prefix(b"b").beyond(b"a").has(b"b"));
        assert!(!Range::prefix(b"a").beyond(b"b").has(b"a"));
        assert!(Range::one(b"a").has(b"a") && !Range::one(b"a").has(b"a ") && !Range::one(b"a").has(b"A"));
    }
}
