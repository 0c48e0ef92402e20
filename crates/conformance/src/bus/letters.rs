//! Dead letters: when they are made, what they carry, and the way back.

use std::time::Duration;

use linchpin::bus::{
    DEAD_ATTEMPTS, DEAD_GROUP, DEAD_POSITION, DEAD_REASON, DEAD_TIME, DEAD_TOPIC, Delivery, Message,
    NO_REPLY, Settle, SubscribeOptions, dead_topic,
};
use linchpin::{Kind, Timestamp};
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

fn header<'a>(letter: &'a Delivery, name: &str) -> &'a str {
    letter.message.headers.text(name).unwrap_or("-")
}

/// The dead letters of `t` and `g`, taken by a group of their own.
async fn letters(w: &World) -> Sub {
    join(&w.bus, &dead_topic("t", "g"), &group("audit")).await
}

pub(super) async fn the_last_attempt_makes_a_dead_letter(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &SubscribeOptions { max_attempts: 3, ..group("g") }).await;
    let other = join(&w.bus, "t", &group("other")).await;
    let sent = Message::new("hopeless").key("k").header("mine", "kept");
    let position = w.bus.publish("t", sent.clone()).await.unwrap();
    publish(&w.bus, "t", 0..1).await;
    for attempt in 1..=3 {
        for delivery in take(&sub, if attempt == 1 { 2 } else { 1 }).await {
            if text(&delivery) == "0" {
                ack(&sub, &[delivery]).await;
                continue;
            }
            assert_eq!(delivery.attempt, attempt);
            let nack = Settle::Nack { delay: Duration::ZERO, reason: format!("reason {attempt}") };
            settle(&sub, delivery.receipt, nack).await.unwrap();
        }
    }
    silence(&sub, MOMENT).await;
    let letter = one(&letters(&w).await).await;
    assert_eq!((&letter.message.id, &letter.message.key), (&sent.id, &sent.key));
    assert_eq!((text(&letter), header(&letter, "mine"), letter.attempt), ("hopeless", "kept", 1));
    let origin = [DEAD_REASON, DEAD_ATTEMPTS, DEAD_TOPIC, DEAD_GROUP].map(|name| header(&letter, name));
    assert_eq!(origin, ["reason 3", "3", "t", "g"]);
    assert_eq!(header(&letter, DEAD_POSITION), position.to_string());
    let when: Timestamp = header(&letter, DEAD_TIME).parse().unwrap();
    assert!(Timestamp::now().duration_since(when).as_secs().abs() < 60);
    // Other groups aren't concerned.
    assert_eq!(drain(&other).await.len(), 2);
}

pub(super) async fn silence_at_the_last_attempt_makes_a_dead_letter(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..2).await;
    let sub = join(&w.bus, "t", &SubscribeOptions { max_attempts: 1, ..brief("g") }).await;
    let held = take(&sub, 2).await;
    settle(&sub, held[0].receipt, Settle::Dead { reason: "the topic of dead letters exists".into() })
        .await
        .unwrap();
    let letters = letters(&w).await;
    ack(&letters, &[one(&letters).await]).await;
    // Who waits for dead letters is told of one that time alone makes.
    let started = Instant::now();
    let members = tokio::spawn(async move { (sub.next(1, SOON / 2).await.unwrap().len(), sub) });
    let letter = one(&letters).await;
    assert!(started.elapsed() <= lease() + GRACE, "after {:?}", started.elapsed());
    let origin = [DEAD_REASON, DEAD_ATTEMPTS].map(|name| header(&letter, name));
    assert_eq!((number(&letter), origin), (number(&held[1]), [NO_REPLY, "1"]));
    publish(&w.bus, "t", 2..3).await;
    let (others, sub) = members.await.unwrap();
    assert_eq!(others, 1, "the next message, not the dead one");
    fenced(settle(&sub, held[1].receipt, Settle::Ack).await);
}

pub(super) async fn a_hopeless_message_is_dead_at_once(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..2).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let held = take(&sub, 2).await;
    settle(&sub, held[0].receipt, Settle::Dead { reason: "can't be read".into() }).await.unwrap();
    ack(&sub, &held[1..]).await;
    silence(&sub, MOMENT).await;
    let letter = one(&letters(&w).await).await;
    let origin = [DEAD_REASON, DEAD_ATTEMPTS].map(|name| header(&letter, name));
    assert_eq!((number(&letter), origin), (number(&held[0]), ["can't be read", "1"]));
}

pub(super) async fn redrive_reaches_only_the_group_it_failed_in(w: World) {
    w.topic("t", 2).await;
    assert_kind(w.bus.redrive("t", "g", 10).await, Kind::NotFound);
    let failed = w.bus.subscribe("t", &group("g")).await.unwrap();
    let other = w.bus.subscribe("t", &group("other")).await.unwrap();
    publish(&w.bus, "t", 0..5).await;
    let mut ids = Vec::new();
    while ids.len() < 5 {
        for delivery in failed.next(5, SOON).await.unwrap() {
            ids.push(delivery.message.id.clone());
            failed.dead(delivery, "the mail server is down").await.unwrap();
        }
    }
    let mut theirs = 0;
    while theirs < 5 {
        for delivery in other.next(5, SOON).await.unwrap() {
            other.ack(delivery).await.unwrap();
            theirs += 1;
        }
    }
    assert_eq!(w.bus.redrive("t", "g", 2).await.unwrap(), 2);
    assert_eq!(w.bus.redrive("t", "g", 10).await.unwrap(), 3);
    assert_eq!(w.bus.redrive("t", "g", 10).await.unwrap(), 0);
    let mut again = Vec::new();
    while again.len() < 5 {
        for delivery in failed.next(5, SOON).await.unwrap() {
            assert_eq!((delivery.attempt, header(&delivery, DEAD_REASON)), (1, "-"), "attempts start over");
            again.push(delivery.message.id.clone());
            failed.ack(delivery).await.unwrap();
        }
    }
    ids.sort();
    again.sort();
    assert_eq!(again, ids);
    assert!(other.next(5, MOMENT).await.unwrap().is_empty(), "the other group had them");
}

pub(super) async fn redrive_keeps_the_partition(w: World) {
    w.topic("t", 4).await;
    let messages = (0..8_u32).map(|n| match n {
        0..4 => Message::new(n.to_string()).partition(n),
        _ => Message::new(n.to_string()).key(n.to_string()),
    });
    send(&w.bus, "t", messages.collect()).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let mut before = Vec::new();
    for delivery in take(&sub, 8).await {
        before.push((number(&delivery), delivery.position.partition));
        settle(&sub, delivery.receipt, Settle::Dead { reason: "no".into() }).await.unwrap();
    }
    assert_eq!(w.bus.redrive("t", "g", 10).await.unwrap(), 8);
    let mut after: Vec<_> = take(&sub, 8).await.iter().map(|d| (number(d), d.position.partition)).collect();
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(after, before, "a key stays with its partition, and so does what was put there by hand");
}
