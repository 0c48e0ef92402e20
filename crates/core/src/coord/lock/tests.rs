//! Locks, on the memory engine with a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::coord::testing::rigged;
use crate::coord::{Coord, DEFAULT_TTL, Lock, MemoryCoord, Session, When};
use crate::{Kind, Retry};

const TICK: Duration = Duration::from_millis(1);

fn memory() -> Coord {
    Coord::new(MemoryCoord::new())
}

async fn session(coord: &Coord) -> Session {
    coord.session(DEFAULT_TTL).await.unwrap()
}

async fn keys(coord: &Coord) -> usize {
    coord.list("lock/").await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn one_holder_and_rising_tokens() {
    let coord = memory();
    let lock = coord.lock("orders/42");
    let first = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    let begun = Instant::now();
    let late = lock.acquire_within(Duration::from_secs(3)).await.unwrap_err();
    assert_eq!((late.kind(), late.retry()), (Kind::Timeout, Retry::Safe { after: Duration::ZERO }));
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    let token = first.token();
    first.release().await.unwrap();
    let second = lock.try_acquire().await.unwrap().unwrap();
    assert!(second.token() > token);
    second.release().await.unwrap();
    assert_eq!(keys(&coord).await, 0);
}

#[tokio::test(start_paused = true)]
async fn names_keep_apart_even_when_one_begins_with_the_other() {
    let coord = memory();
    let _one = coord.lock("orders").acquire().await.unwrap();
    let _two = coord.lock("orders/42").try_acquire().await.unwrap().expect("another lock");
    let _three = coord.lock("orders/4").try_acquire().await.unwrap().expect("another lock");
    for name in ["", "a//b", "~a", "orders/~x", &"x".repeat(500)] {
        assert_eq!(coord.lock(name).try_acquire().await.unwrap_err().kind(), Kind::Invalid, "{name:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served() {
    let coord = memory();
    let held = coord.lock("a").acquire().await.unwrap();
    let mut waiting = JoinSet::new();
    for n in 0..20 {
        let lock = session(&coord).await.lock("a");
        waiting.spawn(async move { (n, lock.acquire().await.unwrap()) });
        sleep(TICK).await;
    }
    held.release().await.unwrap();
    for expected in 0..20 {
        let (n, guard) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(n, expected);
        let more = timeout(TICK, waiting.join_next()).await;
        assert!(!matches!(more, Ok(Some(_))), "one at a time");
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn few_calls_of_the_engine() {
    let (coord, rigged) = rigged();
    let lock = session(&coord).await.lock("a");
    rigged.calls();
    let guard = lock.acquire().await.unwrap();
    guard.release().await.unwrap();
    assert_eq!(rigged.calls(), 3, "put, list, delete");

    let guard = lock.acquire().await.unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..50 {
        let lock = lock.clone();
        waiting.spawn(async move { lock.acquire().await.unwrap() });
    }
    sleep(TICK).await;
    rigged.calls();
    guard.release().await.unwrap();
    let next = waiting.join_next().await.unwrap().unwrap();
    sleep(TICK).await;
    assert_eq!(rigged.calls(), 2, "fifty wait, one wakes: delete, list");
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_leaves_nothing() {
    let (coord, rigged) = rigged();
    let held = coord.lock("a").acquire().await.unwrap();
    // Stopped at every stage: before the put is applied, after it, while waiting.
    for stop in [0, 1, 2, 3, 10] {
        let lock = coord.lock("a");
        let mut acquire = Box::pin(lock.acquire());
        for _ in 0..stop {
            assert!(futures_util::poll!(acquire.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop(acquire);
        sleep(TICK * 5).await;
        assert_eq!(keys(&coord).await, 1, "stopped after {stop}");
    }
    // Also if removing fails for a while.
    assert!(timeout(TICK * 5, coord.lock("a").acquire()).await.is_err());
    rigged.down(true);
    assert!(timeout(TICK * 5, coord.lock("a").acquire()).await.is_err());
    sleep(Duration::from_secs(3)).await;
    rigged.down(false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(keys(&coord).await, 1);
    held.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_goes_away_holds_nobody_up() {
    let coord = memory();
    let held = coord.lock("a").acquire().await.unwrap();
    let dead = session(&coord).await;
    let (lock, last) = (dead.lock("a"), session(&coord).await.lock("a"));
    let between = tokio::spawn(async move { lock.acquire().await });
    sleep(TICK).await;
    let behind = tokio::spawn(async move { last.acquire().await });
    sleep(TICK).await;
    // Its lease ends while it waits, and nobody tells it.
    coord.engine().revoke(dead.lease()).await.unwrap();
    held.release().await.unwrap();
    let guard = timeout(TICK * 2, behind).await.unwrap().unwrap().unwrap();
    assert_eq!(between.await.unwrap().unwrap_err().kind(), Kind::Fenced);
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_followed_when_its_lease_ends() {
    let (coord, rigged) = rigged();
    let holder = session(&coord).await;
    let held = holder.lock("a").acquire().await.unwrap();
    rigged.mute("renew", u32::MAX);
    assert_eq!(held.lost().await.kind(), Kind::Fenced);
    assert!(!held.is_held());
    // Told while nobody else can hold it.
    rigged.mute("renew", 0);
    assert!(coord.lock("a").try_acquire().await.unwrap().is_none());
    coord.lock("a").acquire_within(DEFAULT_TTL * 2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_again() {
    let (coord, rigged) = rigged();
    for times in 1..4 {
        rigged.mute("put", times);
        let guard = coord.lock("a").acquire().await.unwrap();
        assert_eq!(keys(&coord).await, 1, "its own key, once");
        rigged.mute("list", 2);
        assert!(coord.lock("a").try_acquire().await.unwrap().is_none());
        rigged.mute("delete", 1);
        assert_eq!(guard.release().await.unwrap_err().kind(), Kind::Unavailable);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(keys(&coord).await, 0);
    }
    rigged.mute("watch", 3);
    let held = coord.lock("a").acquire().await.unwrap();
    let lock = coord.lock("a");
    let waiting = tokio::spawn(async move { lock.acquire().await });
    sleep(TICK * 10).await;
    held.release().await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn reentry_keeps_token_and_lock() {
    let coord = memory();
    let outer = coord.lock("a").acquire().await.unwrap();
    let inner = outer.reenter().unwrap();
    assert_eq!(inner.token(), outer.token());
    outer.release().await.unwrap();
    assert!(coord.lock("a").try_acquire().await.unwrap().is_none(), "the inner one holds it");
    inner.release().await.unwrap();
    assert!(coord.lock("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn dropping_releases_in_the_background() {
    let coord = memory();
    drop(coord.lock("a").acquire().await.unwrap());
    coord.lock("a").acquire_within(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_owner_releases() {
    let coord = memory();
    let mine = session(&coord).await;
    let held = mine.lock("a").acquire().await.unwrap();
    // The lease ends unnoticed, and another holds the lock.
    coord.engine().revoke(mine.lease()).await.unwrap();
    let other = coord.lock("a").try_acquire().await.unwrap().unwrap();
    assert_eq!(held.release().await.unwrap_err().kind(), Kind::Fenced);
    assert!(coord.lock("a").try_acquire().await.unwrap().is_none(), "still held by the other");
    other.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_removed_by_hand_is_no_turn() {
    let coord = memory();
    let held = coord.lock("a").acquire().await.unwrap();
    let lock = coord.lock("a");
    let waiting = tokio::spawn(async move { lock.acquire().await });
    sleep(TICK).await;
    for entry in coord.list("lock/").await.unwrap() {
        coord.delete(&entry.key, When::Always).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), Kind::Fenced);
    assert_eq!(held.release().await.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test(start_paused = true)]
async fn the_shared_session_begins_again_after_it_was_lost() {
    let (coord, rigged) = rigged();
    let held = coord.lock("a").acquire().await.unwrap();
    rigged.down(true);
    held.lost().await;
    rigged.down(false);
    sleep(DEFAULT_TTL).await;
    coord.clone().lock("a").acquire().await.unwrap();
}

/// What all who take part in a run share.
#[derive(Debug, Clone, Default)]
struct Run {
    inside: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
}

impl Run {
    async fn take_turns(self, lock: Lock, mut rng: fastrand::Rng) {
        for _ in 0..25 {
            let patience = Duration::from_millis(rng.u64(0..3000));
            let Ok(guard) = lock.acquire_within(patience).await else { continue };
            assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            let token = guard.token().0;
            assert!(self.last.swap(token, Ordering::SeqCst) < token);
            self.turns.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(rng.u64(0..50))).await;
            self.inside.fetch_sub(1, Ordering::SeqCst);
            if rng.bool() {
                drop(guard.release().await);
            }
        }
    }
}

/// Many under several sessions, some give up, answers get lost: never two at once.
#[tokio::test(start_paused = true)]
async fn never_two_whatever_happens() {
    const CALLS: [&str; 5] = ["put", "list", "delete", "watch", "get"];
    for seed in 0..5 {
        println!("seed {seed}");
        let (coord, rigged) = rigged();
        let run = Run::default();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let session = session(&coord).await;
            for _ in 0..4 {
                tasks.spawn(run.clone().take_turns(session.lock("a"), rng.fork()));
            }
        }
        for _ in 0..200 {
            sleep(Duration::from_millis(rng.u64(1..100))).await;
            rigged.mute(CALLS[rng.usize(..5)], rng.u32(0..3));
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert!(run.turns.load(Ordering::SeqCst) > 100);
        CALLS.iter().for_each(|call| rigged.mute(call, 0));
        sleep(Duration::from_secs(10)).await;
        assert_eq!(keys(&coord).await, 0);
    }
}
