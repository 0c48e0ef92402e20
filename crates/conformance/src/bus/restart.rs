//! What is still there after the engine was closed and opened again.

use std::time::Duration;

use linchpin::bus::{Message, Settle, dead_topic};
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

pub(super) async fn messages_and_progress_survive(mut w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..100).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let held = take(&sub, 60).await;
    ack(&sub, &held[..40]).await;
    settle(&sub, held[40].receipt, Settle::Dead { reason: "kept".into() }).await.unwrap();
    close(&sub).await;
    let before = w.bus.stats(None).await.unwrap();
    w.reopen().await;
    assert_eq!(w.bus.stats(None).await.unwrap(), before);
    let mut rest = numbers(&drain(&join(&w.bus, "t", &group("g")).await).await);
    rest.extend(numbers(&held[..41]));
    assert_each_once(rest, 100);
    if w.bus.caps().replay {
        assert_each_once(numbers(&drain(&join(&w.bus, "t", &group("late")).await).await), 100);
    }
    let letters = join(&w.bus, &dead_topic("t", "g"), &group("audit")).await;
    assert_eq!(numbers(&drain(&letters).await), [number(&held[40])]);
}

pub(super) async fn ten_thousand_survive_two_restarts(mut w: World) {
    w.topic("t", 4).await;
    for n in 0..20 {
        publish(&w.bus, "t", n * 500..(n + 1) * 500).await;
    }
    let mut done = Vec::new();
    // Each time it goes down with deliveries in hand.
    for until in [3_333, 5_000, 10_000] {
        let sub = join(&w.bus, "t", &brief("g")).await;
        while done.len() < until {
            let batch = sub.next(100, SOON).await.unwrap();
            assert!(!batch.is_empty(), "stuck after {}", done.len());
            ack(&sub, &batch).await;
            done.extend(numbers(&batch));
        }
        sub.next(100, MOMENT).await.unwrap();
        w.reopen().await;
    }
    silence(&join(&w.bus, "t", &brief("g")).await, lease() + GRACE).await;
    assert_each_once(done, 10_000);
}

pub(super) async fn attempts_survive(mut w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..1).await;
    for attempt in 1..=4 {
        let sub = join(&w.bus, "t", &brief("g")).await;
        let delivery = one(&sub).await;
        assert_eq!(delivery.attempt, attempt);
        // Handed back before the restart, or in hand during it.
        if attempt % 2 == 1 {
            nack(&sub, &delivery, Duration::ZERO).await;
            close(&sub).await;
        }
        drop(sub);
        w.reopen().await;
    }
}

pub(super) async fn delays_survive(mut w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    publish(&w.bus, "t", 0..1).await;
    let held = one(&sub).await;
    let started = Instant::now();
    let delay = Duration::from_millis(1_500);
    nack(&sub, &held, delay).await;
    send(&w.bus, "t", vec![Message::new("1").delay(delay)]).await;
    close(&sub).await;
    w.reopen().await;
    let sub = join(&w.bus, "t", &group("g")).await;
    silence(&sub, MOMENT).await;
    let both = take(&sub, 2).await;
    assert_timely(started, delay);
    let mut seen: Vec<_> = both.iter().map(|d| (number(d), d.attempt)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(0, 2), (1, 1)]);
}
