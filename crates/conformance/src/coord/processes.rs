//! Other processes, killed and frozen, and engines opened again.

use linchpin::coord::{Change, When};
use tokio::time::{Instant, sleep};

use super::tools::*;
use crate::child::Child;
use crate::protocol::{CoordCommand, Event};
use crate::tools::{GRACE, MOMENT};
use crate::world::Space;

/// Lets the child hold the key under a lease of `ttl_ms`.
async fn hold(s: &Space, child: &mut Child, key: &str) -> u64 {
    let ttl_ms = u64::try_from(ttl(&s.coord).as_millis()).unwrap();
    match child.ask(&CoordCommand::Hold { key: key.to_owned(), ttl_ms }).await {
        Event::Written { rev } => rev,
        other => panic!("the child said {other:?}"),
    }
}

pub(super) async fn keys_and_revisions_survive_a_restart(s: Space) {
    let mut last = put(&s.coord, "gone", "x").await;
    for n in 0..20 {
        last = put(&s.coord, &format!("k/{n:02}"), &n.to_string()).await;
    }
    s.coord.delete("gone", When::Always).await.unwrap();
    let before = s.coord.list("").await.unwrap();
    let s = s.reopen().await;
    assert_eq!(s.coord.list("").await.unwrap(), before);
    assert!(s.coord.put("gone", "x", When::Absent).await.unwrap() > last);
    let first = before[0].rev;
    assert!(s.coord.put("k/00", "y", When::Is(first)).await.unwrap() > last);
}

pub(super) async fn another_process_sees_and_is_woken(s: Space) {
    put(&s.coord, "w/a", "x").await;
    let mut child = s.child().await;
    let answer = child.ask(&CoordCommand::Count { prefix: "w/".into() }).await;
    assert!(matches!(answer, Event::Holds(1)), "{answer:?}");
    child.tell(&CoordCommand::Watch { prefix: "w/".into(), wait_ms: 10_000 }).await;
    let snapshot = child.event().await;
    assert!(matches!(snapshot, Some(Event::Holds(1))), "{snapshot:?}");
    sleep(MOMENT * 2).await;
    let started = Instant::now();
    put(&s.coord, "w/b", "x").await;
    let change = child.event().await;
    assert!(matches!(change, Some(Event::Holds(1))), "{change:?}");
    assert!(started.elapsed() < GRACE, "woken after {:?}", started.elapsed());
    // And the other way.
    let mut picture = Picture::of(&s.coord, "held").await;
    let rev = hold(&s, &mut child, "held").await;
    picture.until("held", GRACE).await;
    assert_eq!(picture.entries["held"].rev.0, rev);
}

pub(super) async fn a_killed_holder_loses_its_keys(s: Space) {
    let mut child = s.child().await;
    let started = Instant::now();
    let rev = hold(&s, &mut child, "held").await;
    let mut watched = s.coord.watch("held").await.unwrap();
    assert_eq!(watched.snapshot[0].rev.0, rev);
    // It keeps the lease alive as long as it lives.
    while started.elapsed() < ttl(&s.coord) + s.coord.caps().slack {
        sleep(MOMENT).await;
        assert!(is_there(&s.coord, "held").await, "gone after {:?}", started.elapsed());
    }
    child.kill().await;
    let killed = Instant::now();
    loop {
        let told = watched.changes.next(latest(&s.coord)).await.unwrap();
        let took = killed.elapsed();
        assert!(took <= latest(&s.coord) + MOMENT, "not told after {took:?}");
        if matches!(told.last(), Some(Change::Delete { .. })) {
            break;
        }
    }
    assert!(s.coord.put("held", "mine", When::Absent).await.unwrap().0 > rev);
}

pub(super) async fn a_frozen_holder_is_told(s: Space) {
    let mut child = s.child().await;
    let rev = hold(&s, &mut child, "held").await;
    child.freeze();
    // What it does first when it goes on: it thinks that it holds the key.
    child.tell(&CoordCommand::PutHeld { key: "held".into(), value: "stale".into() }).await;
    gone(&s.coord, "held", Instant::now(), latest(&s.coord)).await;
    let heir = s.coord.put("held", "mine", When::Absent).await.unwrap();
    assert!(heir.0 > rev);
    child.thaw();
    let answer = child.event().await;
    assert!(matches!(&answer, Some(Event::Failed { kind, .. }) if kind == "NotFound"), "{answer:?}");
    let entry = s.coord.get("held").await.unwrap().unwrap();
    assert_eq!((text(&entry).as_str(), entry.rev), ("mine", heir));
}

pub(super) async fn processes_lose_no_increment(s: Space) {
    let mut children = Vec::new();
    for _ in 0..4 {
        let mut child = s.child().await;
        child.tell(&CoordCommand::Increment { key: "count".into(), times: 50 }).await;
        children.push(child);
    }
    for child in &mut children {
        let answer = child.event().await;
        assert!(matches!(answer, Some(Event::Done)), "{answer:?}");
    }
    assert_eq!(number(&s.coord, "count").await, 200);
}

pub(super) async fn a_lease_lasts_while_many_processes_write(s: Space) {
    let mut children = Vec::new();
    for n in 0..6 {
        let mut child = s.child().await;
        child.tell(&CoordCommand::Increment { key: format!("count/{n}"), times: u64::MAX }).await;
        children.push(child);
    }
    let long = ttl(&s.coord) * 3;
    let lease = s.coord.engine().grant(long).await.unwrap();
    let started = Instant::now();
    lend(&s.coord, "mine", &lease).await.unwrap();
    while started.elapsed() < long * 2 / 3 {
        sleep(MOMENT / 2).await;
        let there = is_there(&s.coord, "mine").await;
        assert!(there || started.elapsed() >= long, "gone after {:?} of {long:?}", started.elapsed());
    }
    assert!(number(&s.coord, "count/0").await > 0, "they wrote meanwhile");
}
