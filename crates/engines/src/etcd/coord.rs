//! The contract of coordination on etcd.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::coord::{
    Caps, CoordEngine, Entry, LeaseId, Rev, Watched, When, check_key, check_ttl, check_value,
};
use linchpin_core::{Error, Info, Kind, Result};

use super::client::{Client, DELETE, GRANT, KEEP_ALIVE, PUT, RANGE, REVOKE, TXN};
use super::keys::{self, Space};
use super::url::Config;
use super::watch::EtcdWatch;
use super::wire::{
    Compare, DeleteRequest, DeleteResponse, Done, GrantRequest, GrantResponse, Is, KeepAliveResponse,
    LeaseRequest, Nothing, Of, Op, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, Revision,
    TxnRequest, TxnResponse,
};
use super::{NAME, error};

/// What etcd takes by default, less what stands around the value.
const MAX_VALUE: usize = (3 << 19) - (4 << 10);
/// How many keys one answer has at most.
const PAGE: usize = 500;
/// How often a list begins anew because its revision was compacted away between two pages.
const RELIST: usize = 3;
/// Between the end of a lease and the deletion of its keys: etcd looks twice a second, and rounds up to seconds.
const LATE: Duration = Duration::from_secs(2);

/// A space of keys in an etcd cluster.
#[derive(Debug)]
pub struct EtcdCoord {
    info: Info,
    reader: Arc<Reader>,
    min_ttl: Duration,
}

/// What reading takes; watches share it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) space: Space,
}

impl EtcdCoord {
    /// Connects, and asks what the shortest lease is.
    ///
    /// # Errors
    /// `Config` for certificates that can't be used or aren't trusted, `Denied` for wrong credentials, `Unavailable` or
    /// `Timeout` if no endpoint answers.
    pub async fn open(config: Config) -> Result<Self> {
        let durability = "on the disks of a majority of the members before it is answered";
        let info = Info { engine: NAME, url: config.url.clone(), durability };
        let reader = Reader { client: Client::new(&config).await?, space: Space::new(&config.prefix) };
        let min_ttl = shortest_lease(&reader.client).await.map_err(|e| e.op("open"))?;
        if !reader.client.has_login() {
            reader.check_login().await.map_err(|e| e.op("open"))?;
        }
        Ok(Self { info, reader: Arc::new(reader), min_ttl })
    }

    fn key(&self, key: &str) -> Result<Vec<u8>> {
        check_key(key)?;
        Ok(self.reader.space.key(key))
    }

    async fn txn(&self, compare: Vec<Compare>, then: Op, key: Vec<u8>) -> Result<TxnResponse> {
        let ops = |op| vec![RequestOp { op: Some(op) }];
        let look = Op::Range(RangeRequest { key, ..RangeRequest::default() });
        let request = TxnRequest { compare, success: ops(then), failure: ops(look) };
        self.reader.client.call(TXN, &request).await
    }
}

/// etcd's shortest lease follows from its election timeout; it grants that to whoever asks for less.
pub(super) async fn shortest_lease(client: &Client) -> Result<Duration> {
    let granted: GrantResponse = client.call(GRANT, &GrantRequest { ttl: 1, id: 0 }).await?;
    let _: Nothing = client.call(REVOKE, &LeaseRequest { id: granted.id }).await?;
    Ok(Duration::from_secs(granted.ttl.unsigned_abs().max(1)))
}

impl Reader {
    /// Leases are granted to everybody, keys aren't.
    async fn check_login(&self) -> Result<()> {
        let request = RangeRequest { key: self.space.key("linchpin"), ..RangeRequest::default() };
        match self.client.call::<_, RangeResponse>(RANGE, &request).await {
            Err(e) if error::is_login(&e) || e.kind() != Kind::Denied => Err(e),
            _ => Ok(()),
        }
    }

    /// The entries at one revision, and that revision.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Entry>, i64)> {
        let (first, end) = self.space.range(prefix);
        let first = match after {
            Some(after) if after >= prefix => keys::after(self.space.key(after)),
            _ => first,
        };
        let mut listed = self.pages(&first, &end, limit).await;
        for _ in 0..RELIST {
            match &listed {
                Err(e) if error::is_compacted(e) => listed = self.pages(&first, &end, limit).await,
                _ => break,
            }
        }
        listed
    }

    async fn pages(&self, first: &[u8], end: &[u8], limit: usize) -> Result<(Vec<Entry>, i64)> {
        let (mut entries, mut revision, mut key) = (Vec::new(), 0, first.to_vec());
        loop {
            let page = limit.saturating_sub(entries.len()).min(PAGE);
            let limit_here = i64::try_from(page).unwrap_or(i64::MAX);
            let request = RangeRequest { key, range_end: end.to_vec(), limit: limit_here, revision };
            let answer: RangeResponse = self.client.call(RANGE, &request).await?;
            if revision == 0 {
                revision = answer.header.ok_or_else(error::malformed)?.revision;
            }
            let last = answer.kvs.last().map(|kv| keys::after(kv.key.clone()));
            entries.extend(answer.kvs.into_iter().filter_map(|kv| self.space.entry(kv)));
            match last {
                Some(next) if answer.more && entries.len() < limit => key = next,
                _ => return Ok((entries, revision)),
            }
        }
    }
}

#[async_trait]
impl CoordEngine for EtcdCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: true,
            shared: true,
            failover: true,
            min_ttl: self.min_ttl,
            // A new leader starts every lease anew, and adds an election timeout, which is less than the shortest lease.
            slack: 2 * self.min_ttl + LATE,
            max_value: MAX_VALUE,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let request = RangeRequest { key: self.key(key)?, ..RangeRequest::default() };
        let answer: RangeResponse =
            self.reader.client.call(RANGE, &request).await.map_err(|e| e.op("get"))?;
        Ok(answer.kvs.into_iter().find_map(|kv| self.reader.space.entry(kv)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let listed = self.reader.list(prefix, after, limit.max(1)).await;
        Ok(listed.map_err(|e| e.op("list"))?.0)
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        check_value(&value, MAX_VALUE)?;
        let name = key;
        let key = self.key(key)?;
        let lease = lease.map_or(Ok(0), lease_number)?;
        let put = PutRequest { key: key.clone(), value, lease };
        let compare = match when {
            When::Always => {
                let done: Result<PutResponse> = self.reader.client.call(PUT, &put).await;
                return revision(done.map_err(|e| e.op("put"))?.header);
            }
            When::Absent => vec![compare(&key, Is::Equal, Revision::Create(0))],
            // A key that isn't there has the revision 0.
            When::Is(rev) => vec![is(&key, rev), compare(&key, Is::Greater, Revision::Create(0))],
        };
        let done = self.txn(compare, Op::Put(put), key).await.map_err(|e| e.op("put"))?;
        if done.succeeded { revision(done.header) } else { Err(conflict(name, when, &done).op("put")) }
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        let name = key;
        let key = self.key(key)?;
        let delete = DeleteRequest { key: key.clone() };
        let compare = match when {
            When::Always => {
                let done: Result<DeleteResponse> = self.reader.client.call(DELETE, &delete).await;
                return Ok(done.map_err(|e| e.op("delete"))?.deleted > 0);
            }
            When::Absent => {
                let error =
                    Error::new(Kind::Invalid, "what is absent can't be deleted").engine(NAME).op("delete");
                return Err(error.help("delete it Always, or at a revision"));
            }
            When::Is(rev) => vec![is(&key, rev)],
        };
        let done = self.txn(compare, Op::Delete(delete), key).await.map_err(|e| e.op("delete"))?;
        match done.responses.first().and_then(|response| response.done.as_ref()) {
            Some(Done::Delete(done)) => Ok(done.deleted > 0),
            Some(Done::Range(found)) if found.kvs.is_empty() => Ok(false),
            _ => Err(conflict(name, when, &done).op("delete")),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl, self.min_ttl)?;
        let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        let request = GrantRequest { ttl: i64::try_from(whole).unwrap_or(i64::MAX), id: 0 };
        let granted: Result<GrantResponse> = self.reader.client.call(GRANT, &request).await;
        Ok(keys::lease(granted.map_err(|e| e.op("grant"))?.id))
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        let request = LeaseRequest { id: lease_number(lease)? };
        let renewed: Result<KeepAliveResponse> = self.reader.client.call(KEEP_ALIVE, &request).await;
        match renewed.map_err(|e| e.op("renew"))?.ttl {
            ..=0 => Err(ended().op("renew")),
            _ => Ok(()),
        }
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let Ok(id) = lease_number(lease) else { return Ok(()) };
        match self.reader.client.call::<_, Nothing>(REVOKE, &LeaseRequest { id }).await {
            Err(e) if e.kind() != Kind::NotFound => Err(e.op("revoke")),
            _ => Ok(()),
        }
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        let (watch, snapshot) =
            EtcdWatch::begin(self.reader.clone(), prefix).await.map_err(|e| e.op("watch"))?;
        Ok(Watched { snapshot, changes: Box::new(watch) })
    }
}

fn compare(key: &[u8], result: Is, revision: Revision) -> Compare {
    let target = if matches!(revision, Revision::Create(_)) { Of::Create } else { Of::Mod };
    Compare { result: result.into(), target: target.into(), key: key.to_vec(), revision: Some(revision) }
}

fn is(key: &[u8], rev: Rev) -> Compare {
    compare(key, Is::Equal, Revision::Mod(i64::try_from(rev.0).unwrap_or(i64::MAX)))
}

fn revision(header: Option<super::wire::Header>) -> Result<Rev> {
    header.map(|header| keys::rev(header.revision)).ok_or_else(error::malformed)
}

fn lease_number(lease: &LeaseId) -> Result<i64> {
    keys::lease_number(lease).ok_or_else(ended)
}

fn ended() -> Error {
    Error::new(Kind::NotFound, "the lease has ended").engine(NAME).help("grant a new one")
}

fn conflict(key: &str, when: When, done: &TxnResponse) -> Error {
    let there = done.responses.iter().find_map(|response| match &response.done {
        Some(Done::Range(found)) => found.kvs.first().map(|kv| kv.mod_revision),
        _ => None,
    });
    let message = match (when, there) {
        (When::Is(rev), Some(there)) => format!("{key:?} is at revision {there}, not {rev}"),
        (_, Some(there)) => format!("{key:?} is there, at revision {there}"),
        (_, None) => format!("{key:?} isn't there"),
    };
    Error::new(Kind::Conflict, message).engine(NAME).help("read it, and decide anew")
}
