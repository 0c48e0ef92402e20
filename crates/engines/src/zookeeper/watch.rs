//! Watches: a recursive watch of ZooKeeper says which nodes changed, and what is there now is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::Result;
use linchpin_core::coord::{Change, Known, Watch, Watched};
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::hub::Inbox;
use super::link::Link;
use super::op;
use super::tree;

/// One watch.
#[derive(Debug)]
pub(super) struct ZkWatch {
    link: Arc<Link>,
    number: u64,
    inbox: Arc<Inbox>,
    known: Known,
    /// The watch has to be set, and everything read.
    anew: bool,
    /// Keys that have to be read, with their nodes.
    todo: BTreeMap<String, String>,
}

impl Drop for ZkWatch {
    fn drop(&mut self) {
        self.link.hub.leave(self.number, |dir| self.link.forget(dir));
    }
}

impl ZkWatch {
    /// Sets the watch, and then reads what is there: what changes meanwhile is told.
    pub(super) async fn begin(link: Arc<Link>, prefix: &str) -> Result<Watched> {
        let (number, inbox) = link.hub.enter(link.paths.scope(prefix));
        let (known, todo) = (Known::default(), BTreeMap::new());
        let mut watch = Self { link: link.clone(), number, inbox, known, anew: true, todo };
        let inbox = watch.inbox.clone();
        let (snapshot, _) = link
            .reading(|conn| {
                let (link, inbox) = (link.clone(), inbox.clone());
                async move {
                    inbox.take_lost();
                    set(&link, &conn, &inbox).await?;
                    tree::everything(&conn, &link.paths, &inbox.scope).await
                }
            })
            .await?;
        watch.anew = false;
        watch.known = Known::new(&snapshot);
        Ok(Watched { snapshot, changes: Box::new(watch) })
    }

    /// What changed since the last look.
    async fn look(&mut self) -> Result<Vec<Change>> {
        let link = self.link.clone();
        let conn = link.conn().await?;
        self.anew |= self.inbox.take_lost();
        let paths = self.inbox.take().into_iter();
        let keys = paths.filter_map(|path| Some((link.paths.key(&path)?, path)));
        self.todo.extend(keys.filter(|(key, _)| key.starts_with(&self.inbox.scope.prefix)));
        if self.anew {
            return link.in_time(false, self.catch_up(&conn)).await;
        }
        if self.todo.is_empty() {
            return Ok(Vec::new());
        }
        link.in_time(false, self.read(&conn)).await
    }

    /// After the connection went: reads everything.
    async fn catch_up(&mut self, conn: &Conn) -> Result<Vec<Change>> {
        set(&self.link, conn, &self.inbox).await?;
        let (now, at) = tree::everything(conn, &self.link.paths, &self.inbox.scope).await?;
        self.anew = false;
        self.todo.clear();
        Ok(self.known.catch_up(now, at))
    }

    /// Reads the keys that changed, on the connection that told of them: so what is read isn't older than the change.
    async fn read(&mut self, conn: &Conn) -> Result<Vec<Change>> {
        let asked = self.todo.values().map(|path| op::data(path)).collect();
        let said = tree::each(conn, asked).await?;
        let mut changes = Vec::with_capacity(said.len());
        for (key, (said, at)) in self.todo.keys().zip(said) {
            changes.push(match tree::value(key, said)? {
                Some(entry) => Change::Put(entry),
                None => Change::Delete { key: key.clone(), rev: at },
            });
        }
        self.todo.clear();
        changes.retain(|change| self.known.learn(change));
        changes.sort_by_key(Change::rev);
        Ok(changes)
    }
}

/// Sets the watch on this connection. What is read on it after this sees every write that was answered before.
async fn set(link: &Link, conn: &Conn, inbox: &Inbox) -> Result<()> {
    let set = conn.ask(op::add_watch(&inbox.scope.dir));
    let barrier = conn.ask(link.barrier());
    set.await?.body()?;
    barrier.await?.body()?;
    Ok(())
}

#[async_trait]
impl Watch for ZkWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait;
        loop {
            let changes = self.look().await.map_err(|e| e.op("watch"))?;
            if !changes.is_empty() {
                return Ok(changes);
            }
            let inbox = self.inbox.clone();
            if timeout_at(deadline, inbox.news.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }
}
