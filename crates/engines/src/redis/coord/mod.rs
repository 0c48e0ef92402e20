//! Coordination on Redis: keys with revisions, leases and watches, on one server or on one slot of a cluster.
//!
//! # How it works
//! All keys of a space share the hash tag `{lp-coord}`, or `{shop:lp-coord}` under `?prefix=shop`, which names the space: so every call
//! is one script on one server, at once or not at all, and reads go where writes go.
//!
//! | key behind the tag | what |
//! |---|---|
//! | `:state` | a hash: the last revision, and up to which one deletions are forgotten |
//! | `:meta`, `:values` | hashes: by key its revisions and its lease, and its value |
//! | `:names` | all keys, in the order of their bytes |
//! | `:changes`, `:graves` | keys by the revision of their last change; those of them that are gone, the last 10,000 |
//! | `:leases`, `:times`, `:leased` | when each lease ends, how long it is, and its keys |
//!
//! A revision is one more than the last, or the server's clock in microseconds, if that is more: it rises across the loss of the
//! counter too. Every script first ends the leases whose time is over, by the server's clock.
//!
//! A change is told on the channel `lp-coord` (`shop:lp-coord`). It's a hint: whoever watches reads what changed after the revision it knows.
//! Each process that watches asks once a second besides, whether it missed a hint.
//!
//! # What a failover does
//! A replica that takes over may lack the last writes: a lock that was taken just before can be taken again, with a larger
//! token, and so can a key that was deleted be there again. So `failover` is false on a cluster. Revisions go on rising, if the servers'
//! clocks agree better than a failover is quick. A watch tells deletions that were lost as such; if a key went back to
//! what it was before, the watch ends with an error. The same is true of a server without `appendonly yes` that is
//! restarted.

mod hub;
mod space;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::coord::{
    Caps, CoordEngine, Entry, LeaseId, Rev, Watched, When, check_key, check_ttl, check_value,
};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Info, Kind, Result};
use uuid::Uuid;

use self::space::{Range, Space};
use self::watch::RedisWatch;
use super::error::{NAME, error};
use super::script::{KEY_DELETE, KEY_GET, KEY_PUT, LEASE_GRANT, LEASE_RENEW, LEASE_REVOKE};
use super::url::Config;

/// The largest value: what a script can pass on without keeping others waiting for long.
const MAX_VALUE: usize = 16 << 20;
const MIN_TTL: Duration = Duration::from_secs(1);
/// Calls never see what has ended; who watches is told this much later at most.
const SLACK: Duration = Duration::from_secs(1);

/// Opens coordination on the server, or the cluster, that `url` names.
///
/// # Errors
/// `Config` for wrong options, `Denied` for a wrong password, `Unavailable` for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    let config = Config::from_url(url)?;
    let durability = if config.cluster {
        "in the memory of one primary, and in that one's log as `appendonly` and `appendfsync` say; a replica that takes over may lack the last of it"
    } else {
        "in the server's memory, and in its log as `appendonly` and `appendfsync` say"
    };
    let info = Info { engine: NAME, url: config.url.clone(), durability };
    Ok(Arc::new(RedisCoord { space: Space::open(config).await?, info }))
}

#[derive(Debug)]
struct RedisCoord {
    space: Arc<Space>,
    info: Info,
}

#[async_trait]
impl CoordEngine for RedisCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: true,
            shared: true,
            failover: !self.space.link.is_cluster(),
            min_ttl: MIN_TTL,
            slack: SLACK,
            max_value: MAX_VALUE,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        checked(key, "get")?;
        let found = self.space.ask::<Option<(String, Vec<u8>)>>(self.space.call(&KEY_GET).text(key), "get");
        let found = found.await.map_err(|e| e.with("key", key))?;
        found.map(|(meta, value)| space::entry(key.to_owned(), &meta, value)).transpose()
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let range = Range::of(prefix, after);
        Ok(self.space.list(&range, limit.max(1), usize::MAX >> 1, "list").await?.entries)
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        checked(key, "put")?;
        check_value(&value, MAX_VALUE).map_err(|e| e.engine(NAME).op("put").with("key", key))?;
        let (mode, rev) = condition(when);
        let call = self.space.call(&KEY_PUT).text(key).bytes(&value).text(mode).number(rev);
        let call = call.text(lease.map(|lease| lease.0.as_str()).unwrap_or_default());
        self.space.change(call, key, when, "put").await.map(Rev)
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        checked(key, "delete")?;
        if when == When::Absent {
            return Err(error(Kind::Invalid, "what is absent can't be deleted")
                .op("delete")
                .help("delete always, or at a revision"));
        }
        let (mode, rev) = condition(when);
        let call = self.space.call(&KEY_DELETE).text(key).text(mode).number(rev);
        Ok(self.space.change(call, key, when, "delete").await? == 1)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl, MIN_TTL).map_err(|e| e.engine(NAME).op("grant"))?;
        let id = Uuid::now_v7().simple().to_string();
        let call = self.space.call(&LEASE_GRANT).text(&id).number(ttl.as_nanos().div_ceil(1_000));
        self.space.ask::<i64>(call, "grant").await?;
        Ok(LeaseId(id))
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        self.space.ask::<i64>(self.space.call(&LEASE_RENEW).text(&lease.0), "renew").await.map(drop)
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.space.ask::<i64>(self.space.call(&LEASE_REVOKE).text(&lease.0), "revoke").await.map(drop)
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let (snapshot, changes) = RedisWatch::begin(self.space.clone(), prefix).await?;
        Ok(Watched { snapshot, changes: Box::new(changes) })
    }
}

fn checked(key: &str, op: &'static str) -> Result<()> {
    check_key(key).map_err(|e| e.engine(NAME).op(op))
}

fn condition(when: When) -> (&'static str, u64) {
    match when {
        When::Always => ("always", 0),
        When::Absent => ("absent", 0),
        When::Is(rev) => ("is", rev.0),
    }
}
