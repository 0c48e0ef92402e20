//! The pipelined publisher, and many publishers at once.

use std::collections::BTreeMap;

use linchpin::Kind;
use linchpin::bus::{Message, PublisherOptions};
use tokio::task::JoinSet;

use crate::tools::*;
use crate::world::World;

pub(super) async fn ten_tasks_publish_ten_thousand(w: World) {
    w.topic("t", 4).await;
    let mut tasks = JoinSet::new();
    for task in 0..10 {
        let bus = w.bus.clone();
        tasks.spawn(async move {
            for batch in 0..20 {
                let from = task * 1_000 + batch * 50;
                // Under a key all messages of a task stand in one partition, in order.
                if bus.caps().metadata {
                    publish_by(&bus, "t", from..from + 50, |_| task).await;
                } else {
                    publish(&bus, "t", from..from + 50).await;
                }
            }
        });
    }
    tasks.join_all().await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let taken = drain(&sub).await;
    let mut places: Vec<_> = taken.iter().map(|d| d.position).collect();
    places.sort_unstable();
    assert!(
        places.windows(2).all(|pair| pair[0] < pair[1]) || !w.bus.caps().offsets,
        "a place was given twice"
    );
    // Each task's messages stand in the order it sent them.
    let mut lines: BTreeMap<u64, BTreeMap<_, u64>> = BTreeMap::new();
    for delivery in taken.iter().filter(|d| d.position.offset.is_some()) {
        lines.entry(number(delivery) / 1_000).or_default().insert(delivery.position, number(delivery));
    }
    for (task, line) in lines {
        assert!(line.values().is_sorted(), "task {task} is out of order");
    }
    assert_each_once(numbers(&taken), 10_000);
}

pub(super) async fn receipts_match_what_consumers_see(w: World) {
    w.topic("t", 4).await;
    let publisher = w.bus.publisher("t", PublisherOptions { max_batch: 64, ..PublisherOptions::default() });
    let mut answers = Vec::new();
    for n in 0..500_u64 {
        let message = Message::new(n.to_string()).key((n % 9).to_string());
        // One of them has nowhere to go.
        let message = if n == 250 { message.partition(4) } else { message };
        answers.push((n, publisher.send(message).await.unwrap()));
    }
    assert_kind(publisher.flush().await, Kind::Invalid);
    let mut promised = BTreeMap::new();
    for (n, answer) in answers {
        match answer.await {
            Ok(position) => assert_eq!(promised.insert(position, n), None, "{position} was given twice"),
            Err(error) => assert_eq!((n, error.kind()), (250, Kind::Invalid)),
        }
    }
    let sub = join(&w.bus, "t", &group("g")).await;
    let seen: BTreeMap<_, _> = drain(&sub).await.iter().map(|d| (d.position, number(d))).collect();
    assert_eq!(seen, promised);
}

pub(super) async fn closing_publishes_all_it_accepted(w: World) {
    w.topic("t", 4).await;
    let publisher = w.bus.publisher("t", PublisherOptions::default());
    let mut tasks = JoinSet::new();
    for task in 0..10_u64 {
        let publisher = publisher.clone();
        tasks.spawn(async move {
            let mut accepted = Vec::new();
            for n in 0..1_000 {
                let number = task * 1_000 + n;
                match publisher.send(Message::new(number.to_string())).await {
                    Ok(_) => accepted.push(number),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Closed);
                        break;
                    }
                }
                if n % 100 == 0 {
                    tokio::task::yield_now().await;
                }
                // In the middle of it all, one of them closes it for everybody.
                if number == 3_500 {
                    publisher.close().await.unwrap();
                }
            }
            accepted
        });
    }
    let mut accepted = tasks.join_all().await.concat();
    publisher.close().await.unwrap();
    let sub = join(&w.bus, "t", &group("g")).await;
    let mut stored = numbers(&drain(&sub).await);
    accepted.sort_unstable();
    stored.sort_unstable();
    assert!(!accepted.is_empty() && accepted.len() < 10_000, "{} were accepted", accepted.len());
    assert!(stored == accepted, "{} stored, {} accepted", stored.len(), accepted.len());
}
