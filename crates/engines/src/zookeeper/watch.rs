//! Watches: a recursive watch of ZooKeeper says which nodes changed, and what is there now is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Change, Known, Rev, Watch, Watched};
use linchpin_core::{Kind, Result};
use tokio::time::{Instant, sleep, timeout_at};

use super::conn::Conn;
use super::hub::Inbox;
use super::link::{Link, PAUSE};
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
    pub(super) async fn begin(link: Arc<Link>, prefix: &str) -> Result<Watched> {
        let (number, inbox) = link.hub.enter(link.paths.scope(prefix));
        let (known, todo) = (Known::default(), BTreeMap::new());
        let mut watch = Self { link: link.clone(), number, inbox, known, anew: true, todo };
        let beginning = async {
            loop {
                match watch.look().await {
                    Err(e) if e.kind() == Kind::Unavailable => sleep(PAUSE).await,
                    all => return all,
                }
            }
        };
        let all = link.in_time(false, beginning).await?.into_iter();
        let entries = all.filter_map(|change| match change {
            Change::Put(entry) => Some((entry.key.clone(), entry)),
            Change::Delete { .. } => None,
        });
        let snapshot = entries.collect::<BTreeMap<_, _>>().into_values().collect();
        Ok(Watched { snapshot, changes: Box::new(watch) })
    }

    /// What changed since the last look.
    async fn look(&mut self) -> Result<Vec<Change>> {
        let link = self.link.clone();
        let conn = link.conn().await?;
        // In this order: what is told over this connection is only forgotten with it.
        self.anew |= self.inbox.take_lost();
        self.told();
        if self.anew {
            return link.in_time(false, self.catch_up(&conn)).await;
        }
        if self.todo.is_empty() {
            return Ok(Vec::new());
        }
        link.in_time(false, self.read(&conn)).await
    }

    /// Keys that were told of since they were asked for last.
    fn told(&mut self) -> BTreeMap<String, String> {
        let (paths, scope) = (&self.link.paths, &self.inbox.scope);
        let keys = self.inbox.take().into_iter().filter_map(|path| Some((paths.key(&path)?, path)));
        let told: BTreeMap<_, _> = keys.filter(|(key, _)| key.starts_with(&scope.prefix)).collect();
        self.todo.extend(told.clone());
        told
    }

    /// After the connection went: sets the watch, and then reads everything. What changes meanwhile is told.
    async fn catch_up(&mut self, conn: &Conn) -> Result<Vec<Change>> {
        set(&self.link, conn, &self.inbox).await?;
        let (now, at) = tree::everything(conn, &self.link.paths, &self.inbox.scope).await?;
        let mut now: BTreeMap<_, _> = now.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        self.told();
        let mut later = self.todo.clone();
        for (change, _) in read(conn, &self.todo).await? {
            if let Change::Put(entry) = change
                && entry.rev <= at
            {
                later.remove(&entry.key);
                now.insert(entry.key.clone(), entry);
            }
        }
        (self.anew, self.todo) = (false, later);
        Ok(self.known.catch_up(now.into_values().collect(), at))
    }

    /// Reads the keys that changed, on the connection that told of them: so what is read isn't older than the change.
    ///
    /// By when the answer comes, everything was told that changed until the state it shows. What of that hadn't been asked
    /// for is read, too, and what is newer than that state is left for later: so changes come in their order.
    async fn read(&mut self, conn: &Conn) -> Result<Vec<Change>> {
        let mut changes = read(conn, &self.todo).await?;
        let Some(state) = changes.iter().map(|(_, at)| *at).min() else { return Ok(Vec::new()) };
        let told = self.told();
        changes.extend(read(conn, &told).await?);
        let (now, later): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|(change, _)| change).partition(|change| change.rev() <= state);
        let later: BTreeSet<_> = later.iter().map(|change| change.key().to_owned()).collect();
        self.todo.retain(|key, _| later.contains(key));
        let mut now = now;
        now.sort_by_key(Change::rev);
        now.retain(|change| self.known.learn(change));
        Ok(now)
    }
}

/// What is under these keys now, and at which state that was seen.
async fn read(conn: &Conn, keys: &BTreeMap<String, String>) -> Result<Vec<(Change, Rev)>> {
    let said = tree::each(conn, keys.values().map(|path| op::data(path)).collect()).await?;
    let change = |(key, (said, at)): (&String, _)| {
        let gone = || Change::Delete { key: key.clone(), rev: at };
        Ok((tree::value(key, said)?.map_or_else(gone, Change::Put), at))
    };
    keys.keys().zip(said).map(change).collect()
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
