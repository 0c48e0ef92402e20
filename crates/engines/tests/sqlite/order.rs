//! Order per key and per partition.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use linchpin_core::Kind;
use linchpin_core::bus::*;

use super::help::*;

fn keyed(order: Order) -> SubscribeOptions {
    SubscribeOptions { order, ..group() }
}

fn of_keys(pairs: &[(&'static str, &'static str)]) -> Vec<Message> {
    pairs.iter().map(|(key, text)| Message::new(*text).key(*key)).collect()
}

#[tokio::test]
async fn one_of_each_key_at_a_time_also_across_nack_and_owner_change() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, of_keys(&[("a", "a1"), ("b", "b1"), ("a", "a2"), ("b", "b2"), ("a", "a3"), ("c", "c1")]))
        .await;
    let one = member(&bus, &keyed(Order::Key)).await;
    let got = get(&*one, 3).await;
    assert_eq!(texts(&got), ["a1", "b1", "c1"]);
    assert!(got.iter().all(|d| d.fence == 1 && d.attempt == 1));
    nothing(&*one, Duration::from_millis(50)).await;
    settle(&*one, &got[..1], nack(Duration::from_millis(300))).await.remove(0).unwrap();
    ack(&*one, &got[1..2]).await;
    let more = get(&*one, 1).await;
    assert_eq!(texts(&more), ["b2"]);
    nothing(&*one, Duration::from_millis(50)).await;
    one.close(SECOND).await.unwrap();
    // The next owner finds a1 waiting and c1, b2 given up; a2 and a3 stay behind a1.
    let two = member(&bus, &keyed(Order::Key)).await;
    let mut first = get(&*two, 2).await;
    first.sort_by_key(text);
    assert_eq!(texts(&first), ["b2", "c1"]);
    assert!(first.iter().all(|d| d.attempt == 2 && d.fence == 2));
    let a1 = get(&*two, 1).await;
    assert_eq!((text(&a1[0]), a1[0].attempt), ("a1".to_owned(), 2));
    nothing(&*two, Duration::from_millis(50)).await;
    ack(&*two, &a1).await;
    let a2 = get(&*two, 1).await;
    assert_eq!((text(&a2[0]), a2[0].attempt), ("a2".to_owned(), 1));
    ack(&*two, &a2).await;
    let a3 = get(&*two, 1).await;
    ack(&*two, &a3).await;
    ack(&*two, &first).await;
    nothing(&*two, Duration::from_millis(50)).await;
    let left = stats(&bus, "t").await.groups.remove(0);
    assert_eq!((left.lag, left.in_flight, left.waiting), (0, 0, 0));
}

#[tokio::test]
async fn a_dead_owner_is_replaced_and_fenced() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, of_keys(&[("a", "a1"), ("b", "b1"), ("a", "a2")])).await;
    let options = SubscribeOptions { ack_wait: SECOND, ..keyed(Order::Key) };
    let one = member(&bus, &options).await;
    let got = get(&*one, 2).await;
    ack(&*one, &got[1..]).await;
    drop(one);
    let began = Instant::now();
    let two = member(&bus, &options).await;
    let again = get(&*two, 1).await;
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!((text(&again[0]), again[0].attempt, again[0].fence), ("a1".to_owned(), 2, 2));
    ack(&*two, &again).await;
    let last = get(&*two, 1).await;
    assert_eq!((text(&last[0]), last[0].attempt), ("a2".to_owned(), 1), "it was never handed out");
    ack(&*two, &last).await;
}

#[tokio::test]
async fn a_silent_owner_loses_the_message_to_a_member_that_asks() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let options = SubscribeOptions { ack_wait: SECOND, ..keyed(Order::Key) };
    let (one, two) = (member(&bus, &options).await, member(&bus, &options).await);
    send(&bus, of_keys(&[("a", "a1"), ("a", "a2")])).await;
    let got = get(&*one, 1).await;
    let began = Instant::now();
    let again = get(&*two, 1).await;
    let took = began.elapsed();
    assert!(took > SECOND * 9 / 10 && took < 2 * SECOND, "{took:?}");
    assert_eq!((text(&again[0]), again[0].attempt), ("a1".to_owned(), 2));
    assert_eq!(settle(&*one, &got, Settle::Ack).await.remove(0).unwrap_err().kind(), Kind::Fenced);
    ack(&*two, &again).await;
    let next = get(&*two, 1).await;
    assert_eq!(text(&next[0]), "a2");
    // The one that was idle takes part again once it asks.
    ack(&*two, &next).await;
    two.close(SECOND).await.unwrap();
    send(&bus, of_keys(&[("a", "a3")])).await;
    assert_eq!(texts(&get(&*one, 1).await), ["a3"]);
}

#[tokio::test]
async fn extending_keeps_an_ordered_delivery() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let options = SubscribeOptions { ack_wait: SECOND, ..keyed(Order::Key) };
    let one = member(&bus, &options).await;
    send(&bus, of_keys(&[("a", "a1"), ("b", "b1")])).await;
    let got = get(&*one, 2).await;
    let mut came = Vec::new();
    for _ in 0..5 {
        came.extend(texts(&one.next(9, Duration::from_millis(400)).await.unwrap()));
        settle(&*one, &got[..1], Settle::Extend).await.remove(0).unwrap();
    }
    assert!(!came.is_empty() && came.iter().all(|text| text == "b1"), "{came:?}");
    ack(&*one, &got[..1]).await;
}

#[tokio::test]
async fn partition_order_stops_at_a_nack() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..6)).await;
    let sub = member(&bus, &keyed(Order::Partition)).await;
    let got = get(&*sub, 3).await;
    assert_eq!(texts(&got), ["0", "1", "2"]);
    ack(&*sub, &got[..1]).await;
    settle(&*sub, &got[1..2], nack(Duration::from_millis(200))).await.remove(0).unwrap();
    nothing(&*sub, Duration::from_millis(50)).await;
    let rest = get(&*sub, 4).await;
    assert_eq!(texts(&rest), ["1", "3", "4", "5"]);
    assert_eq!(rest[0].attempt, 2);
}

#[tokio::test]
async fn members_share_partitions_and_hand_over_what_is_settled() {
    let place = Place::new();
    let (here, there) = (bus(&place, 4).await, place.open().await);
    let one = member(&here, &keyed(Order::Partition)).await;
    send(&here, (0..4).map(|p| Message::new("x").partition(p)).collect()).await;
    let held = get(&*one, 4).await;
    let two = member(&there, &keyed(Order::Partition)).await;
    send(&here, (0..4).map(|p| Message::new("y").partition(p)).collect()).await;
    // Nothing is handed over before it is settled.
    nothing(&*two, Duration::from_millis(500)).await;
    ack(&*one, &held).await;
    let mine = get(&*two, 2).await;
    let theirs = get(&*one, 2).await;
    let mut all: Vec<u32> = mine.iter().chain(&theirs).map(|d| d.position.partition).collect();
    all.sort();
    assert_eq!(all, [0, 1, 2, 3]);
    assert!(mine.iter().all(|d| d.fence == 2) && theirs.iter().all(|d| d.fence == 1));
    ack(&*one, &theirs).await;
    ack(&*two, &mine).await;
    two.close(SECOND).await.unwrap();
    send(&here, (0..4).map(|p| Message::new("z").partition(p)).collect()).await;
    assert_eq!(get(&*one, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_keep_their_order_over_many_members_that_come_and_go() {
    let place = Place::new();
    let bus = bus(&place, 4).await;
    const KEYS: usize = 16;
    const EACH: usize = 60;
    let mut batch = Vec::new();
    for n in 0..EACH {
        batch.extend((0..KEYS).map(|k| Message::new(format!("{k} {n}")).key(format!("key-{k}"))));
    }
    send(&bus, batch).await;
    let (seen, mut come) = tokio::sync::mpsc::unbounded_channel::<(usize, usize)>();
    let worker = |rounds: usize| {
        let (bus, seen) = (bus.clone(), seen.clone());
        tokio::spawn(async move {
            let sub = member(&bus, &keyed(Order::Key)).await;
            for round in 0..rounds {
                let got = sub.next(9, SECOND).await.unwrap();
                let mut batch = Vec::new();
                for (n, delivery) in got.iter().enumerate() {
                    if delivery.attempt == 1 && (n + round) % 5 == 0 {
                        batch.push((delivery.receipt, nack(Duration::from_millis(5))));
                        continue;
                    }
                    let words = text(delivery);
                    let (key, number) = words.split_once(' ').unwrap();
                    seen.send((key.parse().unwrap(), number.parse().unwrap())).unwrap();
                    batch.push((delivery.receipt, Settle::Ack));
                }
                sub.settle(batch).await.into_iter().for_each(|answer| answer.unwrap());
            }
            sub.close(SECOND).await.unwrap();
        })
    };
    let mut workers = vec![worker(5), worker(20), worker(usize::MAX), worker(usize::MAX)];
    workers.push(worker(10));
    let mut next: HashMap<usize, usize> = HashMap::new();
    for _ in 0..KEYS * EACH {
        let (key, number) = tokio::time::timeout(20 * SECOND, come.recv()).await.expect("stuck").unwrap();
        let expected = next.entry(key).or_default();
        assert_eq!(number, *expected, "key {key}");
        *expected += 1;
    }
    workers.into_iter().for_each(|worker| worker.abort());
}

#[tokio::test]
async fn a_hot_key_does_not_block_others_and_attempts_stay_exact() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let mut batch: Vec<_> = (0..300).map(|n| Message::new(format!("hot {n}")).key("hot")).collect();
    batch.extend((0..5).map(|n| Message::new(format!("cold {n}")).key(format!("{n}"))));
    send(&bus, batch).await;
    let options = SubscribeOptions { ack_wait: SECOND, max_attempts: 2, ..keyed(Order::Key) };
    let one = member(&bus, &options).await;
    let got = get(&*one, 6).await;
    assert_eq!(texts(&got), ["hot 0", "cold 0", "cold 1", "cold 2", "cold 3", "cold 4"]);
    let group = stats(&bus, "t").await.groups.remove(0);
    assert_eq!((group.lag, group.in_flight), (299, 6));
    ack(&*one, &got[1..]).await;
    drop(one);
    let two = member(&bus, &options).await;
    for n in 0..300 {
        let got = get(&*two, 1).await;
        let attempt = if n == 0 { 2 } else { 1 };
        assert_eq!((text(&got[0]), got[0].attempt), (format!("hot {n}"), attempt));
        ack(&*two, &got).await;
    }
}

#[tokio::test]
async fn kinds_of_order_do_not_mix_while_members_live() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..2)).await;
    let one = member(&bus, &keyed(Order::Key)).await;
    let held = get(&*one, 1).await;
    let error = bus.subscribe("t", &group()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    one.close(SECOND).await.unwrap();
    let two = member(&bus, &group()).await;
    let mut all = get(&*two, 2).await;
    all.sort_by_key(|d| d.position);
    assert_eq!((texts(&all), all[0].attempt), (vec![text(&held[0]), "1".into()], 2));
}
