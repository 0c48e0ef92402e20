//! The JSON of Consul's interface, as far as it is used here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use linchpin_core::coord::{Entry, LeaseId, Rev, check_key};
use serde::{Deserialize, Serialize};

/// A key as Consul has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Pair {
    pub(super) key: String,
    /// In base64; `None` is an empty one.
    #[serde(default)]
    value: Option<String>,
    create_index: u64,
    pub(super) modify_index: u64,
    #[serde(default)]
    pub(super) flags: u64,
    #[serde(default)]
    session: Option<String>,
}

impl Pair {
    /// The session that has it.
    pub(super) fn session(&self) -> Option<&str> {
        self.session.as_deref().filter(|session| !session.is_empty())
    }

    /// Ours, if it is a key that we can name: other programs are free to store others.
    pub(super) fn entry(&self, prefix: &str) -> Option<Entry> {
        let key = self.key.strip_prefix(prefix)?;
        check_key(key).ok()?;
        let lease = self.session().map(|session| LeaseId(session.to_owned()));
        let (created, rev) = (Rev(self.create_index), Rev(self.modify_index));
        Some(Entry { key: key.to_owned(), value: self.value()?, created, rev, lease })
    }

    fn value(&self) -> Option<Bytes> {
        let value = self.value.as_deref().unwrap_or_default();
        STANDARD.decode(value).ok().map(Bytes::from)
    }
}

/// One operation of a transaction.
#[derive(Debug, Serialize)]
pub(super) struct Op<'a> {
    #[serde(rename = "KV")]
    kv: Kv<'a>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kv<'a> {
    verb: &'static str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl<'a> Op<'a> {
    fn new(verb: &'static str, key: &'a str) -> Self {
        Self { kv: Kv { verb, key, ..Kv::default() } }
    }

    pub(super) fn get(key: &'a str) -> Self {
        Self::new("get", key)
    }

    /// Everything whose key begins with `prefix`.
    pub(super) fn get_tree(prefix: &'a str) -> Self {
        Self::new("get-tree", prefix)
    }

    /// Fails unless the key has this index; 0 is that of a key that isn't there.
    pub(super) fn check(key: &'a str, index: u64) -> Self {
        match index {
            0 => Self::new("check-not-exists", key),
            index => Self::at(Self::new("check-index", key), index),
        }
    }

    /// Writes it without changing its session, if it has this index; 0 is that of a key that isn't there.
    pub(super) fn cas(key: &'a str, value: &[u8], flags: u64, index: u64) -> Self {
        Self::at(Self::new("cas", key), index).with(value, flags)
    }

    pub(super) fn lock(key: &'a str, value: &[u8], flags: u64, session: &str) -> Self {
        Self::by(Self::new("lock", key), session).with(value, flags)
    }

    pub(super) fn unlock(key: &'a str, value: &[u8], flags: u64, session: &str) -> Self {
        Self::by(Self::new("unlock", key), session).with(value, flags)
    }

    pub(super) fn delete(key: &'a str, index: u64) -> Self {
        Self::at(Self::new("delete-cas", key), index)
    }

    fn at(self, index: u64) -> Self {
        Self { kv: Kv { index: Some(index), ..self.kv } }
    }

    fn by(self, session: &str) -> Self {
        Self { kv: Kv { session: Some(session.to_owned()), ..self.kv } }
    }

    fn with(self, value: &[u8], flags: u64) -> Self {
        Self { kv: Kv { value: Some(STANDARD.encode(value)), flags: Some(flags), ..self.kv } }
    }
}

/// What a transaction answers, whether it took place or not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Outcome {
    #[serde(default)]
    results: Option<Vec<OneResult>>,
    #[serde(default)]
    errors: Option<Vec<OneError>>,
}

#[derive(Debug, Deserialize)]
struct OneResult {
    #[serde(rename = "KV")]
    kv: Option<Pair>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneError {
    what: String,
}

impl Outcome {
    pub(super) fn pairs(self) -> impl Iterator<Item = Pair> {
        self.results.into_iter().flatten().filter_map(|result| result.kv)
    }

    /// Whether an operation failed for such a reason.
    pub(super) fn says(&self, part: &str) -> bool {
        self.errors.iter().flatten().any(|error| error.what.contains(part))
    }
}

/// A session that ends by its time alone, whatever becomes of the agent that was asked for it, and takes its keys with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NewSession {
    name: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    behavior: &'static str,
    lock_delay: &'static str,
    /// What it was called before Consul 1.7.
    checks: [&'static str; 0],
    node_checks: [&'static str; 0],
}

impl NewSession {
    pub(super) fn of(millis: u128) -> Self {
        let (name, behavior, lock_delay) = ("linchpin", "delete", "0s");
        Self { name, ttl: format!("{millis}ms"), behavior, lock_delay, checks: [], node_checks: [] }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct SessionId {
    #[serde(rename = "ID")]
    pub(super) id: String,
}
