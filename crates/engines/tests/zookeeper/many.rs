//! Many keys, many leases.

use std::time::{Duration, Instant};

use linchpin_core::coord::When;
use tokio::task::JoinSet;

use crate::tools::{lend, open, start};

#[tokio::test(flavor = "multi_thread")]
async fn tens_of_thousands_of_keys() {
    const KEYS: usize = 20_000;
    let server = start("zookeeper");
    let coord = open(&format!("{}/many?timeout=30s", server.url())).await.unwrap();
    let mut writers = JoinSet::new();
    for task in 0..50 {
        let coord = coord.clone();
        writers.spawn(async move {
            for n in (task..KEYS).step_by(50) {
                // Half of them in one directory, half in hundreds.
                let dir = if n % 2 == 0 { "flat".to_owned() } else { format!("deep/{:03}", n % 500) };
                coord.put(&format!("{dir}/{n:05}"), n.to_string(), When::Absent).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let started = Instant::now();
    let all = coord.list("").await.unwrap();
    assert_eq!(all.len(), KEYS);
    assert!(all.is_sorted_by(|a, b| a.key < b.key));
    assert!(
        all.iter()
            .all(|entry| entry.key.ends_with(&format!("{:0>5}", std::str::from_utf8(&entry.value).unwrap())))
    );
    let mut watched = coord.watch("").await.unwrap();
    assert_eq!(watched.snapshot, all);
    let rev = coord.put("flat/00000", "new", When::Always).await.unwrap();
    let changes = watched.changes.next(Duration::from_secs(10)).await.unwrap();
    assert_eq!((changes.len(), changes[0].rev()), (1, rev));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());

    // The servers are gone for a moment: everything is compared, and only what changed is told.
    server.kill().unwrap();
    server.restart().unwrap();
    let rev = coord.put("deep/001/x", "new", When::Always).await.unwrap();
    let changes = loop {
        match watched.changes.next(Duration::from_secs(10)).await {
            Ok(changes) if !changes.is_empty() => break changes,
            _ => assert!(started.elapsed() < Duration::from_secs(120), "nothing told"),
        }
    };
    assert_eq!((changes.len(), changes[0].rev()), (1, rev));
}

/// Servers take 60 connections from one address.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_leases() {
    let server = start("zookeeper");
    let coord = open(&format!("{}/leases", server.url())).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..300 {
        let coord = coord.clone();
        tasks.spawn(async move {
            let lease = coord.engine().grant(Duration::from_secs(60)).await.unwrap();
            lend(&coord, &format!("k/{n}"), &lease).await.unwrap();
            coord.engine().renew(&lease).await.unwrap();
            lend(&coord, &format!("k/{n}"), &lease).await.unwrap();
            lease
        });
    }
    let leases = tasks.join_all().await;
    assert_eq!(coord.list("k/").await.unwrap().len(), 300);
    let mut tasks = JoinSet::new();
    for lease in leases {
        let coord = coord.clone();
        tasks.spawn(async move { coord.engine().revoke(&lease).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(coord.list("k/").await.unwrap(), []);
}
