//! What goes with time and number, and what doesn't as long as somebody needs it.

use std::time::Duration;

use linchpin::bus::{SubscribeOptions, TopicOptions};

use crate::tools::*;
use crate::world::World;

async fn keeping(w: &World, retention_age: Option<Duration>, retention_length: Option<u64>) {
    let options = TopicOptions { partitions: 1, retention_age, retention_length, ..TopicOptions::default() };
    w.bus.ensure("t", &options).await.unwrap();
}

async fn kept(w: &World) -> u64 {
    w.bus.stats(Some("t")).await.unwrap()[0].messages
}

/// What a group that begins now gets.
async fn oldest_kept(w: &World, name: &str) -> Vec<u64> {
    numbers(&drain(&join(&w.bus, "t", &group(name)).await).await)
}

pub(super) async fn length_removes_the_oldest_settled(w: World) {
    keeping(&w, None, Some(10)).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    publish(&w.bus, "t", 0..25).await;
    assert_each_once(numbers(&drain(&sub).await), 25);
    w.bus.trim("t").await.unwrap();
    assert_eq!(kept(&w).await, 10);
    assert_eq!(w.bus.trim("t").await.unwrap(), 0);
    assert_eq!(oldest_kept(&w, "late").await, (15..25).collect::<Vec<_>>());
    // Without any group everything counts as settled.
    w.bus.remove("t", Some("g")).await.unwrap();
    w.bus.remove("t", Some("late")).await.unwrap();
    publish(&w.bus, "t", 25..40).await;
    w.bus.trim("t").await.unwrap();
    assert_eq!(oldest_kept(&w, "last").await, (30..40).collect::<Vec<_>>());
}

pub(super) async fn age_removes_the_oldest_settled(w: World) {
    let age = Duration::from_millis(700);
    keeping(&w, Some(age), None).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    publish(&w.bus, "t", 0..10).await;
    assert_each_once(numbers(&drain(&sub).await), 10);
    assert_eq!(kept(&w).await, 10);
    tokio::time::sleep(age).await;
    publish(&w.bus, "t", 10..15).await;
    w.bus.trim("t").await.unwrap();
    assert_eq!(oldest_kept(&w, "late").await, (10..15).collect::<Vec<_>>());
}

pub(super) async fn what_a_group_has_not_settled_stays(w: World) {
    keeping(&w, Some(Duration::from_millis(1)), Some(5)).await;
    let fast = join(&w.bus, "t", &group("fast")).await;
    let slow = join(&w.bus, "t", &SubscribeOptions { max_in_flight: 12, ..group("slow") }).await;
    publish(&w.bus, "t", 0..20).await;
    assert_each_once(numbers(&drain(&fast).await), 20);
    // In hand, handed back, and never seen: all of it stays, and what lies behind the last of it.
    let held = take(&slow, 12).await;
    ack(&slow, &held[..4]).await;
    nack(&slow, &held[6], Duration::ZERO).await;
    tokio::time::sleep(MOMENT / 4).await;
    w.bus.trim("t").await.unwrap();
    assert_eq!(kept(&w).await, 16);
    close(&slow).await;
    let slow = join(&w.bus, "t", &group("slow")).await;
    let mut rest = numbers(&drain(&slow).await);
    rest.sort_unstable();
    assert_eq!(rest, (4..20).collect::<Vec<_>>());
    w.bus.trim("t").await.unwrap();
    assert_eq!(kept(&w).await, 0, "all settled, all too old");
}
