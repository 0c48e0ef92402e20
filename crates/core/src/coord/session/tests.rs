//! Sessions, on the memory engine with a paused clock.

use std::time::Duration;

use tokio::time::{Instant, advance, sleep, timeout};

use crate::Kind;
use crate::coord::testing::rigged;
use crate::coord::{Coord, MemoryCoord, When};

const TTL: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn lives_as_long_as_it_is_held_and_takes_its_keys_along() {
    let (coord, rigged) = rigged();
    let session = coord.session(TTL).await.unwrap();
    session.put("a", "1", When::Absent).await.unwrap();
    sleep(TTL * 20).await;
    assert!(session.is_alive());
    assert!((59..=60).contains(&rigged.calls_of("renew")), "a renewal every third of the time");
    assert!(coord.get("a").await.unwrap().is_some());

    let clone = session.clone();
    drop(session);
    sleep(Duration::from_millis(1)).await;
    assert!(clone.is_alive() && coord.get("a").await.unwrap().is_some());
    drop(clone);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(coord.get("a").await.unwrap(), None, "revoked at once");
}

#[tokio::test(start_paused = true)]
async fn close_revokes_and_ends_every_clone() {
    let coord = Coord::new(MemoryCoord::new());
    let session = coord.session(TTL).await.unwrap();
    let clone = session.clone();
    session.put("a", "1", When::Absent).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(coord.get("a").await.unwrap(), None);
    assert_eq!(clone.lost().await.kind(), Kind::Closed);
    assert_eq!(clone.put("a", "2", When::Always).await.unwrap_err().kind(), Kind::Closed);
    clone.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn loss_is_told_before_the_lease_can_end() {
    let (coord, rigged) = rigged();
    let session = coord.session(TTL).await.unwrap();
    session.put("a", "1", When::Absent).await.unwrap();
    sleep(TTL).await;
    let renewed = Instant::now();
    rigged.down(true);
    assert_eq!(session.lost().await.kind(), Kind::Fenced);
    assert!(!session.is_alive());
    assert!(renewed.elapsed() <= TTL - TTL / 10);
    rigged.down(false);
    assert!(coord.get("a").await.unwrap().is_some(), "the lease is still there: the margin");
    sleep(TTL).await;
    assert!(!session.is_alive(), "what was lost stays lost");
    assert_eq!(coord.get("a").await.unwrap(), None);
    assert_eq!(session.close().await.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test(start_paused = true)]
async fn an_outage_within_the_deadline_is_survived() {
    let (coord, rigged) = rigged();
    let session = coord.session(TTL).await.unwrap();
    sleep(Duration::from_secs(4)).await;
    rigged.down(true);
    sleep(Duration::from_secs(9)).await;
    rigged.down(false);
    sleep(TTL * 3).await;
    assert!(session.is_alive());
}

#[tokio::test(start_paused = true)]
async fn renewals_whose_answers_are_lost_count_for_nothing() {
    let (coord, rigged) = rigged();
    let session = coord.session(TTL).await.unwrap();
    rigged.mute("renew", u32::MAX);
    let begun = Instant::now();
    session.lost().await;
    assert!(begun.elapsed() <= TTL - TTL / 10);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_is_lost_at_once() {
    let coord = Coord::new(MemoryCoord::new());
    let session = coord.session(TTL).await.unwrap();
    coord.engine().revoke(session.lease()).await.unwrap();
    let told = timeout(TTL / 3 + Duration::from_millis(1), session.lost()).await.unwrap();
    assert_eq!(told.kind(), Kind::Fenced);

    let other = coord.session(TTL).await.unwrap();
    coord.engine().revoke(other.lease()).await.unwrap();
    assert_eq!(other.put("a", "1", When::Always).await.unwrap_err().kind(), Kind::Fenced);
    assert!(!other.is_alive());
}

#[tokio::test(start_paused = true)]
async fn who_slept_past_the_deadline_is_told_without_the_task() {
    let coord = Coord::new(MemoryCoord::new());
    let session = coord.session(TTL).await.unwrap();
    // The clock jumps, and nobody else has run since.
    advance(TTL).await;
    assert!(!session.is_alive());
    sleep(TTL).await;
    assert!(!session.is_alive(), "no late renewal brings it back");
}

#[tokio::test(start_paused = true)]
async fn what_was_left_behind_is_removed_however_long_it_takes() {
    let (coord, rigged) = rigged();
    let session = coord.session(TTL).await.unwrap();
    for n in 0..100 {
        session.put(&format!("a/{n}"), "", When::Absent).await.unwrap();
    }
    rigged.down(true);
    (0..100).for_each(|n| session.remove_later(format!("a/{n}"), false));
    sleep(Duration::from_secs(5)).await;
    rigged.down(false);
    sleep(Duration::from_secs(2)).await;
    assert!(coord.list("a/").await.unwrap().is_empty());
    assert!(session.is_alive());

    // A write that was under way when its key was removed.
    session.remove_later("late".to_owned(), true);
    sleep(Duration::from_secs(1)).await;
    session.put("late", "", When::Absent).await.unwrap();
    sleep(TTL / 3).await;
    assert_eq!(coord.get("late").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn too_short_a_lease_is_refused() {
    let coord = Coord::new(MemoryCoord::new());
    assert_eq!(coord.session(Duration::ZERO).await.unwrap_err().kind(), Kind::Invalid);
}
