//! What is built on locks' line: readers and writers, permits, leaders; and answers that were lost.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin::coord::{Caps, Coord, CoordEngine, Entry, LeaseId, Rev, Watched, When};
use linchpin::{Error, Kind, Result, Retry};
use linchpin_core::Info;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::tools::*;
use crate::tools::{LONG, MOMENT, SOON, assert_kind};
use crate::world::Space;

pub(super) async fn readers_share_and_writers_exclude(s: Space) {
    // Above zero: so many readers. Below: a writer.
    let inside = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..10 {
        let (session, inside) = (s.coord.session(ttl(&s.coord) * 5).await.unwrap(), inside.clone());
        tasks.spawn(async move {
            let mut most = 0;
            for round in 0..4 {
                let lock = session.rwlock("prices");
                let writes = (task + round) % 4 == 0;
                let guard = if writes { lock.write().await.unwrap() } else { lock.read().await.unwrap() };
                let step = if writes { -100 } else { 1 };
                let now = inside.fetch_add(step, Ordering::SeqCst) + step;
                assert!(now == -100 || (!writes && now > 0), "{now} inside");
                most = most.max(now);
                sleep(Duration::from_millis(5)).await;
                inside.fetch_sub(step, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
            session.close().await.unwrap();
            most
        });
    }
    let most = timeout(LONG, tasks.join_all()).await.expect("everybody gets in").into_iter().max();
    assert!(most > Some(1), "readers never shared it");
    let session = s.coord.session(ttl(&s.coord) * 5).await.unwrap();
    let lock = session.rwlock("prices");
    let (a, b) = (lock.read().await.unwrap(), lock.try_read().await.unwrap().expect("readers share"));
    assert!(lock.try_write().await.unwrap().is_none());
    a.release().await.unwrap();
    b.release().await.unwrap();
    let writer = lock.try_write().await.unwrap().expect("nobody reads");
    assert!(lock.try_read().await.unwrap().is_none());
    writer.release().await.unwrap();
}

pub(super) async fn a_semaphore_gives_no_more_than_its_permits(s: Space) {
    let permits = NonZeroUsize::new(3).unwrap();
    let inside = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..12 {
        let (session, inside) = (s.coord.session(ttl(&s.coord) * 5).await.unwrap(), inside.clone());
        tasks.spawn(async move {
            let mut most = 0;
            for _ in 0..3 {
                let guard = session.semaphore("printers", permits).acquire().await.unwrap();
                most = most.max(inside.fetch_add(1, Ordering::SeqCst) + 1);
                sleep(Duration::from_millis(5)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
            session.close().await.unwrap();
            most
        });
    }
    let most = timeout(LONG, tasks.join_all()).await.expect("everybody gets in").into_iter().max();
    assert!(most <= Some(3), "{most:?} held one of three");
    assert!(most > Some(1), "they were never shared");
    let session = s.coord.session(ttl(&s.coord) * 5).await.unwrap();
    let semaphore = session.semaphore("printers", permits);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(semaphore.try_acquire().await.unwrap().expect("one is free"));
    }
    assert!(semaphore.try_acquire().await.unwrap().is_none());
    assert_kind(semaphore.acquire_within(MOMENT).await, Kind::Timeout);
    held.pop().unwrap().release().await.unwrap();
    // Who gave up leaves the line in the background, but it does.
    semaphore.acquire_within(SOON).await.unwrap();
}

pub(super) async fn an_election_has_one_leader_at_a_time(s: Space) {
    let (a, b) =
        (s.coord.session(ttl(&s.coord)).await.unwrap(), s.coord.session(ttl(&s.coord) * 5).await.unwrap());
    let election = b.election("shop");
    assert_eq!(election.leader().await.unwrap(), None);
    let mut leaders = election.observe().await.unwrap();
    let mut first = a.election("shop").campaign("one").await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, "one");
    first.proclaim("uno").await.unwrap();
    let leader = election.leader().await.unwrap().unwrap();
    assert_eq!((leader.value.as_ref(), leader.token), (&b"uno"[..], first.token()));
    let campaign = tokio::spawn(async move { election.campaign("two").await });
    sleep(MOMENT).await;
    assert!(!campaign.is_finished(), "there is a leader");
    // As if the first one had died.
    s.coord.engine().revoke(a.lease()).await.unwrap();
    let second = timeout(SOON, campaign).await.expect("the next one leads").unwrap().unwrap();
    assert!(second.token() > first.token());
    let why = timeout(latest(&s.coord), first.lost()).await.expect("it is told");
    assert_eq!(why.kind(), Kind::Fenced, "{why}");
    // Some may be skipped, but not the last.
    loop {
        let leader = timeout(SOON, leaders.next()).await.expect("it is told");
        if let Some(leader) = leader.filter(|leader| leader.value == "two") {
            assert_eq!(leader.token, second.token());
            break;
        }
    }
    second.resign().await.unwrap();
    assert_eq!(b.election("shop").leader().await.unwrap(), None);
}

/// Carries out the next put, and loses the answer.
#[derive(Debug)]
struct LosesAnAnswer {
    inner: Arc<dyn CoordEngine>,
    lost: AtomicBool,
}

#[async_trait]
impl CoordEngine for LosesAnAnswer {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        let done = self.inner.put(key, value, when, lease).await?;
        if self.lost.swap(true, Ordering::SeqCst) {
            return Ok(done);
        }
        Err(Error::new(Kind::Unavailable, "the connection went before the answer came")
            .retry_as(Retry::Unknown))
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.inner.delete(key, when).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        self.inner.watch(prefix).await
    }
}

pub(super) async fn an_acquire_whose_answer_was_lost_holds_once(s: Space) {
    let lossy = LosesAnAnswer { inner: s.coord.engine().clone(), lost: AtomicBool::new(false) };
    let session = Coord::new(Arc::new(lossy)).session(ttl(&s.coord) * 5).await.unwrap();
    let guard =
        timeout(SOON, session.lock("orders/42").acquire()).await.expect("it finds its own key").unwrap();
    let line = s.coord.list("lock/").await.unwrap();
    assert_eq!(line.iter().map(|entry| entry.created).collect::<Vec<_>>(), [guard.token()], "{line:?}");
    guard.release().await.unwrap();
    assert_eq!(keys(&s.coord, "lock/").await, [""; 0]);
}
