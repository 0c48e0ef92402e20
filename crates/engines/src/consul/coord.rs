//! The contract of coordination on Consul.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::coord::{
    Caps, CoordEngine, Entry, LeaseId, MAX_KEY, Rev, Watched, When, check_key, check_ttl, check_value,
};
use linchpin_core::{Error, Info, Kind, Result, Retry};
use tokio::time::Instant;
use uuid::Uuid;

use super::http::{Ask, Http};
use super::shapes::{NewSession, Op, Outcome, Pair, SessionId};
use super::url::Config;
use super::watch::ConsulWatch;
use super::{NAME, error};

/// What is left of the 512 KiB that a transaction has, in base64 and with what stands around the value.
const MAX_VALUE: usize = 380 << 10;
const MIN_TTL: Duration = Duration::from_secs(10);
const MAX_TTL: Duration = Duration::from_secs(86_400);
/// Consul lets a session live for twice its time.
const SLACK: Duration = Duration::from_secs(12);
const READ: &str = "/v1/txn?consistent";
const WRITE: &str = "/v1/txn";

/// A space of keys in a Consul datacenter.
#[derive(Debug)]
pub struct ConsulCoord {
    info: Info,
    reader: Arc<Reader>,
    timeout: Duration,
}

/// What reading takes; watches share it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) http: Http,
    pub(super) prefix: String,
}

/// How a transaction ended, when it was answered.
enum Ended {
    At(Rev),
    /// Somebody changed the key since it was read.
    Raced,
}

impl ConsulCoord {
    /// Looks whether an agent answers.
    ///
    /// # Errors
    /// `Config` for certificates that can't be used or aren't trusted, `Denied` for a token that Consul doesn't know,
    /// `Unavailable` or `Timeout` if no agent answers.
    pub async fn open(config: Config) -> Result<Self> {
        let durability = "on the disks of a majority of the servers before it is answered";
        let info = Info { engine: NAME, url: config.url.clone(), durability };
        let reader = Reader { http: Http::new(&config).await?, prefix: config.prefix.clone() };
        reader.pair(&reader.name("linchpin")).await.map_err(|e| e.op("open"))?;
        Ok(Self { info, reader: Arc::new(reader), timeout: config.timeout })
    }

    fn key(&self, key: &str) -> Result<String> {
        check_key(key)?;
        let name = self.reader.name(key);
        if name.len() <= MAX_KEY {
            return Ok(name);
        }
        let message = format!("the key is {} bytes long with its prefix", name.len());
        Err(Error::new(Kind::Invalid, message).engine(NAME).help("use up to 512 bytes together"))
    }

    async fn write(&self, ops: &[Op<'_>]) -> Result<Ended> {
        let body = serde_json::to_vec(ops).map_err(error::malformed)?;
        let answer = self.reader.http.call(Ask::put(WRITE, body)).await?;
        if !matches!(answer.status, 200 | 409) {
            return Err(error::refused(&answer, false));
        }
        let outcome: Outcome = answer.json()?;
        if answer.status == 200 {
            return Ok(Ended::At(
                outcome.pairs().map(|pair| Rev(pair.modify_index)).max().unwrap_or_default(),
            ));
        }
        let says = |parts: &[&str]| parts.iter().any(|part| outcome.says(part));
        match () {
            () if says(&["Permission denied"]) => Err(error::denied()),
            () if says(&["invalid session"]) => Err(error::ended()),
            () if says(&["stale", "index check", "exist", "lock"]) => Ok(Ended::Raced),
            () => Err(error::refused(&answer, true)),
        }
    }

    /// Reads the key, and writes what follows from it, until nobody else comes between.
    async fn settle<'k>(
        &self,
        key: &'k str,
        mut first: bool,
        ops: impl Fn(Option<&Pair>) -> Result<Option<Vec<Op<'k>>>>,
    ) -> Result<Option<Rev>> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let there = if std::mem::take(&mut first) { None } else { self.reader.pair(key).await? };
            let Some(ops) = ops(there.as_ref())? else { return Ok(None) };
            match self.write(&ops).await? {
                Ended::At(rev) => return Ok(Some(rev)),
                Ended::Raced if Instant::now() < deadline => {}
                Ended::Raced => {
                    let message = format!("others change {key:?} all the time, or a lock-delay holds it");
                    let retry = Retry::Safe { after: Duration::from_secs(1) };
                    return Err(Error::new(Kind::Limited, message)
                        .retry_as(retry)
                        .engine(NAME)
                        .help("try again later"));
                }
            }
        }
    }
}

impl Reader {
    /// The key as Consul knows it.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn read(&self, op: Op<'_>) -> Result<Outcome> {
        let body = serde_json::to_vec(&[op]).map_err(error::malformed)?;
        let answer = self.http.call(Ask::put(READ, body).repeatable()).await?;
        match answer.status {
            200 | 409 => answer.json(),
            _ => Err(error::refused(&answer, true)),
        }
    }

    /// Asked for in a transaction: since 2025 Consul takes few characters in the paths of its URLs.
    async fn pair(&self, key: &str) -> Result<Option<Pair>> {
        let outcome = self.read(Op::get(key)).await?;
        if outcome.says("doesn't exist") {
            return Ok(None);
        }
        if outcome.says("") {
            return Err(error::incomplete("a key that was asked for"));
        }
        // Consul leaves out what the token may not read.
        outcome.pairs().next().map(Some).ok_or_else(error::denied)
    }

    /// One state, in the order of keys.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let outcome = self.read(Op::get_tree(&self.name(prefix))).await?;
        let mut entries: Vec<_> = outcome.pairs().filter_map(|pair| pair.entry(&self.prefix)).collect();
        entries.retain(|entry| after.is_none_or(|after| entry.key.as_str() > after));
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        entries.truncate(limit);
        Ok(entries)
    }
}

/// # Errors
/// `Conflict` if the condition isn't met.
fn check(key: &str, when: When, there: Option<&Pair>) -> Result<()> {
    let there = there.map(|pair| pair.modify_index);
    let message = match (when, there) {
        (When::Always, _) | (When::Absent, None) => return Ok(()),
        (When::Is(rev), Some(there)) if rev.0 == there => return Ok(()),
        (When::Absent, Some(there)) => format!("{key:?} is there, at revision {there}"),
        (When::Is(rev), Some(there)) => format!("{key:?} is at revision {there}, not {rev}"),
        (When::Is(_), None) => format!("{key:?} isn't there"),
    };
    Err(Error::new(Kind::Conflict, message).engine(NAME).help("read it, and decide anew"))
}

/// What makes of what is there what should be. A write that changes nothing has no revision in Consul, so each counts up the
/// key's flags.
fn puts<'k>(key: &'k str, there: Option<&Pair>, value: &[u8], lease: Option<&'k str>) -> Vec<Op<'k>> {
    let (index, flags) = there.map_or((0, 0), |pair| (pair.modify_index, pair.flags.wrapping_add(1)));
    match (there.and_then(Pair::session), lease) {
        (None, None) => vec![Op::cas(key, value, flags, index)],
        (holds, Some(lease)) => {
            let mut ops = vec![Op::check(key, index)];
            ops.extend(holds.filter(|holds| *holds != lease).map(|holds| Op::unlock(key, b"", flags, holds)));
            ops.push(Op::lock(key, value, flags, lease));
            ops
        }
        (Some(holds), None) => vec![Op::check(key, index), Op::unlock(key, value, flags, holds)],
    }
}

#[async_trait]
impl CoordEngine for ConsulCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: true,
            shared: true,
            failover: true,
            min_ttl: MIN_TTL,
            slack: SLACK,
            max_value: MAX_VALUE,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let pair = self.reader.pair(&self.key(key)?).await.map_err(|e| e.op("get"))?;
        Ok(pair.and_then(|pair| pair.entry(&self.reader.prefix)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        self.reader.list(prefix, after, limit.max(1)).await.map_err(|e| e.op("list"))
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        check_value(&value, MAX_VALUE)?;
        let name = self.key(key)?;
        let lease = lease.map(session).transpose().map_err(|e| e.op("put"))?;
        let put = self.settle(&name, when == When::Absent, |there| {
            check(key, when, there)?;
            Ok(Some(puts(&name, there, &value, lease)))
        });
        put.await.map_err(|e| e.op("put"))?.ok_or_else(|| error::incomplete("a revision").op("put"))
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        let name = self.key(key)?;
        if when == When::Absent {
            let error =
                Error::new(Kind::Invalid, "what is absent can't be deleted").engine(NAME).op("delete");
            return Err(error.help("delete it Always, or at a revision"));
        }
        let deleted = self.settle(&name, false, |there| {
            let Some(index) = there.map(|pair| pair.modify_index) else { return Ok(None) };
            check(key, when, there)?;
            // delete-cas alone is content with a key that isn't there.
            Ok(Some(vec![Op::check(&name, index), Op::delete(&name, index)]))
        });
        Ok(deleted.await.map_err(|e| e.op("delete"))?.is_some())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl, MIN_TTL)?;
        if ttl > MAX_TTL {
            let error = Error::new(Kind::Invalid, "a lease of more than a day").engine(NAME).op("grant");
            return Err(error.help("Consul's longest is 24 hours: ask for that or less"));
        }
        let session = NewSession::of(ttl.as_nanos().div_ceil(1_000_000));
        let body = serde_json::to_vec(&session).map_err(error::malformed)?;
        // A session that nobody knows of ends by itself.
        let ask = Ask::put("/v1/session/create", body).repeatable();
        let answer = self.reader.http.well(ask).await.map_err(|e| e.op("grant"))?;
        Ok(LeaseId(answer.json::<SessionId>()?.id))
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        let id = session(lease).map_err(|e| e.op("renew"))?;
        let ask = Ask::put(format!("/v1/session/renew/{id}"), Bytes::new()).repeatable();
        let answer = self.reader.http.call(ask).await.map_err(|e| e.op("renew"))?;
        match answer.status {
            200 => Ok(()),
            404 => Err(error::ended().op("renew")),
            _ => Err(error::refused(&answer, true).op("renew")),
        }
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let Ok(id) = session(lease) else { return Ok(()) };
        let ask = Ask::put(format!("/v1/session/destroy/{id}"), Bytes::new()).repeatable();
        self.reader.http.well(ask).await.map(drop).map_err(|e| e.op("revoke"))
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let begun = ConsulWatch::begin(self.reader.clone(), prefix).await;
        let (watch, snapshot) = begun.map_err(|e| e.op("watch"))?;
        Ok(Watched { snapshot, changes: Box::new(watch) })
    }
}

/// # Errors
/// `NotFound` for what Consul can't have granted.
fn session(lease: &LeaseId) -> Result<&str> {
    if Uuid::try_parse(&lease.0).is_ok() { Ok(&lease.0) } else { Err(error::ended()) }
}
