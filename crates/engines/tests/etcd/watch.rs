//! Watches that lose their connection, or what they would have seen.

use std::time::{Duration, Instant};

use linchpin_core::Kind;
use linchpin_core::coord::{Change, Watched, When};
use linchpin_harness::Link;

use crate::server::{MOMENT, SOON, Seen, one, open, post};

#[tokio::test]
async fn changes_come_as_they_are_made() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    coord.put("w/old", "1", When::Always).await.unwrap();
    let Watched { snapshot, mut changes } = coord.watch("w/").await.unwrap();
    assert_eq!(snapshot.len(), 1);
    assert!(changes.next(Duration::ZERO).await.unwrap().is_empty());
    let began = Instant::now();
    assert!(changes.next(MOMENT).await.unwrap().is_empty() && began.elapsed() >= MOMENT);
    let rev = coord.put("w/new", "2", When::Always).await.unwrap();
    let told = changes.next(Duration::MAX).await.unwrap();
    assert_eq!((told.len(), told[0].key(), told[0].rev()), (1, "w/new", rev));
    coord.put("other", "2", When::Always).await.unwrap();
    coord.delete("w/old", When::Always).await.unwrap();
    let told = changes.next(SOON).await.unwrap();
    assert!(
        matches!(&told[..], [Change::Delete { key, rev: at }] if key == "w/old" && at.0 == rev.0 + 2),
        "{told:?}"
    );
    // A lease's keys go at one revision.
    let lease = coord.engine().grant(SOON).await.unwrap();
    for key in ["w/1", "w/2"] {
        coord.engine().put(key, "".into(), When::Absent, Some(&lease)).await.unwrap();
    }
    let mut seen = Seen::new(coord.list("w/").await.unwrap());
    coord.engine().revoke(&lease).await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let told = changes.next(SOON).await.unwrap();
        assert!(!told.is_empty(), "both deletions are told");
        gone.extend(told.into_iter().filter(|change| matches!(change, Change::Delete { .. })));
    }
    seen.apply(gone);
    assert_eq!(seen.0.keys().collect::<Vec<_>>(), ["w/new"]);
}

#[tokio::test]
async fn a_watch_that_was_cut_goes_on_without_a_hole() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let link = Link::to(server.ports()[0]).unwrap();
    let far = open(&format!("etcd://127.0.0.1:{}?timeout=1s", link.port())).await.unwrap();
    let Watched { snapshot, mut changes } = far.watch("w/").await.unwrap();
    let mut seen = Seen::new(snapshot);
    for round in 0..5 {
        coord.put("w/there", round.to_string(), When::Always).await.unwrap();
        link.cut();
        coord.put(&format!("w/{round}"), "", When::Always).await.unwrap();
        coord.delete(&format!("w/{}", round - 1), When::Always).await.unwrap();
        match changes.next(2 * MOMENT).await {
            Ok(told) => seen.apply(told),
            Err(e) => assert_eq!(e.kind(), Kind::Unavailable, "{e}"),
        }
        link.mend();
        seen.follow(changes.as_mut(), &coord, "w/").await;
    }
    assert_eq!(seen.0.keys().collect::<Vec<_>>(), ["w/4", "w/there"]);
}

#[tokio::test]
async fn what_was_compacted_away_is_read_anew() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let link = Link::to(server.ports()[0]).unwrap();
    let far = open(&format!("etcd://127.0.0.1:{}?timeout=1s", link.port())).await.unwrap();
    for key in ["w/kept", "w/gone", "w/changed", "w/again"] {
        coord.put(key, "1", When::Always).await.unwrap();
    }
    let Watched { snapshot, mut changes } = far.watch("w/").await.unwrap();
    link.cut();
    for key in ["w/gone", "w/again"] {
        coord.delete(key, When::Always).await.unwrap();
    }
    for key in ["w/changed", "w/again", "w/new"] {
        coord.put(key, "2", When::Always).await.unwrap();
    }
    let last = coord.put("other", "", When::Always).await.unwrap();
    post(server.ports()[0], "kv/compaction", &format!(r#"{{"revision":"{last}","physical":true}}"#));
    link.mend();
    let told = loop {
        match changes.next(SOON).await {
            Ok(told) if !told.is_empty() => break told,
            Ok(_) => panic!("the changes are told"),
            Err(_) => tokio::time::sleep(MOMENT / 10).await,
        }
    };
    assert!(told.is_sorted_by_key(Change::rev), "{told:?}");
    let mut seen = Seen::new(snapshot);
    seen.apply(told);
    assert!(seen.0.values().eq(coord.list("w/").await.unwrap().iter()));
    // And goes on from there.
    coord.put("w/kept", "3", When::Always).await.unwrap();
    assert_eq!(changes.next(SOON).await.unwrap()[0].key(), "w/kept");
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_nothing() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let Watched { mut changes, .. } = coord.watch("w/").await.unwrap();
    let writer = coord.clone();
    let writes = tokio::spawn(async move {
        for n in 0..300 {
            writer.put("w/n", n.to_string(), When::Always).await.unwrap();
        }
    });
    let (mut seen, mut dropped, patience) = (Vec::new(), 0, Instant::now() + SOON);
    while seen.len() < 300 {
        assert!(Instant::now() < patience, "{} came", seen.len());
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_micros(300)) => dropped += 1,
            told = changes.next(SOON) => seen.extend(told.unwrap().iter().map(Change::rev)),
        }
    }
    writes.await.unwrap();
    assert!(dropped > 0 && seen.is_sorted_by(|a, b| a < b), "{dropped} were dropped");
}
