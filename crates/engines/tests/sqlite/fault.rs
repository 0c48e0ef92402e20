//! Wrong inputs, full disks, and living beside others in one file.

use std::time::Duration;

use linchpin_core::bus::*;
use linchpin_core::{Kind, Retry};

use super::help::*;

const HOW: PublishOptions = PublishOptions { partitioner: Partitioner::KeyHash };

#[tokio::test]
async fn wrong_files_are_named_with_a_remedy() {
    let place = Place::new();
    let folder = place.file().parent().unwrap().to_owned();
    std::fs::write(
        folder.join("text.db"),
        "this is no database, but long enough to be taken for one: ".repeat(40),
    )
    .unwrap();
    for (path, kind, part) in [
        ("none/bus.db", Kind::Config, "mkdir -p"),
        ("", Kind::Config, "is a folder"),
        ("gone.db?create=false", Kind::NotFound, "gone.db"),
        ("text.db", Kind::Corrupt, "isn't an SQLite database"),
    ] {
        let error = open(&format!("sqlite://{}/{path}", folder.display())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.to_string().contains(part) && error.remedy().is_some(), "{error}");
    }
    assert!(!folder.join("gone.db").exists());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let place = Place::new();
    place.open().await.close().await.unwrap();
    let raw = rusqlite::Connection::open(place.file()).unwrap();
    raw.execute("UPDATE lp_schema SET version = 99", []).unwrap();
    let error = open(&format!("sqlite://{}", place.file().display())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("version 99") && error.to_string().contains("upgrade"), "{error}");
}

#[tokio::test]
async fn it_lives_in_a_users_database() {
    let place = Place::new();
    let raw = rusqlite::Connection::open(place.file()).unwrap();
    raw.execute_batch("PRAGMA user_version = 7; CREATE TABLE orders(id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1);").unwrap();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..3)).await;
    bus.close().await.unwrap();
    let version: i64 = raw.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let rows: i64 = raw.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap();
    assert_eq!((version, rows), (7, 1));
}

#[tokio::test]
async fn a_full_database_says_so_writes_nothing_half_and_goes_on_when_there_is_room() {
    let place = Place::new();
    let bus = place.open_with("max_size=1MiB").await;
    let options = TopicOptions { partitions: 2, retention_length: Some(1), ..TopicOptions::default() };
    bus.ensure("t", &options).await.unwrap();
    let sub = member(&bus, &group()).await;
    let big = || (0..10).map(|n| Message::new(vec![0_u8; 10_000]).partition(n % 2)).collect::<Vec<_>>();
    let mut stored = 0;
    let error = loop {
        let answers = bus.publish("t", big(), &HOW).await;
        let kept = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!(kept == 0 || kept == 10, "half a batch");
        stored += kept as u64;
        if let Some(Err(error)) = answers.into_iter().next() {
            break error;
        }
        assert!(stored < 1000);
    };
    assert_eq!(error.kind(), Kind::Limited);
    assert!(matches!(error.retry(), Retry::Safe { .. }));
    assert!(error.to_string().contains("max_size"), "{error}");
    assert_eq!(stats(&bus, "t").await.messages, stored);
    // A small one beside a large one still finds room: jobs of one commit don't spoil each other.
    let small = || bus.publish("t", vec![Message::new("small")], &HOW);
    let large = || bus.publish("t", big(), &HOW);
    let ((a, b), c) = tokio::join!(async { tokio::join!(large(), small()) }, large());
    assert!(a[0].is_err() && c[0].is_err());
    stored += b.iter().filter(|answer| answer.is_ok()).count() as u64;
    // Consuming and trimming makes room.
    let mut seen = 0;
    while seen < stored {
        let got = get(&*sub, 1).await;
        seen += 1;
        ack(&*sub, &got).await;
    }
    nothing(&*sub, Duration::ZERO).await;
    bus.trim("t").await.unwrap();
    assert!(large().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn another_processs_transaction_is_waited_for_and_then_named() {
    let place = Place::new();
    let bus = place.open_with("busy=200ms").await;
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    let raw = rusqlite::Connection::open(place.file()).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = bus.publish("t", numbered(0..1), &HOW).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(matches!(error.retry(), Retry::Safe { .. }), "{error:?}");
    let waits = bus.publish("t", numbered(0..1), &HOW);
    let frees = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        raw.execute_batch("ROLLBACK").unwrap();
    };
    let (answers, ()) = tokio::join!(waits, frees);
    assert!(answers[0].is_ok());
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let sub = member(&bus, &group()).await;
    send(&bus, numbered(0..200)).await;
    let mut seen = Vec::new();
    for n in 0_u32.. {
        let patience = Duration::from_micros(u64::from(n % 40) * 10);
        if let Ok(got) = tokio::time::timeout(patience, sub.next(3, SECOND)).await {
            let got = got.unwrap();
            assert!(got.iter().all(|d| d.attempt == 1));
            seen.extend(texts(&got));
            ack(&*sub, &got).await;
        }
        if seen.len() == 200 {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 200);
}
