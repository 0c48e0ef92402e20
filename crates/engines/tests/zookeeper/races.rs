//! A key that is made again isn't the one that was looked at.

use linchpin_core::Kind;
use linchpin_core::coord::When;
use tokio::task::JoinSet;

use crate::tools::{open, start};

/// While the first holder deletes "what I put", the key is deleted and put by the next one, whose node has the same version.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_holders_key_survives() {
    let server = start("zookeeper");
    let url = format!("{}/races", server.url());
    let (next, late) = (open(&url).await.unwrap(), open(&url).await.unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (next, late) = (next.clone(), late.clone());
        tasks.spawn(async move {
            let (key, mut deleted) = (format!("lock/{task}"), 0);
            for round in 0..250 {
                let first = next.put(&key, "first", When::Absent).await.unwrap();
                let (late, name) = (late.clone(), key.clone());
                let late = tokio::spawn(async move {
                    match round % 2 {
                        0 => late.delete(&name, When::Is(first)).await,
                        _ => late.put(&name, "late", When::Is(first)).await.map(|_| true),
                    }
                });
                next.delete(&key, When::Always).await.unwrap();
                let second = next.put(&key, "second", When::Always).await.unwrap();
                match late.await.unwrap() {
                    Ok(done) => deleted += usize::from(done),
                    Err(e) => assert_eq!(e.kind(), Kind::Conflict, "{e}"),
                }
                let there = next.get(&key).await.unwrap().expect("the next holder's key is there");
                assert_eq!((there.rev, there.value), (second, "second".into()), "round {round}");
                assert!(next.delete(&key, When::Is(second)).await.unwrap());
            }
            deleted
        });
    }
    let in_time: usize = tasks.join_all().await.into_iter().sum();
    assert!(in_time > 0, "the late one never was in time: there was no race");
}

/// A directory that everything was deleted from may vanish at any time; creating goes on.
#[tokio::test(flavor = "multi_thread")]
async fn keys_under_each_other_come_and_go() {
    let server = start("zookeeper");
    let coord = open(&format!("{}/dirs", server.url())).await.unwrap();
    let lease = coord.engine().grant(coord.caps().min_ttl * 10).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (coord, lease) = (coord.clone(), lease.clone());
        tasks.spawn(async move {
            for round in 0..30 {
                let key = format!("a/{}/{task}", round % 3);
                coord.engine().put(&key, "".into(), When::Absent, Some(&lease)).await.unwrap();
                let _ = coord.put("a", task.to_string(), When::Always).await.unwrap();
                let seen = coord.list("a").await.unwrap();
                assert!(seen.iter().any(|entry| entry.key == key && entry.lease.as_ref() == Some(&lease)));
                assert!(coord.delete(&key, When::Always).await.unwrap());
            }
        });
    }
    tasks.join_all().await;
    let left = coord.list("").await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a"]);
}
