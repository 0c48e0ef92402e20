//! Three servers, of which the leader dies or is frozen.

use std::time::Duration;

use linchpin_core::coord::{Change, When};
use linchpin_core::{Kind, Retry};
use tokio::time::{Instant, sleep, timeout};

use crate::tools::{leader, lend, mode, open, start, text};

const BACK: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_survives_the_leader() {
    let servers = start("zookeeper-3");
    let coord = open(&format!("{}/lead?timeout=3s", servers.url())).await.unwrap();
    let ttl = Duration::from_secs(20);
    let lease = coord.engine().grant(ttl).await.unwrap();
    let rev = lend(&coord, "held", &lease).await.unwrap();
    let mut watched = coord.watch("").await.unwrap();
    for _ in 0..2 {
        let dies = leader(&servers);
        servers.nodes()[dies].kill().unwrap();
        let killed = Instant::now();
        // Nobody knows whether the lease lives until it is renewed; that it ended isn't said of it.
        while let Err(error) = coord.engine().renew(&lease).await {
            assert_ne!(error.kind(), Kind::NotFound, "{error}");
            assert_ne!(error.retry(), Retry::Never, "{error}");
            assert!(killed.elapsed() < ttl, "not renewed after {:?}", killed.elapsed());
        }
        let entry = coord.get("held").await.unwrap().expect("the key is there");
        assert_eq!((entry.rev, entry.lease), (rev, Some(lease.clone())));
        servers.nodes()[dies].restart().unwrap();
    }
    assert!(coord.put("held", "freed", When::Is(rev)).await.unwrap() > rev);
    let told = loop {
        match watched.changes.next(Duration::from_secs(5)).await {
            Ok(changes) if !changes.is_empty() => break changes,
            _ => {}
        }
    };
    assert!(matches!(&told[..], [Change::Put(entry)] if entry.value == "freed"), "{told:?}");
    coord.engine().revoke(&lease).await.unwrap();
    assert_eq!(text(&coord, "held").await.unwrap(), "freed");
}

/// A leader that was frozen still believes in itself when it goes on. It isn't asked about what it missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_tells_nothing_old() {
    let servers = start("zookeeper-3");
    let others = open(&format!("{}/stale?timeout=3s", servers.url())).await.unwrap();
    let leads = leader(&servers);
    let old = format!("zookeeper://127.0.0.1:{}/stale?timeout=20s", servers.nodes()[leads].port());
    let old = open(&old).await.unwrap();
    others.put("a", "old", When::Always).await.unwrap();
    assert_eq!(text(&old, "a").await.unwrap(), "old");

    servers.nodes()[leads].freeze().unwrap();
    let frozen = Instant::now();
    while others.put("a", "new", When::Always).await.is_err() {
        assert!(frozen.elapsed() < BACK, "no other leader after {BACK:?}");
    }
    let answered = Instant::now();
    servers.nodes()[leads].thaw().unwrap();
    while answered.elapsed() < Duration::from_secs(3) {
        if let Ok(Ok(value)) = timeout(Duration::from_millis(500), text(&old, "a")).await {
            assert_eq!(value, "new", "{:?} after it went on", answered.elapsed());
        }
    }
    while mode(&servers.nodes()[leads]).is_none() {
        assert!(answered.elapsed() < BACK, "it isn't back after {BACK:?}");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(text(&old, "a").await.unwrap(), "new");
}

/// Without a majority nothing is answered, and nothing hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_minority_answers_nothing() {
    let servers = start("zookeeper-3");
    let coord = open(&format!("{}/minority?timeout=2s", servers.url())).await.unwrap();
    let lease = coord.engine().grant(Duration::from_secs(60)).await.unwrap();
    coord.put("a", "x", When::Always).await.unwrap();
    for node in [0, 1] {
        servers.nodes()[node].kill().unwrap();
    }
    let engine = coord.engine();
    let limit = Duration::from_secs(5);
    for error in [
        timeout(limit, coord.get("a")).await.expect("in time").unwrap_err(),
        timeout(limit, coord.list("")).await.expect("in time").unwrap_err(),
        timeout(limit, coord.put("a", "y", When::Always)).await.expect("in time").unwrap_err(),
        timeout(limit, coord.delete("a", When::Always)).await.expect("in time").unwrap_err(),
        timeout(limit, engine.renew(&lease)).await.expect("in time").unwrap_err(),
        timeout(limit, coord.watch("")).await.expect("in time").unwrap_err(),
    ] {
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
        assert!(error.remedy().is_some(), "{error}");
    }
    for node in [0, 1] {
        servers.nodes()[node].restart().unwrap();
    }
    let back = Instant::now();
    while engine.renew(&lease).await.is_err() {
        assert!(back.elapsed() < BACK, "no answer after {BACK:?}");
    }
    lend(&coord, "held", &lease).await.unwrap();
}
