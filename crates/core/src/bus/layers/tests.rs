//! The layers, on the memory bus with a paused clock.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::{Chaos, RateLimit, RetryLayer};
use crate::MEMORY;
use crate::bus::{Bus, MemoryBus, Message, PublishOptions, SubscribeOptions, TopicOptions};
use crate::retry::Policy;
use crate::{Kind, Retry};

async fn bus() -> Bus {
    let bus = Bus::new(MemoryBus::new());
    bus.ensure("t", &TopicOptions { partitions: 1, ..TopicOptions::default() }).await.unwrap();
    bus
}

fn hundred() -> Vec<Message> {
    (0..100).map(|n| Message::new(n.to_string())).collect()
}

async fn stored(bus: &Bus) -> u64 {
    bus.stats(Some("t")).await.unwrap()[0].messages
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_what_was_refused_and_nothing_else() {
    let refusing = Chaos { refuse: 0.7, ..Chaos::seeded(1) };
    let bus = bus().await.layer(refusing).layer(RetryLayer(Policy { attempts: 50, ..Policy::default() }));
    let mut messages = hundred();
    messages[3].partition = Some(9);
    let results = bus.publish_all("t", messages, &PublishOptions::default()).await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n == 3, "{n}: {result:?}");
    }
    assert_eq!(stored(&bus).await, 99);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_repeated_only_if_idempotent() {
    for (idempotent, copies, outcome) in [(false, 1, Retry::Unknown), (true, 3, Retry::Exhausted)] {
        let losing = Chaos { lose_reply: 1.0, ..Chaos::seeded(2) };
        let bus = bus().await.layer(losing).layer(RetryLayer(Policy {
            attempts: 3,
            idempotent,
            ..Policy::default()
        }));
        let error = bus.publish("t", Message::new("x")).await.unwrap_err();
        assert_eq!((error.retry(), stored(&bus).await), (outcome, copies));
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_shaves_a_peak_and_drops_nothing() {
    let bus = bus().await.layer(RateLimit::per_second(NonZeroU32::new(40).unwrap()));
    bus.publish_all("t", hundred(), &PublishOptions::default()).await;
    let group = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    // governor reads the monotonic clock of the operating system, so real time passes here.
    tokio::time::resume();
    let (started, mut got) = (Instant::now(), 0);
    while got < 40 {
        for delivery in group.next(100, Duration::from_secs(5)).await.unwrap() {
            got += 1;
            group.ack(delivery).await.unwrap();
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failed_settle_leaves_the_delivery_unsettled() {
    let bus = bus().await.layer(Chaos { fail_settle: 1.0, ..Chaos::seeded(3) });
    bus.publish("t", Message::new("x")).await.unwrap();
    let group = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    let delivery = group.next(1, Duration::ZERO).await.unwrap().pop().unwrap();
    assert_eq!(group.ack(delivery).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(group.next(1, Duration::from_secs(31)).await.unwrap()[0].attempt, 2);
}

#[tokio::test]
async fn auto_create_makes_topics_and_the_url_says_so() {
    let bus = Bus::open_with("memory://?auto_create=true", &[MEMORY]).await.unwrap();
    bus.publish("new", Message::new("x")).await.unwrap();
    bus.subscribe("newer", &SubscribeOptions::group("g")).await.unwrap();
    assert_eq!(bus.stats(None).await.unwrap().len(), 2);
    let bus = Bus::open_with("memory://", &[MEMORY]).await.unwrap();
    let error = bus.publish("new", Message::new("x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("auto_create=true"), "{error}");
}

#[tokio::test]
async fn wrong_urls_say_what_is_valid() {
    let error =
        |url: &'static str| async move { Bus::open_with(url, &[MEMORY]).await.unwrap_err().to_string() };
    assert!(error("rabbit://x").await.contains("known schemes are memory:"));
    assert!(error("memory://?colour=red").await.contains("\"colour\""));
    assert!(error("memory://?auto_create=maybe").await.contains("auto_create=maybe"));
}
