//! Several processes at once, killed, frozen and started again.

use linchpin::Kind;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::protocol::{Event, IdCommand};
use crate::tools::{LONG, MOMENT, assert_kind, lease};
use crate::world::Issuer;

pub(super) async fn eight_processes_draw_and_none_comes_twice(s: Issuer) {
    let mut children = Vec::new();
    for process in 0..8 {
        children.push(s.child(process, "").await);
    }
    for child in &mut children {
        child.tell(&IdCommand::Draw { count: 1_000 }).await;
    }
    let mut seen = Seen::default();
    for child in &mut children {
        seen.add(drawn(child.event().await));
    }
    assert_eq!(seen.len(), 8_000);
}

pub(super) async fn a_killed_process_and_its_successor_repeat_nothing(s: Issuer) {
    let mut seen = Seen::default();
    for round in 0..3 {
        let mut child = s.child(0, "").await;
        child.tell(&IdCommand::DrawForever).await;
        for _ in 0..20 * (round + 1) {
            seen.add(drawn(child.event().await));
        }
        child.kill().await;
        // What it said before it died was issued.
        while let Some(event) = child.event().await {
            seen.add(drawn(Some(event)));
        }
    }
    let ids = s.open(0).await;
    seen.add(draw(&ids, 1_000).await);
}

pub(super) async fn a_frozen_process_issues_nothing_past_its_lease(s: Issuer) {
    // One number, which both want.
    let options = one_number();
    let (mut child, mut seen) = (s.child(0, &options).await, Seen::default());
    seen.add(ask(&mut child, 100).await);
    child.freeze();
    // What it does first when it goes on: it thinks that the number is its own.
    child.tell(&IdCommand::Draw { count: 100 }).await;
    let ids = open_within(&s, 0, &options, LONG).await;
    seen.add(draw(&ids, 100).await);
    child.thaw();
    let answer = child.event().await;
    assert!(matches!(&answer, Some(Event::Failed { kind, .. }) if kind == "Unavailable"), "{answer:?}");
    let held = Instant::now();
    while held.elapsed() < lease() {
        seen.add(draw(&ids, 100).await);
        let answer = child.ask(&IdCommand::Draw { count: 10 }).await;
        assert!(matches!(&answer, Event::Failed { .. }), "another has the number: {answer:?}");
        sleep(MOMENT).await;
    }
    // It goes on once the number is free again.
    ids.close().await;
    let again = async {
        loop {
            match child.ask(&IdCommand::Draw { count: 10 }).await {
                Event::Ids(ids) => return ids,
                _ => sleep(MOMENT).await,
            }
        }
    };
    seen.add(timeout(LONG, again).await.expect("it leases a number again"));
}

pub(super) async fn a_restart_repeats_nothing(s: Issuer) {
    let mut seen = Seen::default();
    for _ in 0..4 {
        let ids = s.open(0).await;
        seen.add(draw(&ids, 130).await);
        ids.close().await;
    }
}

pub(super) async fn a_state_file_belongs_to_one_process(s: Issuer) {
    let ids = s.open(0).await;
    let error = assert_kind(s.try_open(0, "").await, Kind::Conflict);
    assert!(error.remedy().is_some(), "{error}");
    let (other, mut seen) = (s.open(1).await, Seen::default());
    seen.add(draw(&ids, 1_000).await);
    seen.add(draw(&other, 1_000).await);
    ids.close().await;
    seen.add(draw(&s.open(0).await, 1_000).await);
}
