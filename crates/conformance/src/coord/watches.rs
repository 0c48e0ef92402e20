//! Being told.

use std::sync::Arc;
use std::time::Duration;

use linchpin::coord::{Change, Coord, When};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::tools::{GRACE, LONG, MOMENT, SOON};
use crate::world::Space;

pub(super) async fn a_watch_begins_with_what_is_there(s: Space) {
    for n in 0..30 {
        put(&s.coord, &format!("w/{n:02}"), &n.to_string()).await;
    }
    s.coord.delete("w/07", When::Always).await.unwrap();
    let mut watched = s.coord.watch("w/").await.unwrap();
    assert_eq!(watched.snapshot, s.coord.list("w/").await.unwrap());
    assert_eq!(watched.snapshot.len(), 29);
    assert_eq!(watched.changes.next(MOMENT).await.unwrap(), []);
}

pub(super) async fn a_watch_tells_every_kind_of_change(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord) * 10).await.unwrap();
    let mut watched = s.coord.watch("w/").await.unwrap();
    let created = put(&s.coord, "w/a", "1").await;
    let first = changes(&mut watched, 1).await.remove(0);
    let Change::Put(entry) = first else { panic!("{first:?}") };
    assert_eq!((entry.key.as_str(), text(&entry).as_str()), ("w/a", "1"));
    assert_eq!((entry.created, entry.rev), (created, created));
    let changed = put(&s.coord, "w/a", "2").await;
    let next = changes(&mut watched, 1).await.remove(0);
    let Change::Put(entry) = next else { panic!("{next:?}") };
    assert_eq!((text(&entry).as_str(), entry.created, entry.rev), ("2", created, changed));
    s.coord.delete("w/a", When::Always).await.unwrap();
    let next = changes(&mut watched, 1).await.remove(0);
    assert!(matches!(&next, Change::Delete { key, rev } if key == "w/a" && *rev >= changed), "{next:?}");
    lend(&s.coord, "w/b", &lease).await.unwrap();
    let next = changes(&mut watched, 1).await.remove(0);
    assert!(matches!(&next, Change::Put(entry) if entry.lease.as_ref() == Some(&lease)), "{next:?}");
    s.coord.engine().revoke(&lease).await.unwrap();
    let next = changes(&mut watched, 1).await.remove(0);
    assert!(matches!(&next, Change::Delete { key, .. } if key == "w/b"), "{next:?}");
    let again = put(&s.coord, "w/a", "3").await;
    let last = changes(&mut watched, 1).await.remove(0);
    assert!(matches!(&last, Change::Put(entry) if entry.created == again), "{last:?}");
    assert_eq!(watched.changes.next(MOMENT).await.unwrap(), []);
}

pub(super) async fn a_watch_keeps_to_its_prefix(s: Space) {
    let mut one = s.coord.watch("w/a").await.unwrap();
    let mut all = s.coord.watch("").await.unwrap();
    for key in ["w", "w/", "w/A", "w/a", "w/a/b", "w/ab", "w/b", "x/w/a"] {
        if key != "w/" {
            put(&s.coord, key, "x").await;
        }
    }
    let told =
        |changes: Vec<Change>| changes.iter().map(|change| change.key().to_owned()).collect::<Vec<_>>();
    assert_eq!(told(changes(&mut one, 3).await), ["w/a", "w/a/b", "w/ab"]);
    assert_eq!(told(changes(&mut all, 7).await), ["w", "w/A", "w/a", "w/a/b", "w/ab", "w/b", "x/w/a"]);
    assert_eq!(one.changes.next(MOMENT).await.unwrap(), []);
}

pub(super) async fn a_waiting_watch_wakes_at_once(s: Space) {
    let mut watched = s.coord.watch("w/").await.unwrap();
    let quiet = Instant::now();
    assert_eq!(watched.changes.next(MOMENT).await.unwrap(), []);
    assert!(quiet.elapsed() >= MOMENT && quiet.elapsed() < MOMENT + GRACE, "{:?}", quiet.elapsed());
    let other = s.other().await;
    let writer = tokio::spawn(async move {
        sleep(MOMENT * 2).await;
        put(&other, "w/a", "x").await;
        Instant::now()
    });
    assert_eq!(changes(&mut watched, 1).await.len(), 1);
    let late = writer.await.unwrap().elapsed();
    assert!(late < GRACE, "woken {late:?} after the change");
}

pub(super) async fn a_watch_tells_of_the_end_of_a_lease_in_time(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord)).await.unwrap();
    let started = Instant::now();
    lend(&s.coord, "w/a", &lease).await.unwrap();
    let mut picture = Picture::of(&s.coord, "w/").await;
    assert_eq!(picture.entries.len(), 1);
    // Nobody asks meanwhile: the watch sees it by itself.
    while !picture.entries.is_empty() {
        let took = started.elapsed();
        assert!(took <= latest(&s.coord), "not told after {took:?}");
        picture.look(latest(&s.coord).saturating_sub(took) + MOMENT).await.unwrap();
    }
    let took = started.elapsed();
    assert!(took >= ttl(&s.coord) * 3 / 4, "too soon: {took:?}");
    assert!(took <= latest(&s.coord) + MOMENT, "too late: {took:?}");
}

pub(super) async fn a_cancelled_wait_loses_no_change(s: Space) {
    let mut picture = Picture::of(&s.coord, "w/").await;
    let coord = s.coord.clone();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            put(&coord, &format!("w/{n}"), "x").await;
        }
        put(&coord, "w/end", "x").await;
    });
    let started = Instant::now();
    while !picture.entries.contains_key("w/end") {
        assert!(started.elapsed() < LONG, "{} changes within {LONG:?}", picture.told);
        // Most of these are cut short.
        let wait = Duration::from_micros(fastrand::u64(0..3_000));
        if let Ok(seen) = timeout(wait, picture.look(SOON)).await {
            seen.unwrap();
        }
    }
    writer.await.unwrap();
    picture.check(&s.coord, "w/").await;
}

/// Changes keys at random, `count` times, and then puts `end`.
pub(super) async fn scribble(coord: Coord, task: u64, count: u64, end: String) {
    let mut random = fastrand::Rng::with_seed(task);
    for n in 0..count {
        let key = format!("w/{}", random.u8(..40));
        loop {
            let done = match random.u8(..4) {
                0 => coord.delete(&key, When::Always).await.map(drop),
                _ => coord.put(&key, format!("{task}:{n}"), When::Always).await.map(drop),
            };
            match done {
                Ok(()) => break,
                // What was to happen may have: to a watcher it is a change like any other.
                Err(error) => assert_ne!(error.retry(), linchpin::Retry::Never, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    while coord.put(&end, "x", When::Always).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn ten_thousand_changes_leave_no_hole(s: Space) {
    let mut picture = Picture::of(&s.coord, "w/").await;
    let mut writers = JoinSet::new();
    for task in 0..10 {
        writers.spawn(scribble(s.coord.clone(), task, 1_000, format!("w/end{task}")));
    }
    for task in 0..10 {
        picture.until(&format!("w/end{task}"), Duration::from_secs(50)).await;
    }
    writers.join_all().await;
    put(&s.coord, "w/really", "x").await;
    picture.until("w/really", SOON).await;
    picture.check(&s.coord, "w/").await;
}

pub(super) async fn fifty_watchers_see_the_same(s: Space) {
    let ready = Arc::new(Barrier::new(51));
    let mut watchers = JoinSet::new();
    for _ in 0..50 {
        let (coord, ready) = (s.coord.clone(), ready.clone());
        watchers.spawn(async move {
            let mut picture = Picture::of(&coord, "w/").await;
            ready.wait().await;
            picture.until("w/end", LONG).await;
            picture.entries
        });
    }
    ready.wait().await;
    for n in 0..100 {
        put(&s.coord, &format!("w/{}", n % 9), &n.to_string()).await;
    }
    put(&s.coord, "w/end", "x").await;
    let there: Vec<_> = s.coord.list("w/").await.unwrap();
    for entries in watchers.join_all().await {
        assert_eq!(entries.into_values().collect::<Vec<_>>(), there);
    }
}
