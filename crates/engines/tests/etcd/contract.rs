//! The contract where etcd has its own ways.

use std::time::{Duration, Instant};

use linchpin_core::Kind;
use linchpin_core::coord::{LeaseId, Rev, When};

use crate::server::{MOMENT, SOON, one, open, post, said};

#[tokio::test]
async fn revisions_and_conditions_are_etcds_own() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let first = coord.put("a/b", "1", When::Absent).await.unwrap();
    let answer = post(server.ports()[0], "kv/range", r#"{"key":"YS9i"}"#);
    assert!(answer.contains(&format!(r#""mod_revision":"{first}""#)), "{answer}");
    said(&coord.put("a/b", "2", When::Absent).await.unwrap_err(), Kind::Conflict, "is there");
    let second = coord.put("a/b", "2", When::Is(first)).await.unwrap();
    assert!(second > first);
    said(&coord.put("a/b", "3", When::Is(first)).await.unwrap_err(), Kind::Conflict, &first.to_string());
    // etcd takes the revision 0 for that of a key that isn't there.
    said(&coord.put("new", "", When::Is(Rev(0))).await.unwrap_err(), Kind::Conflict, "isn't there");
    assert!(!coord.delete("new", When::Is(Rev(0))).await.unwrap());
    said(&coord.delete("a/b", When::Is(Rev(0))).await.unwrap_err(), Kind::Conflict, "a/b");
    said(&coord.delete("a/b", When::Is(first)).await.unwrap_err(), Kind::Conflict, "a/b");
    said(&coord.delete("a/b", When::Absent).await.unwrap_err(), Kind::Invalid, "absent");
    for when in [When::Is(Rev(u64::MAX)), When::Is(Rev(1 << 63))] {
        said(&coord.put("a/b", "", when).await.unwrap_err(), Kind::Conflict, "a/b");
    }
    let entry = coord.get("a/b").await.unwrap().unwrap();
    assert_eq!((entry.created, entry.rev, entry.value.as_ref()), (first, second, &b"2"[..]));
    assert!(coord.delete("a/b", When::Is(second)).await.unwrap());
    assert!(!coord.delete("a/b", When::Always).await.unwrap());
    let again = coord.put("a/b", "", When::Always).await.unwrap();
    let entry = coord.get("a/b").await.unwrap().unwrap();
    assert!(entry.created == again && entry.value.is_empty() && again.0 > second.0 + 1);
}

#[tokio::test]
async fn a_lease_lasts_its_time_and_its_keys_go_with_it() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let (engine, caps) = (coord.engine(), coord.caps());
    assert_eq!(caps.min_ttl, Duration::from_secs(2), "of an election timeout of a second");
    assert_eq!(engine.grant(Duration::from_millis(1999)).await.unwrap_err().kind(), Kind::Invalid);
    let lease = engine.grant(Duration::from_millis(2500)).await.unwrap();
    let kept = engine.grant(caps.min_ttl).await.unwrap();
    for (key, lease) in [("gone", &lease), ("kept", &kept), ("freed", &lease)] {
        engine.put(key, "x".into(), When::Absent, Some(lease)).await.unwrap();
    }
    coord.put("freed", "y", When::Always).await.unwrap();
    let moved = engine.put("moved", "x".into(), When::Always, Some(&lease)).await.unwrap();
    engine.put("moved", "x".into(), When::Is(moved), Some(&kept)).await.unwrap();
    assert_eq!(coord.get("gone").await.unwrap().unwrap().lease, Some(lease.clone()));
    assert_eq!(coord.get("freed").await.unwrap().unwrap().lease, None);
    engine.renew(&lease).await.unwrap();
    let renewed = Instant::now();
    let end = loop {
        engine.renew(&kept).await.unwrap();
        if coord.get("gone").await.unwrap().is_none() {
            break renewed.elapsed();
        }
        tokio::time::sleep(MOMENT / 3).await;
    };
    assert!(end >= Duration::from_millis(2500) && end <= Duration::from_millis(2500) + caps.slack, "{end:?}");
    for key in ["kept", "freed", "moved"] {
        assert!(coord.get(key).await.unwrap().is_some(), "{key}");
    }
    said(&engine.renew(&lease).await.unwrap_err(), Kind::NotFound, "lease");
    engine.revoke(&kept).await.unwrap();
    engine.revoke(&kept).await.unwrap();
    assert!(coord.get("kept").await.unwrap().is_none());
}

#[tokio::test]
async fn a_lease_that_has_ended_takes_no_key() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let engine = coord.engine();
    let lease = engine.grant(SOON).await.unwrap();
    engine.revoke(&lease).await.unwrap();
    let rev = coord.put("there", "", When::Always).await.unwrap();
    for lease in [lease, LeaseId("7".into()), LeaseId("nonsense".into())] {
        for (key, when) in [("a", When::Always), ("a", When::Absent), ("there", When::Is(rev))] {
            let error = engine.put(key, "x".into(), when, Some(&lease)).await.unwrap_err();
            said(&error, Kind::NotFound, "lease");
        }
        said(&engine.renew(&lease).await.unwrap_err(), Kind::NotFound, "lease");
        engine.revoke(&lease).await.unwrap();
    }
    assert!(coord.get("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_prefix_is_a_space_of_its_own_and_foreign_keys_are_left_alone() {
    let server = one();
    let (all, shop) = (open(server.url()).await.unwrap(), format!("{}?prefix=shop/", server.url()));
    let shop = open(&shop).await.unwrap();
    for key in ["a", "b/c", "é", "ü/1"] {
        shop.put(key, key, When::Absent).await.unwrap();
    }
    all.put("shop0", "", When::Always).await.unwrap();
    // "shop/\xff" and "shop/a//b", which Linchpin couldn't name.
    for key in ["c2hvcC//", "c2hvcC9hLy9i"] {
        post(server.ports()[0], "kv/put", &format!(r#"{{"key":"{key}"}}"#));
    }
    let keys =
        |entries: Vec<linchpin_core::coord::Entry>| entries.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(shop.list("").await.unwrap()), ["a", "b/c", "é", "ü/1"]);
    assert_eq!(keys(all.list("shop/b").await.unwrap()), ["shop/b/c"]);
    assert_eq!(keys(all.list("shop").await.unwrap()).len(), 5);
    // Pages are filled though there are foreign keys between.
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = shop.engine().list("", seen.last().map(String::as_str), 1).await.unwrap();
        assert!(page.len() <= 1);
        if page.is_empty() {
            break;
        }
        seen.extend(keys(page));
    }
    assert_eq!(seen, ["a", "b/c", "é", "ü/1"]);
    assert_eq!(keys(shop.engine().list("b", Some("a"), 9).await.unwrap()), ["b/c"]);
    assert!(shop.engine().list("b", Some("c"), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn many_keys_and_the_largest_value_come_back_whole() {
    let server = one();
    let coord = open(server.url()).await.unwrap();
    let max = coord.caps().max_value;
    let (key, large) = ("k".repeat(512), vec![7_u8; max]);
    let rev = coord.put(&key, large.clone(), When::Absent).await.unwrap();
    coord.put(&key, large.clone(), When::Is(rev)).await.unwrap();
    assert_eq!(coord.get(&key).await.unwrap().unwrap().value, large);
    assert_eq!(coord.put(&key, vec![7; max + 1], When::Always).await.unwrap_err().kind(), Kind::Invalid);
    for n in 0..20 {
        coord.put(&format!("large/{n:02}"), large.clone(), When::Absent).await.unwrap();
    }
    let puts = (0..1200).map(|n| {
        let coord = coord.clone();
        async move { coord.put(&format!("many/{n:04}"), n.to_string(), When::Absent).await.unwrap() }
    });
    futures_util::future::join_all(puts).await;
    assert_eq!(coord.engine().list("large/", None, 100).await.unwrap().len(), 20, "30 MB in one answer");
    let all = coord.engine().list("many/", None, 5000).await.unwrap();
    assert!(all.len() == 1200 && all.is_sorted_by(|a, b| a.key < b.key));
    let some = coord.engine().list("many/", Some("many/0099"), 700).await.unwrap();
    assert_eq!((some.len(), some[0].key.as_str()), (700, "many/0100"));
}
