//! Leaving: what goes back, at once, and what doesn't come twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linchpin::Kind;
use linchpin::bus::{Settle, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

pub(super) async fn closing_hands_back_at_once(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..20).await;
    let (leaving, other) = (join(&w.bus, "t", &group("g")).await, join(&w.bus, "t", &group("g")).await);
    let held = take(&leaving, 20).await;
    ack(&leaving, &held[..5]).await;
    let waiting = tokio::spawn(async move { (take(&other, 15).await, Instant::now()) });
    let closed = Instant::now();
    close(&leaving).await;
    let (again, came) = waiting.await.unwrap();
    let took = came.duration_since(closed);
    assert!(took < GRACE, "handed back after {took:?}");
    assert_each_once(numbers(&held[..5]).into_iter().chain(numbers(&again)), 20);
    fenced_or_closed(settle(&leaving, held[5].receipt, Settle::Ack).await);
}

fn fenced_or_closed(answer: linchpin::Result<()>) {
    let kind = answer.expect_err("it was handed back").kind();
    assert!(matches!(kind, Kind::Fenced | Kind::Closed), "{kind:?}");
}

pub(super) async fn a_clean_stop_causes_no_redelivery(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..50).await;
    let sub = join(&w.bus, "t", &brief("g")).await;
    ack(&sub, &take(&sub, 50).await).await;
    close(&sub).await;
    silence(&join(&w.bus, "t", &brief("g")).await, lease() + GRACE).await;
}

pub(super) async fn what_was_never_handed_out_is_no_attempt(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..1_000).await;
    let options = SubscribeOptions { max_attempts: 2, ..group("g") };
    // Each is quick enough that an engine which fetches ahead does so, and leaves in the middle of it.
    for _ in 0..5 {
        let sub = join(&w.bus, "t", &options).await;
        for _ in 0..191 {
            ack(&sub, &[one(&sub).await]).await;
        }
        close(&sub).await;
    }
    let sub = join(&w.bus, "t", &options).await;
    let held = take(&sub, 45).await;
    assert!(held.iter().all(|d| d.attempt == 1), "{:?}", held.iter().map(|d| d.attempt).collect::<Vec<_>>());
    // Handing back never uses up the last attempt either.
    close(&sub).await;
    for _ in 0..4 {
        let sub = join(&w.bus, "t", &options).await;
        take(&sub, 45).await;
        close(&sub).await;
    }
    let last = join(&w.bus, "t", &options).await;
    assert_eq!(drain(&last).await.len(), 45);
}

pub(super) async fn ten_members_closing_at_once_lose_nothing(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..2_000).await;
    let stop = Arc::new(AtomicU64::new(0));
    let mut members = JoinSet::new();
    for n in 0..10 {
        let (sub, stop) = (join(&w.bus, "t", &group("g")).await, stop.clone());
        members.spawn(async move {
            let mut mine = Vec::new();
            while stop.fetch_add(1, Ordering::SeqCst) < 60 {
                let batch = sub.next(20, MOMENT).await.unwrap();
                // It leaves with a part in hand.
                let part = batch.len() * n / 10;
                ack(&sub, &batch[..part]).await;
                mine.extend(numbers(&batch[..part]));
            }
            close(&sub).await;
            mine
        });
    }
    let done = members.join_all().await.concat();
    assert!(done.len() < 2_000, "some were in hand when all left");
    let last = join(&w.bus, "t", &group("g")).await;
    let left = take(&last, 2_000 - done.len()).await;
    silence(&last, MOMENT).await;
    assert_each_once(done.into_iter().chain(numbers(&left)), 2_000);
}

pub(super) async fn a_closed_subscription_answers_closed(w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let other = Arc::new(join(&w.bus, "t", &group("other")).await);
    publish(&w.bus, "t", 0..1).await;
    close(&sub).await;
    close(&sub).await;
    assert_kind(sub.next(1, SOON).await, Kind::Closed);
    // Closing tells a fetch that waits.
    ack(&other, &[one(&other).await]).await;
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.next(1, SOON).await }
    });
    tokio::task::yield_now().await;
    close(&other).await;
    let told = tokio::time::timeout(SOON / 2, waiting).await.expect("told at once").unwrap();
    assert_kind(told, Kind::Closed);
}
