//! Many at once.

use std::collections::BTreeSet;

use linchpin::Kind;
use linchpin::coord::{Rev, When};
use tokio::task::JoinSet;

use super::tools::*;
use crate::world::Space;

pub(super) async fn one_of_many_creates_a_key(s: Space) {
    for round in 0..5 {
        let key = format!("race/{round}");
        let mut tasks = JoinSet::new();
        for task in 0..20 {
            let (coord, key) = (s.coord.clone(), key.clone());
            tasks.spawn(async move { coord.put(&key, task.to_string(), When::Absent).await });
        }
        let answers = tasks.join_all().await;
        let won: Vec<Rev> = answers.iter().filter_map(|answer| answer.as_ref().ok().copied()).collect();
        let lost = answers.iter().filter(|a| a.as_ref().is_err_and(|e| e.kind() == Kind::Conflict)).count();
        assert_eq!((won.len(), lost), (1, 19), "{answers:?}");
        assert_eq!(s.coord.get(&key).await.unwrap().unwrap().rev, won[0]);
    }
}

pub(super) async fn compare_and_set_loses_no_increment(s: Space) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let coord = s.coord.clone();
        tasks.spawn(async move {
            let mut revs = Vec::new();
            for _ in 0..25 {
                revs.push(increment(&coord, "count").await.unwrap());
            }
            revs
        });
    }
    let revs = tasks.join_all().await;
    assert_eq!(number(&s.coord, "count").await, 200);
    assert!(revs.iter().all(|revs| revs.is_sorted_by(|a, b| a < b)), "{revs:?}");
    assert_eq!(revs.concat().into_iter().collect::<BTreeSet<_>>().len(), 200, "no revision twice");
}

pub(super) async fn revisions_are_in_the_order_of_writes(s: Space) {
    let mut tasks = JoinSet::new();
    for task in 0..10 {
        let coord = s.coord.clone();
        tasks.spawn(async move {
            let mut revs = Vec::new();
            for n in 0..30 {
                revs.push(put(&coord, &format!("k/{}", (task + n) % 7), "x").await);
            }
            revs
        });
    }
    let revs = tasks.join_all().await;
    for revs in &revs {
        assert!(revs.is_sorted_by(|a, b| a < b), "a later write of the same task: {revs:?}");
    }
    let last = *revs.concat().iter().max().unwrap();
    assert_eq!(revs.concat().into_iter().collect::<BTreeSet<_>>().len(), 300, "no revision twice");
    assert!(put(&s.coord, "other", "x").await > last);
}

pub(super) async fn one_of_many_deletes_a_key(s: Space) {
    for _ in 0..5 {
        let rev = put(&s.coord, "a", "x").await;
        let mut tasks = JoinSet::new();
        for _ in 0..10 {
            let coord = s.coord.clone();
            tasks.spawn(async move { coord.delete("a", When::Is(rev)).await.unwrap() });
        }
        assert_eq!(tasks.join_all().await.into_iter().filter(|deleted| *deleted).count(), 1);
    }
}
