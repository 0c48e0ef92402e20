//! From publisher to subscriber: everything, intact, no more than asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linchpin::bus::{Message, Start, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

pub(super) async fn hundred_in_hundred_out_intact(w: World) {
    w.topic("t", 4).await;
    let bytes = |n: u8| (0..n).map(|i| i.wrapping_mul(37) ^ n).collect::<Vec<_>>();
    let messages = (0..100_u8).map(|n| {
        let message = Message::new(bytes(n)).header("bytes", bytes(99 - n)).header("n", n.to_string());
        let message = message.header("n", "again").header("", "");
        let message = if n % 3 == 0 { message } else { message.key(bytes(n % 7)) };
        if n % 2 == 0 { message } else { message.id(format!("own/id {n} ö").as_str()) }
    });
    let messages: Vec<_> = messages.collect();
    send(&w.bus, "t", messages.clone()).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let taken = take(&sub, 100).await;
    let mut came: HashMap<_, _> = taken.into_iter().map(|d| (d.message.id.clone(), d)).collect();
    assert_eq!(came.len(), 100, "ids are unique");
    for sent in messages {
        let delivery = came.remove(&sent.id).unwrap_or_else(|| panic!("{} didn't come", sent.id));
        assert_eq!((delivery.attempt, delivery.fence), (1, 0));
        assert_eq!(delivery.message, sent);
    }
    silence(&sub, MOMENT).await;
}

pub(super) async fn five_thousand_over_fifty_subscribers(w: World) {
    w.topic("t", 4).await;
    let (count, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut members = JoinSet::new();
    for _ in 0..50 {
        let sub = join(&w.bus, "t", &group("g")).await;
        let count = count.clone();
        members.spawn(async move {
            let mut mine = Vec::new();
            while count.load(Ordering::SeqCst) < 5_000 && started.elapsed() < LONG {
                let batch = sub.next(16, MOMENT).await.unwrap();
                ack(&sub, &batch).await;
                count.fetch_add(batch.len() as u64, Ordering::SeqCst);
                mine.extend(numbers(&batch));
            }
            mine
        });
    }
    for n in 0..50 {
        publish(&w.bus, "t", n * 100..(n + 1) * 100).await;
    }
    assert_each_once(members.join_all().await.concat(), 5_000);
}

pub(super) async fn topics_are_isolated(w: World) {
    for topic in 0..20 {
        let name = format!("t{topic}");
        w.topic(&name, 2).await;
        publish(&w.bus, &name, topic * 100..(topic + 1) * 100).await;
    }
    for topic in 0..20 {
        let sub = join(&w.bus, &format!("t{topic}"), &group("g")).await;
        assert_each_once(numbers(&drain(&sub).await).into_iter().map(|n| n - topic * 100), 100);
    }
}

pub(super) async fn every_group_gets_all(w: World) {
    w.topic("t", 4).await;
    let (a, b) = (join(&w.bus, "t", &group("a")).await, join(&w.bus, "t", &group("b")).await);
    publish(&w.bus, "t", 0..100).await;
    assert_each_once(numbers(&drain(&a).await), 100);
    assert_each_once(numbers(&drain(&b).await), 100);
}

pub(super) async fn a_new_group_gets_old_messages(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..50).await;
    let early = join(&w.bus, "t", &group("early")).await;
    assert_each_once(numbers(&drain(&early).await), 50);
    publish(&w.bus, "t", 50..100).await;
    let late = join(&w.bus, "t", &group("late")).await;
    assert_each_once(numbers(&drain(&late).await), 100);
}

pub(super) async fn a_new_group_can_start_at_the_newest(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..10).await;
    let newest = SubscribeOptions { start: Start::Newest, ..group("g") };
    let sub = join(&w.bus, "t", &newest).await;
    publish(&w.bus, "t", 10..20).await;
    close(&sub).await;
    // The group is there now: where it starts is settled.
    let again = join(&w.bus, "t", &newest).await;
    let mut came = numbers(&drain(&again).await);
    came.sort_unstable();
    assert_eq!(came, (10..20).collect::<Vec<_>>());
}

pub(super) async fn broadcast_gets_all_and_leaves_nothing(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..10).await;
    let all = SubscribeOptions::broadcast();
    let (a, b) = (join(&w.bus, "t", &all).await, join(&w.bus, "t", &all).await);
    publish(&w.bus, "t", 10..60).await;
    for sub in [&a, &b] {
        let mut came = numbers(&take(sub, 50).await);
        came.sort_unstable();
        assert_eq!(came, (10..60).collect::<Vec<_>>(), "what was published while it lives");
        silence(sub, Duration::ZERO).await;
    }
    close(&a).await;
    drop(b);
    let stats = w.bus.stats(None).await.unwrap();
    let names: Vec<_> = stats.iter().map(|t| (t.topic.as_str(), t.groups.len())).collect();
    assert_eq!(names, [("t", 0)]);
}

pub(super) async fn a_waiting_fetch_wakes_when_something_comes(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let waiting = tokio::spawn(async move { (sub.next(10, SOON).await.unwrap().len(), Instant::now()) });
    // Long enough for the fetch to be asleep.
    tokio::time::sleep(MOMENT).await;
    publish(&w.bus, "t", 0..1).await;
    let published = Instant::now();
    let (count, woken) = waiting.await.unwrap();
    assert_eq!(count, 1);
    let took = woken.saturating_duration_since(published);
    assert!(took < Duration::from_millis(500), "woken after {took:?}");
}

pub(super) async fn an_empty_fetch_waits_as_long_as_asked(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let started = Instant::now();
    silence(&sub, MOMENT).await;
    assert_timely(started, MOMENT);
}

pub(super) async fn a_fetch_is_no_larger_than_asked(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..20).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    for max in [1, 3, 7] {
        let batch = sub.next(max, SOON).await.unwrap();
        assert!((1..=max).contains(&batch.len()), "{} of at most {max}", batch.len());
        ack(&sub, &batch).await;
    }
    assert_eq!(sub.next(0, SOON).await.unwrap().len(), 1, "at least one is asked for");
}

pub(super) async fn a_slow_consumer_is_bounded(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..100).await;
    let slow = join(&w.bus, "t", &SubscribeOptions { max_in_flight: 7, ..group("g") }).await;
    let held = take(&slow, 7).await;
    silence(&slow, MOMENT).await;
    let stats = w.bus.stats(Some("t")).await.unwrap();
    assert_eq!(stats[0].groups[0].in_flight, 7);
    ack(&slow, &held[..3]).await;
    let more = take(&slow, 3).await;
    silence(&slow, MOMENT).await;
    // What it may not hold is there for others.
    let other = join(&w.bus, "t", &group("g")).await;
    let rest = take(&other, 90).await;
    assert_each_once([held, more, rest].iter().flat_map(|d| numbers(d)), 100);
}

pub(super) async fn cancelled_fetches_lose_nothing(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let publishing = async {
        for n in 0..200 {
            publish(&w.bus, "t", n * 5..(n + 1) * 5).await;
        }
    };
    let mut seen = Vec::new();
    let fetching = async {
        for patience in (0..40).cycle() {
            // Dropped at whatever point it has come to after so long, or after being polled once.
            let fetch = sub.next(5, Duration::from_secs(1));
            if let Ok(batch) = tokio::time::timeout(Duration::from_micros(patience * 100), fetch).await {
                let batch = batch.unwrap();
                assert!(batch.iter().all(|d| d.attempt == 1), "a lost fetch is no attempt");
                ack(&sub, &batch).await;
                seen.extend(numbers(&batch));
            }
            if seen.len() >= 1_000 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let both = async { tokio::join!(publishing, fetching) };
    let ended = tokio::time::timeout(LONG, both).await;
    assert_each_once(seen, 1_000);
    ended.expect("everything came in time");
}
