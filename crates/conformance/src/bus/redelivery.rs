//! What comes back, when, to whom, and how often it has.

use std::time::Duration;

use linchpin::bus::{Delivery, Order, Receipt, Settle, SubscribeOptions};
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

pub(super) async fn acknowledged_stays_acknowledged(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..20).await;
    let (a, b) = (join(&w.bus, "t", &brief("g")).await, join(&w.bus, "t", &brief("g")).await);
    let held = take(&a, 20).await;
    ack(&a, &held).await;
    silence(&b, lease() + GRACE).await;
    silence(&a, MOMENT).await;
}

pub(super) async fn a_nack_comes_back_after_its_delay(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..3).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let held = take(&sub, 3).await;
    let started = Instant::now();
    let delays = [1_300, 700, 0].map(Duration::from_millis);
    for (delivery, delay) in held.iter().zip(delays) {
        nack(&sub, delivery, delay).await;
    }
    for n in [2, 1, 0] {
        let again = one(&sub).await;
        assert_timely(started, delays[n]);
        assert_eq!((text(&again), again.attempt), (text(&held[n]), 2));
        ack(&sub, &[again]).await;
    }
}

pub(super) async fn attempts_count_up(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..1).await;
    let mut attempts = Vec::new();
    let sub = join(&w.bus, "t", &brief("g")).await;
    for _ in 0..3 {
        let delivery = one(&sub).await;
        attempts.push(delivery.attempt);
        nack(&sub, &delivery, Duration::ZERO).await;
    }
    attempts.push(one(&sub).await.attempt);
    // Neither the silence of a member nor its death is forgotten.
    attempts.push(one(&sub).await.attempt);
    drop(sub);
    let next = join(&w.bus, "t", &brief("g")).await;
    attempts.push(one(&next).await.attempt);
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
}

pub(super) async fn a_dropped_subscription_loses_its_deliveries(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..10).await;
    let dying = join(&w.bus, "t", &brief("g")).await;
    let started = Instant::now();
    take(&dying, 10).await;
    let other = join(&w.bus, "t", &brief("g")).await;
    drop(dying);
    let again = take(&other, 10).await;
    assert_timely(started, lease());
    assert!(again.iter().all(|d| d.attempt == 2));
    assert_each_once(numbers(&again), 10);
}

pub(super) async fn a_late_ack_is_fenced_and_changes_nothing(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..1).await;
    let slow = join(&w.bus, "t", &brief("g")).await;
    let lost = one(&slow).await;
    let other = join(&w.bus, "t", &brief("g")).await;
    let held = one(&other).await;
    for late in [Settle::Ack, Settle::Extend, Settle::Dead { reason: "late".into() }] {
        fenced(settle(&slow, lost.receipt, late).await);
    }
    let nack_late = Settle::Nack { delay: Duration::ZERO, reason: "late".into() };
    fenced(settle(&slow, lost.receipt, nack_late).await);
    silence(&slow, Duration::ZERO).await;
    // The message is still the other's: to keep, and to hand back.
    settle(&other, held.receipt, Settle::Extend).await.unwrap();
    nack(&other, &held, Duration::ZERO).await;
    let again = one(&other).await;
    assert_eq!(again.attempt, 3);
    ack(&other, &[again]).await;
    silence(&other, MOMENT).await;
}

pub(super) async fn extending_keeps_a_delivery(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..2).await;
    let (slow, other) = (join(&w.bus, "t", &brief("g")).await, join(&w.bus, "t", &brief("g")).await);
    let held = take(&slow, 2).await;
    let started = Instant::now();
    // The one that isn't extended goes, the other stays as long as it is.
    let mut gone = Vec::new();
    while started.elapsed() < lease() * 3 {
        settle(&slow, held[0].receipt, Settle::Extend).await.unwrap();
        let batch = other.next(10, lease() / 3).await.unwrap();
        ack(&other, &batch).await;
        gone.extend(numbers(&batch));
    }
    assert_eq!(gone, [number(&held[1])]);
    ack(&slow, &held[..1]).await;
    silence(&other, lease() + GRACE).await;
}

pub(super) async fn a_batch_can_be_settled_in_parts(w: World) {
    w.topic("t", 2).await;
    publish(&w.bus, "t", 0..60).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let mut open = take(&sub, 60).await;
    open.sort_by_key(number);
    // Every third at a time, in another order each time; the last third fails.
    for third in [1, 0] {
        let mut part: Vec<_> = open.extract_if(.., |d| number(d) % 3 == third).collect();
        part.reverse();
        assert_eq!(part.len(), 20);
        ack(&sub, &part).await;
    }
    let nack = |d: &Delivery| (d.receipt, Settle::Nack { delay: Duration::ZERO, reason: "again".into() });
    for answer in sub.settle(open.iter().map(nack).collect()).await {
        answer.unwrap();
    }
    let again = take(&sub, 20).await;
    assert!(again.iter().all(|d| d.attempt == 2 && number(d) % 3 == 2), "{:?}", texts(&again));
    ack(&sub, &again).await;
    silence(&sub, MOMENT).await;
}

pub(super) async fn settling_twice_is_fenced(w: World) {
    w.topic("t", 1).await;
    let (sub, other) = (join(&w.bus, "t", &group("g")).await, join(&w.bus, "t", &group("other")).await);
    publish(&w.bus, "t", 0..3).await;
    let held = take(&sub, 3).await;
    ack(&sub, &held[..1]).await;
    let answers = sub.settle(held.iter().map(|d| (d.receipt, Settle::Ack)).collect()).await;
    let fine: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [false, true, true], "one answer each, in the same order");
    for delivery in &held {
        fenced(settle(&sub, delivery.receipt, Settle::Ack).await);
    }
    let theirs = one(&other).await;
    fenced(settle(&other, Receipt(u64::MAX), Settle::Ack).await);
    ack(&other, &[theirs]).await;
}

pub(super) async fn a_failing_message_does_not_hold_up_others(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..50).await;
    let sub = join(&w.bus, "t", &SubscribeOptions { max_attempts: 1_000, ..group("g") }).await;
    let mut done = Vec::new();
    while done.len() < 49 {
        for delivery in sub.next(4, SOON).await.unwrap() {
            if number(&delivery) == 0 {
                nack(&sub, &delivery, Duration::ZERO).await;
            } else {
                ack(&sub, std::slice::from_ref(&delivery)).await;
                done.push(number(&delivery) - 1);
            }
        }
    }
    assert_each_once(done, 49);
}

/// A member that is silent for longer than its lease, but extends before anybody takes over, goes on as before.
pub(super) async fn an_extended_delivery_outlives_a_lapsed_membership(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..2).await;
    let slow = join(&w.bus, "t", &SubscribeOptions { order: Order::None, ..brief("g") }).await;
    let held = one(&slow).await;
    tokio::time::sleep(lease() + MOMENT).await;
    let other = join(&w.bus, "t", &brief("g")).await;
    let extended = settle(&slow, held.receipt, Settle::Extend).await;
    let more = slow.next(1, Duration::ZERO).await.unwrap();
    let settled = settle(&slow, held.receipt, Settle::Ack).await;
    assert_eq!(extended.is_ok(), settled.is_ok(), "{extended:?}, then {settled:?}");
    ack(&slow, &more).await;
    let mut came = numbers(&more);
    came.extend(numbers(&drain(&other).await));
    came.sort_unstable();
    assert!(came == [1] || came == [0, 1] && extended.is_err(), "{came:?}");
}
