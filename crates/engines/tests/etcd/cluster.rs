//! Three members, and what becomes of keys, leases and watches when some die.

use std::time::{Duration, Instant};

use linchpin_core::coord::{Coord, Watched, When};
use linchpin_core::{Kind, Retry};
use linchpin_harness::Running;

use crate::server::{MOMENT, SOON, Seen, open, post};

fn three() -> Running {
    linchpin_harness::find("etcd-3").unwrap().start().unwrap()
}

/// The number of the member that leads.
fn leader(server: &Running) -> usize {
    let field = |text: &str, name: &str| {
        let (_, rest) =
            text.split_once(&format!(r#""{name}":""#)).unwrap_or_else(|| panic!("{name} in {text}"));
        rest.split_once('"').unwrap().0.to_owned()
    };
    let ports = server.ports();
    let leads = |port: &u16| {
        let status = post(*port, "maintenance/status", "{}");
        field(&status, "leader") == field(&status, "member_id")
    };
    ports.iter().position(leads).expect("one leads")
}

/// Tries until it works; whatever may have happened before counts too.
async fn put(coord: &Coord, key: &str, value: &str) {
    let patience = Instant::now() + 2 * SOON;
    while let Err(e) = coord.put(key, value.to_owned(), When::Always).await {
        assert!(matches!(e.kind(), Kind::Unavailable | Kind::Timeout), "{e}");
        assert!(Instant::now() < patience, "{e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_takes_nothing_with_it() {
    let server = three();
    let coord = open(&format!("{}?timeout=3s", server.url())).await.unwrap();
    let Watched { snapshot, mut changes } = coord.watch("w/").await.unwrap();
    let mut seen = Seen::new(snapshot);
    let mut last = coord.put("w/first", "", When::Absent).await.unwrap();
    let lease = coord.engine().grant(SOON).await.unwrap();
    coord.engine().put("w/leased", "".into(), When::Absent, Some(&lease)).await.unwrap();
    for round in 0..2 {
        let dies = leader(&server);
        server.nodes()[dies].kill().unwrap();
        let began = Instant::now();
        for n in 0..20 {
            put(&coord, &format!("w/{round}/{n}"), "").await;
        }
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let rev = coord.put("w/first", "", When::Is(last)).await.unwrap();
        assert!(rev.0 > last.0 + 20);
        last = rev;
        coord.engine().renew(&lease).await.unwrap();
        seen.follow(changes.as_mut(), &coord, "w/").await;
        server.nodes()[dies].restart().unwrap();
    }
    assert_eq!(seen.0.len(), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_left_for_another() {
    let server = three();
    let coord = open(&format!("{}?timeout=3s", server.url())).await.unwrap();
    let Watched { snapshot, mut changes } = coord.watch("w/").await.unwrap();
    let mut seen = Seen::new(snapshot);
    put(&coord, "w/a", "1").await;
    // Whichever is connected to, and leads or not.
    for frozen in 0..3 {
        server.nodes()[frozen].freeze().unwrap();
        put(&coord, "w/a", "2").await;
        put(&coord, &format!("w/{frozen}"), "").await;
        coord.get("w/a").await.unwrap();
        seen.follow(changes.as_mut(), &coord, "w/").await;
        server.nodes()[frozen].thaw().unwrap();
    }
    assert_eq!(seen.0.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_promised_and_nothing_is_silent() {
    let server = three();
    let coord = open(&format!("{}?timeout=2s", server.url())).await.unwrap();
    let rev = coord.put("w/a", "1", When::Always).await.unwrap();
    let Watched { mut changes, .. } = coord.watch("w/").await.unwrap();
    let lease = coord.engine().grant(Duration::from_secs(30)).await.unwrap();
    server.nodes()[0].kill().unwrap();
    server.nodes()[1].kill().unwrap();
    let began = Instant::now();
    let unserved = |kind| matches!(kind, Kind::Unavailable | Kind::Timeout);
    // Nobody elects within these: the first writes may have been taken before the leader knew.
    let error = coord.put("w/a", "2", When::Is(rev)).await.unwrap_err();
    assert!(unserved(error.kind()), "{error}");
    let error = coord.get("w/a").await.unwrap_err();
    assert!(unserved(error.kind()) && error.retry() != Retry::Unknown, "{error}");
    assert!(unserved(coord.engine().renew(&lease).await.unwrap_err().kind()));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let patience = Instant::now() + 2 * SOON;
    while changes.next(MOMENT).await.is_ok() {
        assert!(Instant::now() < patience, "a watch on a member without a leader is silent");
    }
    // Two are a majority.
    server.nodes()[0].restart().unwrap();
    coord.engine().renew(&lease).await.unwrap();
    let entry = coord.get("w/a").await.unwrap().unwrap();
    assert!(entry.rev >= rev);
}
