//! Coordination, with what the suite can't see: how much is kept, and what becomes of a server that lost everything.

use std::collections::BTreeMap;
use std::time::Duration;

use linchpin_core::coord::{Change, Coord, Rev, Watched, When};
use linchpin_core::{Kind, Retry};
use linchpin_engines::{REDIS, REDISS};
use linchpin_harness::Port;
use tokio::time::Instant;

use crate::server::{SOON, Server, said};

async fn coord(server: &Server, rest: &str) -> Coord {
    Coord::open_with(&server.url("", rest), &[REDIS, REDISS]).await.unwrap()
}

/// Until the watch told that the key is there (or that it is gone).
async fn told(watched: &mut Watched, key: &str, there: bool) -> Vec<Change> {
    let (started, mut all) = (Instant::now(), Vec::new());
    loop {
        assert!(started.elapsed() < SOON, "{key} wasn't told of: {all:?}");
        // A connection that broke is an error that passes.
        let changes = watched.changes.next(SOON).await.unwrap_or_default();
        let found = changes.iter().any(|c| c.key() == key && matches!(c, Change::Put(_)) == there);
        all.extend(changes);
        if found {
            return all;
        }
    }
}

#[tokio::test]
async fn spaces_are_apart_by_prefix_and_database() {
    let server = Server::start(&[]);
    let spaces = [coord(&server, "").await, coord(&server, "?prefix=shop").await, coord(&server, "/1").await];
    for (n, space) in spaces.iter().enumerate() {
        let mut watched = space.watch("").await.unwrap();
        assert_eq!(watched.snapshot, []);
        space.put("a", n.to_string(), When::Absent).await.unwrap();
        told(&mut watched, "a", true).await;
    }
    for (n, space) in spaces.iter().enumerate() {
        assert_eq!(space.get("a").await.unwrap().unwrap().value, n.to_string());
    }
    let keys = server.cli(&["KEYS", "{shop:lp-coord}:*"]);
    assert_eq!(keys.len(), 5, "of what there is: {keys:?}");
}

#[tokio::test]
async fn a_watcher_that_slept_through_more_than_is_remembered_misses_nothing() {
    let server = Server::start(&[]);
    let coord = coord(&server, "").await;
    for n in 0..20 {
        coord.put(&format!("w/{n}"), "x", When::Always).await.unwrap();
    }
    let mut watched = coord.watch("w/").await.unwrap();
    for n in 0..10 {
        assert!(coord.delete(&format!("w/{n}"), When::Always).await.unwrap());
    }
    for hundred in 0..120 {
        let churn = (0..100).map(|n| {
            let coord = coord.clone();
            async move {
                let key = format!("other/{hundred}/{n}");
                coord.put(&key, "x", When::Always).await.unwrap();
                coord.delete(&key, When::Always).await.unwrap();
            }
        });
        futures_util::future::join_all(churn).await;
    }
    coord.put("w/end", "x", When::Always).await.unwrap();
    let changes = told(&mut watched, "w/end", true).await;
    let gone: Vec<_> = changes.iter().filter(|change| matches!(change, Change::Delete { .. })).collect();
    assert_eq!(gone.len(), 10, "{changes:?}");
    assert!(changes.is_sorted_by_key(Change::rev), "{changes:?}");
    // What is remembered is bounded, and what is gone leaves nothing else.
    assert_eq!(server.cli(&["ZCARD", "{lp-coord}:graves"]), ["10000"]);
    assert_eq!(server.cli(&["ZCARD", "{lp-coord}:changes"]), ["10011"]);
    assert_eq!(server.cli(&["HLEN", "{lp-coord}:values"]), ["11"]);
}

#[tokio::test]
async fn a_lease_with_more_keys_than_one_call_removes_ends_at_once() {
    let server = Server::start(&[]);
    let coord = coord(&server, "").await;
    let engine = coord.engine();
    let lease = engine.grant(Duration::from_secs(60)).await.unwrap();
    let mut last = Rev(0);
    for hundred in 0..50 {
        let keys = (0..100).map(|n| {
            let (lease, key) = (&lease, format!("k/{hundred}/{n}"));
            async move { engine.put(&key, "x".into(), When::Absent, Some(lease)).await.unwrap() }
        });
        last = futures_util::future::join_all(keys).await.into_iter().chain([last]).max().unwrap();
    }
    let mut watched = coord.watch("k/").await.unwrap();
    assert_eq!(watched.snapshot.len(), 5_000);
    engine.revoke(&lease).await.unwrap();
    assert_eq!(coord.list("").await.unwrap(), []);
    let mut gone = BTreeMap::new();
    while gone.len() < 5_000 {
        for change in watched.changes.next(SOON).await.unwrap() {
            assert!(matches!(change, Change::Delete { .. }) && change.rev() > last);
            assert_eq!(gone.insert(change.key().to_owned(), change.rev()), None);
        }
    }
    let revs: std::collections::BTreeSet<Rev> = gone.into_values().collect();
    assert_eq!(revs.len(), 5_000, "each key vanished at a revision of its own");
    assert_eq!(server.cli(&["EXISTS", "{lp-coord}:leased", "{lp-coord}:leases", "{lp-coord}:times"]), ["0"]);
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_misses_nothing() {
    let server = Server::start(&[]);
    let coord = coord(&server, "").await;
    let mut watched = coord.watch("w/").await.unwrap();
    coord.put("w/first", "x", When::Always).await.unwrap();
    told(&mut watched, "w/first", true).await;
    for round in 0..20 {
        // Both kinds of connections, in turn, while nobody reads.
        let kind = if round % 2 == 0 { "pubsub" } else { "normal" };
        server.cli(&["CLIENT", "KILL", "TYPE", kind]);
        for n in 0..10 {
            let (key, value) = (format!("w/{n}"), format!("{round}"));
            while coord.put(&key, value.clone(), When::Always).await.is_err() {}
        }
        let end = format!("w/end{round}");
        while coord.put(&end, "x", When::Always).await.is_err() {}
        told(&mut watched, &end, true).await;
    }
    let there: Vec<_> = coord.list("w/").await.unwrap();
    assert_eq!(there.len(), 31);
}

#[tokio::test]
async fn a_server_that_lost_everything_goes_on_with_larger_revisions() {
    let server = Server::start(&[]);
    let coord = coord(&server, "").await;
    let mut last = Rev(0);
    for n in 0..50 {
        last = coord.put(&format!("w/{n}"), "x", When::Always).await.unwrap();
    }
    let mut watched = coord.watch("w/").await.unwrap();
    server.cli(&["FLUSHALL"]);
    let again = coord.put("w/7", "y", When::Absent).await.unwrap();
    assert!(again > last, "{again} after {last}");
    let changes = told(&mut watched, "w/7", true).await;
    assert!(changes.iter().all(|change| change.rev() >= again), "{changes:?}");
    let gone = changes.iter().filter(|change| matches!(change, Change::Delete { .. })).count();
    assert_eq!(gone, 49, "what was lost is told as gone");
}

#[tokio::test]
async fn nobody_at_the_address_is_told_as_safe_to_try_again() {
    let nobody = Port::free().unwrap();
    let url = format!("redis://127.0.0.1:{}?timeout=2s", nobody.number());
    let error = Coord::open_with(&url, &[REDIS]).await.unwrap_err();
    said(&error, Kind::Unavailable, "reached");
    let server = Server::start(&[]);
    let coord = coord(&server, "?timeout=1s").await;
    coord.put("a", "x", When::Always).await.unwrap();
    let mut watched = coord.watch("").await.unwrap();
    drop(server);
    // What was on its way may have happened; what comes later was never sent.
    let _first = coord.put("a", "y", When::Always).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = coord.put("a", "y", When::Always).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::Safe { .. }), "{error}");
    let started = Instant::now();
    while watched.changes.next(SOON).await.is_ok() {
        assert!(started.elapsed() < SOON, "silence about a server that is gone");
    }
}

#[tokio::test]
async fn a_server_that_went_back_ends_a_watch_with_an_error() {
    let server = Server::start(&["--enable-debug-command", "yes"]);
    let coord = coord(&server, "").await;
    coord.put("w/a", "before", When::Always).await.unwrap();
    let before = server.cli(&["HGET", "{lp-coord}:meta", "w/a"]).concat();
    let mut watched = coord.watch("w/").await.unwrap();
    coord.put("w/a", "after", When::Always).await.unwrap();
    told(&mut watched, "w/a", true).await;
    // A server with the same data and another history, as after a restart, is none that went back.
    server.cli(&["DEBUG", "CHANGE-REPL-ID"]);
    assert_eq!(watched.changes.next(Duration::from_secs(2)).await.unwrap(), []);
    // What a replica has that lacks the last write.
    let rev = before.split(' ').next().unwrap();
    server.cli(&["HSET", "{lp-coord}:meta", "w/a", &format!("{rev} {rev} ")]);
    server.cli(&["HSET", "{lp-coord}:values", "w/a", "before"]);
    server.cli(&["ZADD", "{lp-coord}:changes", rev, "w/a"]);
    server.cli(&["DEBUG", "CHANGE-REPL-ID"]);
    for _ in 0..2 {
        let error = watched.changes.next(SOON).await.unwrap_err();
        said(&error, Kind::Corrupt, "w/a");
        assert!(error.remedy().unwrap().contains("watch anew"), "{error}");
    }
    let anew = coord.watch("w/").await.unwrap();
    assert_eq!(anew.snapshot[0].value, "before");
}
