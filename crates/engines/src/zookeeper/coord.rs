//! The engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin_core::coord::{
    Caps, CoordEngine, Entry, LeaseId, Rev, Watched, When, check_key, check_ttl, check_value,
};
use linchpin_core::{Error, Info, Kind, Result};

use super::conn::Session;
use super::error::{self, Code};
use super::lease::Leases;
use super::link::Link;
use super::op;
use super::tree;
use super::url::Config;
use super::watch::ZkWatch;
use super::wire::Take;
use super::write::Write;
use super::{NAME, named};

/// What servers take in one request unless they are told otherwise (`jute.maxbuffer`), without room for paths.
const MAX_VALUE: usize = 0xf_ffff - 16 * 1024;

/// Coordination on ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeperCoord {
    link: Arc<Link>,
    leases: Leases,
    info: Info,
    caps: Caps,
}

impl ZooKeeperCoord {
    /// Connects, makes the root's nodes if they aren't there, and asks how short a session may be.
    ///
    /// # Errors
    /// `Config` for files of TLS that can't be used; `Denied` for credentials that are refused, or a root that they may
    /// not use; `Unavailable` for servers that can't be reached.
    pub async fn open(config: Config) -> Result<Self> {
        let link = Arc::new(Link::new(config)?);
        link.reading(|conn| {
            let link = link.clone();
            async move {
                let refused = link.prepare(&conn, None).await?;
                match conn.ask(op::children(link.paths.keys())).await?.code {
                    Code(0) => Ok(()),
                    Code::NO_NODE => Err(refused.unwrap_or_else(|| error::said(Code::NO_NODE))),
                    code => Err(error::said(code)),
                }
            }
        })
        .await
        .map_err(named("open"))?;
        let min_ttl = shortest(&link).await.map_err(named("open"))?;
        let durability = "on the disks of a majority of the servers before the answer";
        let info = Info { engine: NAME, url: link.config.url.clone(), durability };
        // A session may be ended one tick late, and the shortest is two unless it was set.
        let slack = min_ttl + Duration::from_secs(1);
        let caps = Caps { durable: true, shared: true, failover: true, min_ttl, slack, max_value: MAX_VALUE };
        Ok(Self { link, leases: Leases::default(), info, caps })
    }
}

/// The shortest session the servers grant.
pub(super) async fn shortest(link: &Link) -> Result<Duration> {
    let probe = link.session(Session::new(Duration::from_millis(1))).await?;
    drop(probe.conn.ask(op::close()));
    Ok(probe.conn.session.timeout)
}

#[async_trait]
impl CoordEngine for ZooKeeperCoord {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        let path = self.link.paths.leaf(key);
        let read = self.link.reading(|conn| {
            let asked = (conn.ask(self.link.barrier()), conn.ask(op::data(&path)));
            async move {
                asked.0.await?.body()?;
                let reply = asked.1.await?;
                if reply.code == Code::NO_NODE {
                    return Ok(None);
                }
                let mut body = reply.body()?;
                let (value, stat) = (body.buffer()?, body.stat()?);
                Ok(Some(tree::entry(key, value, stat)))
            }
        });
        read.await.map_err(named("get"))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        let scope = self.link.paths.scope(prefix);
        let read = self.link.reading(|conn| {
            let scope = &scope;
            async move {
                let barrier = conn.ask(self.link.barrier());
                barrier.await?.body()?;
                tree::page(&conn, &self.link.paths, scope, after, limit).await
            }
        });
        read.await.map_err(named("list"))
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        check_key(key)?;
        check_value(&value, MAX_VALUE)?;
        let putting = async {
            let Some(id) = lease else {
                let conn = self.link.conn().await?;
                return Write::new(&self.link, &conn, key).put(&value, when, 0).await;
            };
            let lease = self.leases.conn(&self.link, id).await?;
            let session = lease.conn.session.id;
            let put = Write::new(&self.link, &lease.conn, key).put(&value, when, session).await;
            match put {
                // The connection may have gone with the session: then the key isn't there, whether it was for a while or not.
                Err(e) if e.kind() == Kind::Unavailable => match self.leases.renew(&self.link, id).await {
                    Err(ended) if ended.kind() == Kind::NotFound => Err(ended),
                    _ => Err(e),
                },
                put => put,
            }
        };
        self.link.in_time(true, putting).await.map_err(named("put"))
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        check_key(key)?;
        if when == When::Absent {
            return Err(Error::new(Kind::Invalid, "what is absent can't be deleted")
                .engine(NAME)
                .op("delete"));
        }
        let deleting = async {
            let conn = self.link.conn().await?;
            Write::new(&self.link, &conn, key).delete(when).await
        };
        self.link.in_time(true, deleting).await.map_err(named("delete"))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        check_ttl(ttl, self.caps.min_ttl)?;
        self.leases.grant(&self.link, ttl).await.map_err(named("grant"))
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        self.leases.renew(&self.link, lease).await.map_err(named("renew"))
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        let revoking = self.leases.revoke(&self.link, lease);
        self.link.in_time(true, revoking).await.map_err(named("revoke"))
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        ZkWatch::begin(self.link.clone(), prefix).await.map_err(named("watch"))
    }
}
