//! What an engine implements: [`CoordEngine`] and [`Watch`], with the whole contract.

use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Info, Result};

/// Keys with revisions, leases and watches: what locks, elections, registries and configurations are made of.
///
/// # Contract
/// 1. **Revisions.** Every change of a key gets a [`Rev`] larger than that of every change before it, in the whole of what
///    the URL names: across delete and re-create, expiry, and restart of the engine. So a revision is a fencing token.
/// 2. **Writes** take place at once or not at all, under their condition ([`When`]). An error says by its
///    [`Retry`](crate::Retry) whether the write may have happened all the same.
/// 3. **Reads** see every write that was answered before they began, whoever made it.
/// 4. **Leases.** The keys of a lease vanish when it is revoked, and no sooner than its time after it was last renewed, and
///    no later than [`Caps::slack`] after that. The engine's clock judges.
/// 5. **Watches** begin with a snapshot and go on with what changed after it, without a hole: whoever applies the
///    changes to the snapshot has what is there, also across lost connections. Of several changes of one key in a short time
///    an engine may tell the last alone. Where it can't tell what changed, `next` is an error, never silence.
///
/// Every wait has a deadline. Futures are cancel-safe unless a method says otherwise; a write dropped midway has an unknown
/// outcome.
#[async_trait]
pub trait CoordEngine: Send + Sync + Debug {
    /// Name, URL and durability.
    fn info(&self) -> &Info;

    /// What this engine can do. It never changes while the engine lives.
    fn caps(&self) -> Caps;

    /// What is under the key.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Up to `limit` entries, at least one, whose keys begin with `prefix` and come after the key `after`, in the order of
    /// their bytes: one state of the engine. Fewer than `limit` means that there are no more.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>>;

    /// Writes the key under a condition; the answer is the revision of this write. With a lease the key vanishes with
    /// it; without one a key that had a lease stays for good.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met, and nothing was changed; `NotFound` if the lease is gone; `Invalid` for a key
    /// or value that is out of bounds.
    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev>;

    /// Removes the key under a condition; whether it was there.
    ///
    /// # Errors
    /// `Conflict` if it is there with another revision; `Invalid` for [`When::Absent`].
    async fn delete(&self, key: &str, when: When) -> Result<bool>;

    /// A new lease that ends `ttl` after it was last renewed.
    ///
    /// # Errors
    /// `Invalid` if `ttl` is under [`Caps::min_ttl`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Keeps the lease for its whole time from now on. Only through the engine that granted it.
    ///
    /// # Errors
    /// `NotFound` if it has ended.
    async fn renew(&self, lease: &LeaseId) -> Result<()>;

    /// Ends the lease, and with it its keys. Ending one that has ended is fine.
    async fn revoke(&self, lease: &LeaseId) -> Result<()>;

    /// Everything whose key begins with `prefix`, and from then on what changes.
    async fn watch(&self, prefix: &str) -> Result<Watched>;
}

/// Changes, as they come. Dropping it ends it.
#[async_trait]
pub trait Watch: Send + Debug {
    /// What changed, as soon as something does, in the order of revisions; nothing after `wait`. Cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` while the engine can't be reached: call again, it goes on where it was.
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>>;
}

/// The beginning of a watch.
#[derive(Debug)]
pub struct Watched {
    /// What was there, in the order of keys.
    pub snapshot: Vec<Entry>,
    /// What changed since.
    pub changes: Box<dyn Watch>,
}

/// A revision: the place of a change in the order of all changes. A fencing token.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Rev(pub u64);

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Under which condition a write takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Under none.
    #[default]
    Always,
    /// If the key isn't there.
    Absent,
    /// If the key is there, and its last change had this revision.
    Is(Rev),
}

/// What tells leases apart. What it looks like is the engine's affair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub String);

/// A key and what is under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value. It may be empty.
    pub value: Bytes,
    /// The revision at which it came to be. A key that was deleted and made again has a new one, and so may one that
    /// was put under another lease.
    pub created: Rev,
    /// The revision of its last change.
    pub rev: Rev,
    /// The lease it vanishes with.
    pub lease: Option<LeaseId>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone: deleted, or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// Not before the revision of the deletion, and before that of any later change of the key.
        rev: Rev,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn rev(&self) -> Rev {
        match self {
            Self::Put(entry) => entry.rev,
            Self::Delete { rev, .. } => *rev,
        }
    }
}

/// Observable facts about an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Keys without a lease, and the order of revisions, survive the death of every process that uses the engine.
    pub durable: bool,
    /// Several processes share the same keys.
    pub shared: bool,
    /// What was answered `Ok` stays, and revisions go on rising, when a replica takes over from a server that died. Without
    /// it a failover can give one lock to two holders with the same token. An engine without replicas has it.
    pub failover: bool,
    /// The shortest lease.
    pub min_ttl: Duration,
    /// How long after its end a lease's keys may still be seen.
    pub slack: Duration,
    /// The largest value, in bytes.
    pub max_value: usize,
}
