//! Processes that are killed and frozen, and what the others see of it.

use std::collections::BTreeMap;
use std::time::Duration;

use linchpin::bus::Order;
use linchpin::bus::SubscribeOptions;
use tokio::time::Instant;

use crate::child::Child;
use crate::protocol::{Command, Event};
use crate::tools::*;
use crate::world::World;

pub(super) async fn a_killed_consumer_loses_its_deliveries(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..10).await;
    let mut child = w.child().await;
    child.join("t", "g", false, lease_ms()).await;
    let held = child.take(10).await;
    child.kill().await;
    let started = Instant::now();
    let sub = join(&w.bus, "t", &brief("g")).await;
    let again = take(&sub, 10).await;
    let took = started.elapsed();
    assert!(took <= lease() + GRACE, "after {took:?}");
    assert!(again.iter().all(|d| d.attempt == 2));
    assert_eq!(held.len(), 10);
    assert_each_once(numbers(&again), 10);
}

pub(super) async fn a_frozen_consumer_is_fenced(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..1).await;
    let mut child = w.child().await;
    child.join("t", "g", false, lease_ms()).await;
    let held = child.take(1).await.remove(0);
    child.freeze();
    let started = Instant::now();
    // What it will do first when it goes on.
    child.tell(&Command::Ack { receipt: held.receipt }).await;
    let sub = join(&w.bus, "t", &brief("g")).await;
    let joined = started.elapsed();
    let delivery = one(&sub).await;
    assert!(
        started.elapsed() <= lease() + GRACE,
        "joined after {joined:?}, told after {:?}",
        started.elapsed()
    );
    assert_eq!(delivery.attempt, 2);
    child.thaw();
    let mut answer = child.event().await;
    // Where the server gave its connection up, that may be what it is told first: then it says it again.
    if matches!(&answer, Some(Event::Failed { kind, .. }) if kind == "Unavailable") {
        answer = Some(child.ask(&Command::Ack { receipt: held.receipt }).await);
    }
    assert!(matches!(&answer, Some(Event::Failed { kind, .. }) if kind == "Fenced"), "{answer:?}");
    // It settled nothing: the message is still its new holder's to hand back.
    nack(&sub, &delivery, Duration::ZERO).await;
    let again = take_of(&sub, &mut child).await;
    assert_eq!(again, 3);
}

/// The attempt of the one delivery that either gets.
async fn take_of(sub: &Sub, child: &mut Child) -> u32 {
    loop {
        if let Some(delivery) = sub.next(1, MOMENT).await.unwrap().first() {
            return delivery.attempt;
        }
        match child.ask(&Command::Next { max: 1, wait_ms: 200 }).await {
            Event::Taken(taken) if taken.is_empty() => {}
            Event::Taken(taken) => return taken[0].attempt,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) async fn attempts_survive_the_death_of_every_process(mut w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..1).await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        // Nobody else has the engine open when the child dies.
        let mut child = w.child().await;
        w.bus.close().await.unwrap();
        child.join("t", "g", false, lease_ms()).await;
        attempts.push(child.take(1).await[0].attempt);
        child.kill().await;
        w.reopen().await;
    }
    attempts.push(one(&join(&w.bus, "t", &brief("g")).await).await.attempt);
    assert_eq!(attempts, [1, 2, 3, 4]);
}

pub(super) async fn a_killed_publisher_loses_nothing_acknowledged(w: World) {
    w.topic("t", 4).await;
    let mut acknowledged = BTreeMap::new();
    let batch = 10;
    for round in 0..3 {
        let mut child = w.child().await;
        let from = round * 1_000_000;
        child.tell(&Command::Publish { topic: "t".into(), from, count: 1_000_000, batch }).await;
        // Killed at some point in the middle; what it still said before that counts.
        let mut heard = 0;
        while let Some(event) = child.event().await {
            let Event::Stored(stored) = event else { panic!("{event:?}") };
            acknowledged.extend(stored.into_iter().map(|(n, partition, offset)| (n, (partition, offset))));
            heard += 1;
            if heard == 20 + round * 7 {
                child.kill().await;
            }
        }
    }
    let sub = join(&w.bus, "t", &group("g")).await;
    let mut stored = BTreeMap::new();
    for delivery in drain(&sub).await {
        let place = (delivery.position.partition, delivery.position.offset);
        assert_eq!(stored.insert(number(&delivery), place), None, "{} twice", number(&delivery));
    }
    let lost: Vec<_> = acknowledged.iter().filter(|(n, place)| stored.get(n) != Some(place)).collect();
    assert!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
    let most = acknowledged.len() as u64 + 3 * batch;
    assert!(stored.len() as u64 <= most, "{} stored, {} acknowledged", stored.len(), acknowledged.len());
}

pub(super) async fn keys_stay_in_order_across_a_kill(w: World) {
    w.topic("t", 2).await;
    publish_by(&w.bus, "t", 0..40, |n| n % 4).await;
    let mut child = w.child().await;
    child.join("t", "g", true, lease_ms()).await;
    let held = child.take(4).await;
    assert!(held.iter().all(|seen| seen.fence > 0));
    let settled: u64 = held[0].text.parse().unwrap();
    let answer = child.ask(&Command::Ack { receipt: held[0].receipt }).await;
    assert!(matches!(answer, Event::Done), "{answer:?}");
    child.kill().await;
    let started = Instant::now();
    let sub = join(&w.bus, "t", &SubscribeOptions { order: Order::Key, ..brief("g") }).await;
    let mut lines = BTreeMap::from([(settled % 4, vec![settled])]);
    while lines.values().map(Vec::len).sum::<usize>() < 40 {
        let batch = sub.next(32, SOON).await.unwrap();
        assert!(!batch.is_empty(), "stuck: {lines:?}");
        assert!(started.elapsed() <= lease() + GRACE + MOMENT, "after {:?}", started.elapsed());
        for delivery in &batch {
            assert!(delivery.fence > held[0].fence, "the heir's fence is larger");
            lines.entry(number(delivery) % 4).or_default().push(number(delivery));
        }
        ack(&sub, &batch).await;
    }
    assert!(lines.values().all(|line| line.is_sorted()), "{lines:?}");
    assert_each_once(lines.into_values().flatten(), 40);
}

pub(super) async fn two_processes_publish_and_two_consume(w: World) {
    w.topic("t", 4).await;
    let (mut a, mut b) = (w.child().await, w.child().await);
    let (mut x, mut y) = (w.child().await, w.child().await);
    for child in [&mut x, &mut y] {
        child.join("t", "g", false, 30_000).await;
        child.tell(&Command::Consume).await;
    }
    let command = |from| Command::Publish { topic: "t".into(), from, count: 1_000, batch: 20 };
    a.tell(&command(0)).await;
    b.tell(&command(1_000)).await;
    let (mut stored, mut seen) = (0, Vec::new());
    let mut publishing = [true, true];
    while seen.len() < 2_000 || publishing != [false, false] {
        tokio::select! {
            event = a.event(), if publishing[0] => count_stored(event, &mut stored, &mut publishing[0]),
            event = b.event(), if publishing[1] => count_stored(event, &mut stored, &mut publishing[1]),
            event = x.event() => collect(event, &mut seen),
            event = y.event() => collect(event, &mut seen),
        }
    }
    assert_eq!(stored, 2_000);
    assert_each_once(seen, 2_000);
    silence(&join(&w.bus, "t", &group("g")).await, MOMENT).await;
}

fn count_stored(event: Option<Event>, stored: &mut usize, publishing: &mut bool) {
    match event {
        Some(Event::Stored(batch)) => *stored += batch.len(),
        Some(Event::Done) => *publishing = false,
        other => panic!("the publisher said {other:?}"),
    }
}

fn collect(event: Option<Event>, seen: &mut Vec<u64>) {
    match event {
        Some(Event::Taken(batch)) => seen.extend(batch.iter().map(|s| s.text.parse::<u64>().unwrap())),
        other => panic!("the consumer said {other:?}"),
    }
}

pub(super) async fn another_process_is_woken(w: World) {
    w.topic("t", 4).await;
    let mut child = w.child().await;
    child.join("t", "g", false, 30_000).await;
    child.tell(&Command::Next { max: 1, wait_ms: 10_000 }).await;
    // Long enough for it to be asleep.
    tokio::time::sleep(MOMENT * 2).await;
    let started = Instant::now();
    publish(&w.bus, "t", 0..1).await;
    let event = child.event().await;
    let took = started.elapsed();
    assert!(matches!(&event, Some(Event::Taken(taken)) if taken.len() == 1), "{event:?}");
    assert!(took < GRACE, "woken after {took:?}");
}
