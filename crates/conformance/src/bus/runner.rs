//! The consumer that runs handlers, end to end on a real engine.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linchpin::bus::{DEAD_REASON, Failure, Order, Running, dead_topic};
use linchpin::retry::Backoff;

use crate::tools::*;
use crate::world::World;

/// Until the consumer has settled `count` messages for good.
async fn settled(running: &Running, count: u64) {
    let done = async {
        while running.totals().acked + running.totals().dead < count {
            tokio::time::sleep(MOMENT / 20).await;
        }
    };
    let ended = tokio::time::timeout(LONG, done).await;
    ended.unwrap_or_else(|_| panic!("of {count}: {}", running.totals()));
}

pub(super) async fn handlers_retry_and_bury(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..200).await;
    let consumer = w.bus.consume("t").group("g").concurrency(16).max_attempts(3);
    let running = consumer.retry(Backoff::fixed(Duration::from_millis(20))).run(|delivery| async move {
        tokio::task::yield_now().await;
        match number(&delivery) {
            n if n % 50 == 0 => Err(Failure::dead("fifty")),
            n if n % 20 == 1 => Err(Failure::retry(format!("attempt {}", delivery.attempt))),
            // A panic that doesn't print.
            n if n % 20 == 2 && delivery.attempt == 1 => resume_unwind(Box::new("the first time")),
            _ => Ok(()),
        }
    });
    let running = running.await.unwrap();
    settled(&running, 200).await;
    let totals = running.stop().await.unwrap();
    // 4 hopeless, 10 that always fail, 10 that fail once.
    assert_eq!(
        (totals.acked, totals.dead, totals.nacked, totals.redelivered, totals.lost),
        (186, 14, 30, 30, 0)
    );
    let letters = drain(&join(&w.bus, &dead_topic("t", "g"), &group("audit")).await).await;
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in &letters {
        *reasons.entry(letter.message.headers.text(DEAD_REASON).unwrap()).or_default() += 1;
    }
    assert_eq!(reasons, BTreeMap::from([("fifty", 4), ("attempt 3", 10)]));
    silence(&join(&w.bus, "t", &group("g")).await, MOMENT).await;
}

/// Of one key: whether one is at work, and those that are done.
type Line = (bool, Vec<u64>);

pub(super) async fn handlers_of_one_key_take_turns(w: World) {
    w.topic("t", 4).await;
    publish_by(&w.bus, "t", 0..400, |n| n % 8).await;
    let keys = Arc::new(Mutex::new(BTreeMap::<u64, Line>::new()));
    let mut members = Vec::new();
    for _ in 0..2 {
        let keys = keys.clone();
        let consumer = w.bus.consume("t").group("g").order(Order::Key).concurrency(32);
        let running = consumer.retry(Backoff::fixed(Duration::from_millis(5))).run(move |delivery| {
            let keys = keys.clone();
            async move {
                let n = number(&delivery);
                let busy =
                    |now| std::mem::replace(&mut keys.lock().unwrap().entry(n % 8).or_default().0, now);
                assert!(!busy(true), "two of one key at once");
                tokio::task::yield_now().await;
                assert!(busy(false));
                if n.is_multiple_of(11) && delivery.attempt == 1 {
                    return Err(Failure::retry("not yet"));
                }
                keys.lock().unwrap().entry(n % 8).or_default().1.push(n);
                Ok(())
            }
        });
        members.push(running.await.unwrap());
    }
    let done = || keys.lock().unwrap().values().map(|(_, line)| line.len()).sum::<usize>();
    let all = async {
        while done() < 400 {
            tokio::time::sleep(MOMENT / 20).await;
        }
    };
    tokio::time::timeout(LONG, all).await.unwrap_or_else(|_| panic!("{} of 400", done()));
    for running in members {
        running.stop().await.unwrap();
    }
    let lines = keys.lock().unwrap();
    assert!(lines.values().all(|(_, line)| line.is_sorted()), "{lines:?}");
    assert_each_once(lines.values().flat_map(|(_, line)| line.clone()), 400);
}

pub(super) async fn a_slow_handler_keeps_its_lease(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..3).await;
    let consumer = w.bus.consume("t").group("g").ack_wait(lease());
    let running = consumer.run(|_| async {
        tokio::time::sleep(lease() * 2).await;
        Ok(())
    });
    let running = running.await.unwrap();
    let other = join(&w.bus, "t", &brief("g")).await;
    settled(&running, 3).await;
    let totals = running.stop().await.unwrap();
    assert_eq!((totals.acked, totals.redelivered, totals.lost), (3, 0, 0));
    silence(&other, MOMENT).await;
}
